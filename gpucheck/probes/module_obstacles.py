"""Finds what keeps the driver from a GPU: blacklists, failed builds, firmware, passthrough."""

import re
from collections.abc import Iterator
from pathlib import Path

from gpucheck.probes.files import names_in, read_text
from gpucheck.snapshot import DkmsFailure, ModuleBlock, Unknown
from gpucheck.versions import version_tuple

#: modprobe.d(5): a file of an earlier folder replaces one of the same name in a later one
MODPROBE_FOLDERS = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)
COMMAND_LINE = "/proc/cmdline"
LOG_LIMIT_BYTES = 16 << 20
ERROR_LENGTH = 300
_NAME = r"nvidia(?:-current|-tesla[\w-]*|-legacy[\w-]*)?"
_BLOCK = re.compile(rf"\s*(?:(?P<soft>blacklist)\s+{_NAME}|alias\s+{_NAME}\s+off)\s*(?:#.*)?\Z")
_NO_INSTALL = re.compile(rf"\s*install\s+{_NAME}\s+(?:\S*/)?(?:false|true|:)(?:\s.*)?\Z")
_LENT = re.compile(
    r"\s*options\s+(?:vfio[-_]pci\s+.*\bids|pci[-_]stub\s+.*\bids|xen[-_]pciback\s+.*\bhide)=\S*10de",
    re.I,
)
_LENT_AT_BOOT = re.compile(
    r"(?:vfio[-_]pci\.ids|pci[-_]stub\.ids)=\S*10de\S*|xen[-_]pciback\.hide=\S+", re.I
)
#: the compiler's own words first, then make's
_BUILD_ERRORS = (
    re.compile(r"^.*\b(?:fatal )?error:.*$", re.MULTILINE | re.IGNORECASE),
    re.compile(r"^.*No space left on device.*$", re.MULTILINE),
    re.compile(r"^.*\bERROR\b.*$", re.MULTILINE),
    re.compile(r"^make.*\*\*\*.*$", re.MULTILINE),
    re.compile(r"^.*\bError [0-9]+\b.*$", re.MULTILINE),
)
_KERNEL_COMPILER = re.compile(r"The kernel was built by: *(?P<compiler>.{1,120})")
_COMPILER = re.compile(r"You are using: *(?P<compiler>.{1,120})")
_COMPILER_OF_LINUX = re.compile(
    r"\((?P<compiler>[\w.-]*(?:gcc|clang)[\w.-]*(?: \([^()]*\)| version)? [\w.]+)"
)


def _lines(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of modprobe's configuration, each with the path of its file."""
    seen: set[str] = set()
    for folder in MODPROBE_FOLDERS:
        names = names_in(root / folder)
        for name in names if isinstance(names, tuple) else ():
            if not name.endswith(".conf") or name in seen:
                continue
            seen.add(name)
            text = read_text(root / folder / name)
            for line in text.splitlines() if isinstance(text, str) else ():
                yield f"/{folder}/{name}", line


def _command_line(root: Path) -> str:
    text = read_text(root / "proc/cmdline", 1 << 16)
    return text.strip() if isinstance(text, str) else ""


def blocks(root: Path) -> tuple[ModuleBlock, ...]:
    """Return the lines that keep nvidia.ko from being loaded, by modprobe.d and at boot."""
    found = []
    for path, line in _lines(root):
        if match := _BLOCK.match(line):
            text = " ".join(line.split())
            found.append(ModuleBlock(path=path, text=text, is_total=match["soft"] is None))
        elif _NO_INSTALL.match(line):
            found.append(ModuleBlock(path=path, text=" ".join(line.split()), is_total=True))
    for option in _command_line(root).split():
        name, _, value = option.partition("=")
        if name in ("modprobe.blacklist", "module_blacklist", "rd.driver.blacklist") and (
            "nvidia" in value.split(",")
        ):
            is_total = name == "module_blacklist"
            found.append(ModuleBlock(path=COMMAND_LINE, text=option, is_total=is_total))
    return tuple(found)


def prime_profile(root: Path) -> str | Unknown | None:
    """Return what Ubuntu's prime-select chose: "on", "off", "on-demand"; None: it is not here."""
    text = read_text(root / "etc/prime-discrete", 4096)
    return text.strip() or None if isinstance(text, str) else text


def passthrough_option(root: Path) -> str | None:
    """Return the option that gives GPUs to vfio-pci, pci-stub or xen-pciback, and where it is."""
    if found := _LENT_AT_BOOT.search(_command_line(root)):
        return f"{found[0]} on the kernel's command line"
    for path, line in _lines(root):
        if _LENT.match(line):
            return f"{path}: {' '.join(line.split())}"
    return None


def firmware_versions(root: Path) -> tuple[str, ...] | Unknown:
    """Return the driver versions whose GSP firmware lies in /lib/firmware/nvidia."""
    found: set[str] = set()
    for folder in ("lib/firmware/nvidia", "usr/lib/firmware/nvidia", "lib/firmware/updates/nvidia"):
        names = names_in(root / folder)
        if isinstance(names, Unknown):
            return names
        for name in names or ():
            files = names_in(root / folder / name) if version_tuple(name) >= (400,) else ()
            if isinstance(files, tuple) and any(file.startswith("gsp") for file in files):
                found.add(name)
    return tuple(sorted(found, key=version_tuple))


def uvm_disables_hmm(root: Path) -> bool | Unknown | None:
    """Return nvidia_uvm's parameter uvm_disable_hmm; None where the module is not loaded."""
    text = read_text(root / "sys/module/nvidia_uvm/parameters/uvm_disable_hmm", 64)
    return text.strip() in ("Y", "1") if isinstance(text, str) else text


# ------------------------------------------------------------------------------ builds that failed


def dkms_failure(
    root: Path, release: str, built_for: tuple[str, ...] | Unknown
) -> DkmsFailure | Unknown | None:
    """Return the build for the kernel *release* that DKMS could not finish."""
    if isinstance(built_for, Unknown):
        return built_for
    if release in built_for:
        return None
    for path in _build_logs(root, release):
        text = read_text(root / path.lstrip("/"), LOG_LIMIT_BYTES)
        if not isinstance(text, str):
            continue
        is_this_kernel = f"/{release}/" in path or release in text[:4096]
        error = first_error(text) if is_this_kernel else None
        if error is not None:
            linux = read_text(root / "proc/version", 4096)
            return DkmsFailure(
                log=path,
                error=error,
                kernel_compiler=_named(_KERNEL_COMPILER, text)
                or _named(_COMPILER_OF_LINUX, linux if isinstance(linux, str) else ""),
                compiler=_named(_COMPILER, text),
            )
    return None


def _build_logs(root: Path, release: str) -> Iterator[str]:
    """Yield the logs of builds of the driver, the newest version's first."""
    for name in _driver_names(root):
        folder = f"/var/lib/dkms/{name}"
        versions = names_in(root / folder.lstrip("/"))
        for version in sorted(
            (
                v
                for v in (versions if isinstance(versions, tuple) else ())
                if version_tuple(v) >= (100,)
            ),
            key=version_tuple,
            reverse=True,
        ):
            yield f"{folder}/{version}/build/make.log"
            machines = names_in(root / folder.lstrip("/") / version / release)
            for machine in machines if isinstance(machines, tuple) else ():
                yield f"{folder}/{version}/{release}/{machine}/log/make.log"


def _driver_names(root: Path) -> tuple[str, ...]:
    names = names_in(root / "var/lib/dkms")
    return tuple(n for n in (names if isinstance(names, tuple) else ()) if n.startswith("nvidia"))


def first_error(log: str) -> str | None:
    """Return the first line of a build's log that says what went wrong; None: nothing did."""
    for pattern in _BUILD_ERRORS:
        if found := pattern.search(log):
            return " ".join(found[0].split())[:ERROR_LENGTH]
    return None


def _named(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return None if found is None else " ".join(found["compiler"].split())

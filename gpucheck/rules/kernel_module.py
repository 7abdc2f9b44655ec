"""Rules about why the driver's kernel module is not loaded."""

import re
from collections.abc import Generator

from gpucheck.conditions import all_of, no_container, own_kernel_module
from gpucheck.derived import cuda_works, driver_copies, nvml_works, own_gpus
from gpucheck.knowledge.module_messages import Kind, meaning
from gpucheck.remedies import hardware, system_packages
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.rules.driver_presence import is_built
from gpucheck.snapshot import DkmsFailure, ModuleBlock, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed

KERNEL_LOG = command("dmesg | grep -i nvrm | tail -n 20", root=True, needs="dmesg")
MODULE_IS_OURS = all_of(own_kernel_module, no_container)
#: what the module says when it ends without a GPU, the most telling first
GAVE_UP: tuple[Kind, ...] = ("off_the_bus", "other_driver", "nothing_probed")


def _is_out(machine: Snapshot) -> Generator[Obstacle, None, bool]:
    """Whether the module is not loaded: not shown and of no effect (a sandbox may hide it)."""
    version = machine.driver.module_version
    if isinstance(version, Unknown):
        yield NotChecked.because(version)
    return version is None and not nvml_works(machine) and not cuda_works(machine)


@rule(
    "DRV003",
    Severity.ERROR,
    "The driver is installed, but its kernel module is not loaded",
    caused_by=(
        *("DRV005", "DRV012", "HST008", "DRV004", "DRV018", "DRV019", "DRV021", "DRV020"),
        "DRV022",
    ),
    when=MODULE_IS_OURS,
)
def not_loaded(machine: Snapshot) -> Answers:
    """Libraries alone do not reach the GPU: without the kernel module nothing can use it.

    Most often the kernel was updated and the module was not built for it: DKMS builds it, if the
    kernel's headers are installed. The other reasons have findings of their own: nouveau holds the
    GPU (DRV004), the kernel refused the module (DRV005), the module does not suit the GPU
    (DRV012), it was loaded and gave up (DRV018), its build failed (DRV019), it is blacklisted
    (DRV020), or it was built for another kernel (DRV021).
    """
    if not (yield from _is_out(machine)):
        return
    libraries = driver_copies(machine)
    if isinstance(libraries, Unknown) and not is_built(machine):
        yield NotChecked.because(libraries)
        return
    if not libraries and not is_built(machine):
        yield NotApplicable(why="no driver is installed")
        return
    yield _not_loaded(machine)


def _not_loaded(machine: Snapshot) -> Symptom:
    driver = machine.driver
    kernel = system_packages.kernel(machine)
    if (line := _gave_up(machine)) is not None:
        return Symptom(
            saw=f'the module was loaded and gave up: "{line[1]}"',
            remedy=Remedy("Read what it said, and fix that first.", (KERNEL_LOG,)),
        )
    if isinstance(driver.module_file, str):
        is_right = driver.module_file_kernel == driver_kernel(machine)
        where = (
            f"is built for the running kernel {kernel}"
            if is_right
            else f"is in the folder of the running kernel {kernel}"
        )
        return Symptom(
            saw=f"{driver.module_file} {where} and not loaded",
            remedy=Remedy(
                "Load it; if that fails, the kernel log says why.",
                (system_packages.LOAD_MODULE, KERNEL_LOG),
            ),
        )
    return _not_built(machine, kernel)


def driver_kernel(machine: Snapshot) -> str | None:
    """Return the running kernel's release, None where it is not known."""
    return value(machine.host.kernel_release)


def _not_built(machine: Snapshot, kernel: str) -> Symptom:
    driver = machine.driver
    is_dkms = isinstance(driver.dkms_version, str)
    built_for = value(driver.dkms_kernels)
    if is_dkms and built_for is not None and kernel in built_for:
        return Symptom(
            saw=f"DKMS has built driver {driver.dkms_version} for the running kernel {kernel}, and "
            "no nvidia module is installed for it",
            remedy=Remedy(
                "Install what DKMS has built, and load it.", system_packages.dkms_build(machine)
            ),
        )
    saw = f"no nvidia module is built for the running kernel {kernel}"
    if is_dkms:
        saw += f"; DKMS has driver {driver.dkms_version}"
        if built_for is not None:
            saw += f", built for {listed(built_for) if built_for else 'no kernel'}"
    build = (
        system_packages.dkms_build(machine) if is_dkms else system_packages.build_module(machine)
    )
    if driver.has_kernel_headers is False:
        fix = (
            "Install the headers of the running kernel, build the module, load it."
            if is_dkms
            else "Install the headers of the running kernel, then the driver once more."
        )
        return Symptom(
            saw=f"{saw}; the kernel's headers are missing",
            remedy=Remedy(fix, (*system_packages.install_headers(machine), *build)),
        )
    fix = (
        "Build the module for the running kernel and load it."
        if is_dkms
        else "Install the driver's kernel module for the running kernel, or boot the kernel that "
        "it was installed for."
    )
    return Symptom(saw=saw, remedy=Remedy(fix, build))


# ----------------------------------------------------------------------------------- refusals


@rule("DRV005", Severity.ERROR, "The kernel refused the NVIDIA module", when=MODULE_IS_OURS)
def refused(machine: Snapshot) -> Answers:
    """The kernel loads only modules signed with a key that it trusts, and this one is not.

    Three settings ask for that: Secure Boot, the kernel's lockdown (`lockdown=` on its command
    line), and `module.sig_enforce`. A module that DKMS built here is signed with this machine's own
    key, or not at all. Under Secure Boot, enroll that key once (mokutil asks for a password, and
    the firmware asks for it again at the next boot), or use the distribution's signed modules, or
    disable Secure Boot in the firmware setup.
    """
    if not (yield from _is_out(machine)):
        return
    driver, log, host = machine.driver, machine.kernel_log, machine.host
    line = value(log.module_refused)
    reason = _why_signed(machine)
    if line is None and reason is None:
        for fact in (host.secure_boot, host.lockdown, host.signatures_enforced):
            if isinstance(fact, Unknown) and driver.module_is_signed is False:
                yield NotChecked.because(fact)
                return
        return
    if driver.module_file is None:
        yield NotApplicable(why="no module is built for this kernel")
        return
    reason = reason or "the kernel takes signed modules only"
    if line is not None:
        saw = f'{reason}, and the kernel says: "{line}"'
    elif driver.module_is_signed is False:
        saw = f"{reason}, and {value(driver.module_file) or 'the module'} carries no signature"
    elif isinstance(log.module_refused, Unknown):
        yield NotChecked.because(log.module_refused)
        return
    else:
        return
    yield Symptom(saw=saw, remedy=_sign(machine))


def _why_signed(machine: Snapshot) -> str | None:
    """Return which setting makes the kernel ask for signatures."""
    host = machine.host
    if host.secure_boot is True:
        return "Secure Boot is on"
    if host.lockdown in ("integrity", "confidentiality"):
        return f"the kernel is locked down ({host.lockdown})"
    return "module.sig_enforce is on" if host.signatures_enforced is True else None


def _sign(machine: Snapshot) -> Remedy:
    if machine.host.secure_boot is True:
        enroll = system_packages.enroll_key(machine)
        return Remedy(
            "Enroll the key that signs this machine's modules, and confirm it at the next boot.",
            (enroll, system_packages.REBOOT),
            alternatives=(
                Remedy("Install the distribution's signed modules."),
                Remedy("Disable Secure Boot in the firmware setup."),
            ),
        )
    lockdown = value(machine.host.lockdown)
    if lockdown in ("integrity", "confidentiality"):
        option, parameter = "lockdown=", f"lockdown={lockdown}"
    else:
        option, parameter = "module.sig_enforce", "module.sig_enforce=1"
    return Remedy(
        f"Remove `{option}` from the kernel's command line and reboot, or install the "
        "distribution's signed modules.",
        system_packages.without_kernel_parameter(machine, [parameter]),
    )


# --------------------------------------------------------------------- loaded, and given up again


@rule(
    "DRV018",
    Severity.ERROR,
    "The NVIDIA module was loaded and gave up",
    caused_by=("DRV012", "HST008", "DRV004", "DRV023", "DRV022", "DRV017"),
    when=MODULE_IS_OURS,
)
def gave_up(machine: Snapshot) -> Answers:
    """On a machine with one GPU, nvidia.ko does not stay loaded when it finds nothing to drive.

    Loading it once more fails in the same way. What it said last, in the kernel log of this boot,
    names the reason: a GPU that has "fallen off the bus and is not responding" has no power or is
    kept asleep; "probe routine was not called" means that another driver holds the GPU; "No NVIDIA
    devices probed" means that every GPU was refused, for a reason that the lines before give.
    """
    if not (yield from _is_out(machine)):
        return
    if isinstance(machine.kernel_log.module_said, Unknown):
        yield NotChecked.because(machine.kernel_log.module_said)
        return
    found = _gave_up(machine)
    if found is None:
        return
    kind, line = found
    holders = _holders(machine) if kind == "other_driver" else {}
    held = "".join(f"; {name} holds {listed(gpus)}" for name, gpus in holders.items())
    yield Symptom(saw=f'it says: "{line}"{held}', remedy=_after_giving_up(machine, kind))


def _holders(machine: Snapshot) -> dict[str, list[str]]:
    """Return the drivers of others that hold GPUs, each with the GPUs' bus ids."""
    found: dict[str, list[str]] = {}
    for gpu in own_gpus(machine):
        if isinstance(gpu.driver, str) and gpu.driver != "nvidia":
            found.setdefault(gpu.driver, []).append(gpu.bus_id)
    return found


def _gave_up(machine: Snapshot) -> tuple[Kind, str] | None:
    """Return what the module said when it ended without a GPU, and its kind."""
    said = value(machine.kernel_log.module_said) or ()
    meant = [(found[0], line) for line in said if (found := meaning(line)) is not None]
    for kind in GAVE_UP:
        for each, line in meant:
            if each == kind:
                return kind, line
    return None


def _after_giving_up(machine: Snapshot, kind: Kind) -> Remedy:
    if kind == "off_the_bus":
        return hardware.no_response(machine)
    if kind == "other_driver" and (holders := list(_holders(machine))):
        keep_out = command(
            "printf 'blacklist %s\\n' {holders} | tee /etc/modprobe.d/blacklist-for-nvidia.conf",
            root=True,
            lasts="permanent",
            needs="tee",
            holders=holders,
        )
        return Remedy(
            f"Keep {listed(holders)} from loading, and reboot.",
            (keep_out, *system_packages.renew_ram_disk(machine), system_packages.REBOOT),
        )
    if kind == "other_driver":
        return Remedy(
            "Find the driver that holds the GPU (`Kernel driver in use`), keep it from loading, "
            "and reboot.",
            (command("lspci -nnk -d 10de:", needs="lspci"),),
        )
    return Remedy("Read the lines before it: they say why each GPU was refused.", (KERNEL_LOG,))


# -------------------------------------------------------------------------------- builds and files


@rule("DRV019", Severity.ERROR, "DKMS could not build the module", when=MODULE_IS_OURS)
def build_failed(machine: Snapshot) -> Answers:
    """DKMS builds the driver's module for each new kernel; this build ended with an error.

    Building it again fails in the same way until the cause is gone. Mostly it is one of four: the
    kernel was built with a newer gcc than `cc`, so that it asks for options that `cc` does not
    know; the kernel is newer than this driver, whose source does not compile against it; the
    kernel's headers are missing; or the disk is full.
    """
    if not (yield from _is_out(machine)):
        return
    failure = yield from known(machine.driver.dkms_failure)
    if failure is None:
        return
    saw = f'{failure.log}: "{failure.error}"'
    kernel_compiler, compiler = value(failure.kernel_compiler), value(failure.compiler)
    if kernel_compiler and compiler:
        saw += f"; the kernel was built by {kernel_compiler}, the module by {compiler}"
    elif kernel_compiler:
        saw += f"; the kernel was built by {kernel_compiler}"
    yield Symptom(saw=saw, remedy=_build_again(machine, failure))


def _build_again(machine: Snapshot, failure: DkmsFailure) -> Remedy:
    again = system_packages.dkms_build(machine)
    if "No space left" in failure.error:
        show = command("df -h / /var /boot /tmp", needs="df")
        return Remedy("Free space on the disk, then build the module again.", (show, *again))
    wanted, used = _gcc(value(failure.kernel_compiler)), _gcc(value(failure.compiler))
    if wanted and (used != wanted if used else "unrecognized command" in failure.error):
        return Remedy(
            f"Build the module with gcc {wanted}, which built the kernel.",
            (*system_packages.install_gcc(machine, wanted), *again),
        )
    if machine.driver.has_kernel_headers is False:
        headers = system_packages.install_headers(machine)
        return Remedy("Install the kernel's headers, then build again.", (*headers, *again))
    kernels = value(machine.driver.dkms_kernels)
    older = f", or boot kernel {kernels[-1]}, which has a module" if kernels else ""
    version = value(machine.driver.dkms_version)
    branch = version_tuple(version)[:1] if version else ()
    return Remedy(
        f"Install a newer driver: the source of {version} does not compile for kernel "
        f"{system_packages.kernel(machine)}{older}.",
        system_packages.install_driver(machine, branch[0] + 1 if branch else 0),
    )


def _gcc(text: str | None) -> str | None:
    """Return the major version of a compiler's description: "gcc-12 (Ubuntu …) 12.3.0" → "12"."""
    found = re.search(r"(?:^|[ )])(?P<major>[0-9]{1,2})\.[0-9]+(?:\.[0-9]+)?\s*$", text or "")
    named = re.search(r"gcc-(?P<major>[0-9]{1,2})\b", text or "")
    match = named or found
    return None if match is None else match["major"]


@rule("DRV020", Severity.ERROR, "The NVIDIA module is blacklisted", when=MODULE_IS_OURS)
def blacklisted(machine: Snapshot) -> Answers:
    """A line in modprobe's configuration, or on the kernel's command line, keeps nvidia.ko out.

    Ubuntu's prime-select writes one when the integrated GPU is chosen; installers and guides for
    nouveau or passthrough do too. `blacklist nvidia` stops the automatic load, `alias nvidia off`,
    `install nvidia /bin/false` and `module_blacklist=` stop the load by name as well.
    """
    if not (yield from _is_out(machine)):
        return
    blocks = yield from known(machine.driver.module_blocks)
    if not blocks:
        return
    first = next((block for block in blocks if block.is_total), blocks[0])
    profile = value(machine.driver.prime_profile)
    if profile in ("off", "intel") or "prime" in first.path:
        yield Symptom(
            saw=f"prime-select chose the integrated GPU (/etc/prime-discrete: {profile}), and "
            f'{first.path} says "{first.text}"',
            remedy=Remedy(
                "Let both GPUs work, and reboot.",
                (
                    command("prime-select on-demand", root=True, lasts="permanent"),
                    system_packages.REBOOT,
                ),
                alternatives=(
                    Remedy(
                        "Use the NVIDIA GPU for everything.",
                        (
                            command("prime-select nvidia", root=True, lasts="permanent"),
                            system_packages.REBOOT,
                        ),
                    ),
                ),
            ),
        )
        return
    yield Symptom(saw=f'{first.path} says "{first.text}"', remedy=_unblock(machine, blocks))


def _unblock(machine: Snapshot, blocks: tuple[ModuleBlock, ...]) -> Remedy:
    at_boot = [block for block in blocks if block.path == "/proc/cmdline"]
    files = tuple(dict.fromkeys(block.path for block in blocks if block.path != "/proc/cmdline"))
    if at_boot:
        options = listed([f"`{block.text}`" for block in at_boot])
        also = f", and the lines about nvidia from {listed(files)}" if files else ""
        steps = (
            ()
            if files
            else system_packages.without_kernel_parameter(
                machine, [block.text for block in at_boot]
            )
        )
        return Remedy(f"Remove {options} from the kernel's command line{also}, and reboot.", steps)
    comment_out = command(
        r"sed -i -E 's/^\s*(blacklist|alias|install)\s+nvidia/#&/' {files}",
        root=True,
        lasts="permanent",
        files=files,
    )
    return Remedy(
        f"Comment out the lines about nvidia in {listed(files)}, rebuild the initramfs, and load "
        "the module.",
        (comment_out, *system_packages.renew_ram_disk(machine), system_packages.LOAD_MODULE),
    )


@rule("DRV021", Severity.ERROR, "The NVIDIA module is of another kernel", when=MODULE_IS_OURS)
def other_kernel(machine: Snapshot) -> Answers:
    """A module is built for one kernel, which it names in its "vermagic"; another refuses it.

    modprobe then says "Exec format error", and the kernel "version magic … should be …" or
    "disagrees about version of symbol". It comes from copying modules by hand, or from a kernel
    that was rebuilt under its old name.
    """
    if not (yield from _is_out(machine)):
        return
    built_for = yield from known(machine.driver.module_file_kernel)
    running = yield from known(machine.host.kernel_release)
    if built_for is None or running is None or built_for == running:
        return
    is_dkms = isinstance(machine.driver.dkms_version, str)
    steps = (
        system_packages.dkms_build(machine) if is_dkms else system_packages.build_module(machine)
    )
    yield Symptom(
        saw=f"{value(machine.driver.module_file)} is a module of kernel {built_for}; the running "
        f"kernel is {running}",
        remedy=Remedy("Build the module for the running kernel, and load it.", steps),
    )

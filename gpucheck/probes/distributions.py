"""Lists the distributions of a Python that matter to torch, from their own metadata."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpucheck.probes.elf import ElfError, read_elf
from gpucheck.probes.files import names_in, read_text
from gpucheck.snapshot import DamagedFile, Distribution

_RECORD_LIMIT_BYTES = 4 << 20  # RECORD of torch itself is 2 MB, every other file is smaller
_METADATA_LIMIT_BYTES = 64 << 10  # requirements stand before the description
_LINE_LIMIT = 2000  # of one requirement: the longest real ones have 200 letters
_MARKER_DEPTH = 20  # parentheses in a marker; `packaging` goes as deep as they do
_DAMAGE_LIMIT = 100  # files of one wheel: a folder that was deleted is one error, not thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """An installed distribution, and where its own description lies."""

    distribution: Distribution
    folder: str  # …/nvidia_cudnn_cu13-9.19.0.56.dist-info


#: Listed whatever they require; others are listed if they require one of these.
_WATCHED = re.compile(
    r"torch|torchvision|torchaudio|triton|pytorch-triton.*|cuda-toolkit|cuda-bindings|nvidia-.*"
    r"|bitsandbytes|numba|numba-cuda|jax|jaxlib|tensorflow|torch-xla"  # variables select for these
)
#: Of these, the requirements tell torch's own pins and the companions' torch.
_TELLERS = frozenset({"torch", "torchvision", "torchaudio"})
_ASKS_FOR = (b"Requires-Dist: torch", b"Requires-Dist: nvidia", b"Requires-Dist: triton")


def wheels(sites: Iterable[str], python_version: str) -> Iterator[Wheel]:
    """Yield the distributions in these site-packages folders, in the order of the path."""
    for site in sites:
        names = names_in(site)
        for folder in names if isinstance(names, tuple) else ():
            found = split_name(folder)
            if found is not None:
                wheel = _wheel(site, folder, *found, python_version)
                if wheel is not None:
                    yield wheel


def split_name(folder: str) -> tuple[str, str] | None:
    """Return name and version of a `.dist-info` or `.egg-info` folder; None for other names."""
    stem, _, ending = folder.rpartition(".")
    if ending not in ("dist-info", "egg-info"):
        return None
    name, dash, rest = stem.partition("-")
    version = rest.partition("-py")[0] if ending == "egg-info" else rest
    if not dash or not name or not version or "-" in version:
        return None
    return normalise(name), version


def _wheel(site: str, folder: str, name: str, version: str, python_version: str) -> Wheel | None:
    described = Path(site, folder)
    is_watched = _WATCHED.fullmatch(name) is not None
    requires: tuple[str, ...] = ()
    if name in _TELLERS or not is_watched:
        text = _beginning(f"{site}/{folder}/METADATA")
        if not is_watched and not any(word in text for word in _ASKS_FOR):
            return None
        requires = _requirements(text.decode("utf-8", "replace"), site, python_version)
        if not is_watched and not requires:
            return None
    is_asked = bool(requires) or name in _TELLERS
    installer = read_text(described / "INSTALLER", 256) if is_asked else None
    return Wheel(
        folder=str(described),
        distribution=Distribution(
            name=name,
            version=version,
            location=site,
            installer=installer.strip() or None if isinstance(installer, str) else None,
            requires=requires,
            cuda_major=_cuda_major(Path(site, name)) if name in _COMPANIONS else None,
        ),
    )


def _beginning(path: str) -> bytes:
    """Return the beginning of a file in one call: an environment has hundreds of distributions."""
    try:
        # O_NONBLOCK: a FIFO in the place of a file must not hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, _METADATA_LIMIT_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


_COMPANIONS = ("torchvision", "torchaudio")
_RUNTIME = re.compile(r"libcudart\.so\.(\d{1,2})(?:\.\d+)?")
_LIBRARIES_LIMIT = 20


def _cuda_major(package: Path) -> int | None:
    """Return the major of the CUDA runtime that a package's libraries are linked to."""
    for folder in (package, package / "lib"):
        names = names_in(folder)
        libraries = [n for n in names if n.endswith(".so")] if isinstance(names, tuple) else []
        for name in libraries[:_LIBRARIES_LIMIT]:
            try:
                needed = read_elf(str(folder / name)).needed
            except (OSError, ElfError):
                continue
            for each in needed:
                found = _RUNTIME.fullmatch(each)
                if found is not None:
                    return int(found[1])
    return None


def normalise(name: str) -> str:
    """Return a distribution's name as the packaging standard (PEP 503) spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(metadata: str, site: str, python_version: str) -> tuple[str, ...]:
    needs: list[str] = []
    for requirement in parse_requirements(metadata, python_version):
        if not _WATCHED.fullmatch(requirement.name) or requirement.name in (
            "torchvision",
            "torchaudio",
        ):
            continue
        needs.append(requirement.name + requirement.specifier)
        if requirement.name == "cuda-toolkit" and requirement.extras:
            # From 2.11 on torch names the CUDA libraries through this metapackage.
            for meta in Path(site).glob("cuda_toolkit-*.dist-info/METADATA"):
                text = read_text(meta, _METADATA_LIMIT_BYTES)
                inner = text if isinstance(text, str) else ""
                needs += [
                    each.name + each.specifier
                    for each in parse_requirements(inner, python_version, extras=requirement.extras)
                    if each.name.startswith("nvidia-")
                ]
    return tuple(dict.fromkeys(needs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A line `Requires-Dist` that applies here."""

    name: str
    specifier: str  # "==9.19.0.56"
    extras: tuple[str, ...]


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def parse_requirements(
    metadata: str, python_version: str, *, extras: Sequence[str] = ()
) -> Iterator[Requirement]:
    """Yield the requirements in a METADATA file that apply to this system and these *extras*."""
    for line in metadata.splitlines():
        if not line:
            return  # the description follows
        if not line.startswith("Requires-Dist:") or len(line) > _LINE_LIMIT:
            continue
        text, _, marker = line.removeprefix("Requires-Dist:").partition(";")
        requirement = _parse(text.strip())
        if requirement is None:
            continue
        if marker.strip() and not _applies(marker.strip(), python_version, extras):
            continue
        yield requirement


def _parse(text: str) -> Requirement | None:
    """Read "name[extra] (==1.0)": by hand, for a pattern over its spaces could take forever."""
    found = _NAME.match(text)
    if found is None:
        return None
    rest = text[found.end() :].strip()
    extras: tuple[str, ...] = ()
    if rest.startswith("["):
        inside, closing, rest = rest[1:].partition("]")
        if not closing:
            return None
        extras = tuple(each.strip() for each in inside.split(",") if each.strip())
    specifier = "".join(rest.split()).removeprefix("(").removesuffix(")")
    if any(letter in specifier for letter in "()@[]"):
        return None  # by its address: nothing says which version that is
    return Requirement(name=normalise(found[0]), specifier=specifier, extras=extras)


_CLAUSE = re.compile(r"""\(?\s*(\w+)\s*==\s*["']([^"']*)["']\s*\)?""")


def _applies(marker: str, python_version: str, extras: Sequence[str]) -> bool:
    """Evaluate a marker; the plain ones without `packaging`, whose import costs milliseconds."""
    here = {
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": os.uname().machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    clauses = [_CLAUSE.fullmatch(clause.strip()) for clause in marker.split(" and ")]
    if all(c is not None and (c.group(1) in here or c.group(1) == "extra") for c in clauses):
        return all(
            c.group(2) in extras if c.group(1) == "extra" else here[c.group(1)] == c.group(2)
            for c in clauses
            if c is not None
        )
    if marker.count("(") > _MARKER_DEPTH:
        return False
    from packaging.markers import (
        InvalidMarker,
        Marker,
        UndefinedComparison,
        UndefinedEnvironmentName,
    )

    environment = {
        **here,
        "python_full_version": python_version or "3.0",
        "python_version": ".".join(python_version.split(".")[:2]) or "3.0",
    }
    try:
        parsed = Marker(marker)
        return any(parsed.evaluate({**environment, "extra": extra}) for extra in extras or [""])
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, ValueError):
        return False


def conda_packages(prefix: str) -> Iterator[Distribution]:
    """Yield what conda says it installed: its `pytorch` is reported as torch."""
    names = {"pytorch": "torch", "torchvision": "torchvision", "torchaudio": "torchaudio"}
    files = names_in(f"{prefix}/conda-meta")
    for file in files if isinstance(files, tuple) else ():
        parts = file.removesuffix(".json").rsplit("-", 2)
        if file.endswith(".json") and len(parts) == 3 and parts[0] in names:
            yield Distribution(
                name=names[parts[0]], version=parts[1], location=prefix, installer="conda"
            )


# --------------------------------------------------------------------------- RECORDs of the wheels


def compare_records(found: Iterable[Wheel]) -> tuple[list[DamagedFile], list[str]]:
    """Return the files that are not as recorded, and the folders that two wheels' files share."""
    damaged: list[DamagedFile] = []
    folders: dict[tuple[str, str], dict[str, str]] = {}  # library, folder → {suffix: wheel}
    for wheel in found:
        name = wheel.distribution.name
        if not name.startswith("nvidia-"):
            continue
        location = wheel.distribution.location
        library, _, major = name.rpartition("-cu")
        mine: set[str] = set()
        fault = 0
        record = read_text(Path(wheel.folder, "RECORD"), _RECORD_LIMIT_BYTES)
        for path, size in parse_record(record if isinstance(record, str) else ""):
            if path == "nvidia/__init__.py":
                continue  # many wheels bring it, and not all the same
            file = f"{location}/{path}"
            if major.isdigit() and ".so" in path and path.startswith("nvidia/"):
                mine.add(file.rpartition("/")[0])
            if fault < _DAMAGE_LIMIT:
                problem = _problem(file, size)
                if problem is not None:
                    fault += 1
                    damaged.append(
                        DamagedFile(distribution=name, path=os.path.normpath(file), problem=problem)
                    )
        for folder in mine:
            folders.setdefault((library, folder), {})[major] = name
    return damaged, sorted(folder for (_, folder), names in folders.items() if len(names) > 1)


def _problem(file: str, size: int) -> str | None:
    try:
        have = os.stat(file).st_size  # noqa: PTH116 - thousands of files: a Path costs more than the call
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError):
        return None  # not to be looked at is not damaged
    return None if have == size else f"{have} bytes instead of {size}"


def parse_record(text: str) -> Iterator[tuple[str, int]]:
    """Yield path and size in bytes of every file in a RECORD that has a size; not .pyc files."""
    for line in text.splitlines():
        if line.startswith('"'):
            import csv  # only paths with a comma in them are quoted

            try:
                fields = next(iter(csv.reader([line])), [])
            except csv.Error:
                continue
        else:
            fields = line.rsplit(",", 2)
        if len(fields) != 3 or not fields[0] or "\0" in fields[0] or fields[0].endswith(".pyc"):
            continue
        size = fields[2]
        if size.isascii() and size.isdigit() and len(size) < 20:
            yield fields[0], int(size)

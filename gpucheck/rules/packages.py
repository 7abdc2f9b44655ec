"""Rules about packages that need CUDA's or torch's libraries: PKG001, PKG002, PKG003, PKG005."""

import re
from collections.abc import Iterable, Iterator, Sequence

from gpucheck.conditions import has_gpu, has_torch
from gpucheck.knowledge import packages as table
from gpucheck.remedies import python_packages
from gpucheck.remedies.gpu_packages import make_findable, opens, provide, rebuild
from gpucheck.remedies.system_packages import owner_of_file
from gpucheck.rule import Answers, Remedy, Severity, Symptom, known, rule
from gpucheck.snapshot import (
    GpuPackage,
    PackageLibrary,
    Snapshot,
    TorchMismatch,
    replace,
    value,
)
from gpucheck.versions import version_tuple
from gpucheck.wording import listed

#: TOR006 compares these with torch.
_COMPANIONS = ("torchvision", "torchaudio")
#: What keeps every package from its libraries, or torch from being the right one.
_TORCH_IS_WRONG = ("TOR010", "TOR002", "TOR003", "LIB002")


# ------------------------------------------------------------------------------------------ PKG001


@rule(
    "PKG001",
    Severity.ERROR,
    "A package needs a CUDA library that nothing here provides",
    caused_by=_TORCH_IS_WRONG,
    when=has_gpu,
)
def built_for_another_cuda(machine: Snapshot) -> Answers:
    """Compiled code of the package is linked to a CUDA library that is not here: it will not load.

    "libcudart.so.13: cannot open shared object file" does not mean that CUDA has to be installed.
    Each CUDA major has library names of its own, wheels of torch bring those of one major, and
    packages with compiled code are built for one major too: vllm, xformers, torchcodec, flash-attn
    and others are linked to what their authors' torch brought. An upgrade of the package, or torch
    from another index, parts them.

    Install the build of the package that is made for torch's CUDA, or the torch that is made for
    the package's. gpucheck follows the loader through the process as it is after `import torch`. A
    package that ships one file for each CUDA needs one that fits; parts that are loaded only when a
    program asks for the GPU give a warning.
    """
    for package in (yield from known(machine.packages.gpu_packages)) or ():
        lacking = [each for each in package.libraries if _is_linked_to_nothing(each)]
        if not lacking:
            continue
        first = lacking[0]
        built_for = table.cuda_major_of(each.soname for each in package.libraries)
        sonames = listed(sorted({each.soname for each in lacking}))
        saw = f"{first.needed_by} needs {sonames}, which nothing here provides"
        saw += _other_majors(machine, package, lacking)
        if built_for is not None:
            saw += f": {package.name} {package.version} is built for CUDA {built_for}"
        yield Symptom(
            subject=package.name,
            saw=saw,
            severity=Severity.WARNING if all(each.is_on_demand for each in lacking) else None,
            remedy=python_packages.match_companions(machine)
            if package.name in _COMPANIONS
            else provide(machine, package, lacking, built_for),
            explained_by=(
                *(("PKG004",) if _is_overwritten(machine, package) else ()),
                *(("TOR006",) if package.name in _COMPANIONS else ()),
                *(("LIB003",) if _are_damaged(machine, lacking) else ()),
            ),
        )


def _is_linked_to_nothing(library: PackageLibrary) -> bool:
    return library.path is None and not library.elsewhere and not library.is_opened


def _other_majors(machine: Snapshot, package: GpuPackage, lacking: Sequence[PackageLibrary]) -> str:
    others = list(dict.fromkeys(path for each in lacking for path in each.other_majors))
    if not others:
        return ""
    torch = value(machine.pytorch.torch)
    names = listed(list(dict.fromkeys(_name(path) for path in others))[:3])
    if package.uses_torch and torch is not None and isinstance(torch.version, str):
        return f"; torch {torch.version} comes with {names}"
    return f"; here is {others[0]}"


def _is_overwritten(machine: Snapshot, package: GpuPackage) -> bool:
    names = (name for each in value(machine.packages.clashes) or () for name in each.distributions)
    return f"{package.name} {package.version}" in names


def _are_damaged(machine: Snapshot, lacking: Iterable[PackageLibrary]) -> bool:
    damaged = {_name(file.path) for file in value(machine.pytorch.damaged) or ()}
    return any(each.soname in damaged for each in lacking)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


# ------------------------------------------------------------------------------------------ PKG002


@rule(
    "PKG002",
    Severity.ERROR,
    "A package was built for another torch",
    caused_by=_TORCH_IS_WRONG,
    when=has_torch,
)
def built_for_another_torch(machine: Snapshot) -> Answers:
    """Compiled code calls functions of torch's C++ libraries that this torch does not have.

    `import` ends in "undefined symbol: _ZN3c10…". torch's C++ interface changes with each release,
    so a compiled extension (flash-attn, xformers, torch-scatter, detectron2, your own) fits the
    release that it was compiled against. The names also carry the C++ ABI: torch before 2.6 used
    the older one (`Ss` in place of `__cxx11…string`), and so do some vendors' builds.

    Install the wheel that is made for this torch, Python and CUDA, or compile the package again
    against the torch that is here. gpucheck looks the names up as the loader does; what another
    file of the package defines, and weak names, do not count.
    """
    torch = value(machine.pytorch.torch)
    for package in (yield from known(machine.packages.gpu_packages)) or ():
        if not package.mismatches or torch is None:
            continue
        more = len(package.mismatches) - 1
        yield Symptom(
            subject=package.name,
            saw=f"{package.name} {package.version}: "
            + _mismatch(package.mismatches[0], str(value(torch.version) or ""))
            + (f"; and {more} more of its files" if more else ""),
            remedy=python_packages.match_companions(machine)
            if package.name in _COMPANIONS
            else rebuild(machine, package),
            explained_by=(
                *(("TOR006",) if package.name in _COMPANIONS else ()),
                *(("PKG001",) if any(map(_is_linked_to_nothing, package.libraries)) else ()),
            ),
        )


def _mismatch(found: TorchMismatch, torch: str) -> str:
    if found.library:
        return f"{found.file} needs {found.library}, which torch {torch} does not have"
    symbol = found.symbols[0] if found.symbols else ""
    plain = readable_symbol(symbol)
    text = f"{found.file} needs {symbol}" + (f" ({plain})" if plain else "")
    if found.count > 1:
        text += f" and {found.count - 1} more"
    if found.has_other_abi:
        return f"{text}; torch {torch} has it with the other C++ ABI"
    return f"{text}, which torch {torch} does not define"


_NESTED = re.compile(r"_ZNK?")


def readable_symbol(symbol: str) -> str:
    """Return the qualified name in a mangled one, without its parameters: "c10::Error::Error".

    Source: the Itanium C++ ABI, "Nested Names". "" for what is more than such a name.
    """
    start = _NESTED.match(symbol)
    if start is None:
        return ""
    at = start.end()
    parts: list[str] = []
    while found := re.compile(r"(\d{1,3})").match(symbol, at):
        length = int(found[1])
        parts.append(symbol[found.end() : found.end() + length])
        at = found.end() + length
    if symbol[at : at + 1] in ("C", "D") and parts:
        parts.append(("~" if symbol[at] == "D" else "") + parts[-1])
    return "::".join(parts) if len(parts) > 1 else ""


# ------------------------------------------------------------------------------------------ PKG003


@rule(
    "PKG003",
    Severity.WARNING,
    "A package would not find a CUDA library that it opens by name",
    caused_by=("LIB002",),
    when=has_gpu,
)
def not_on_its_path(machine: Snapshot) -> Answers:
    """A program that asks this package for the GPU ends in "Unable to load" or computes on the CPU.

    ctranslate2 (faster-whisper, WhisperX), TensorFlow, jax, CuPy and ONNX Runtime open CUDA's
    libraries by name while they run. Some look into the folders of NVIDIA's wheels, others only
    where the loader looks: their own paths, LD_LIBRARY_PATH, the loader's cache. A library that a
    wheel brought is then here, and off the path; or it is here in another major, which does not
    count: libcudnn.so.9 cannot replace libcudnn.so.8. It is worth a note only where torch
    brings all of them into the process, for a program that imports torch first.

    Take the release of the package that fits what is here, or name the folders in LD_LIBRARY_PATH
    for that one program. In a start-up file the same line would give other environments the wrong
    libraries.
    """
    for package in _joined((yield from known(machine.packages.gpu_packages)) or ()):
        row = opens(package)
        absent = [each for each in package.libraries if each.path is None]
        search = row.search if row is not None else "own"  # of others nobody knows how they look
        nowhere = [each for each in absent if each.is_opened and not each.elsewhere]
        hidden = [each for each in absent if each.elsewhere] if search != "own" else []
        if not nowhere and not hidden:
            continue
        yield Symptom(
            subject=package.name,
            saw=_absent(package, nowhere, hidden),
            severity=Severity.INFO
            if not nowhere
            and (search == "on call" or all(each.is_loaded_by_torch for each in hidden))
            else None,
            remedy=make_findable(machine, package, row, nowhere, hidden),
            explained_by=(
                *(("PKG004",) if _is_overwritten(machine, package) else ()),
                *(("LIB003",) if _are_damaged(machine, absent) else ()),
            ),
        )


def _joined(packages: Iterable[GpuPackage]) -> Iterator[GpuPackage]:
    """Yield the packages, the two halves of a jax plugin as one: they lack the same libraries."""
    found: dict[str, GpuPackage] = {}
    for package in packages:
        key = package.name.replace("-pjrt", "-plugin")
        first = found.setdefault(key, package)
        if first is not package:
            have = {each.soname for each in first.libraries}
            more = (each for each in package.libraries if each.soname not in have)
            found[key] = replace(first, libraries=(*first.libraries, *more))
    yield from found.values()


def _absent(
    package: GpuPackage, nowhere: Sequence[PackageLibrary], hidden: Sequence[PackageLibrary]
) -> str:
    who = f"{package.name} {package.version}"
    parts: list[str] = []
    if nowhere:
        text = f"{who} opens {listed([each.soname for each in nowhere])}, which nothing provides"
        others = [path for each in nowhere for path in each.other_majors]
        parts.append(f"{text}; only {others[0]} is here" if others else text)
    if hidden:
        folders = dict.fromkeys(_folder(each.elsewhere[0]) for each in hidden)
        names = listed([each.soname for each in hidden])
        verb = "is" if len(hidden) == 1 else "are"
        parts.append(f"{names} {verb} in {listed(list(folders))}, where {who} does not look")
    return "; ".join(parts)


# ------------------------------------------------------------------------------------------ PKG005


@rule(
    "PKG005",
    Severity.INFO,
    "A package loads an older CUDA library than torch's, if it is imported before torch",
    caused_by=("LIB001",),
    when=has_torch,
)
def older_library_first(machine: Snapshot) -> Answers:
    """The first library of a name that is loaded serves the whole process.

    torch brings its own NCCL, cuDNN and cuBLAS. A package that looks for them only where the loader
    does (CuPy, Horovod, DALI, MPI) gets the system's. If that one is older and is loaded first,
    torch is given it too, and ends in an undefined symbol or an error of NCCL's.

    Import torch first, or bring the system's library up to torch's version, or remove it.
    """
    own = {each.soname: each for each in value(machine.libraries.resolved) or ()}
    for package in (yield from known(machine.packages.gpu_packages)) or ():
        row = opens(package)
        if package.uses_torch or (row is not None and row.search == "own"):
            continue
        for library in package.libraries:
            torchs = own.get(library.soname)
            path, version = value(library.path), value(library.version)
            newer = value(torchs.version) if torchs is not None else None
            if torchs is None or path is None or version is None or newer is None:
                continue
            if torchs.path == path or version_tuple(version) >= version_tuple(newer):
                continue
            yield Symptom(
                subject=f"{package.name} {library.soname}",
                saw=f"{package.name} {package.version} gets {path} ({version}), torch brings "
                f"{library.soname} {newer}",
                remedy=Remedy(
                    f"Import torch before {package.name}, or remove the older library",
                    owner_of_file(machine, path),
                ),
            )

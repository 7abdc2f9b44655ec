"""Finds every cuDNN on the machine, and opens the one that torch would get."""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH112, PTH113, PTH119, PTH120

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gpucheck.knowledge import cudnn as table
from gpucheck.probes.child import Child, Ended, payload_command
from gpucheck.probes.elf import Elf, ElfError, read_elf
from gpucheck.probes.files import names_in, read_text
from gpucheck.probes.ld_so import Process
from gpucheck.probes.library_files import header_version, origin_of, version_of
from gpucheck.probes.messages import CudnnAnswer, MessageError, decode_all
from gpucheck.probes.package_owner import owners_of
from gpucheck.probes.readable import readable
from gpucheck.probes.this_loader import this_loader
from gpucheck.snapshot import (
    Cudnn,
    CudnnInstall,
    CudnnOpened,
    Libraries,
    Library,
    Maybe,
    Origin,
    PyTorch,
    Toolkits,
    Unknown,
    replace,
    value,
)
from gpucheck.versions import version_tuple

_FRONT = re.compile(r"libcudnn\.so\.(\d{1,3})(\.[\d.]+)?")
_PART = re.compile(r"libcudnn_\w+\.so\.\d{1,3}")
_NEEDED_CUDA = re.compile(r"lib(?:cublas|cublasLt|cudart|nvrtc)\.so\.(\d{1,3})")
_PATH_CUDA = re.compile(r"/cu(\d{2})/lib")
_NAMED_CUDA = re.compile(r"cudnn[\w.+-]*?[-_+.]cu(?:da)?-?(\d{2})")
_MULTIARCH = ("x86_64-linux-gnu", "aarch64-linux-gnu")


def probe(
    pytorch: PyTorch,
    libraries: Libraries,
    toolkits: Toolkits,
    variables: Mapping[str, str],
    root: Path = Path("/"),
    deadline_seconds: float = 5.0,
) -> Cudnn:
    """Return the cuDNNs that are installed, and which of them torch and a plain program get.

    The one for torch, else the plain one, is opened in a child that has *deadline_seconds*.
    *libraries* is what `loader.probe` found; *root* is where the system's own files are.
    """
    needs, front, parts = _for_torch(libraries)
    selected_for_builds = _selected_for_builds(needs, variables, root)
    torchs = front.path if isinstance(front, Library) else front
    path = torchs if isinstance(torchs, str) else selected_for_builds
    if isinstance(path, str) and "\N{REPLACEMENT CHARACTER}" in path:
        path = Unknown("its path cannot be written as text")
    child = start(path, variables, deadline_seconds) if isinstance(path, str) else None
    installs = tuple(_installs(pytorch, toolkits, variables, root))
    opened: Maybe[CudnnOpened] = None
    if child is not None and isinstance(path, str):
        opened = read_answer(path, child.end())
    elif isinstance(path, Unknown):
        opened = path
    own = _install_of(front, installs) if isinstance(front, Library) else None
    answer = opened if isinstance(opened, CudnnOpened) and opened.path == torchs else None
    return Cudnn(
        installs=installs,
        torch_needs=needs,
        for_torch=_with_best_version(front, own, answer) if isinstance(front, Library) else front,
        cuda_major_for_torch=_best_cuda_major(front, own, answer)
        if isinstance(front, Library)
        else front,
        selected_for_builds=selected_for_builds,
        sublibraries_for_torch=_with_owners(front, parts, root),
        opened=opened,
    )


def _for_torch(
    libraries: Libraries,
) -> tuple[Maybe[str], Maybe[Library], Maybe[tuple[Library, ...]]]:
    """Return the SONAME that torch needs, the file it would get, and the parts that go with it."""
    resolved = libraries.resolved
    if isinstance(resolved, Unknown):
        return resolved, resolved, resolved
    front = next((lib for lib in resolved or () if _FRONT.fullmatch(lib.soname)), None)
    if front is None:
        return None, None, None
    parts = tuple(lib for lib in resolved or () if lib.soname.startswith("libcudnn_"))
    if isinstance(front.path, Unknown):
        return front.soname, front.path, parts
    return front.soname, front if front.path is not None else None, parts


def _install_of(front: Library, installs: Sequence[CudnnInstall]) -> CudnnInstall | None:
    """Return the install that *front* belongs to, by its directory with links followed."""
    path = front.real_path if isinstance(front.real_path, str) else front.path
    folder = os.path.dirname(path) if isinstance(path, str) else ""
    own = (each for each in installs if (each.directory, each.soname) == (folder, front.soname))
    return next(own, None)


def _with_best_version(
    front: Library, install: CudnnInstall | None, opened: CudnnOpened | None
) -> Library:
    """Return the cuDNN that torch gets with its version by the best witness.

    What cuDNN itself answered comes first: its front hands the question on to its parts, so that
    the answer is that of the parts that it really gets. Then what lies next to it says, in the
    order of trust of `version_of`; then its header.
    """
    for witness in (opened, front, install):
        if witness is not None and isinstance(witness.version, str):
            return replace(front, version=witness.version)
    return front


def _best_cuda_major(
    front: Library, install: CudnnInstall | None, opened: CudnnOpened | None
) -> int | Unknown:
    """Return the CUDA major of the cuDNN that torch gets: by its package, else by its own word."""
    if install is not None and isinstance(install.cuda_major, int):
        return install.cuda_major
    asked = value(opened.cuda) if opened is not None else None
    parts = version_tuple(asked) if asked is not None else ()
    if parts:
        return parts[0]
    if install is not None and isinstance(install.cuda_major, Unknown):
        return install.cuda_major
    return Unknown(f"{front.path} does not tell which CUDA it was built for")


def _with_owners(
    front: Maybe[Library], parts: Maybe[tuple[Library, ...]], root: Path
) -> Maybe[tuple[Library, ...]]:
    """Name the system's packages that own parts from another folder than the front's."""
    if not isinstance(front, Library) or not isinstance(parts, tuple):
        return parts
    own = {os.path.dirname(path) for path in (front.path, front.real_path) if isinstance(path, str)}
    strays = {
        part.soname: str(part.real_path or part.path)
        for part in parts
        if isinstance(part.path, str) and os.path.dirname(part.path) not in own
    }
    owners = owners_of(strays.values(), ("cudnn",), root) if strays else {}
    return tuple(
        replace(
            part,
            package=owners if isinstance(owners, Unknown) else owners.get(strays[part.soname]),
        )
        if part.soname in strays
        else part
        for part in parts
    )


def _selected_for_builds(needs: Maybe[str], variables: Mapping[str, str], root: Path) -> Maybe[str]:
    """Return the cuDNN that the loader gives to a program without paths of its own."""
    try:
        elf = read_elf(os.path.realpath(sys.executable))
    except (OSError, ElfError) as error:
        return Unknown(f"{sys.executable}: {error}")
    if elf.interpreter is None:
        return Unknown(f"{sys.executable} is linked statically")
    loader = this_loader(variables, elf.interpreter, root=root, machine=elf.machine)
    process = Process(loader, sys.executable)
    majors = sorted({part.major for part in table.table().part}, reverse=True)
    names = [f"libcudnn.so.{major}" for major in majors]
    for name in dict.fromkeys([needs, *names] if isinstance(needs, str) else names):
        found = process.find_plainly(name)
        if isinstance(found, tuple):
            return readable(found[0])
    return None


# ---------------------------------------------------------------------------------------- installs


def _installs(
    pytorch: PyTorch, toolkits: Toolkits, variables: Mapping[str, str], root: Path
) -> Iterator[CudnnInstall]:
    seen: set[str] = set()
    python = pytorch.python
    sites = python.sys_path if python is not None and not isinstance(python, Unknown) else ()
    for directory in _directories(pytorch, toolkits, variables, root):
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        names = names_in(real)
        if not isinstance(names, tuple):
            continue
        fronts = {int(m[1]): n for n in reversed(names) if (m := _FRONT.fullmatch(n))}
        for major in sorted(fronts, reverse=True):
            yield _install(real, f"libcudnn.so.{major}", fronts[major], names, sites, root)


def _directories(
    pytorch: PyTorch, toolkits: Toolkits, variables: Mapping[str, str], root: Path
) -> Iterator[str]:
    """Yield every directory that a cuDNN may lie in, those nearest to torch first."""
    prefixes = [variables.get("CONDA_PREFIX", "")]
    python = pytorch.python
    if python is not None and not isinstance(python, Unknown):
        for site in python.sys_path:
            yield f"{site}/nvidia/cudnn/lib"
        prefixes.append(python.prefix)
    if pytorch.torch is not None and not isinstance(pytorch.torch, Unknown):
        yield f"{pytorch.torch.location}/lib"
    for element in re.split("[:;]", variables.get("LD_LIBRARY_PATH", "")):
        if element.startswith("/"):
            yield element
    top = "" if root == Path("/") else str(root)
    for name in _MULTIARCH:
        yield f"{top}/usr/lib/{name}"
    for name in ("usr/lib64", "usr/lib", "usr/local/lib", "usr/local/lib64"):
        yield f"{top}/{name}"
    for prefix in prefixes:
        if prefix and os.path.isdir(f"{prefix}/conda-meta"):
            yield f"{prefix}/lib"
    for toolkit in toolkits.installed if isinstance(toolkits.installed, tuple) else ():
        if isinstance(toolkit.library_directory, str):
            yield toolkit.library_directory
        yield f"{toolkit.home}/lib64"
        yield f"{toolkit.home}/lib"


def _install(
    directory: str,
    soname: str,
    front: str,
    names: Sequence[str],
    sites: Sequence[str],
    root: Path,
) -> CudnnInstall:
    path = f"{directory}/{soname if soname in names else front}"
    major = soname.rpartition(".")[2]
    parts = tuple(n for n in names if _PART.fullmatch(n) and n.endswith(f".so.{major}"))
    header = next((h for h in _headers(directory, root) if os.path.isfile(h)), None)
    text = None if header is None else read_text(header)
    header_says: Maybe[str] = None
    if isinstance(text, str):
        header_says = header_version(text) or Unknown(f"{header} defines no version")
    elif text is not None:
        header_says = text
    version: Maybe[str] = version_of(path)
    if isinstance(version, Unknown) and isinstance(header_says, str):
        version = header_says
    top = "" if root == Path("/") else str(root)
    system = [f"{top}/usr/lib/{name}" for name in _MULTIARCH] + [f"{top}/usr/lib64"]
    origin: Origin = origin_of(path, path, "", system, sites)
    if directory.endswith("/torch/lib"):
        origin = "torch"
    elif origin == "other" and directory in (f"{top}/usr/local/lib", f"{top}/usr/local/lib64"):
        origin = "system"
    return CudnnInstall(
        directory=readable(directory),
        soname=soname,
        version=version,
        cuda_major=_cuda_major(directory, parts, root),
        origin=origin,
        sublibraries=parts,
        header=None if header is None else readable(header),
        header_version=header_says,
    )


def _headers(directory: str, root: Path) -> Iterator[str]:
    """Yield where the header of a cuDNN in *directory* would lie, the likeliest first."""
    up = os.path.dirname(directory)
    yield f"{up}/include/cudnn_version.h"
    top = "" if root == Path("/") else str(root)
    name = os.path.basename(directory)
    if name in _MULTIARCH:
        yield f"{top}/usr/include/{name}/cudnn_version.h"
        yield f"{top}/usr/include/cudnn_version.h"
    if "/targets/" in directory:  # /usr/local/cuda-13.0/targets/x86_64-linux/lib
        yield f"{directory.partition('/targets/')[0]}/include/cudnn_version.h"


def _cuda_major(directory: str, parts: Sequence[str], root: Path) -> int | Unknown:
    """Return the CUDA major that a cuDNN was built for, by the package that brought it.

    Without a package that says so, by what its libraries need or where they look.
    """
    majors = set(_wheel_majors(directory)) or set(_package_majors(directory, root))
    if not majors:
        majors = set(_conda_majors(directory))
    if not majors:
        for part in parts:
            try:
                majors |= set(_elf_majors(read_elf(f"{directory}/{part}")))
            except (OSError, ElfError):
                continue
    if len(majors) == 1:
        return majors.pop()
    if majors:
        return Unknown("packages for several CUDA versions claim it")
    return Unknown("no package or library says which CUDA it was built for")


def _wheel_majors(directory: str) -> Iterator[int]:
    site, inside, _ = directory.rpartition("/nvidia/cudnn/lib")
    names = names_in(site) if inside else ()
    for name in names if isinstance(names, tuple) else ():
        match = re.match(r"nvidia_cudnn_cu(\d{2})-.*\.dist-info$", name)
        if match:
            yield int(match[1])


def _package_majors(directory: str, root: Path) -> Iterator[int]:
    """Read which Debian package the libraries in *directory* belong to."""
    folder = f"{str(root).rstrip('/')}/var/lib/dpkg/info"
    top = "" if root == Path("/") else str(root)
    inside = directory.removeprefix(top)
    names = names_in(folder) if re.search(r"/usr/lib|/lib", inside) else ()
    for name in names if isinstance(names, tuple) else ():
        if not name.startswith("libcudnn") or not name.endswith(".list"):
            continue
        match = _NAMED_CUDA.search(name)
        files = read_text(f"{folder}/{name}") if match else None
        if match and isinstance(files, str) and f"{inside}/libcudnn" in files:
            yield int(match[1])


def _conda_majors(directory: str) -> Iterator[int]:
    names = names_in(f"{os.path.dirname(directory)}/conda-meta")
    for name in names if isinstance(names, tuple) else ():
        match = _NAMED_CUDA.search(name)
        if match and name.endswith(".json"):
            yield int(match[1])


def _elf_majors(elf: Elf) -> Iterator[int]:
    for name in elf.needed:
        match = _NEEDED_CUDA.fullmatch(name)
        if match:
            yield int(match[1])
    for text in (elf.rpath, elf.runpath):
        for number in _PATH_CUDA.findall(text or ""):
            yield int(number)


# ----------------------------------------------------------------------------------------- opening


def start(path: str, variables: Mapping[str, str], deadline_seconds: float) -> Child:
    """Start a child that opens the cuDNN at *path* with the user's own loader variables.

    By its full path, so that no search of ours decides which.
    """
    return Child(
        payload_command(sys.executable, "open_cudnn", path, isolated=True),
        deadline_seconds=deadline_seconds,
        environment={
            name: value
            for name, value in variables.items()
            if name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PATH")
        },
    )


def read_answer(path: str, ended: Ended) -> CudnnOpened | Unknown:
    """Make a fact of what the child wrote: the versions, or the loader's message."""
    try:
        answers = decode_all(ended.stdout)
    except MessageError as error:
        return Unknown(f"the answer of the child is unreadable: {error}")
    for answer in answers:
        if isinstance(answer, CudnnAnswer):
            return _opened(path, answer)
    if ended.signal_name is not None:
        return CudnnOpened(path=path, error=f"opening it {ended.why}")
    return Unknown(ended.why or "the child that was to open it wrote nothing")


def _opened(path: str, answer: CudnnAnswer) -> CudnnOpened:
    number, cuda = answer.version, answer.cuda
    version: Maybe[str] = None
    if number is not None:
        version = table.version_of(number) or Unknown(f"cudnnGetVersion returned {number}")
    return CudnnOpened(
        path=path,
        version=version,
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda is not None and cuda > 0 else None,
        error=answer.error,
    )

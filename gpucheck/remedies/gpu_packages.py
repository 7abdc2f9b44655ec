"""Builds the remedies for packages with GPU code: one CUDA, one torch, libraries that are found."""

import re
from collections.abc import Iterable, Iterator, Sequence

from gpucheck import derived
from gpucheck.knowledge import packages as table
from gpucheck.knowledge import torch_cuda
from gpucheck.remedies import python_packages, torch_builds
from gpucheck.remedies.python_packages import install
from gpucheck.remedies.torch_builds import pinned
from gpucheck.rule import Command, Remedy, command
from gpucheck.snapshot import Framework, GpuPackage, PackageLibrary, Python, Snapshot, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed


def provide(
    machine: Snapshot,
    package: GpuPackage,
    lacking: Sequence[PackageLibrary],
    built_for: int | None,
) -> Remedy:
    """Return how to bring a package and the CUDA that it is linked to together."""
    torch = value(machine.pytorch.torch)
    cuda = value(torch.cuda) if torch is not None else None
    if not package.uses_torch or torch is None or not cuda:
        return _bring_libraries(machine, package, lacking, built_for)
    major = next(iter(version_tuple(cuda)), None)
    if built_for is None or major in (None, built_for):
        names = listed(sorted({each.soname for each in lacking}))
        return Remedy(f"Install the wheel that brings {names}, or another build of {package.name}")
    ways = (_other_package(machine, package, cuda), *_other_torch(machine, built_for))
    if len(ways) == 1:
        return ways[0]
    return Remedy(
        f"Bring {package.name} and torch to one CUDA major",
        alternatives=ways,
        verify=python_packages.check(machine),
    )


def _other_package(machine: Snapshot, package: GpuPackage, cuda: str) -> Remedy:
    text = f"Install a build of {package.name} that is made for CUDA {cuda}, as torch is"
    if not table.is_on_torch_index(package.name):
        return Remedy(text)
    index = f"{torch_cuda.INDEX}/cu{cuda.replace('.', '')}"
    exact = f"{package.name}=={package.version.partition('+')[0]}"
    return install(machine, [exact], text=text, index=index, again=True)


def _other_torch(machine: Snapshot, major: int) -> Iterator[Remedy]:
    """Yield how to get the torch release that is here for another CUDA, if the driver runs it."""
    torch = value(machine.pytorch.torch)
    version = value(torch.version) if torch is not None else None
    release = (version or "").partition("+")[0]
    rows = [
        row
        for row in torch_cuda.table().variant
        if version_tuple(row.torch) == version_tuple(release)[:2]
        and version_tuple(row.cuda)[:1] == (major,)
        and derived.runs_cuda(machine, row.cuda)
    ]
    if not rows:
        return
    row = max(rows, key=lambda each: version_tuple(each.cuda))
    names = ("torch", *torch_builds.companions(machine))
    yield install(
        machine,
        [pinned(name, release, row.variant) for name in names],
        text=f"Install torch {release} for CUDA {row.cuda}; other compiled packages have to follow",
        index=row.index_url,
    )


def _bring_libraries(
    machine: Snapshot,
    package: GpuPackage,
    lacking: Sequence[PackageLibrary],
    built_for: int | None,
) -> Remedy:
    row = opens(package)
    if row is not None and row.brings:
        return install(
            machine,
            [_bringing(machine, row, package)],
            text=f"Install the libraries that {package.name} is made for",
        )
    names = listed(sorted({each.soname for each in lacking}))
    if built_for is None:
        return Remedy(f"Install what brings {names} where the loader looks")
    if (twin := _build_for(package.name, built_for, _major_here(machine, lacking))) is not None:
        remove = python_packages.uninstall(machine, [package.name])
        add = install(machine, [twin], text="")
        return Remedy(
            f"Replace {package.name} by {twin}, the build for the CUDA that is here",
            _once((*remove, *add.steps)),
            verify=python_packages.check(machine),
        )
    return Remedy(
        f"Install the libraries of CUDA {built_for} where the loader looks ({names}), or a build "
        f"of {package.name} for the CUDA that is here"
    )


#: how distributions carry the CUDA that they are for: cupy-cuda12x, transformer-engine-cu12
_NAMED_CUDA = re.compile(r"(?P<stem>.+-cu(?:da)?)(?P<major>1[0-9])(?P<rest>x?)")


def _build_for(name: str, built_for: int, major: int | None) -> str | None:
    """Return the distribution of the same package for CUDA *major*, where its name would say so."""
    found = _NAMED_CUDA.fullmatch(name)
    if found is None or major in (None, built_for) or found["major"] != str(built_for):
        return None
    return f"{found['stem']}{major}{found['rest']}"


def _major_here(machine: Snapshot, lacking: Iterable[PackageLibrary]) -> int | None:
    """Return the one CUDA major whose libraries lie here in place of those that are lacking."""
    here = {
        major
        for each in lacking
        for path in each.other_majors
        if (major := table.cuda_major_of([path.rpartition("/")[2]])) is not None
        and derived.runs_cuda(machine, f"{major}.0")
    }
    return here.pop() if len(here) == 1 else None


def opens(package: GpuPackage) -> table.Opens | None:
    """Return what is known of the libraries that this version of a package opens."""
    rows = table.opens(package.name, package.version)
    return rows[0] if rows else None


def rebuild(machine: Snapshot, package: GpuPackage) -> Remedy:
    """Return how to compile a package against the torch that is here."""
    torch = value(machine.pytorch.torch)
    python = machine.pytorch.python
    version = "" if torch is None else f" {value(torch.version) or ''}".rstrip()
    text = (
        f"Install the wheel of {package.name} that is made for torch{version}, this Python and "
        "this CUDA, or compile it here"
    )
    if not isinstance(python, Python) or python_packages.manager(machine) not in ("pip", "uv"):
        return Remedy(text)
    exact = f"{package.name}=={package.version.partition('+')[0]}"
    pip = (
        "uv pip install --python {python} --no-build-isolation --no-binary {name} --no-deps "
        "--reinstall-package {name} {exact}"
        if value(python.uses_uv)
        else "{python} -m pip install --no-build-isolation --no-binary {name} --no-deps "
        "--force-reinstall {exact}"
    )
    return Remedy(
        text,
        (command(pip, python=python.path, name=package.name, exact=exact, lasts="permanent"),),
    )


def make_findable(
    machine: Snapshot,
    package: GpuPackage,
    row: table.Opens | None,
    nowhere: Sequence[PackageLibrary],
    hidden: Sequence[PackageLibrary],
) -> Remedy:
    """Return how to bring a package and the libraries that it opens by name together."""
    ways: list[Remedy] = []
    fitting = _fitting_version(row, nowhere)
    advice = f": {row.help}" if row is not None and row.help else ""
    if fitting:
        text = f"Install the release of {package.name} for the library that is here{advice}"
        ways.append(install(machine, [f"{package.name}=={fitting}"], text=text))
    elif row is not None and row.brings and nowhere:
        text = f"Install the libraries that {package.name} is made for{advice}"
        ways.append(install(machine, [_bringing(machine, row, package)], text=text))
    elif nowhere:
        ways.append(_bring_wheels(machine, package, nowhere, advice))
    if hidden:
        folders = dict.fromkeys(each.elsewhere[0].rpartition("/")[0] for each in hidden)
        step = command(
            "export LD_LIBRARY_PATH={folders}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
            folders=":".join(folders),
            lasts="shell",
        )
        text = f"Name the folders for the program that uses {package.name}"
        ways.append(Remedy(text if fitting else text + advice, (step,)))
    if len(ways) == 1:
        return ways[0]
    return Remedy(f"Bring {package.name} and its libraries together", alternatives=tuple(ways))


def _bringing(machine: Snapshot, row: table.Opens, package: GpuPackage) -> str:
    """Return the requirement by which a package's authors bring its libraries."""
    majors = [major for major in (13, 12) if derived.runs_cuda(machine, f"{major}.0")]
    name = row.brings.format(name=package.name, cuda=(*majors, 12)[0])
    return f"{name}=={package.version}"


def _bring_wheels(
    machine: Snapshot, package: GpuPackage, nowhere: Sequence[PackageLibrary], advice: str
) -> Remedy:
    """Return how NVIDIA's wheels bring libraries, and how the loader finds them in there."""
    sonames = [each.soname for each in nowhere]
    wheels = table.wheels_with(sonames)
    text = f"Install what brings {listed(sonames)} where the loader looks{advice}"
    python = machine.pytorch.python
    if not wheels or not isinstance(python, Python):
        return Remedy(text)
    look = command(
        "export LD_LIBRARY_PATH=$({python} -c {program})${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
        python=python.path,
        program='import glob, sysconfig; print(":".join(sorted(glob.glob('
        'sysconfig.get_path("purelib") + "/nvidia/*/lib"))))',
        lasts="shell",
    )
    bring = install(machine, wheels, text="")
    return Remedy(
        f"Install the wheels that bring {listed(sonames)}, and name their folders for the program "
        f"that uses {package.name}{advice}",
        (*bring.steps, look) if bring.steps else (),
    )


def _fitting_version(row: table.Opens | None, nowhere: Sequence[PackageLibrary]) -> str:
    here = {path.rpartition("/")[2] for each in nowhere for path in each.other_majors}
    pairs = row.fits.items() if row is not None else ()
    return next((version for soname, version in pairs if soname in here), "")


def keep_one(machine: Snapshot, names: tuple[str, ...], wanted: list[str]) -> Remedy:
    """Return how to uninstall all of *names* and install the one of them that is to stay."""
    plain = [name.partition(" ")[0] for name in names]
    keep = wanted[0] if wanted else _for_this_cuda(machine, plain)
    remove = python_packages.uninstall(machine, plain)
    if keep is None:
        return Remedy("Uninstall both, then install the one that you want", remove)
    version = next(name.partition(" ")[2] for name in names if name.startswith(f"{keep} "))
    again = install(machine, [f"{keep}=={version}"], text="")
    return Remedy(
        f"Uninstall both, then install {keep} alone",
        _once((*remove, *again.steps)),
        verify=python_packages.check(machine),
    )


def _once(steps: Iterable[Command]) -> tuple[Command, ...]:
    """Leave out what an earlier step has done already, such as bringing pip itself."""
    return tuple(dict.fromkeys(steps))


def _for_this_cuda(machine: Snapshot, names: Iterable[str]) -> str | None:
    """Return the build whose name says the CUDA that torch has, else the newest that runs here."""
    by_major = {int(found[1]): name for name in names if (found := re.search(r"-cuda(\d\d)", name))}
    torch = value(machine.pytorch.torch)
    cuda = value(torch.cuda) if torch is not None else None
    for major in version_tuple(cuda or "")[:1]:
        if major in by_major:
            return by_major[major]
    running = [m for m in by_major if derived.runs_cuda(machine, f"{m}.0")]
    return by_major[max(running)] if running else None


def gpu_build(machine: Snapshot, framework: Framework) -> Remedy:
    """Return how to replace a framework's CPU build by its build for CUDA."""
    if framework.name == "TensorFlow":
        requirement = f"tensorflow[and-cuda]=={framework.version}"
        if framework.distribution == "tensorflow":
            return Remedy("Install a TensorFlow that is built for CUDA")
        removed = python_packages.uninstall(machine, [framework.distribution])
        added = install(machine, [requirement], text="")
        return Remedy(
            f"Replace {framework.distribution} by the build for CUDA",
            _once((*removed, *added.steps)),
        )
    majors = [major for major in (13, 12) if derived.runs_cuda(machine, f"{major}.0")]
    if not majors:
        return Remedy("Install the jax that is built for this driver's CUDA")
    major = 12 if version_tuple(framework.version) < (0, 7, 2) else majors[0]
    return install(
        machine,
        [f"jax[cuda{major}]=={framework.version}"],
        text=f"Install jax's plugin for CUDA {major}",
    )

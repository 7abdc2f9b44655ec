"""Rules about frameworks other than torch, and builds that exclude one another: PKG004, PKG006."""

import re
from collections.abc import Iterable, Iterator

from gpucheck import derived
from gpucheck.conditions import has_gpu
from gpucheck.knowledge import driver_cuda
from gpucheck.knowledge import packages as table
from gpucheck.remedies.gpu_packages import gpu_build, keep_one
from gpucheck.remedies.python_packages import install
from gpucheck.remedies.variables import set_list
from gpucheck.requirements import is_same_version
from gpucheck.rule import Answers, Remedy, Severity, Symptom, known, rule
from gpucheck.snapshot import FileClash, Framework, GpuPackage, PackageLibrary, Snapshot, value
from gpucheck.versions import version_tuple
from gpucheck.wording import count, listed

# ------------------------------------------------------------------------------------------ PKG004


@rule("PKG004", Severity.WARNING, "Two packages own the same files")
def same_files(machine: Snapshot) -> Answers:
    """Two distributions unpacked their compiled files into one folder: the last one's are there.

    onnxruntime and onnxruntime-gpu, CuPy for two CUDA versions, tensorflow and tensorflow-cpu,
    opencv-python and its variants are builds of one package under several names. pip installs both
    without a word, often because some package requires the plain one. What is imported is whichever
    was written last, and removing either takes files away from the other.

    Uninstall all of them, then install the one that you want. It is an error where the GPU build is
    not the one whose files are there.
    """
    clashes = yield from known(machine.packages.clashes)
    together: dict[tuple[str, ...], list[FileClash]] = {}
    for clash in clashes or ():
        together.setdefault(clash.distributions, []).append(clash)
    for names, found in together.items():
        plain = tuple(name.partition(" ")[0] for name in names)
        family = table.family_of(plain)
        wanted = [name for name in plain if family is not None and name in family.gpu]
        present = _present(found)
        is_lost = bool(wanted) and present is not None and present.partition(" ")[0] not in wanted
        both = "both" if len(names) == 2 else "all"
        files = count(sum(each.files for each in found), "compiled file")
        saw = f"{listed(names)} {both} own {files} in {listed([each.folder for each in found])}"
        if present is not None:
            saw += f"; those of {present} are there"
        if is_lost and family is not None:
            saw += f": {family.lost}"
        yield Symptom(
            subject=" ".join(plain),
            saw=saw,
            severity=Severity.ERROR if is_lost and derived.has_gpu(machine) is True else None,
            remedy=keep_one(machine, names, wanted),
        )


def _present(clashes: Iterable[FileClash]) -> str | None:
    found = {value(each.present) for each in clashes}
    return found.pop() if len(found) == 1 else None


# ------------------------------------------------------------------------------------------ PKG006


@rule(
    "PKG006",
    Severity.WARNING,
    "A framework other than torch does not fit this machine",
    caused_by=("DRV012",),
    when=has_gpu,
)
def unfit_framework(machine: Snapshot) -> Answers:
    """jax, TensorFlow or CuPy computes on the CPU here, or on libraries that are not its own.

    Without a word, or with one line among many, they fall back to the CPU: where the build has no
    CUDA in it (plain `pip install jax`, tensorflow-cpu), and where the driver is older than the
    CUDA major that the build is made for. jax and TensorFlow from wheels bring their CUDA
    libraries; a toolkit's folder on LD_LIBRARY_PATH quietly takes their place, which ends in
    "Unable to load cuSPARSE. Is it installed?" or "DNN library initialization failed". So does a
    wheel that is older than the one the framework was built with, which torch's pins bring about
    where both are in one environment.

    Install the build for CUDA, one for this driver's CUDA, or take the folder out of the variable.
    """
    yield from known(machine.packages.frameworks)
    packages = {each.name: each for each in value(machine.packages.gpu_packages) or ()}
    for framework in derived.frameworks(machine):
        yield from _cpu_only(machine, framework)
        yield from _driver_too_old(machine, framework)
        if framework.name in ("jax", "TensorFlow"):
            yield from _older_wheels(machine, framework)
            yield from _shadowed(machine, framework, packages)


def _cpu_only(machine: Snapshot, framework: Framework) -> Iterator[Symptom]:
    if framework.is_gpu_build is not False or framework.name not in ("jax", "TensorFlow"):
        return
    others = [each for each in derived.frameworks(machine) if each.is_gpu_build is True]
    torch = value(machine.pytorch.torch)
    serves_another = bool(others) or (torch is not None and torch.build == "cuda")
    yield Symptom(
        subject=framework.name,
        saw=f"{framework.name} {framework.version} is built without CUDA, and a GPU is here",
        severity=Severity.INFO if serves_another else None,
        remedy=gpu_build(machine, framework),
    )


def _driver_too_old(machine: Snapshot, framework: Framework) -> Iterator[Symptom]:
    cuda = value(framework.cuda)
    if cuda is None or framework.is_gpu_build is not True:
        return
    major = version_tuple(cuda)[0] if version_tuple(cuda) else 0
    if derived.runs_cuda(machine, f"{major}.0") is not False:
        return
    driver, newest = derived.driver_version(machine), derived.newest_cuda(machine)
    needed = driver_cuda.oldest_driver_for(major)
    new_driver = f"Install driver {needed} or newer" if needed else "Install a newer driver"
    older = newest.partition(".")[0] if newest else ""
    ways = (
        Remedy(new_driver),
        Remedy(f"Install the {framework.name} that is built for CUDA {older or 'of this driver'}"),
    )
    yield Symptom(
        subject=framework.name,
        severity=Severity.ERROR,
        saw=f"{framework.distribution} {framework.version} is built for CUDA {cuda}; driver "
        f"{driver} runs up to CUDA {newest or 'an older one'}",
        remedy=Remedy("Bring driver and framework to one CUDA major", alternatives=ways),
    )


def _older_wheels(machine: Snapshot, framework: Framework) -> Iterator[Symptom]:
    """Yield the wheels that are older than those that the framework was built with.

    jax refuses them by name; TensorFlow's exact pins are wider in truth, but for cuDNN. A newer one
    of the same major serves both. Source: `_check_cuda_versions` in jax's plugin.
    """
    here = derived.wheels_here(machine)
    older: list[str] = []
    wanted: list[str] = []
    for requirement in framework.requires:
        found = re.match(r"(nvidia-[a-z0-9-]+)(.*)", requirement)
        lowest = re.search(r"[>=]=\s*([\d.]+)", requirement)
        wheel = here.get(found[1]) if found is not None else None
        if wheel is None or lowest is None:
            continue
        if framework.name == "TensorFlow" and "cudnn" not in wheel.name:
            continue
        have, want = version_tuple(wheel.version), version_tuple(lowest[1])
        length = 2 if framework.name == "TensorFlow" else 3
        if have[:length] < want[:length]:
            older.append(f"{wheel.name} {wheel.version} is here, at least {lowest[1]} is required")
            wanted.append(requirement)
    if older:
        yield Symptom(
            subject=f"{framework.name} wheels",
            saw=f"{framework.distribution} {framework.version}: {listed(older)}",
            remedy=install(
                machine,
                wanted,
                text=f"Install the libraries that {framework.name} is built with; if torch pins "
                "them, give each an environment of its own",
            ),
        )


def _shadowed(
    machine: Snapshot, framework: Framework, packages: dict[str, GpuPackage]
) -> Iterator[Symptom]:
    names = (framework.distribution, framework.distribution.replace("-plugin", "-pjrt"))
    found: dict[tuple[str, str], dict[str, PackageLibrary]] = {}
    for name in dict.fromkeys(names):
        package = packages.get(name)
        for library in package.libraries if package is not None else ():
            if library.found_via in ("LD_LIBRARY_PATH", "LD_PRELOAD") and _is_another(library):
                where = (library.found_via, library.directory)
                found.setdefault(where, {}).setdefault(library.soname, library)
    for (variable, directory), libraries in found.items():
        pairs = [
            f"{each.soname}: {each.path} ({each.version}) instead of {each.wheel_path} "
            f"({each.wheel_version})"
            for each in libraries.values()
        ]
        yield Symptom(
            subject=f"{framework.name} {directory}",
            saw=f"{variable} gives {framework.name} {framework.version} " + "; ".join(pairs),
            remedy=_without(machine, variable, directory, framework.name),
            explained_by=("ENV025",) if variable == "LD_PRELOAD" else (),
        )


def _is_another(library: PackageLibrary) -> bool:
    """Whether it is another version than the wheel's."""
    version, own = value(library.version), value(library.wheel_version)
    if library.wheel_path is None or library.wheel_path == library.path:
        return False
    return version is not None and own is not None and not is_same_version(version, own)


def _without(machine: Snapshot, variable: str, directory: str, framework: str) -> Remedy:
    text = (
        f"Remove {directory or 'the empty element'} from {variable}: the wheels of {framework} "
        "bring these libraries themselves"
    )
    written = machine.environment.variable(variable)
    if not isinstance(written, str) or variable == "LD_PRELOAD":
        return Remedy(text)
    kept = [each for each in re.split("[:;]", written) if each and each != directory]
    return set_list(machine, variable, kept, removed=directory, text=text)

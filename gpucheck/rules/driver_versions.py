"""Rules about versions that do not fit: module and libraries, two drivers, driver and GPU."""

from gpucheck.conditions import all_of, gpu_to_drive, module_loaded, own_kernel_module
from gpucheck.derived import (
    FULL_NAME_ONLY,
    cuda_works,
    driver_copies,
    is_container,
    nvml_works,
    own_gpus,
    selected_libraries,
    unseen_gpus,
)
from gpucheck.knowledge.driver_cuda import last_branch_for, minimum_branch_for
from gpucheck.knowledge.kernel_module import family_of
from gpucheck.knowledge.module_messages import meaning
from gpucheck.remedies import containers, system_packages
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import CudaInit, DriverLibrary, NvmlError, PciGpu, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed

NVML_VERSION_MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
CUDA_STUB_LIBRARY = 34  # CUDA_ERROR_STUB_LIBRARY
NVIDIA_UNINSTALL = command("/usr/bin/nvidia-uninstall", root=True, lasts="permanent")


@rule(
    "DRV006",
    Severity.ERROR,
    "Driver and kernel module versions differ",
    caused_by=("ENV016",),
    when=all_of(own_kernel_module, module_loaded),
)
def version_mismatch(machine: Snapshot) -> Answers:
    """Module and libraries work only together with their own version: CUDA and NVML both fail.

    nvidia-smi says "Driver/library version mismatch", CUDA says error 803. Mostly the driver was
    updated while the old module stayed loaded: reboot, or stop everything that uses the GPUs and
    reload the module. In a container, the libraries are either mounted from the host (created
    before its driver was updated: create the container again) or part of the image, where no driver
    belongs: remove its package from the image. In LXC, which mounts nothing, install the version of
    the host's module. A stray copy of libcuda.so.1 on LD_LIBRARY_PATH does the same.
    """
    module = value(machine.driver.module_version)
    if module is None or (nvml_works(machine) and cuda_works(machine)):
        return
    libraries = yield from known(driver_copies(machine))
    if libraries is None:
        return
    selected = selected_libraries(libraries)
    others = [library for library in selected if _is_other(library, module)]
    error = machine.nvml.error
    says_so = isinstance(error, NvmlError) and error.code == NVML_VERSION_MISMATCH
    if not others and not says_so:
        for library in selected:
            if isinstance(library.version, Unknown):
                yield NotChecked.because(library.version, library.path)
        return
    if others:
        seen = listed([f"{library.path} is {library.version}" for library in others])
    else:
        seen = "NVML says that its library is of another"
    yield Symptom(
        saw=f"the loaded kernel module is {module}; {seen}",
        remedy=_make_equal(machine, module, others, libraries),
    )


def _is_other(library: DriverLibrary, version: str) -> bool:
    return isinstance(library.version, str) and (
        version_tuple(library.version) != version_tuple(version)
    )


def _is_newer(library: DriverLibrary, version: str) -> bool:
    return isinstance(library.version, str) and (
        version_tuple(library.version) > version_tuple(version)
    )


def _make_equal(
    machine: Snapshot,
    module: str,
    others: list[DriverLibrary],
    libraries: tuple[DriverLibrary, ...],
) -> Remedy:
    strays = [library for library in others if library.found_via == "LD_LIBRARY_PATH"]
    fitting = [
        library
        for library in libraries
        if isinstance(library.version, str) and not _is_other(library, module)
    ]
    if strays and fitting:
        folder = strays[0].path.rpartition("/")[0]
        return Remedy(
            f"Remove {folder} from LD_LIBRARY_PATH: {fitting[0].path} fits the kernel module."
        )
    if is_container(machine):
        return _in_container(machine, module, others, fitting)
    return _on_host(machine, module, others, fitting)


def _on_host(
    machine: Snapshot, module: str, others: list[DriverLibrary], fitting: list[DriverLibrary]
) -> Remedy:
    on_disk = machine.driver.module_file_version
    is_on_disk = isinstance(on_disk, str) and version_tuple(on_disk) == version_tuple(module)
    if others and fitting and (is_on_disk or not isinstance(on_disk, str)):
        return Remedy(
            f"Two drivers are installed: keep {module}, which the kernel runs, and remove the "
            f"package of {others[0].version}, then reboot.",
            _removal(machine, others[0]),
            alternatives=(Remedy("Where no package owns the file.", (NVIDIA_UNINSTALL,)),),
        )
    if is_on_disk and others:
        return Remedy(
            f"The module on disk is {module} too: install module and libraries of the same "
            "version, then reboot.",
            system_packages.install_driver(machine),
        )
    return Remedy(
        "Reboot to load the kernel module of the libraries' version.", (system_packages.REBOOT,)
    )


def _removal(machine: Snapshot, library: DriverLibrary) -> tuple[Command, ...]:
    """Return the command that removes a copy's package, else the one that names it."""
    package = value(library.package)
    return (
        system_packages.remove_package(machine, package) if package else ()
    ) or system_packages.owner_of_file(machine, library.real_path)


def _in_container(
    machine: Snapshot, module: str, others: list[DriverLibrary], fitting: list[DriverLibrary]
) -> Remedy:
    """Choose by whose the libraries are: mounted by the host's runtime, or the image's own."""
    if machine.host.container in containers.WHOLE_SYSTEMS and not any(
        library.is_mounted is True for library in others
    ):
        installer = f"NVIDIA-Linux-{value(machine.host.machine) or 'x86_64'}-{module}.run"
        return Remedy(
            f"Install driver {module}, the version of the host's kernel module, inside this "
            "container, without its kernel module: download NVIDIA's .run file of that version.",
            (
                command(
                    "sh {installer} --no-kernel-module",
                    root=True,
                    lasts="permanent",
                    needs="sh",
                    installer=installer,
                ),
            ),
        )
    is_newer = any(_is_newer(library, module) for library in others)
    is_mounted = [library.is_mounted for library in others]
    if others and all(state is True for state in is_mounted):
        if is_newer:
            return Remedy(
                "Reboot the host: its driver was updated, and its old kernel module is still "
                "loaded.",
                (command("reboot", root=True, on="host"),),
            )
        return Remedy(
            "Create the container again: its libraries are those of its host's old driver."
        )
    if others and (is_newer or fitting or any(state is False for state in is_mounted)):
        packages = _packages(others)
        what = listed(packages) if packages else listed([each.real_path for each in others])
        steps = [
            step
            for package in packages
            for step in system_packages.remove_package(machine, package)
        ]
        return Remedy(
            f"Remove {what} from the image: no driver belongs in it. The host's own libraries "
            + ("are here too." if fitting else "come in when the container starts with its GPUs."),
            tuple(in_image(step) for step in steps),
        )
    return Remedy(
        "Create the container again: its libraries are those of its host's old driver. If they "
        "are part of the image, remove their package from it."
    )


def _packages(libraries: list[DriverLibrary]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p for each in libraries if (p := value(each.package))))


def in_image(step: Command) -> Command:
    """Return *step* as one of the image's recipe."""
    return Command(step.text, root=step.root, lasts=step.lasts, on="image", needs=step.needs)


@rule(
    "DRV011",
    Severity.WARNING,
    "Libraries of two driver versions are installed",
    caused_by=("DRV006", "HST005", "ENV016"),
    when=gpu_to_drive,
)
def two_drivers(machine: Snapshot) -> Answers:
    """Which driver a program gets then depends on its search path, and only one fits the module.

    Two ways of installing were mixed: a package and NVIDIA's .run installer, or a copy in an image
    and the one that the container toolkit mounts. Remove the one whose version is not that of the
    loaded kernel module.
    """
    libraries = yield from known(driver_copies(machine))
    if libraries is None:
        return
    # What no program can load by its name disturbs nobody.
    libraries = tuple(each for each in libraries if each.found_via != FULL_NAME_ONLY)
    versions = {lib.version for lib in libraries if isinstance(lib.version, str)}
    if len(versions) < 2:
        has_copies = len({library.soname for library in libraries}) < len(libraries)
        for library in libraries if has_copies else ():
            if isinstance(library.version, Unknown):
                yield NotChecked.because(library.version, library.path)
        return
    module = machine.driver.module_version
    kept = module if isinstance(module, str) and module in versions else None
    others = [lib for lib in libraries if isinstance(lib.version, str) and lib.version != kept]
    keep = f"Keep {kept}, the loaded module's version" if kept else "Keep one"
    if is_container(machine):
        remedy = Remedy(
            f"{keep}, and remove the other version's libraries from the image: no driver belongs "
            "in it; the host's own come in when the container starts.",
            tuple(
                in_image(step)
                for package in _packages(others)
                for step in system_packages.remove_package(machine, package)
            ),
        )
    else:
        remedy = Remedy(
            f"{keep}, and remove the package of the other version's libraries.",
            _removal(machine, others[0]) if kept else (),
            alternatives=(Remedy("Where no package owns the files.", (NVIDIA_UNINSTALL,)),),
        )
    yield Symptom(saw=_by_version(libraries), remedy=remedy)


def _by_version(libraries: tuple[DriverLibrary, ...]) -> str:
    names = dict.fromkeys(lib.version for lib in libraries if isinstance(lib.version, str))
    parts = []
    for version in names:
        paths = [
            library.path + (f" (loaded, by {library.found_via})" if library.is_selected else "")
            for library in libraries
            if library.version == version
        ]
        parts.append(f"{version}: {', '.join(paths)}")
    return "; ".join(parts)


# --------------------------------------------------------------------------- driver and GPU


@rule(
    "DRV012",
    Severity.ERROR,
    "This driver cannot drive a GPU that is here",
    when=own_kernel_module,
)
def wrong_driver_for_gpu(machine: Snapshot) -> Answers:
    """Each GPU architecture needs a driver of its time: NVML and CUDA do not show this GPU at all.

    An older driver does not know a newer GPU; a newer one has dropped old architectures (Kepler
    after 470; Maxwell, Pascal and Volta after 580). And the kernel module comes in two kinds:
    Blackwell and Grace Hopper need the open one, GPUs before Turing the closed one. Where such a
    GPU is the only one, the module does not stay loaded: its file, and what it said, are judged.
    """
    module = machine.driver.module_version
    if isinstance(module, Unknown):
        yield NotChecked.because(module)
        return
    if nvml_works(machine) and is_container(machine):
        return  # the others were not given to this container
    if module is None and (nvml_works(machine) or cuda_works(machine)):
        return
    by_line = _said(machine)
    if by_line is not None:
        yield by_line
        return
    version, _ = driver_in_question(machine)
    if version is None:
        yield NotApplicable(why="no module is loaded or built")
        return
    unseen = own_gpus(machine) if module is None else unseen_gpus(machine)
    if unseen is None:
        fact = machine.nvml.count
        yield (
            NotChecked.because(fact)
            if isinstance(fact, Unknown)
            else NotChecked(why="NVML names no bus ids")
        )
        return
    for gpu in unseen:
        yield from _judge_family(machine, gpu)


def driver_in_question(machine: Snapshot) -> tuple[str | None, str | Unknown | None]:
    """Return version and kind of the loaded module, else those of the module that would be loaded.

    A module's file that does not say its version is taken to be of the libraries'.
    """
    driver = machine.driver
    if isinstance(driver.module_version, str):
        return driver.module_version, driver.module_kind
    if not isinstance(driver.module_file, str):
        return None, None
    version = value(driver.module_file_version)
    if version is None:
        libraries = value(driver_copies(machine)) or ()
        version = next((v for lib in libraries if isinstance(v := lib.version, str)), None)
    return version, driver.module_file_kind


def is_unsuited(machine: Snapshot, gpu: PciGpu) -> bool:
    """Whether the driver here cannot drive *gpu*, by what is published or what it says itself."""
    if any(isinstance(answer, Symptom) for answer in _judge_family(machine, gpu)):
        return True
    said = _said(machine)
    return said is not None and said.subject in ("", gpu.bus_id)


def _judge_family(machine: Snapshot, gpu: PciGpu) -> Answers:
    version, kind = driver_in_question(machine)
    if version is None:
        return
    family = family_of(gpu.device_id)
    if family is None:
        yield NotChecked(why=f"no table knows device {gpu.device_id}", subject=gpu.bus_id)
        return
    branch = version_tuple(version)[:1]
    first = minimum_branch_for(family.compute_capability)
    last = last_branch_for(family.compute_capability)
    what = f"the GPU at {gpu.bus_id} ({gpu.device_id}) is {family.architecture}"
    if first is not None and branch < (first,):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which needs driver {first} or newer; this is {version}",
            remedy=_newer(machine, first),
        )
    elif last is not None and branch > (last,):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which drivers after {last} no longer drive; this is {version}",
            remedy=_older(machine, last),
        )
    elif isinstance(kind, Unknown):
        yield NotChecked.because(kind, gpu.bus_id)
    elif kind is not None and family.module not in ("either", kind):
        is_loaded = isinstance(machine.driver.module_version, str)
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which needs the {family.module} kernel module; the {kind} one is "
            + ("loaded" if is_loaded else "installed"),
            remedy=_other_kind(machine, family.module, branch),
        )


def _newer(machine: Snapshot, branch: int) -> Remedy:
    return Remedy(
        f"Install a driver of branch {branch} or newer, then reboot.",
        system_packages.install_driver(machine, branch),
    )


def _older(machine: Snapshot, branch: int) -> Remedy:
    return Remedy(
        f"Install a driver of branch {branch}, then reboot.",
        system_packages.older_driver(machine, branch),
    )


def _other_kind(machine: Snapshot, kind: str, branch: tuple[int, ...]) -> Remedy:
    if not branch:
        steps: tuple[Command, ...] = ()
    elif kind == "open":
        steps = system_packages.open_module(machine, branch[0])
    else:
        steps = system_packages.older_driver(machine, branch[0])
    return Remedy(f"Install the driver with the {kind} kernel module, then reboot.", steps)


def _said(machine: Snapshot) -> Symptom | None:
    """Return what the module itself said of a GPU that it does not drive."""
    version, _ = driver_in_question(machine)
    branch = version_tuple(version)[:1] if version else ()
    unseen = unseen_gpus(machine)
    if unseen == () and isinstance(machine.driver.module_version, str):
        return None  # it drives them all by now
    for line in value(machine.kernel_log.module_said) or ():
        found = meaning(line)
        if found is None:
            continue
        kind, match = found
        if kind == "legacy":
            remedy = _older(machine, int(match["branch"]))
        elif kind == "needs_closed":
            remedy = _other_kind(machine, "closed", branch)
        elif kind == "needs_open":
            remedy = _other_kind(machine, "open", branch)
        elif kind == "wrong_release":
            remedy = _by_age(machine)
        else:
            continue
        named = [gpu.bus_id for gpu in own_gpus(machine) if gpu.bus_id.lower() in line.lower()]
        gpus = own_gpus(machine)
        subject = named[0] if named else gpus[0].bus_id if len(gpus) == 1 else ""
        return Symptom(subject=subject, saw=f'the module says: "{line}"', remedy=remedy)
    return None


def _next_branch(machine: Snapshot) -> int:
    version, _ = driver_in_question(machine)
    return next(iter(version_tuple(version or "")), -1) + 1


def _by_age(machine: Snapshot) -> Remedy:
    """Return which driver to install where the module only says that it is the wrong one."""
    for gpu in own_gpus(machine):
        for answer in _judge_family(machine, gpu):
            if isinstance(answer, Symptom) and answer.remedy is not None:
                return answer.remedy
    return Remedy(
        "Install a newer driver, then reboot; for an old GPU, the last branch that drives it.",
        system_packages.install_driver(machine, _next_branch(machine)),
    )


# ---------------------------------------------------------------------------------------- stubs


@rule(
    "DRV013",
    Severity.ERROR,
    "The driver library that programs load is a stub",
    caused_by=("ENV012", "HST004"),
    when=gpu_to_drive,
)
def stub_is_selected(machine: Snapshot) -> Answers:
    """A stub is there to link programs on machines without a GPU; loaded, it fails every call.

    The toolkit's lib64/stubs folder must not be in LD_LIBRARY_PATH or in the loader's configuration
    (LIBRARY_PATH, which only the linker reads, is the right place), and nobody should make a
    libcuda.so.1 out of it. CUDA then says error 34, "stub library".
    """
    driver = machine.driver
    libraries = yield from known(driver.libraries)
    stubs = [lib for lib in selected_libraries(libraries or ()) if lib.is_stub is True]
    is_only = not any(
        lib.soname == "libcuda.so.1" and lib.is_stub is not True for lib in libraries or ()
    )
    for stub in stubs:
        folder = stub.path.rpartition("/")[0]
        yield Symptom(
            subject=stub.soname,
            saw=f"{stub.path} is a link-time stub, and the loader takes it (by {stub.found_via})",
            remedy=_without_stub(machine, stub, folder, is_only),
        )
    init = driver.cuda_init
    says_so = isinstance(init, CudaInit) and init.code == CUDA_STUB_LIBRARY
    if says_so and not any(stub.soname == "libcuda.so.1" for stub in stubs):
        path = init.library if isinstance(init, CudaInit) else None
        yield Symptom(
            subject="libcuda.so.1",
            saw=f"cuInit says that {path or 'libcuda.so.1'} is a stub (error 34)",
            remedy=Remedy("Remove that copy, so that the driver's own libcuda.so.1 is found."),
        )


def _without_stub(machine: Snapshot, stub: DriverLibrary, folder: str, is_only: bool) -> Remedy:
    place = (
        "LD_LIBRARY_PATH"
        if stub.found_via == "LD_LIBRARY_PATH"
        else "the loader's search path (/etc/ld.so.conf.d)"
    )
    text = f"Remove {folder} from {place}."
    if not is_only:
        return Remedy(text)
    if is_container(machine):
        start = containers.start_with_gpus(machine)
        return Remedy(
            f"{text} No other is here: start the container with its GPUs, too.", start.steps
        )
    return Remedy(
        f"{text} No other is here: install the driver, too.",
        system_packages.install_driver(machine),
    )

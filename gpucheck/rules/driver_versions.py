"""Rules about a driver's libraries: of another version than its module, of two drivers, stubs."""

from gpucheck.conditions import all_of, gpu_to_drive, module_loaded, own_kernel_module
from gpucheck.derived import (
    FULL_NAME_ONLY,
    cuda_works,
    driver_copies,
    is_container,
    nvml_works,
    selected_libraries,
)
from gpucheck.remedies import containers, system_packages
from gpucheck.rule import (
    Answers,
    Command,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.rules.driver_answers import CUDA_STUB_LIBRARY
from gpucheck.snapshot import DriverLibrary, NvmlError, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed

NVML_VERSION_MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
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
    init = value(driver.cuda_init)
    says_so = init is not None and init.code == CUDA_STUB_LIBRARY
    if says_so and not any(stub.soname == "libcuda.so.1" for stub in stubs):
        path = None if init is None else init.library
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

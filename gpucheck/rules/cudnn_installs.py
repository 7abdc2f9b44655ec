"""Rules about the cuDNNs that are installed, whoever gets them: DNN004, DNN007."""

from gpucheck.requirements import is_same_version
from gpucheck.rule import Answers, NotApplicable, Remedy, Severity, Symptom, known, rule
from gpucheck.snapshot import Snapshot, value


@rule("DNN004", Severity.INFO, "Several cuDNNs are installed")
def several_cudnns(machine: Snapshot) -> Answers:
    """Two programs on this machine may run on two cuDNNs; it helps to know which gets which.

    torch's wheels bring their own cuDNN, and do not use one that NVIDIA's package installed for
    the system. A C++ build, and a program without paths of its own, gets the system's. Both may
    stay: nothing is wrong with that.
    """
    installs = yield from known(machine.cudnn.installs)
    if installs is None or len(installs) < 2:
        return
    copies = ", ".join(
        f"{value(each.version) or 'unknown version'} in {each.directory}" for each in installs
    )
    users = []
    torchs = value(machine.cudnn.for_torch)
    if torchs is not None:
        users.append(f"torch gets {torchs.path}")
    if isinstance(machine.cudnn.selected_for_builds, str):
        users.append(f"a plain program gets {machine.cudnn.selected_for_builds}")
    yield Symptom(
        saw="; ".join([copies, *users]),
        remedy=Remedy("Nothing, as long as each program gets the one that it was built for."),
    )


@rule("DNN007", Severity.WARNING, "cuDNN's header and library differ")
def stale_header(machine: Snapshot) -> Answers:
    """What is compiled here with cuDNN is compiled for another version than it will run on.

    cudnn_version.h and libcudnn.so come from two releases: a copy by hand replaced one of them, or
    the runtime package was upgraded without the -dev package. Programs built here then check the
    wrong version, or use functions that the library lacks.

    torch's own wheels were compiled elsewhere, and do not care.
    """
    installs = yield from known(machine.cudnn.installs)
    if installs is None:
        return
    if not any(isinstance(install.header, str) for install in installs):
        yield NotApplicable(why="no cuDNN here has a header")
        return
    fitting = {
        install.header
        for install in installs
        if isinstance(install.version, str)
        and isinstance(install.header_version, str)
        and is_same_version(install.version, install.header_version)
    }
    for install in installs:
        if not isinstance(install.header, str) or install.header in fitting:
            continue
        header = yield from known(install.header_version, install.directory)
        version = yield from known(install.version, install.directory)
        if header is not None and version is not None:
            yield Symptom(
                subject=install.directory,
                saw=f"{install.header} is {header}; {install.directory}/{install.soname} is "
                f"{version}",
                remedy=Remedy("Install header and library from one package."),
            )

"""Looks at the whole machine at once: every probe side by side, none able to hold up the others."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gpucheck import __version__
from gpucheck.pending import Board
from gpucheck.probes.first_children import Children
from gpucheck.probes.sampling import Sampling
from gpucheck.scope import Scope
from gpucheck.snapshot import (
    Cudnn,
    Deep,
    Driver,
    Environment,
    Fact,
    Host,
    IgnoreList,
    KernelLog,
    Libraries,
    MappedLibrary,
    Nvml,
    Packages,
    PyTorch,
    Site,
    Snapshot,
    StartupFiles,
    Toolkits,
    Unknown,
    replace,
    unknown_section,
)

if TYPE_CHECKING:
    from gpucheck.probes.apart import ProbeProcess
    from gpucheck.probes.child import Child
    from gpucheck.probes.site import SiteProbes

#: What the second reading itself may take while the GPUs are kept under load for it.
SAMPLING_SECONDS = 2.0

Section = TypeVar("Section", bound=Fact)


class _ProbeThread(Generic[Section]):
    """One probe at work in a thread of its own.

    The thread is a daemon, so that a file system that never answers (a dead NFS server) keeps
    neither the report nor the exit waiting.
    """

    def __init__(
        self, name: str, section: type[Section], probe: Callable[[], Section], board: Board
    ) -> None:
        self.name = name
        self.elapsed_ms: float | None = None
        self._section = section
        self._probe = probe
        self._facts: Section | None = None
        self._board = board
        board.add(name)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # "can't start new thread"
            self._facts = unknown_section(section, f"gpucheck's own probe failed: {error}")
            board.remove(name)

    def _run(self) -> None:
        started = time.monotonic()
        try:
            facts = self._probe()
        except Exception as error:  # noqa: BLE001 - a probe that fails must not cost the report
            facts = unknown_section(self._section, f"gpucheck's own probe failed: {error!r}")
        self._facts = facts
        self.elapsed_ms = (time.monotonic() - started) * 1000
        self._board.remove(self.name)

    def facts(self, until: float) -> Section:
        """Wait for the facts to *until* (of the monotonic clock); late ones are unknown."""
        if self._facts is None:
            self._thread.join(max(0.0, until - time.monotonic()))
        if self._facts is None:
            return unknown_section(self._section, f"the {self.name} probe did not end in time")
        return self._facts


class _Apart(Generic[Section]):
    """One section that a process of its own gives, with the interface of a probe's thread."""

    def __init__(
        self,
        name: str,
        section: type[Section],
        process: "ProbeProcess[Any]",
        number: int,
        board: Board,
    ) -> None:
        self.name = name
        self._board = board
        self._section = section
        self._process = process
        self._number = number

    @property
    def elapsed_ms(self) -> float | None:
        times = self._process.elapsed_ms
        return times[self._number] if self._number < len(times) else None

    def facts(self, until: float) -> Section:
        """Wait for the facts to *until*; where the process gave none, they are unknown."""
        from gpucheck.probes.apart import ProbeError

        self._board.add(self.name)
        try:
            facts: Section = self._process.facts(self._number, until)
        except ProbeError as error:
            return unknown_section(self._section, str(error))
        finally:
            self._board.remove(self.name)
        return facts


class _Load:
    """Lets the second reading of the counters wait until the deep workload loads the GPUs."""

    def __init__(self, load_seconds: float) -> None:
        self.load_seconds = load_seconds
        self._decided = threading.Event()
        self._is_on = False

    def begin(self) -> None:
        self._is_on = True
        self._decided.set()

    def end(self) -> None:
        self._is_on = False
        self._decided.set()

    def wait(self) -> bool:
        """Return whether the GPUs are under load, as soon as that is decided."""
        self._decided.wait()
        return self._is_on


def collect(
    scope: Scope, *, children: "Children | None" = None, board: Board | None = None
) -> Snapshot:
    """Return the facts of this machine, within the seconds of *scope* and half a second.

    *children* are those that take longest, where the caller started them already. *board* shows
    what is awaited.
    """
    board = board or Board()
    children = children or Children.start(scope)  # the slowest first: they work while we read files
    started = children.started_at
    taken_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    deep, quick, watch_seconds = scope.deep, scope.quick, scope.watch_seconds
    until = started + scope.seconds
    # Facts that build on others' may come a moment after these, and still be reported.
    early = until - min(0.2, scope.seconds / 10)
    variables = dict(os.environ)

    def left() -> float:
        return max(0.1, early - time.monotonic())

    from gpucheck.probes import cuda_init

    cuda_child = children.cuda
    # What reads files that anybody wrote runs apart, and starts before any thread does.
    from gpucheck.probes.apart import ProbeProcess

    site = _start_site_probes()
    python_process = ProbeProcess[Any](
        "Python environment", lambda: _python_environment(scope.python, variables, left())
    )
    driver_process = ProbeProcess[Any](
        "driver", lambda: iter((_driver(variables), _kernel_log(left())))
    )
    startup_process = ProbeProcess[Any](
        "startup files", lambda: iter((_startup_files(variables), _ignore_list(variables)))
    )
    pytorch = _Apart("pytorch", PyTorch, python_process, 0, board)
    libraries = _Apart("libraries", Libraries, python_process, 1, board)
    packages = _Apart("packages", Packages, python_process, 2, board)
    driver = _Apart("driver", Driver, driver_process, 0, board)
    kernel_log = _Apart("kernel log", KernelLog, driver_process, 1, board)
    startup_files = _Apart("startup files", StartupFiles, startup_process, 0, board)
    ignore_list = _Apart("ignore list", IgnoreList, startup_process, 1, board)
    looks: list[_ProbeThread[Any] | _Apart[Any]] = [
        *(pytorch, libraries, packages, driver, kernel_log, startup_files, ignore_list)
    ]

    def look(
        name: str, section: type[Section], probe: Callable[[], Section]
    ) -> _ProbeThread[Section]:
        started_look = _ProbeThread(name, section, probe, board)
        looks.append(started_look)
        return started_look

    load = _Load(load_seconds=max(watch_seconds, 1.0) + SAMPLING_SECONDS) if deep else None
    sampling = None if cuda_child is None else Sampling()
    host = look("host", Host, _host)
    nvml = look(
        "nvml", Nvml, lambda: _nvml(scope, children.nvml, left(), load, sampling, host, early)
    )
    toolkits = look("toolkits", Toolkits, lambda: _toolkits(variables, left(), not quick))
    cudnn = look(
        "cudnn",
        Cudnn,
        lambda: _cudnn(pytorch, libraries, toolkits, variables, early),
    )
    environment = look("environment", Environment, lambda: _environment(variables))

    worked = None if load is None else _deep(pytorch.facts(early), left(), load)
    driver_facts = driver.facts(until)
    if cuda_child is None:
        driver_facts = replace(driver_facts, cuda_init=None)
    else:
        limit = early - cuda_child.started_at  # so that the rest is in time, too
        if scope.timeout_seconds is None:
            limit = min(limit, cuda_init.patience(driver_facts))
        cuda_child.shorten(max(0.1, limit))
        board.add("cuInit")
        driver_facts = replace(driver_facts, cuda_init=cuda_init.finish(cuda_child))
        board.remove("cuInit")
    if sampling is not None:
        sampling.end()  # the counters are read again for as long as cuInit is awaited, no longer
    libraries_facts = libraries.facts(until)
    if worked is not None:
        libraries_facts = replace(libraries_facts, mapped=worked[1])
    machine = Snapshot(
        gpucheck=__version__,
        taken_at=taken_at,
        host=host.facts(until),
        environment=environment.facts(until),
        startup_files=startup_files.facts(until),
        driver=driver_facts,
        toolkits=toolkits.facts(until),
        libraries=libraries_facts,
        cudnn=cudnn.facts(until),
        pytorch=pytorch.facts(until),
        packages=packages.facts(until),
        nvml=nvml.facts(until),
        kernel_log=kernel_log.facts(until),
        ignore_list=ignore_list.facts(until),
        site=Site() if site is None else site.facts(until),
        deep=None if worked is None else worked[0],
        expected_gpus=scope.expect_gpus,
        elapsed_ms={
            **{each.name: round(each.elapsed_ms, 1) for each in looks if each.elapsed_ms},
            "total": round((time.monotonic() - started) * 1000, 1),
        },
    )
    for process in (python_process, driver_process, startup_process):
        process.end()
    return machine


# Each probe is imported in its own thread: reading one module's bytecode overlaps another's wait.


def _host() -> Host:
    from gpucheck.probes import host

    return host.probe()


def _environment(variables: dict[str, str]) -> Environment:
    from gpucheck.probes import environment

    return environment.probe(variables)


def _startup_files(variables: dict[str, str]) -> StartupFiles:
    from pathlib import Path

    from gpucheck.probes import startup_files
    from gpucheck.probes.calling_shell import home_of_sudo_user

    home = variables.get("HOME")
    return startup_files.probe(
        Path(home) if home else None, invoking_home=home_of_sudo_user(variables)
    )


def _driver(variables: dict[str, str]) -> Driver:
    from gpucheck.probes import driver

    return driver.probe(library_path=variables.get("LD_LIBRARY_PATH"))


def _toolkits(variables: dict[str, str], deadline_seconds: float, run_nvcc: bool) -> Toolkits:
    from gpucheck.probes import toolkit

    return toolkit.probe(variables, deadline_seconds=deadline_seconds, run_nvcc=run_nvcc)


def _pytorch(python: str | None, variables: dict[str, str], deadline_seconds: float) -> PyTorch:
    from gpucheck.probes import pytorch

    return pytorch.probe(python, variables, deadline_seconds=deadline_seconds)


def _python_environment(
    python: str | None, variables: dict[str, str], deadline_seconds: float
) -> Iterator[Fact]:
    """Give the Python, the libraries that its torch would load, and its other GPU packages."""
    from gpucheck.probes.apart import ProbeError, ProbeProcess

    until = time.monotonic() + deadline_seconds
    importing = threading.Thread(target=_import_loader, daemon=True)  # while that Python answers
    with suppress(RuntimeError):  # no thread to be had: it is imported later, then
        importing.start()
    facts = _pytorch(python, variables, deadline_seconds)
    yield facts
    if importing.ident is not None:
        importing.join()  # there is a fork to come
    process = ProbeProcess[Packages]("packages", lambda: iter((_packages(facts, variables),)))
    yield _libraries(facts, variables)
    try:
        yield process.facts(0, until)
    except ProbeError as error:
        yield unknown_section(Packages, str(error))
    finally:
        process.end()


def _import_loader() -> None:
    from gpucheck.probes import loader, packages  # noqa: F401


def _libraries(pytorch: PyTorch, variables: dict[str, str]) -> Libraries:
    from gpucheck.probes import loader

    return loader.probe(pytorch, variables)


def _packages(pytorch: PyTorch, variables: dict[str, str]) -> Packages:
    from gpucheck.probes import packages

    return packages.probe(pytorch, variables)


def _cudnn(
    pytorch: "_Apart[PyTorch]",
    libraries: "_Apart[Libraries]",
    toolkits: _ProbeThread[Toolkits],
    variables: dict[str, str],
    until: float,
) -> Cudnn:
    from gpucheck.probes import cudnn

    facts = pytorch.facts(until), libraries.facts(until), toolkits.facts(until)
    return cudnn.probe(*facts, variables, deadline_seconds=max(0.1, until - time.monotonic()))


def _nvml(
    scope: Scope,
    started: "Child",
    deadline_seconds: float,
    load: "_Load | None",
    sampling: Sampling | None,
    host: _ProbeThread[Host],
    until: float,
) -> Nvml:
    from gpucheck.probes import nvml

    def sees_all_processes() -> bool:
        facts = host.facts(until)
        return facts.container is None and facts.is_wsl is False

    return nvml.probe(
        deep=scope.deep,
        quick=scope.quick,
        deadline_seconds=deadline_seconds,
        watch_seconds=scope.watch_seconds,
        before_later_sample=None if load is None else load.wait,
        sampling=sampling,
        sees_all_processes=sees_all_processes,
        started=started,
    )


def _ignore_list(variables: dict[str, str]) -> IgnoreList:
    from gpucheck.probes import ignore_list

    return IgnoreList(accepted=ignore_list.probe(variables))


def _start_site_probes() -> "SiteProbes | None":
    from gpucheck.probes import plugin_search

    if not plugin_search.has_any():
        return None
    from gpucheck.probes import plugins, site

    return site.SiteProbes(plugins.loaded())


def _kernel_log(deadline_seconds: float) -> KernelLog:
    from gpucheck.probes import kernel_log

    return kernel_log.probe(deadline_seconds=deadline_seconds)


def _deep(
    pytorch: PyTorch, deadline_seconds: float, load: "_Load"
) -> tuple[Deep, tuple[MappedLibrary, ...] | Unknown]:
    from gpucheck.snapshot import Python
    from gpucheck.workloads import deep

    try:
        match pytorch.python:
            case Python(path=path):
                child = deep.start(path, deadline_seconds, load.load_seconds)
                for line in child.lines():
                    if deep.is_loaded(line):
                        load.begin()
                return deep.finish(child)
            case Unknown(why=why):
                return unknown_section(Deep, why), Unknown(why)
            case _:
                why = "there is no Python with torch"
                return unknown_section(Deep, why), Unknown(why)
    finally:
        load.end()

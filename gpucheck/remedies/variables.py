"""Says who sets an environment variable, and how to change it for good.

A command in a shell ends with that shell. What lasts is a change where the variable is set: a line
of a start-up file, a script of conda's, an environment module, a container's environment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpucheck import derived
from gpucheck.rule import Command, Remedy, command
from gpucheck.snapshot import Snapshot, StartupFile, StartupSetting, Unknown, value
from gpucheck.startup_lines import VARIABLES, files_of_shell, set_by
from gpucheck.wording import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Setter:
    """Who sets a variable, in words, and the steps that lead there."""

    name: str  # "/home/ada/.bashrc:9"
    steps: tuple[Command, ...] = ()


def setters(machine: Snapshot, variable: str, text: str = "") -> tuple[Setter, ...]:
    """Return all that sets *variable*, the last to act first; where known, what names *text*."""
    return (
        *_managers(machine, variable),
        *(
            Setter(name=f"{path}:{line}", steps=(edit(machine, path, line),))
            for path, line in dict.fromkeys(_startup_places(machine, variable, text))
        ),
        *_container(machine, variable),
    )


def _startup_places(machine: Snapshot, variable: str, text: str) -> Iterator[tuple[str, int]]:
    if variable in VARIABLES:
        yield from ((file.path, setting.line) for file, setting in set_by(machine, variable, text))
        return
    for file in files_of_shell(machine):
        yield from ((file.path, each.line) for each in file.others if each.variable == variable)


def _managers(machine: Snapshot, variable: str) -> Iterator[Setter]:
    for source in value(machine.environment.sources) or ():
        if source.variable != variable:
            continue
        if source.kind == "conda script":
            yield Setter(
                name=f"conda's {source.path}:{source.line}",
                steps=(edit(machine, source.path, source.line or 1),),
            )
        elif source.kind == "conda state":
            unset = command("conda env config vars unset {name}", name=variable, lasts="permanent")
            yield Setter(name=f"this conda environment ({source.path})", steps=(unset,))
        elif source.kind == "module":
            unload = command("module unload {module}", module=source.module, lasts="shell")
            yield Setter(name=f"module {source.module} ({source.path})", steps=(unload,))
    job = derived.slurm_job(machine)
    if variable == "CUDA_VISIBLE_DEVICES" and job is not None:
        yield Setter(name=f"Slurm, for job {job}")
    if variable == "CUDA_VISIBLE_DEVICES" and _is_ray_worker(machine):
        yield Setter(name="Ray, by the num_gpus of this task or actor")


def _is_ray_worker(machine: Snapshot) -> bool:
    return any(
        isinstance(machine.environment.variable(name), str)
        for name in ("RAY_RAYLET_PID", "RAY_JOB_ID")
    )


def _container(machine: Snapshot, variable: str) -> Iterator[Setter]:
    sources = value(machine.environment.sources) or ()
    if derived.is_container(machine) and any(
        source.variable == variable and source.kind == "container" for source in sources
    ):
        yield Setter(name="the container's own environment (ENV in its image, or -e at its start)")


# ----------------------------------------------------------------------------------- the remedies


def unset(machine: Snapshot, *names: str, text: str = "") -> Remedy:
    """Return how to get rid of the variables *names*. *text* says what else to do, or why."""
    steps = _unset(machine, names)
    return _lasting(machine, text or f"Unset {listed(names)}", (steps,), names)


def set_variable(machine: Snapshot, name: str, wanted: str, text: str = "") -> Remedy:
    """Return how to give the variable *name* the value *wanted*."""
    return _lasting(
        machine, text or f"Set {name} to {wanted}", (export(machine, name, wanted),), (name,)
    )


def set_list(
    machine: Snapshot, name: str, kept: Sequence[str], removed: str = "", text: str = ""
) -> Remedy:
    """Return how to reduce the path list *name* to *kept*; *removed* is the element to look for."""
    joined = (" " if name == "LD_PRELOAD" else ":").join(kept)
    step = export(machine, name, joined) if kept else _unset(machine, (name,))
    what = f"Remove {removed} from {name}" if removed else f"Correct {name}"
    return _lasting(machine, text or what, (step,), (name,), removed)


def prepend(machine: Snapshot, name: str, folder: str, text: str = "") -> Remedy:
    """Return how to put *folder* first into the path list *name*."""
    return _lasting(
        machine,
        text or f"Put {folder} first in {name}",
        (_prepended(machine, name, folder),),
        (name,),
    )


def _lasting(
    machine: Snapshot,
    text: str,
    steps: tuple[Command, ...],
    names: Sequence[str],
    mentions: str = "",
) -> Remedy:
    """Add to the steps for this shell what makes them last."""
    found = [setter for name in names for setter in setters(machine, name, mentions)]
    if not found:
        where = _nowhere(machine)
        return Remedy(f"{text}{where}", steps=steps)
    places = listed(list(dict.fromkeys(setter.name for setter in found)))
    there = "it is set by" if len(names) == 1 else "they are set by"
    lasting = tuple(dict.fromkeys(step for setter in found for step in setter.steps))
    by_hand = Remedy(f"{text}; {there} {places}", steps=(*steps, *lasting))
    install = install_replacing(machine, names)
    return by_hand if install is None else _with_alternative(by_hand, install)


def _with_alternative(remedy: Remedy, other: Remedy) -> Remedy:
    return Remedy(remedy.text, remedy.steps, (other,), remedy.verify)


def _nowhere(machine: Snapshot) -> str:
    if isinstance(machine.startup_files.files, Unknown):
        return ""
    if machine.environment.session == "systemd":
        return "; a systemd unit gets it from Environment= or EnvironmentFile="
    return "; it was not found in any start-up file, so find out what started this shell with it"


_REPLACED = ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH")


def install_replacing(machine: Snapshot, names: Sequence[str]) -> Remedy | None:
    """Return the way by `gpucheck env install --replace`; None where it would not do.

    It comments out hand-written lines of the shell's own start-up file, and can undo that.
    """
    if derived.recommended_home(machine) is None or not set(names) <= set(_REPLACED):
        return None
    found = [line for name in names for line in set_by(machine, name)]
    if not found or not all(_is_own_file(file) and _is_cuda(setting) for file, setting in found):
        return None
    return Remedy(
        "Let gpucheck comment out these lines and write correct ones; "
        "`gpucheck env uninstall` undoes it",
        steps=(command("gpucheck env install --replace", lasts="permanent"),),
    )


def _is_own_file(file: StartupFile) -> bool:
    return not file.path.startswith("/etc/") and file.path.endswith(
        ("/.bashrc", "/.zshrc", "/.tcshrc", "/.cshrc")
    )


def _is_cuda(setting: StartupSetting) -> bool:
    return setting.variable == "CUDA_HOME" or "cuda" in setting.text.lower()


# ----------------------------------------------------------------- commands, in the user's dialect


def export(machine: Snapshot, name: str, wanted: str) -> Command:
    """Return the command that sets *name* in this shell."""
    match derived.user_shell(machine).dialect:
        case "fish":
            return command("set -gx {name} {value}", name=name, value=wanted, lasts="shell")
        case "csh":
            return command("setenv {name} {value}", name=name, value=wanted, lasts="shell")
        case _:
            return command("export {name}={value}", name=name, value=wanted, lasts="shell")


def _unset(machine: Snapshot, names: Sequence[str]) -> Command:
    match derived.user_shell(machine).dialect:
        case "fish":
            return command("set -e {names}", names=names, lasts="shell")
        case "csh":
            return command("unsetenv {names}", names=names, lasts="shell")
        case _:
            return command("unset {names}", names=names, lasts="shell")


def _prepended(machine: Snapshot, name: str, folder: str) -> Command:
    has = machine.environment.path if name == "PATH" else machine.environment.ld_library_path
    if not has:
        return export(machine, name, folder)
    match derived.user_shell(machine).dialect:
        case "fish":
            return command(
                "set -gx {name} {folder} ${name}", name=name, folder=folder, lasts="shell"
            )
        case "csh":
            return command(
                'setenv {name} {folder}:"${name}"', name=name, folder=folder, lasts="shell"
            )
        case _:
            return command(
                'export {name}={folder}:"${name}"', name=name, folder=folder, lasts="shell"
            )


def read_again(machine: Snapshot, path: str) -> Command:
    """Return the command that reads the start-up file at *path* in this shell."""
    if derived.user_shell(machine).dialect == "sh":
        return command(". {path}", path=path, lasts="shell", needs="sh")
    return command("source {path}", path=path, lasts="shell", needs="sh")


def edit(machine: Snapshot, path: str, line: int) -> Command:
    """Return the command that opens *path* at *line* in the user's own editor."""
    is_system = path.startswith("/etc/")
    if derived.user_shell(machine).dialect == "sh":
        return command(
            "${EDITOR:-vi} +{line} {path}",
            line=line,
            path=path,
            root=is_system,
            lasts="permanent",
            needs="vi",
        )
    return command(
        "vi +{line} {path}", line=line, path=path, root=is_system, lasts="permanent", needs="vi"
    )

"""Says how to keep a library that is not torch's own away from it, by where it comes from."""

import re
from collections.abc import Sequence

from gpucheck.remedies import system_packages, variables
from gpucheck.rule import Command, Remedy, command
from gpucheck.snapshot import Library, Snapshot, value
from gpucheck.wording import listed

#: Where the loader looks whatever ld.so.conf says; a file there may name them all the same.
_DEFAULT_FOLDER = re.compile(r"(/usr)?/lib(64)?(/[a-z0-9_]+-linux-gnu)?")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}")


def remove(machine: Snapshot, libraries: Sequence[Library]) -> Remedy:
    """Return how to keep *libraries* of one origin out of torch's process."""
    first = libraries[0]
    if first.found_via in ("LD_LIBRARY_PATH", "LD_PRELOAD"):
        return without_elements(machine, first.found_via, libraries)
    path = str(first.real_path if isinstance(first.real_path, str) else first.path)
    folder = path.rpartition("/")[0]
    for line in value(machine.libraries.ld_so_conf) or ():
        if line.directory == folder and not _DEFAULT_FOLDER.fullmatch(folder):
            return Remedy(
                f"Take the line of {folder} out of {line.file}, and rebuild the loader's cache.",
                (command("ldconfig", root=True, lasts="permanent"),),
            )
    own = Remedy(
        "Or install a torch whose own wheels bring this library, or the system's package of the "
        "version that torch has."
    )
    if isinstance(first.package, str) and _PACKAGE.fullmatch(first.package):
        return Remedy(
            f"Remove the system's package {first.package}, if no other program needs it.",
            (command("apt remove {name}", name=first.package, root=True, lasts="permanent"),),
            alternatives=(own,),
        )
    return Remedy(
        f"Remove the system's package that owns {path}, if no other program needs it.",
        _owner(machine, path),
        alternatives=(own,),
    )


def _owner(machine: Snapshot, path: str) -> tuple[Command, ...]:
    match system_packages.family(machine):
        case "ubuntu" | "debian":
            return (command("dpkg -S {path}", path=path),)
        case "rhel" | "fedora" | "suse":
            return (command("rpm -qf {path}", path=path),)
        case "arch":
            return (command("pacman -Qo {path}", path=path),)
        case _:
            return ()


def without_elements(machine: Snapshot, variable: str, libraries: Sequence[Library]) -> Remedy:
    """Return how to take the folders of *libraries* out of *variable*, or the files themselves."""
    written = value(machine.environment.variable(variable)) or ""
    if variable == "LD_PRELOAD":
        unwanted = {str(library.path) for library in libraries}
        elements = [each for each in re.split("[ :]", written) if each]
    else:
        unwanted = {library.directory for library in libraries}
        elements = [each for each in re.split("[:;]", written) if each]
    kept = [each for each in elements if each not in unwanted]
    shown = listed(sorted(each or "the empty element" for each in unwanted))
    return variables.set_list(
        machine,
        variable,
        kept,
        removed=next(iter(sorted(unwanted)), ""),
        text=f"Take {shown} out of {variable}: torch's wheels bring these libraries themselves",
    )

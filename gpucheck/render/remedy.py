"""Turns a remedy into what this machine's user can paste, by who they are and where this runs."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gpucheck.knowledge.programs import Program, table
from gpucheck.remedies import system_packages
from gpucheck.rule import Command, Remedy
from gpucheck.snapshot import Snapshot
from gpucheck.wording import count, listed

#: How long what a command does lasts, as the report says it.
_LASTS = {"": "", "shell": "this shell", "reboot": "until reboot", "permanent": "permanent"}
#: Containers that boot an init system of their own.
_SYSTEM_CONTAINERS = ("lxc", "lxc-libvirt", "systemd-nspawn")
#: What a shell would read before sudo sees it: `sudo echo x > /etc/f` writes as the user.
_SHELL_SYNTAX = frozenset(("|", "||", "&", "&&", ";", ">", ">>", "<", "<<", "(", ")"))
_BUILTINS = frozenset(("cd", "echo", "export", "unset", "ulimit", "for", "if", "while", "umask"))
_INSTALL = {
    "ubuntu": "apt install",
    "debian": "apt install",
    "fedora": "dnf install",
    "rhel": "dnf install",
    "suse": "zypper install",
    "arch": "pacman -S",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Lines to paste together, and where, as whom, and for how long they act."""

    where: str  # "" here; "on the host", "in Windows"
    as_root: bool  # and sudo is not there to become it
    lasts: str
    lines: tuple[str, ...]

    @property
    def heading(self) -> str:
        """What stands over the lines: "on the host, as root (until reboot)"; "" for nothing."""
        who = ", ".join(part for part in (self.where, "as root" if self.as_root else "") if part)
        return " ".join(part for part in (who, f"({self.lasts})" if self.lasts else "") if part)

    @property
    def is_here(self) -> bool:
        return not self.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to fix something; *lead* is "either" or "or" where there are several."""

    text: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Adviser:
    """Renders remedies for one machine."""

    machine: Snapshot
    program: str = "gpucheck"  # how gpucheck is called here
    _table: dict[str, Program] = field(default_factory=table)

    def ways(self, remedy: Remedy) -> tuple[Way, ...]:
        """Return the ways to carry *remedy* out: the first is its own, where it has steps."""
        first = Way(
            text=remedy.text,
            blocks=self.blocks(remedy.steps),
            notes=tuple(self._notes(remedy.steps)),
        )
        if not remedy.alternatives:
            return (first,)
        others = [way for other in remedy.alternatives for way in self.ways(other)]
        own = [replace(first, text="")] if remedy.steps else []
        ways = [*own, *others]
        if len(ways) > 1:
            ways = [replace(way, lead="or" if at else "either") for at, way in enumerate(ways)]
        return (Way(text=remedy.text, blocks=()), *ways)

    def blocks(self, steps: Sequence[Command]) -> tuple[Block, ...]:
        """Return *steps* as blocks, a reboot joined to what has to succeed before it."""
        blocks: list[Block] = []
        for step in steps:
            block = self._block(step)
            if block is None:
                continue
            last = blocks[-1] if blocks else None
            alike = last is not None and (last.where, last.as_root) == (block.where, block.as_root)
            if last is not None and alike and _reboots(step):
                blocks[-1] = replace(last, lines=(*_joined(last.lines), *block.lines))
            elif last is not None and alike and last.lasts == block.lasts:
                blocks[-1] = replace(last, lines=(*last.lines, *block.lines))
            else:
                blocks.append(block)
        return tuple(blocks)

    def commands(self, steps: Sequence[Command]) -> tuple[str, ...]:
        """Return *steps* as lines for programs: what belongs elsewhere is a comment."""
        lines: list[str] = []
        for block in self.blocks(steps):
            if block.is_here:
                lines += block.lines
            else:
                lines += [f"# {block.where}: {line}" for line in block.lines]
        return tuple(lines)

    # -------------------------------------------------------------------------------- one command

    def _block(self, step: Command) -> Block | None:
        """Return the block of one *step*; None where it can be run nowhere that we can name."""
        text, lasts = step.text, _LASTS[step.lasts]
        place = self.place(step)
        starts_container = bool(self._container) and step.on == "host" and not step.root
        if place == "host" and self.machine.host.is_wsl is True and not starts_container:
            if not _reboots(step):
                return None  # a Linux command does nothing in Windows
            place, text = "windows", "wsl --shutdown"
        if place == "here":
            return self._here(step, lasts)
        where = {
            "host": "on the node" if self._container == "kubernetes" else "on the host",
            "windows": "in Windows",
            "image": "in the image's recipe",
        }[place]
        return Block(where=where, as_root=step.root and place == "host", lasts=lasts, lines=(text,))

    def _here(self, step: Command, lasts: str) -> Block:
        text = step.text
        if text.startswith("gpucheck "):
            text = self.program + text.removeprefix("gpucheck")
        host = self.machine.host
        as_root = step.root and host.is_root is not True
        if as_root and host.has_sudo is not False:
            return Block(where="", as_root=False, lasts=lasts, lines=(with_sudo(text),))
        return Block(where="", as_root=as_root, lasts=lasts, lines=(text,))

    @property
    def _container(self) -> str:
        container = self.machine.host.container
        return container if isinstance(container, str) else ""

    def place(self, step: Command) -> str:
        """Say where *step* has to be run: the host's kernel is no container's to change."""
        if step.on == "host" and not self._container and self.machine.host.is_wsl is not True:
            return "here"
        if step.on != "here":
            return step.on
        known = self._table.get(step.program)
        belongs = known.belongs_to_host if known else "never"
        in_container = bool(self._container) and (
            belongs == "always"
            or (belongs == "as root" and step.root)
            or (belongs == "docker" and self._container not in _SYSTEM_CONTAINERS)
        )
        in_wsl = self.machine.host.is_wsl is True and (
            _reboots(step) or (belongs in ("always", "as root") and step.root)
        )
        return "host" if in_container or in_wsl else "here"

    # -------------------------------------------------------------------------------------- notes

    def _notes(self, steps: Sequence[Command]) -> Iterator[str]:
        here = [step for step in steps if self.place(step) == "here"]
        for program in dict.fromkeys(step.program for step in here):
            if (missing := self._missing(program)) is not None:
                yield missing
        if any(_reboots(step) for step in steps) and (whose := self._others_at_work()):
            yield f"the reboot ends the work of {whose}"

    def _missing(self, program: str) -> str | None:
        """Say how to install a *program* that is not here; None where it is, or is not known."""
        here = self.machine.host.programs
        known = self._table.get(program)
        if known is None or not isinstance(here, tuple) or program in here:
            return None
        if program == "gpucheck":
            return None
        family = system_packages.family(self.machine)
        package = known.packages.get(family)
        if package is None:
            return f"{program} is not installed here"
        install = Command(f"{_INSTALL[family]} {package}", root=True)
        block = self._here(install, "")
        who = "as root: " if block.as_root else ""
        return f"{program} is not installed here: {who}{block.lines[0]}"

    def _others_at_work(self) -> str:
        parts = []
        users = self.machine.host.other_users
        if isinstance(users, int) and users:
            parts.append(count(users, "other user"))
        gpus = self.machine.nvml.gpus
        if isinstance(gpus, tuple):
            running = {
                process.pid
                for gpu in gpus
                if isinstance(gpu.processes, tuple)
                for process in gpu.processes
            }
            if running:
                parts.append(count(len(running), "process on the GPUs", "processes on the GPUs"))
        return listed(parts)


def with_sudo(text: str) -> str:
    """Return a command so that all of it runs as root."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        tokens = list(words)
    except ValueError:  # a quotation that goes on: the shell will say so
        tokens = []
    if "\n" in text or _SHELL_SYNTAX.intersection(tokens) or _first_word(text) in _BUILTINS:
        return f"sudo sh -c {shlex.quote(text)}"
    return f"sudo {text}"


def _first_word(text: str) -> str:
    words = text.split(None, 1)
    return words[0] if words else ""


def _reboots(step: Command) -> bool:
    return bool(re.match(r"(?:systemctl )?(?:reboot|poweroff)\b|shutdown\b", step.text))


def _joined(lines: Sequence[str]) -> tuple[str, ...]:
    """Return *lines* of which each runs only after the one before it succeeded."""
    return tuple(line if line.endswith("&&") else f"{line} &&" for line in lines)

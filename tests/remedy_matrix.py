"""Every remedy of every rule, for every kind of user, machine and Python.

`tests/rules/conftest.py` hands each machine on which a rule found something over to `complaints`.
So every symptom that any test of a rule produces is taken through all of these.
"""

import itertools
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import msgspec

from gpucheck.knowledge.programs import table
from gpucheck.remedies import system_packages
from gpucheck.render.remedy import Adviser, Way
from gpucheck.rule import Command, Remedy, Rule, Symptom
from gpucheck.snapshot import Python, PythonProject, Snapshot

USERS: dict[str, dict[str, Any]] = {
    "root": {"is_root": True, "has_sudo": True},
    "root without sudo": {"is_root": True, "has_sudo": False},
    "user with sudo": {"is_root": False, "has_sudo": True},
    "user without": {"is_root": False, "has_sudo": False},
}
PLACES: dict[str, dict[str, Any]] = {
    "bare metal": {"container": None, "hypervisor": None, "is_wsl": False},
    "VM": {"container": None, "hypervisor": "kvm", "is_wsl": False},
    "docker": {"container": "docker", "hypervisor": None, "is_wsl": False},
    "pod": {"container": "kubernetes", "hypervisor": "kvm", "is_wsl": False},
    "LXC": {"container": "lxc", "hypervisor": None, "is_wsl": False},
    "WSL": {"container": None, "hypervisor": "hyperv", "is_wsl": True},
}
PYTHONS: dict[str, dict[str, Any]] = {
    "system Python": {
        "path": "/usr/bin/python3",
        "prefix": "/usr",
        "chosen_by": "PATH",
        "externally_managed": "/usr/lib/python3.12/EXTERNALLY-MANAGED",
        "is_virtual": False,
        "is_writable": False,
        "conda_tool": None,
        "project": None,
        "uses_uv": False,
    },
    "venv": {
        "path": "/opt/venv/bin/python3",
        "prefix": "/opt/venv",
        "chosen_by": "VIRTUAL_ENV",
        "externally_managed": None,
        "is_virtual": True,
        "is_writable": True,
        "has_pip": True,
        "conda_tool": None,
        "project": None,
        "uses_uv": False,
    },
    "conda": {
        "path": "/opt/conda/envs/a/bin/python",
        "prefix": "/opt/conda/envs/a",
        "chosen_by": "CONDA_PREFIX",
        "externally_managed": None,
        "is_virtual": False,
        "is_writable": True,
        "has_pip": True,
        "conda_tool": "conda",
        "project": None,
        "uses_uv": False,
    },
    "uv project": {
        "path": "/src/app/.venv/bin/python",
        "prefix": "/src/app/.venv",
        "chosen_by": "VIRTUAL_ENV",
        "externally_managed": None,
        "is_virtual": True,
        "is_writable": True,
        "has_pip": False,
        "conda_tool": None,
        "project": PythonProject(tool="uv", folder="/src/app", file="/src/app/pyproject.toml"),
        "uses_uv": True,
    },
}
#: What every Linux has (coreutils, sed, grep, findutils) or the shell does itself.
_EVERYWHERE_TEXT = """
[ awk bash cat cd chgrp chmod chown command cp curl dd df du echo env eval exec export
false find for grep head hostname id kill ln ls mkdir mknod mount mv nano printf pwd
readlink rm sed set setenv sh sleep sort source stat sysctl tail tee test touch true type
ulimit umask umount uname unalias unset unsetenv xargs . $EDITOR module ml
"""
EVERYWHERE = frozenset(_EVERYWHERE_TEXT.split())
#: Rules that are about what sudo does.
ABOUT_SUDO = ("ENV033",)
_BARE_PIP = re.compile(r"(?:^|[;&|(]\s*|\bsudo\s+)pip[23]?(?:\.\d+)?\s")
_SUDO = re.compile(r"\bsudo\b")


def variants(machine: Snapshot) -> Iterator[tuple[str, Snapshot]]:
    """Yield *machine* as every user would have it, in every place, with every Python."""
    for (user, rights), (place, surroundings), (python, facts) in itertools.product(
        USERS.items(), PLACES.items(), PYTHONS.items()
    ):
        host = msgspec.structs.replace(
            machine.host, **rights, **surroundings, programs=(), other_users=1
        )
        pytorch = machine.pytorch
        if isinstance(pytorch.python, Python):
            pytorch = msgspec.structs.replace(
                pytorch, python=msgspec.structs.replace(pytorch.python, **facts)
            )
        changed = msgspec.structs.replace(machine, host=host, pytorch=pytorch)
        yield f"{user}, {place}, {python}", changed


def complaints(rule: Rule, machine: Snapshot) -> list[str]:
    """Return what is wrong with what *rule* advises on *machine* and all its variants."""
    found: dict[str, str] = {}
    scripts: dict[str, str] = {}
    for name, variant in variants(machine):
        for symptom in rule(variant):
            if not isinstance(symptom, Symptom):
                continue
            problems = _problems(symptom.remedy, variant, scripts)
            if rule.code not in ABOUT_SUDO:
                problems = itertools.chain(_text_problems(symptom.remedy), problems)
            for problem in problems:
                found.setdefault(problem, name)
    found |= _unparsable(scripts)
    return [f"{rule.code}, {name}: {problem}" for problem, name in found.items()]


def _problems(remedy: Remedy, machine: Snapshot, scripts: dict[str, str]) -> Iterator[str]:
    adviser = Adviser(machine)
    ways = adviser.ways(remedy)
    if remedy.alternatives and any(way.blocks for way in ways if not way.lead):
        yield f"alternatives read as a sequence: {remedy.text}"
    has_sudo = machine.host.is_root is False and machine.host.has_sudo is True
    for way in ways:
        for block in way.blocks:
            scripts["\n".join(block.lines)] = ""
            for line in block.lines:
                if _SUDO.search(line) and not (has_sudo and block.is_here):
                    yield f"sudo where there is none: {line}"
                if _BARE_PIP.search(line):
                    yield f"pip of no Python: {line}"
    for step in _steps(remedy):
        yield from _program_problems(step, machine, ways)


def _text_problems(remedy: Remedy) -> Iterator[str]:
    for text in (remedy.text, *(other.text for other in remedy.alternatives)):
        if _SUDO.search(text):
            yield f"a text that says sudo: {text}"
        if "$ " in text or "\n" in text:
            yield f"a text that holds commands: {text!r}"
    if len(remedy.alternatives) == 1 and not remedy.steps and not remedy.text:
        yield "one alternative is no choice"


def _steps(remedy: Remedy) -> Iterator[Command]:
    yield from remedy.steps
    for other in remedy.alternatives:
        yield from _steps(other)


def _program_problems(step: Command, machine: Snapshot, ways: tuple[Way, ...]) -> Iterator[str]:
    if step.text.startswith("sudo "):
        yield f"sudo inside a command: {step.text}"
    program = step.program
    if "/" in program or "=" in program or program in EVERYWHERE:
        return
    known = table().get(program)
    if known is None:
        yield f"a program that no table knows: {program}: {step.text}"
        return
    family = system_packages.family(machine)
    if Adviser(machine).place(step) != "here" or family not in known.packages:
        return
    notes = " ".join(note for way in ways for note in way.notes)
    if f"{program} is not installed here" not in notes:
        yield f"a program that is not here, and no word of its package: {program}"


def _unparsable(scripts: dict[str, str]) -> dict[str, str]:
    """Let a real shell read every script, together where it can."""
    texts = [text for text in scripts if text]
    if not texts or _parses("\n".join(f"f{n}() {{\n{text}\n}}" for n, text in enumerate(texts))):
        return {}
    return {f"bash cannot read {text!r}": "every" for text in texts if not _parses(text)}


def _parses(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True).returncode == 0

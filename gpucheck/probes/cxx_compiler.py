"""Finds the C++ compiler that nvcc would call on the host side, and its version."""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Literal

from gpucheck.probes.child import Child
from gpucheck.probes.rooted_disk import Disk
from gpucheck.probes.toolkit_files import WRAPPERS
from gpucheck.snapshot import HostCompiler, Maybe, Unknown


def all_on_path(disk: Disk, path: list[str], name: str) -> Iterator[str]:
    """Yield each file called *name* in the folders of *path*."""
    for folder in path:
        file = f"{folder.rstrip('/')}/{name}"
        if disk.is_file(file):
            yield file


def parse_compiler_version(
    text: str,
) -> tuple[Literal["gcc", "clang", "other"], str | None]:
    """Read the kind and the version of a compiler out of what its `--version` prints."""
    first = text.split("\n", 1)[0]
    clang = re.search(r"\bclang version ([0-9]{1,4}(?:\.[0-9]{1,4}){0,2})", text)
    if clang is not None:
        return "clang", clang.group(1)
    if "Free Software Foundation" in text:
        # The vendor stands in brackets before the version, and may hold one of its own.
        found = re.search(r"\) ([0-9]{1,4}(?:\.[0-9]{1,4}){0,2})\b", first)
        return "gcc", None if found is None else found.group(1)
    return "other", None


class HostCompilerSearch:
    """Finds the compiler that nvcc would call, and asks it for its version in a child."""

    def __init__(self, disk: Disk, variables: Mapping[str, str], path: list[str]) -> None:
        self._disk = disk
        self._variables = variables
        self._path = path
        self._child: Child | None = None
        self.file, self.chosen_by = self._choose()

    def ask(self, deadline_seconds: float, *, run_it: bool) -> None:
        if self.file is not None and run_it:
            self._child = Child(
                [self._disk.real(self.file), "--version"],
                deadline_seconds=deadline_seconds,
                environment={**self._variables, "LC_ALL": "C"},
                limit_bytes=1 << 16,
            )

    def answer(self) -> Maybe[HostCompiler]:
        if self.file is None:
            return None
        kind, version = compiler_by_name(self._disk.resolve(self.file) or self.file)
        why = "its name does not say" if self._child is None else ""
        if self._child is not None:
            ended = self._child.end()
            if ended.why is None:
                reported = parse_compiler_version(ended.stdout.decode("utf-8", "replace"))
                kind, version = reported[0], reported[1] or version
                why = "its --version prints none"
            else:
                why = f"{self.file} --version: {ended.why}"
        return HostCompiler(
            path=self.file,
            kind=kind,
            version=version or Unknown(why),
            chosen_by=self.chosen_by,
            others=tuple(self._others("clang++" if kind == "clang" else "g++")),
        )

    def _others(self, stem: str) -> Iterator[str]:
        """Yield the compilers on PATH whose names end in a version: g++-12."""
        for folder in dict.fromkeys(each.rstrip("/") for each in self._path):
            for name in self._disk.names(folder):
                if name.startswith(f"{stem}-") and name[len(stem) + 1 :].isdigit():
                    yield f"{folder}/{name}"

    def _choose(self) -> tuple[str | None, str]:
        flags = " ".join(
            self._variables.get(name, "") for name in ("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS")
        )
        ccbin = ccbin_in_flags(flags)
        named = [("NVCC_PREPEND_FLAGS", ccbin)] if ccbin else []
        named += [
            (name, self._variables.get(name, ""))
            for name in ("NVCC_CCBIN", "CUDAHOSTCXX", "CXX", "CC")
        ]
        for name, command in named:
            file = self._find(command)
            if file is not None:
                return file, name
        for name in ("g++", "gcc", "c++"):
            file = self._find(name)
            if file is not None:
                return file, "PATH"
        return None, "PATH"

    def _find(self, command: str) -> str | None:
        """Return the file of a compiler's command, which may be a folder or have a wrapper."""
        try:
            words = [w for w in shlex.split(command) if w.rpartition("/")[2] not in WRAPPERS]
        except ValueError:
            return None
        if not words:
            return None
        if words[0].startswith("/"):
            for file in (words[0], f"{words[0].rstrip('/')}/g++", f"{words[0].rstrip('/')}/gcc"):
                if self._disk.is_file(file):
                    return file
            return None
        if "/" in words[0]:
            return None
        return next(all_on_path(self._disk, self._path, words[0]), None)


def ccbin_in_flags(flags: str) -> str | None:
    """Return the last -ccbin in nvcc's flags, as conda's activation sets it."""
    found = re.findall(r"(?:^|\s)(?:-ccbin|--compiler-bindir)(?:=|\s+)(\S+)", flags)
    return found[-1] if found else None


def compiler_by_name(
    path: str,
) -> tuple[Literal["gcc", "clang", "other"], str | None]:
    """Read kind and major version out of a file's name: …/x86_64-linux-gnu-g++-13."""
    found = re.fullmatch(
        r"(?:[\w.]+-)*(gcc|g\+\+|clang|clang\+\+)(?:-([0-9]{1,3}(?:\.[0-9]{1,3}){0,2}))?",
        path.rpartition("/")[2],
    )
    if found is None:
        return "other", None
    return ("clang" if found.group(1).startswith("clang") else "gcc"), found.group(2)

"""Edits the text of a shell start-up file: bytes in, bytes out, one marked block.

What undoes an edit to the byte is a Record, which is kept elsewhere (see `records`), under the
checksum of the block. Without it, removal takes out exactly the block. Blocks of gpucheck 0.1.0
have their record inside, and are recognized.
"""

import enum
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from gpucheck.knowledge.shells import Dialect
from gpucheck.probes.startup_files import (
    BLOCK_BEGINS,
    BLOCK_ENDS,
    parse,
    split,
    without_block,
)
from gpucheck.shellenv.snippet import Shell
from gpucheck.snapshot import StartupSetting, Unknown
from gpucheck.usage_error import UsageError

_BEGINS, _ENDS = BLOCK_BEGINS.encode(), BLOCK_ENDS.encode()
#: Lines inside the blocks of gpucheck 0.1.0.
_OLD_INTRODUCTION = b"# Written by `gpucheck env install`"
_OLD_RECORD = b"# record: "
_OLD_CHECKSUM = b"# checksum: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a block was made, and what its removal has to undo besides."""

    shell: str
    cuda: str | None = None  # --cuda
    ld_library_path: str = "auto"
    newline_added: bool = False  # the file's last line had none at its end
    blank_line_added: bool = False  # the file's last line went on into the next, by a backslash
    was_absent: bool = False  # there was no such file before
    replaced: int = 0  # lines commented out bear mark() of this number; 0: none do

    def fields(self) -> dict[str, object]:
        """Return the record as JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def read(cls, fields: object) -> "Record | None":
        """Return the record that *fields* say; None where they do not fit."""
        if not isinstance(fields, dict):
            return None
        try:
            record = cls(**fields)
        except TypeError:
            return None
        fits = isinstance(record.replaced, int) and isinstance(record.shell, str)
        return record if fits else None


NO_RECORDS: Mapping[str, Record] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The marked block of a file: from `start` up to `end`, its last newline included."""

    start: int
    end: int
    digest: str  # the checksum of the whole block
    snippet: bytes
    old_record: Record | None = None  # of gpucheck 0.1.0, inside the block
    is_old: bool = False  # written by gpucheck 0.1.0
    is_old_edited: bool = False  # and edited by hand since

    def record(self, records: Mapping[str, Record]) -> Record | None:
        """Return how the block was made; None: nobody knows."""
        return self.old_record if self.is_old else records.get(self.digest)

    def is_edited(self, records: Mapping[str, Record]) -> bool:
        """Whether somebody changed it by hand, as far as *records* tell."""
        if self.is_old:
            return self.is_old_edited
        return bool(records) and self.digest not in records


class State(enum.Enum):
    """What `gpucheck env status` says of a file."""

    ABSENT = "absent"
    CURRENT = "current"
    OUTDATED = "outdated"
    EDITED = "edited by hand"
    OVERRIDDEN = "overridden"


@dataclass(frozen=True, slots=True, kw_only=True)
class OldExport:
    """A hand-written line that sets CUDA's variables."""

    line: int  # from 1
    text: str
    mangled: str | None  # what is wrong with its syntax
    keeps: str | None  # why it cannot be commented out by itself; None: it can


def find(text: bytes) -> Block | None:
    """Return gpucheck's block in *text*; None where there is none.

    Raises UsageError where its marks are not one pair.
    """
    begins = [found.start() for found in _marks(text, _BEGINS)]
    ends = [found.end() for found in _marks(text, _ENDS)]
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or begins[0] >= ends[0]:
        raise UsageError(
            f"its lines {BLOCK_BEGINS!r} and {BLOCK_ENDS!r} are not one pair "
            f"({len(begins)} and {len(ends)}): correct them by hand"
        )
    start, end = begins[0], ends[0]
    lines = [line + b"\n" for line in text[start:end].removesuffix(b"\n").split(b"\n")]
    block = Block(
        start=start,
        end=end,
        digest=_digest(b"".join(line.rstrip() + b"\n" for line in lines)),
        snippet=b"".join(lines[1:-1]),
    )
    if not any(line.startswith((_OLD_RECORD, _OLD_CHECKSUM)) for line in lines):
        return block
    record = next((_old_record(line) for line in lines if line.startswith(_OLD_RECORD)), None)
    checksum = next((line for line in lines if line.startswith(_OLD_CHECKSUM)), b"")
    rest = b"".join(line for line in lines if line is not checksum)
    is_intact = checksum.strip() == _OLD_CHECKSUM + _digest(rest).encode() and record is not None
    return replace(block, old_record=record, is_old=True, is_old_edited=not is_intact)


def _marks(text: bytes, mark: bytes) -> Iterator[re.Match[bytes]]:
    return re.finditer(rb"^" + re.escape(mark) + rb"[ \t\r]*(?:\n|\Z)", text, re.MULTILINE)


def _old_record(line: bytes) -> Record | None:
    try:
        return Record.read(json.loads(line[len(_OLD_RECORD) :]))
    except (ValueError, RecursionError):
        return None


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _block(snippet: str) -> tuple[bytes, str]:
    """Return the block for *snippet*, and its checksum."""
    body = snippet.encode("utf-8", "surrogateescape")
    whole = _BEGINS + b"\n" + body + _ENDS + b"\n"
    block = find(whole)
    if block is None or block.is_old or block.end != len(whole) or block.snippet != body:
        raise UsageError("the toolkit's path contains the lines around gpucheck's own block")
    return whole, block.digest


def state(text: bytes | None, snippet: str, records: Mapping[str, Record] = NO_RECORDS) -> State:
    """Say whether the block of *text* is there, is as *snippet*, or was edited by hand."""
    block = None if text is None else find(text)
    if block is None:
        return State.ABSENT
    if block.is_edited(records):
        return State.EDITED
    is_current = block.snippet == snippet.encode("utf-8", "surrogateescape")
    return State.CURRENT if is_current else State.OUTDATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The text with the block in it, and what is to be kept to undo that."""

    text: bytes
    digest: str
    record: Record


def install(
    text: bytes | None,
    snippet: str,
    record: Record,
    *,
    records: Mapping[str, Record] = NO_RECORDS,
    replaced_lines: Collection[int] = (),
    force: bool = False,
) -> Installed:
    """Return *text* (None: no file) with the block for *snippet*, in place of an older one.

    *replaced_lines* are the numbers of lines to comment out.

    Raises UsageError where the marks are damaged, or the block was edited by hand and not *force*.
    """
    before = text or b""
    block = find(before)
    if block is not None:
        _refuse_edited(block, records, force)
        old = block.record(records)
        if old is not None:
            record = replace(
                record,
                newline_added=old.newline_added,
                blank_line_added=old.blank_line_added,
                was_absent=old.was_absent,
                replaced=old.replaced,
            )
        above, below = before[: block.start], before[block.end :]
    else:
        record = replace(record, was_absent=text is None)
        place = _place(before, dialect_of(record.shell))
        above, below = before[:place], before[place:]
        if not below:
            newline = bool(above) and not above.endswith(b"\n")
            blank = _is_continued(above.removesuffix(b"\n").rpartition(b"\n")[2])
            record = replace(record, newline_added=newline, blank_line_added=blank)
            above += b"\n" * (newline + blank)
    if replaced_lines:
        record = replace(record, replaced=record.replaced or _free_mark(above + below))
        shift = 0 if block is None else before[block.start : block.end].count(b"\n")
        first_below = above.count(b"\n") + 1
        numbers = {line for line in replaced_lines if line < first_below}
        above = _comment_out(above, numbers, mark(record.replaced))
        numbers = {line - first_below + 1 - shift for line in replaced_lines if line >= first_below}
        below = _comment_out(below, numbers, mark(record.replaced))
    whole, digest = _block(snippet)
    return Installed(text=above + whole + below, digest=digest, record=record)


def uninstall(
    text: bytes, records: Mapping[str, Record] = NO_RECORDS, *, force: bool = False
) -> bytes | None:
    """Return *text* without the block, and as it was before; None where there was no file.

    Where no record of the block is known, exactly the block goes.

    Raises UsageError where the marks are damaged, or the block was edited by hand and not *force*.
    """
    block = find(text)
    if block is None:
        return text
    _refuse_edited(block, records, force)
    above, below = text[: block.start], text[block.end :]
    record = block.record(records)
    if record is None and records and force:
        record = list(records.values())[-1]  # edited by hand: the newest knows what else was done
    if record is None:
        return above + below
    if record.blank_line_added:
        above = above.removesuffix(b"\n")
    if record.newline_added and not below:
        above = above.removesuffix(b"\n")
    if record.replaced:
        above, below = (_put_back(part, mark(record.replaced)) for part in (above, below))
    if record.was_absent and not above and not below:
        return None
    return above + below


def _refuse_edited(block: Block, records: Mapping[str, Record], force: bool) -> None:
    if block.is_edited(records) and not force:
        raise UsageError("gpucheck's block in it was edited by hand: --force overrides that")


# ------------------------------------------------------------------------- where the block goes


def dialect_of(shell: str) -> Dialect:
    """Return how to read the start-up files of *shell*."""
    return Shell(shell).row.dialect


_OPENS = re.compile(rb"(?:if|case|\[|\[\[|test|\(\()\b|\[|\(\(")
_CSH_EXIT = re.compile(rb"\s*if\s*\(.*\$\??prompt.*\)\s*(?:exit\b|then\b)")


def _place(text: bytes, dialect: Dialect) -> int:
    """Return where a new block goes: before the early exit of non-interactive shells, or last."""
    lines = text.split(b"\n")
    index = _early_exit(text, lines, dialect)
    if index is None:
        return len(text)
    while index > 0 and lines[index - 1].lstrip().startswith(b"#"):
        index -= 1  # a comment right above belongs to it
    if index == 0 and lines[0].startswith(b"#!"):
        index = 1
    if index > 0 and _is_continued(lines[index - 1]):
        index = 0
    return sum(len(line) + 1 for line in lines[:index])


def _early_exit(text: bytes, lines: list[bytes], dialect: Dialect) -> int | None:
    """Return the index of the line that begins the early exit; None where there is none."""
    if dialect == "csh":
        for index, line in enumerate(lines):
            if _CSH_EXIT.match(line) and b"exit" in line + b"".join(lines[index + 1 : index + 2]):
                return index
        return None
    if dialect != "sh":
        return None
    number = parse(text.decode("utf-8", "replace"), "", dialect).early_exit_line
    if not isinstance(number, int):
        return None
    for index in range(min(number, len(lines)) - 1, -1, -1):
        if _OPENS.match(lines[index]):  # at the margin: nothing surrounds it
            return index
    return 0


def _is_continued(line: bytes) -> bool:
    line = line.removesuffix(b"\r")
    return (len(line) - len(line.rstrip(b"\\"))) % 2 == 1


# ----------------------------------------------------------------- lines that are commented out


def mark(number: int) -> bytes:
    """Return what precedes a line that is commented out: a command that does nothing, and a `#`.

    A comment alone could leave an `if` without a body, which is an error in shells.
    """
    return b": #gpucheck-replaced-%d# " % number


def _free_mark(text: bytes) -> int:
    """Return the first number whose mark no line of *text* bears already."""
    number = 1
    while re.search(rb"^" + re.escape(mark(number)), text, re.MULTILINE):
        number += 1
    return number


def _comment_out(text: bytes, numbers: Collection[int], prefix: bytes) -> bytes:
    if not numbers:
        return text
    lines = text.split(b"\n")
    for number in numbers:
        if 0 < number <= len(lines):
            lines[number - 1] = prefix + lines[number - 1]
    return b"\n".join(lines)


def _put_back(text: bytes, prefix: bytes) -> bytes:
    return re.sub(rb"^" + re.escape(prefix), b"", text, flags=re.MULTILINE)


_CUDA = re.compile(r"cuda", re.IGNORECASE)
_SETTERS = ("export", "declare", "typeset", "readonly", "setenv", "set", "Export", "EXPORT")
_TESTS = ("[", "[[", "test")
_CONTROL = frozenset(
    {"if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac"}
    | {"select", "function", "{", "}", "begin", "end", "endif", "switch", "foreach", "and", "or"}
)


def old_exports(text: bytes, shell: str) -> tuple[OldExport, ...]:
    """Return the lines outside of gpucheck's block that set CUDA's variables by hand."""
    dialect = dialect_of(shell)
    decoded = text.decode("utf-8", "replace")
    settings = parse(decoded, "", dialect).settings
    if isinstance(settings, Unknown):
        return ()
    lines = decoded.split("\n")
    found: dict[int, OldExport] = {}
    for number, line in enumerate(without_block(decoded)[0].split("\n"), 1):
        if _ALSO_CUDA.match(line):
            found[number] = OldExport(
                line=number, text=line.strip(), mangled=None, keeps=_keeps(lines, number)
            )
    for setting in settings:
        if setting.line in found or not _is_cuda(setting):
            continue
        found[setting.line] = OldExport(
            line=setting.line,
            text=setting.text,
            mangled=setting.mangled if isinstance(setting.mangled, str) else None,
            keeps=_keeps(lines, setting.line),
        )
    return tuple(found[number] for number in sorted(found))


# What the reader of start-up files leaves out, and CUDA's programs read all the same.
_ALSO_CUDA = re.compile(r"\s*(?:export\s+|setenv\s+|set\s+-\S+\s+)?(?:CUDA_PATH|CUDA_ROOT)[=\s]")


def sources(text: bytes, shell: str, home: str | None) -> tuple[str, ...]:
    """Return the files that *text* reads in turn, where plain reading tells their names."""
    return parse(text.decode("utf-8", "replace"), "", dialect_of(shell), home).sources


def _is_cuda(setting: StartupSetting) -> bool:
    if setting.variable == "CUDA_HOME":
        return True
    value = setting.value if isinstance(setting.value, str) else ""
    return bool(_CUDA.search(setting.text) or _CUDA.search(value))


def _keeps(lines: list[str], number: int) -> str | None:
    """Say what the line holds that must not be lost; None: nothing but CUDA's settings."""
    line = lines[number - 1].rstrip("\r")
    before = lines[number - 2].rstrip("\r") if number > 1 else ""
    if _is_continued(line.encode()) or _is_continued(before.encode()):
        return "it is part of a longer line"
    if before.rstrip().endswith(("&&", "||", "|")) or line.rstrip().endswith(("&&", "||", "|")):
        return "it is part of a longer command"
    if not _quotes_close(line):
        return "it goes on in the next line"
    for command in split(line):
        words = command.words
        if command.before in ("(", ")", "|") or command.after in ("(", "|", "&"):
            return "it holds more than settings"
        if not _CONTROL.isdisjoint(words):
            return "it begins or ends an if, a loop or a function"
        if not words or words[0] in _TESTS:
            continue
        settings = [word for word in words if word not in _SETTERS and not word.startswith("-")]
        if foreign := _foreign(settings):
            return f"it holds {foreign} too"
    return None


def _quotes_close(line: str) -> bool:
    import shlex

    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return True


_PATHS = re.compile(
    r"\$\{(?:LD_LIBRARY_)?(?:PATH|path)(?:\[[^\]]*\]|:?[-+=?](?:[^{}]|\$\{[^{}]*\})*)?\}"
    r"|\$(?:LD_LIBRARY_)?(?:PATH|path)\b"
)


def _foreign(words: list[str]) -> str | None:
    """Return the first word or element that is not CUDA's; None where all are."""
    if not {"CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"}.isdisjoint(words):
        return None  # set CUDA_HOME /opt/x, export CUDA_HOME = /opt/x
    for word in words:
        if word in ("=", ":", "PATH", "LD_LIBRARY_PATH"):
            continue
        name, is_setting, value = word.partition("=")
        name = re.sub(r"^(?:export|Export|EXPORT|setenv|set)(?=[A-Z])", "", name).strip("$+ ")
        if is_setting and name not in ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME"):
            if not _CUDA.search(name):
                return f"{name}="
            continue
        if name == "CUDA_HOME":
            continue
        elements = _PATHS.sub("", value if is_setting else word).split(":")
        for element in elements:
            bare = element.strip("\"'“”‘’ ")
            if bare and not _CUDA.search(bare):
                return bare
    return None

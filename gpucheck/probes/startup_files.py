"""Reads shell start-up files, by plain reading alone: nothing in them is ever run.

It is long because it is one reader: the grammar of a shell does not fall apart into files.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gpucheck.knowledge.shells import Dialect, system_files, user_files
from gpucheck.probes.environment import VARIABLES
from gpucheck.probes.files import ABSENT, names_in, read_bytes
from gpucheck.snapshot import (
    CARRIAGE_RETURN,
    OwnBlock,
    StartupFile,
    StartupFiles,
    StartupSetting,
    Unknown,
    VariableLine,
)

OURS = ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH")
#: Further variables whose lines are noted, so that a remedy can name who sets them.
OTHERS = frozenset(VARIABLES) - {*OURS, "CC", "CXX", "SHELL"}
BLOCK_BEGINS = "# >>> gpucheck >>>"
BLOCK_ENDS = "# <<< gpucheck <<<"
LIMIT_BYTES = 512 << 10  # more than anybody wrote by hand; `env install` refuses more too
VALUE_LIMIT = 128 << 10  # what exec takes in one variable (MAX_ARG_STRLEN)
LINE_LIMIT = 500  # of a line's text, as it is kept and shown
FAILURES_AT_MOST = 200
DEPTH_AT_MOST = 40
FILES_AT_MOST = 200  # a folder of thousands of snippets is not read to its end


def probe(
    home: Path | None, root: Path = Path("/"), *, invoking_home: Path | None = None
) -> StartupFiles:
    """Return the start-up files of the user whose home is *home*, and of the system under *root*.

    *invoking_home* is the home of the user who called us through sudo. Files that a start-up file
    reads by `source` or `.` are followed where their name can be read.
    """
    mine = _user_files(home) if home is not None else ()
    return StartupFiles(
        files=_followed([*_system_files(root), *mine], home, root),
        invoking_user=(
            None
            if invoking_home is None
            else _followed(list(_user_files(invoking_home)), invoking_home, root)
        ),
    )


def _followed(
    waiting: list[tuple[str, Dialect]], home: Path | None, root: Path
) -> tuple[StartupFile, ...]:
    """Read the *waiting* files, each once, and what they source right after them."""
    found: list[StartupFile] = []
    seen: set[str] = set()
    while waiting and len(seen) < FILES_AT_MOST:
        path, dialect = waiting.pop(0)
        place = _place(path, home, root)
        try:
            real = os.path.realpath(place)
        except (OSError, ValueError):
            continue
        if real in seen:
            continue
        seen.add(real)
        file = _read(path, place, dialect, str(home) if home is not None else None)
        if file is None:
            continue
        found.append(file)
        waiting[:0] = [(name, dialect) for name in file.sources]
    return tuple(found)


def _system_files(root: Path) -> Iterator[tuple[str, Dialect]]:
    for pattern, dialect in system_files():
        yield from ((name, dialect) for name in _named(pattern, root / pattern[1:]))


def _user_files(home: Path) -> Iterator[tuple[str, Dialect]]:
    for pattern, dialect in user_files():
        yield from ((name, dialect) for name in _named(str(home / pattern), home / pattern))


def _named(name: str, place: Path) -> Iterable[str]:
    folder, _, last = name.rpartition("/")
    if not last.startswith("*"):
        return (name,)
    names = names_in(place.parent)
    return [
        f"{folder}/{entry}"
        for entry in (names if isinstance(names, tuple) else ())
        if entry.endswith(last[1:]) and not entry.startswith(".")
    ]


def _place(path: str, home: Path | None, root: Path) -> str:
    """Return where to open *path*, which is named as the machine's own shells name it."""
    if str(root) == "/" or (home is not None and path.startswith(f"{home}/")):
        return path
    return f"{root}{path}"


def _read(path: str, place: str, dialect: Dialect, home: str | None) -> StartupFile | None:
    data = read_bytes(place, LIMIT_BYTES + 1)
    if data is None:
        return None
    if isinstance(data, Unknown):
        return StartupFile(path=path, settings=data)
    if len(data) > LIMIT_BYTES:
        return StartupFile(
            path=path, settings=Unknown(f"{path} is larger than {LIMIT_BYTES >> 10} KiB")
        )
    if b"\0" in data:
        return StartupFile(path=path, settings=Unknown(f"{path} is not a text file"))
    return parse(data.decode("utf-8", "replace"), path, dialect, home)


def parse(text: str, path: str, dialect: Dialect = "sh", home: str | None = None) -> StartupFile:
    """Read the text of a start-up file. gpucheck's own marked block is noted and passed over."""
    of_windows = _lines_of_windows(text) if dialect == "sh" else frozenset()
    text, block = without_block(text.replace("\r\n", "\n"))
    reader = _Reader(text, home, dialect)
    if dialect == "sh":
        reader.read_sh()
    elif dialect == "environment":
        reader.read_environment()
    else:
        reader.read_lines()
    return StartupFile(
        path=path,
        settings=_with_carriage_returns(reader.result(), of_windows),
        sources=tuple(dict.fromkeys(reader.sources)),
        early_exit_line=reader.early_exit_line,
        block=block,
        others=tuple(reader.others),
    )


def _lines_of_windows(text: str) -> frozenset[int]:
    """Return the numbers of the lines that end as Windows writes them."""
    if "\r\n" not in text:
        return frozenset()
    lines = text.split("\n")
    return frozenset(number for number, line in enumerate(lines, 1) if line.endswith("\r"))


def _with_carriage_returns(
    settings: tuple[StartupSetting, ...] | Unknown, of_windows: frozenset[int]
) -> tuple[StartupSetting, ...] | Unknown:
    """Mark the settings whose value ends, in a shell of Linux, in a carriage return."""
    if isinstance(settings, Unknown) or not of_windows:
        return settings
    return tuple(
        msgspec.structs.replace(each, value=None, mangled=CARRIAGE_RETURN)
        if each.line in of_windows and each.mangled is None
        else each
        for each in settings
    )


_BLOCK_HOME = re.compile(
    r"\s*(?:export\s+CUDA_HOME=|set\s+-gx\s+CUDA_HOME\s+|setenv\s+CUDA_HOME\s+)"
)


def without_block(text: str) -> tuple[str, OwnBlock | None]:
    """Remove the lines of gpucheck's own block, so that all others keep their numbers."""
    if BLOCK_BEGINS not in text:
        return text, None
    lines = text.split("\n")
    marks = [line.rstrip(" \t\r") for line in lines]
    if BLOCK_BEGINS not in marks or BLOCK_ENDS not in marks[marks.index(BLOCK_BEGINS) :]:
        return text, None
    first = marks.index(BLOCK_BEGINS)
    last = marks.index(BLOCK_ENDS, first)
    home = None
    for line in lines[first:last]:
        found = _BLOCK_HOME.match(line)
        if found is not None:
            home = _block_home(line[found.end() :])
    block = OwnBlock(line=first + 1, last_line=last + 1, cuda_home=home, exists=_is_there(home))
    return "\n".join([*lines[:first], *[""] * (last + 1 - first), *lines[last + 1 :]]), block


def _block_home(text: str) -> str | Unknown:
    words = [word for command in split(text)[:1] for word in command.words]
    try:
        return expand(words[0], _Scope({})) if words else ""
    except _Doubt as doubt:
        return Unknown(str(doubt))


def _is_there(home: str | Unknown | None) -> bool | Unknown:
    if not isinstance(home, str):
        return home or Unknown("the block names no toolkit")
    try:
        os.stat(home)  # noqa: PTH116 - one of many
    except OSError as error:
        return False if error.errno in ABSENT else Unknown(f"{home}: {error.strerror}")
    except ValueError as error:
        return Unknown(f"{home!r}: {error}")
    return True


# ----------------------------------------------------------------------------- words and commands


@dataclass(slots=True)
class _Command:
    """Words up to an operator; `before` and `after` are the operators next to it."""

    words: list[str]
    line: int
    before: str
    after: str = "\n"


_PLAIN = re.compile(r"[^\s\\'\"$`#;&|()<>]+")
_DOUBLE_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)
_OPERATOR = re.compile(r";;&|;;|;&|&&|\|\||\|&|<<<|<<-|<<|&>>|&>|>&|<&|>>|<>|>\||[;&|()<>]")
_HEREDOC_WORD = re.compile(r"[ \t]*(['\"\\]?)([^\s'\";&|()<>]+)")


def split(text: str) -> list[_Command]:
    """Split a shell's text into commands as the shell would; quotes stay in the words."""
    commands: list[_Command] = []
    words: list[str] = []
    parts: list[str] = []  # of the word that is being read
    place, line, started, before = 0, 1, 1, "\n"
    heredocs: list[str] = []
    unclosed: set[str] = set()
    failures = 0  # substitutions and here-documents that never end

    def end_word() -> None:
        nonlocal started
        if parts:
            word = "".join(parts)
            parts.clear()
            if not words:
                started = line - word.count("\n")
            words.append(word)

    def end_command(operator: str) -> None:
        nonlocal words, before
        end_word()
        commands.append(_Command(words, started if words else line, before, operator))
        words, before = [], operator

    while place < len(text):
        plain = _PLAIN.match(text, place)
        if plain is not None:
            parts.append(plain[0])
            place = plain.end()
            continue
        letter = text[place]
        taken = letter
        if letter == "\\":
            taken = text[place : place + 2]
            if taken == "\\\n":
                place, line = place + 2, line + 1
                continue
        elif letter in "'\"" and letter not in unclosed:
            taken = _quoted(text, place)
            if not taken:
                unclosed.add(letter)
                taken = letter
        elif letter in "$`":
            taken = _substitution(text, place) if failures < FAILURES_AT_MOST else letter
            failures += taken == letter
        elif letter == "#" and not parts:
            end = text.find("\n", place)
            place = len(text) if end < 0 else end
            continue
        elif letter == "\n":
            end_command("\n")
            place, line = place + 1, line + 1
            for delimiter in heredocs:
                skipped = place
                if failures < FAILURES_AT_MOST:
                    skipped = _heredoc_end(text, place, delimiter)
                    failures += skipped == place
                line += text.count("\n", place, skipped)
                place = skipped
            heredocs = []
            continue
        elif letter.isspace():
            end_word()
            place += 1
            continue
        elif letter in ";&|()<>":
            found = _OPERATOR.match(text, place)
            operator = found[0] if found else letter
            place += len(operator)
            if operator in ("<<", "<<-"):
                delimiter_word = _HEREDOC_WORD.match(text, place)
                if delimiter_word is not None:
                    heredocs.append(delimiter_word[2])
            if operator[0] in "<>" or operator in ("&>", "&>>"):
                end_word()
                words.append(operator)
            else:
                end_command(operator)
            continue
        parts.append(taken)
        place += len(taken)
        line += taken.count("\n")
    end_command("\n")
    return commands


def _quoted(text: str, place: int) -> str:
    """Return the quoted stretch that begins at *place*, "" where its quote is never closed."""
    if text[place] == "'":
        end = text.find("'", place + 1)
        return text[place : end + 1] if end >= 0 else ""
    found = _DOUBLE_QUOTED.match(text, place)
    return found[0] if found else ""


def _substitution(text: str, place: int) -> str:
    """Return the `$(…)`, `${…}` or backquoted stretch at *place*, else its first character."""
    if text[place] == "`":
        end = text.find("`", place + 1, place + 4096)
        return text[place : end + 1] if end >= 0 else "`"
    opening = text[place + 1 : place + 2]
    closing = {"(": ")", "{": "}"}.get(opening)
    if closing is None:
        return "$"
    depth = 0
    for index in range(place + 1, min(len(text), place + 4096)):
        if text[index] == opening:
            depth += 1
        elif text[index] == closing:
            depth -= 1
            if depth == 0:
                return text[place : index + 1]
    return "$"


def _heredoc_end(text: str, place: int, delimiter: str) -> int:
    """Return where the text goes on behind a here-document; *place* itself if it has no end."""
    found = re.compile(rf"^\t*{re.escape(delimiter)}$\n?", re.M).search(text, place)
    return found.end() if found else place


# ---------------------------------------------------------------------------------- what words say


class _Doubt(Exception):  # noqa: N818 - not an error: plain reading has its limits
    """Why a word's value cannot be determined by reading."""


@dataclass(slots=True)
class _Scope:
    """The variables that a file has set so far, as far as reading tells."""

    values: dict[str, str | Unknown]
    conditional: set[str] = field(default_factory=set)  # set only where some condition holds
    used: set[str] = field(default_factory=set)  # by the word that was expanded last
    guess: str | None = None  # what to take for all that cannot be determined
    unset: str = ""  # a variable that is to count as unset
    failures: int = 0  # substitutions that never end, of the word that is being expanded


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+=?])(.*))?\Z", re.S)
_DEPTH_AT_MOST = 8


def expand(word: str, scope: _Scope, itself: str = "", depth: int = 0) -> str:
    """Return what the shell makes of *word*. *itself*, where unset here, stays as `$NAME`.

    Raises _Doubt for what only running would tell: a command's output, a variable from elsewhere.
    """
    if depth > _DEPTH_AT_MOST:
        raise _Doubt("it is nested too deeply")
    made: list[str] = []
    place = length = 0
    is_quoted = False  # inside double quotes
    while place < len(word):
        letter = word[place]
        if letter == "\\" and place + 1 < len(word):
            following = word[place + 1]
            if is_quoted and following not in '$`"\\\n':
                made.append("\\")
            made.append(following)
            place += 2
        elif letter == "'" and not is_quoted and (end := word.find("'", place + 1)) > 0:
            made.append(word[place + 1 : end])
            place = end + 1
        elif letter == '"':
            is_quoted = not is_quoted
            place += 1
        elif letter == "`":
            made.append(_guess("it holds a command's output", scope))
            end = word.find("`", place + 1)
            place = len(word) if end < 0 else end + 1
        elif letter == "$":
            stretch = _variable_at(word, place)
            scope.failures += stretch == "$"
            if scope.failures > FAILURES_AT_MOST:
                raise _Doubt("it holds too many substitutions that never end")
            made.append(_value_of(stretch, scope, itself, depth))
            place += len(stretch)
        elif letter == "~" and not is_quoted and (place == 0 or word[place - 1] in ":="):
            if word[place + 1 : place + 2] not in ("", "/", ":", '"'):
                raise _Doubt("it names another user's home")
            made.append(_known("HOME", scope))
            place += 1
        else:
            made.append(letter)
            place += 1
        length += len(made[-1]) if made else 0
        if length > VALUE_LIMIT:
            raise _Doubt("it is longer than any variable may be")
    return "".join(made)


def _variable_at(word: str, place: int) -> str:
    if word[place + 1 : place + 2] in ("{", "("):
        return _substitution(word, place)
    name = _NAME.match(word, place + 1)
    return f"${name[0]}" if name else "$"


def _guess(why: str, scope: _Scope) -> str:
    if scope.guess is None:
        raise _Doubt(why)
    return scope.guess


def _known(name: str, scope: _Scope) -> str:
    value = scope.values.get(name)
    if value is None:
        return _guess(f"${name} is not set in this file", scope)
    if isinstance(value, Unknown):
        return _guess(value.why, scope)
    scope.used.add(name)
    return value


def _value_of(stretch: str, scope: _Scope, itself: str, depth: int) -> str:
    if stretch == "$":
        return _guess("it holds something that only the shell can tell", scope)
    if stretch.startswith("$("):
        return _guess("it holds a command's output", scope)
    found = _BRACED.match(stretch[2:-1] if stretch.startswith("${") else stretch[1:])
    if found is None:
        return _guess(f"{stretch} is more than plain reading can tell", scope)
    name, how, other = found[1], found[2] or "", found[3] or ""
    if name == scope.unset:
        return expand(other, scope, itself, depth + 1) if "-" in how or "=" in how else ""
    if name not in scope.values and name == itself:
        # Kept or added where it was set before: either way the rest of the value is the same.
        return expand(other, scope, itself, depth + 1) if "+" in how else f"${name}"
    value = _known(name, scope)
    if "+" in how:
        return expand(other, scope, itself, depth + 1) if value or ":" not in how else ""
    if value or ":" not in how:
        return value
    return expand(other, scope, itself, depth + 1)


# -------------------------------------------------------------------------------------- one file

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=(.*)\Z", re.S)
_EXPORTERS = ("export", "declare", "typeset", "readonly")
_KEYWORDS = ("then", "do", "else", "{", "!", "time", "command", "builtin", "eval")
_OPENERS = {"if": "fi", "case": "esac", "for": "done", "while": "done", "until": "done"}
_OPENERS["select"] = "done"
_INTERACTIVE = re.compile(r"\$-|\$\{-\}|\bPS1\b|-t [012]\b|\binteractive\b|\bshopt -q\b|\btty\b")
_EXPORTABLE = re.compile(r"[A-Za-z_-][A-Za-z0-9_]*(?:\+?=|\Z)")
_CURLY = re.compile("[“”‘’„‟‚‛″′«»]")
_OURS_GLUED = re.compile(r"(export|Export|EXPORT|setenv|set)(CUDA_HOME|LD_LIBRARY_PATH|PATH)=")


@dataclass(slots=True)
class _Frame:
    """An `if`, loop, function, … that is still open; *text* is its first line."""

    kind: str
    text: str


class _Reader:
    """Goes through one file from top to bottom and notes what it sets."""

    def __init__(self, text: str, home: str | None, dialect: Dialect) -> None:
        self.lines = [line.strip()[:LINE_LIMIT] for line in text.split("\n")]
        self.text = text
        self.dialect = dialect
        self.settings: list[StartupSetting] = []
        self.others: list[VariableLine] = []
        self.sources: list[str] = []
        self.early_exit_line: int | None = None
        self._exported: set[str] = {"PATH"}
        self._unexported: list[int] = []  # places in self.settings
        self._frames: list[_Frame] = []
        self._surroundings: tuple[str, bool] | None = None  # the frames' texts, until one changes
        self._scope = _Scope({} if home is None else {"HOME": home})

    def result(self) -> tuple[StartupSetting, ...]:
        import msgspec

        for index in self._unexported:
            setting = self.settings[index]
            if setting.variable not in self._exported:
                self.settings[index] = msgspec.structs.replace(
                    setting, value=Unknown("this file does not export it")
                )
        return tuple(self.settings)

    def _line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    # ---- bash, zsh, sh, ksh

    def read_sh(self) -> None:
        chained_to = False  # the command before was an assignment that `&&` ties this one to
        previous: _Command | None = None
        for command in split(self.text):
            words = list(command.words)
            if not words and command.before != "(" and command.before != ")":
                previous = command
                continue
            if command.before == "(" and command.after == ")" and not words and previous:
                if len(previous.words) == 1:  # name() — the body follows
                    self._open(_Frame("function", self._line(command.line)))
            elif command.before == "(" and not self._is_in("case"):
                self._open(_Frame("(", self._line(command.line)))
            elif command.before == ")" and self._frames and self._frames[-1].kind == "(":
                self._close()
            previous = command
            while words and words[0] in _KEYWORDS:
                if words[0] == "{" and not self._is_top("function"):
                    self._open(_Frame("{", ""))
                words.pop(0)
            if not words:
                continue
            first = words[0]
            if first in _OPENERS:
                self._open(_Frame(first, self._line(command.line)))
                words = words[1:] if first in ("if", "while", "until") else []
            elif first == "elif" and self._frames:
                longer = f"{self._frames[-1].text} {self._line(command.line)}"
                self._frames[-1].text = longer[-4 * LINE_LIMIT :]
                self._surroundings = None
                words = words[1:]
            elif first in ("fi", "esac", "done"):
                while self._frames and _OPENERS.get(self._close().kind) != first:
                    pass
                continue
            elif first == "}":
                if self._frames and self._frames[-1].kind in ("{", "function"):
                    self._close()
                continue
            elif first == "function":
                self._open(_Frame("function", self._line(command.line)))
                continue
            if not words:
                continue
            is_tied = command.before in ("&&", "||") and not chained_to
            is_set = self._sh_command(words, command, is_tied)
            chained_to = (is_set or (chained_to and not is_tied)) and command.after == "&&"

    def _open(self, frame: _Frame) -> None:
        self._frames.append(frame)
        del self._frames[:-DEPTH_AT_MOST]
        self._surroundings = None

    def _close(self) -> _Frame:
        self._surroundings = None
        return self._frames.pop()

    def _is_in(self, kind: str) -> bool:
        return any(frame.kind == kind for frame in self._frames)

    def _is_top(self, kind: str) -> bool:
        return bool(self._frames) and self._frames[-1].kind == kind

    def _condition(self, command: _Command, is_tied: bool) -> str | None:
        """Return the text on which it depends whether *command* runs; None: it always does."""
        if self._surroundings is None:
            texts = [frame.text for frame in self._frames if frame.kind != "{"]
            self._surroundings = " ".join(texts), bool(texts)
        text, is_inside = self._surroundings
        if is_tied:
            return f"{text} {self._line(command.line)}"
        return text if is_inside else None

    def _sh_command(self, words: list[str], command: _Command, is_tied: bool) -> bool:
        """Note what one command does; tell whether it sets variables."""
        first = words[0]
        if first in ("return", "exit"):
            if self.early_exit_line is None and not self._is_in("function"):
                condition = self._condition(command, is_tied)
                if condition is not None and _INTERACTIVE.search(condition):
                    self.early_exit_line = command.line
            return False
        if first in ("source", ".") and len(words) > 1:
            self._source(words[1])
            return False
        if command.before == "|" or command.after == "|":
            return False  # a pipe's side is a shell of its own: what it sets is lost
        mangled = mangled_sh(words)
        if mangled is not None:
            variable, what = mangled
            condition = self._condition(command, is_tied)
            self._add(command.line, variable, None, condition, mangled=what)
            return True
        words = [word for word in words if word not in ("<", ">", "<<<")]
        is_export = first in _EXPORTERS
        assignments = words[1:] if is_export else words
        is_set = False
        sets_alone = is_export or all(_ASSIGNMENT.match(word) for word in words)
        for word in assignments:
            found = _ASSIGNMENT.match(word)
            if found is None:
                if is_export and _NAME.fullmatch(word):
                    self._exported.add(word)
                    continue
                if is_export and word.startswith("-"):
                    continue
                # NAME=value command: the value is that command's alone
                return is_set and is_export
            if not sets_alone:
                return False
            is_set = True
            name, plus, value = found.groups()
            if is_export:
                self._exported.add(name)
            self._assign(
                command.line,
                name,
                f"${{{name}}}{value}" if plus else value,
                self._condition(command, is_tied),
            )
        return is_set

    def _source(self, word: str) -> None:
        try:
            path = expand(word, self._scope)
        except _Doubt:
            return
        if path.startswith("/") and "\0" not in path:
            self.sources.append(os.path.normpath(path))

    def _assign(self, line: int, name: str, word: str, condition: str | None) -> None:
        self._scope.used.clear()
        self._scope.failures = 0
        if name in OTHERS:
            self.others.append(VariableLine(variable=name, line=line))
        value: str | Unknown
        try:
            value = expand(word, self._scope, itself=name)
        except _Doubt as doubt:
            value = Unknown(str(doubt))
        is_conditional = condition is not None or bool(self._scope.used & self._scope.conditional)
        if name in OURS:
            if name not in self._exported:
                self._unexported.append(len(self.settings))
            self._add(
                line,
                name,
                value,
                condition if condition is not None or not is_conditional else "",
                appends=name == "CUDA_HOME" and self._joins_itself(name, word),
                unguarded=self._is_unguarded(name, word, condition),
            )
        self._scope.values[name] = value
        if is_conditional:
            self._scope.conditional.add(name)
        else:
            self._scope.conditional.discard(name)

    def _is_unguarded(self, name: str, word: str, condition: str | None) -> bool:
        """Whether *word* joins LD_LIBRARY_PATH's old value on with a `:` that may stand alone."""
        if name != "LD_LIBRARY_PATH" or (condition is not None and name in condition):
            return False
        before = self._scope.values.get(name)
        if before is not None and name not in self._scope.conditional and before != "":
            return False  # this file has given it a value further up
        if name not in word:
            return False
        alone = self._with(word, unset=name)
        return alone != "" and "" in alone.split(":")

    def _joins_itself(self, name: str, word: str) -> bool:
        """Whether *word* makes a list of the variable's old value and something more."""
        mark = "\1"
        value = self._with(word, values={name: mark}) if name in word else ""
        return mark in value and ":" in value

    def _with(self, word: str, *, unset: str = "", values: Mapping[str, str] | None = None) -> str:
        """Expand *word* with something in place of all that cannot be determined."""
        scope = _Scope({**self._scope.values, **(values or {})}, guess="x", unset=unset)
        try:
            return expand(word, scope)
        except _Doubt:
            return "x"

    def _add(
        self,
        line: int,
        name: str,
        value: str | Unknown | None,
        condition: str | None,
        *,
        mangled: str | None = None,
        appends: bool = False,
        unguarded: bool = False,
    ) -> None:
        self.settings.append(
            StartupSetting(
                line=line,
                variable=name,
                text=self._line(line),
                value=value,
                mangled=mangled,
                appends_to_itself=appends,
                unguarded=unguarded,
                after_early_exit=self.early_exit_line is not None,
                is_conditional=condition is not None,
            )
        )

    # ---- /etc/environment, which is no shell's

    def read_environment(self) -> None:
        for number, line in enumerate(self.lines, 1):
            found = _ASSIGNMENT.match(line.removeprefix("export "))
            if found is not None and found[1] in OTHERS:
                self.others.append(VariableLine(variable=found[1], line=number))
            if found is None or found[1] not in OURS:
                continue
            value = found[3].strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            mangled = "a $, which this file does not expand" if "$" in value else None
            self._exported.add(found[1])
            self._add(number, found[1], None if mangled else value, None, mangled=mangled)

    # ---- fish and the C shells: one command a line is how people write them

    def read_lines(self) -> None:
        depth = 0
        for number, line in enumerate(self.lines, 1):
            bare = line.strip()
            if not bare or bare.startswith("#"):
                continue
            words = [w for command in split(bare) for w in command.words]
            first = words[0] if words else ":"
            if first == ":":
                continue  # does nothing: gpucheck puts it before the lines that it replaces
            if first in ("end", "endif", "endsw"):
                depth = max(0, depth - 1)
                continue
            condition = bare if depth or first == "if" else None
            if first in ("source", ".") and len(words) > 1:
                self._source(words[1])
            elif self.dialect == "fish":
                self._fish_line(number, words, condition)
            else:
                self._csh_line(number, bare, condition)
            opens = ("if", "for", "while", "switch", "begin", "function", "foreach")
            if first in opens and not (self.dialect == "csh" and not _csh_opens(bare)):
                depth += 1

    def _fish_line(self, number: int, words: list[str], condition: str | None) -> None:
        if len(words) < 2 or words[0] not in ("set", "export"):
            return
        options = [w for w in words[1:] if w.startswith("-")]
        rest = [w for w in words[1:] if not w.startswith("-")]
        if not rest:
            return
        name, is_joined, value = rest[0].partition("=")
        if name in OTHERS and not {"-e", "--erase", "-q", "-S"}.intersection(options):
            self.others.append(VariableLine(variable=name, line=number))
        if name not in OURS or any(option in ("-e", "--erase", "-q", "-S") for option in options):
            return
        self._exported.add(name)
        if words[0] == "set" and is_joined:
            self._add(number, name, None, condition, mangled="a = where fish wants a space")
            return
        elements = [value] if words[0] == "export" else rest[1:]
        curly = _CURLY.search(" ".join(elements))
        if curly:
            self._add(number, name, None, condition, mangled=f"a curly quote {curly[0]}")
            return
        try:
            joined = ":".join(expand(element, self._scope, itself=name) for element in elements)
        except _Doubt as doubt:
            self._add(number, name, Unknown(str(doubt)), condition)
            return
        appends = name == "CUDA_HOME" and f"${name}" in joined and ":" in joined
        self._add(number, name, joined, condition, appends=appends)
        self._scope.values[name] = joined

    def _csh_line(self, number: int, line: str, condition: str | None) -> None:
        other = re.search(r"\bsetenv\s+([A-Za-z_][A-Za-z0-9_]*)\b", line)
        if other is not None and other[1] in OTHERS:
            self.others.append(VariableLine(variable=other[1], line=number))
        found = re.search(r"\b(setenv|export)\s+(CUDA_HOME|LD_LIBRARY_PATH|PATH)\b(.*)", line)
        if found is None:
            return
        name, rest = found[2], found[3]
        self._exported.add(name)
        mangled = None
        if found[1] == "export":
            mangled = "export, which this shell does not know"
        elif rest.lstrip().startswith("="):
            mangled = "a = where setenv wants a space"
        elif _CURLY.search(rest):
            mangled = "a curly quote"
        if mangled is not None:
            self._add(number, name, None, condition, mangled=mangled)
            return
        parts = [w for command in split(rest)[:1] for w in command.words]
        try:
            value: str | Unknown = expand(parts[0], self._scope, itself=name) if parts else ""
        except _Doubt as doubt:
            value = Unknown(str(doubt))
        text = value if isinstance(value, str) else ""
        self._add(
            number,
            name,
            value,
            condition,
            appends=name == "CUDA_HOME" and f"${name}" in text and ":" in text,
            unguarded=self._is_unguarded(name, parts[0] if parts else "", condition),
        )
        self._scope.values[name] = value


def _csh_opens(line: str) -> bool:
    return not line.startswith("if") or line.split("#", maxsplit=1)[0].rstrip().endswith("then")


def mangled_sh(words: list[str]) -> tuple[str, str] | None:
    """Return (variable, what is wrong) for a command that means to set one of ours, and does not.

    The words are those of one command of bash, zsh or sh, quotes and all.
    """
    first = words[0]
    glued = _OURS_GLUED.match(first)
    if glued is not None:
        return glued[2], f"no space after {glued[1]}"
    if first.lower() == "export" and first != "export":
        return _for_one_of_ours(words[1:], f"{first}, which is not the shell's export")
    if first in ("setenv", "set") and len(words) > 1:
        name = words[1].partition("=")[0]
        if name in OURS and (first == "setenv" or "=" in words[1]):
            return name, f"{first}, which sets no variable in this shell"
        return None
    if first in OURS and len(words) > 1 and words[1].startswith("="):
        return first, "a space before the ="
    curly = next((w for w in words if _CURLY.search(w) and w.partition("=")[0] in OURS), None)
    if curly is not None:
        found = _CURLY.search(curly)
        return curly.partition("=")[0], f"a curly quote {found[0] if found else ''}"
    if first != "export":
        return None
    for index, word in enumerate(words[1:], 1):
        following = words[index + 1] if index + 1 < len(words) else ""
        name = word.partition("=")[0]
        if name.lstrip("$") in OURS and word.startswith("$") and "=" in word:
            return name.lstrip("$"), "a $ before the name"
        if name not in OURS:
            continue
        if word == name and following.startswith("="):
            return name, "a space before the ="
        if "=" in word and following and not _EXPORTABLE.match(following):
            what = "a space after the =" if word.endswith("=") else "a space inside the value"
            return name, what
    return None


def _for_one_of_ours(words: Iterable[str], what: str) -> tuple[str, str] | None:
    names: Mapping[str, None] = dict.fromkeys(word.partition("=")[0] for word in words)
    name = next((name for name in names if name in OURS), None)
    return None if name is None else (name, what)

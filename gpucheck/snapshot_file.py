"""Reads and writes stored snapshots, whatever stands where one was promised."""

import gzip
import io
import os
import select
import stat
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from gpucheck.probes.apart import ACCESS_SECONDS, WRITE_SECONDS, within
from gpucheck.snapshot import SCHEMA, Snapshot
from gpucheck.usage_error import UsageError

LIMIT_BYTES = 64 << 20
_SNAPSHOTS = (".json", ".json.gz")
_GZIP = b"\x1f\x8b"
#: A file, or a FIFO that nobody writes to, is given up on before a second has passed.
FILE_SECONDS = 0.8
#: What comes through a pipe may come from another machine, which takes its time to look.
PIPE_SECONDS = 60.0
#: Where a shell puts the pipes that it hands over: `--from <(ssh node gpucheck snapshot)`.
_PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


class _Envelope(msgspec.Struct):
    """What tells a snapshot from anything else; the rest is read over."""

    schema: object = None


def read(file: str, *, patience_seconds: float | None = None) -> Snapshot:
    """Return the snapshot in *file*; "-" is stdin.

    Waits *patience_seconds* for what comes through a pipe (None: a minute), and less than a
    second for anything else. Raises `UsageError`, in one line, for whatever is not a snapshot, and
    `NoAnswerError` where the file system does not answer.
    """
    pipe_seconds = PIPE_SECONDS if patience_seconds is None else patience_seconds
    if file == "-":
        return parse(_read(0, "stdin", pipe_seconds), "stdin")
    if file.startswith(_PIPES):  # open already: no file system is asked
        return parse(_content(file, pipe_seconds), file)
    seconds = FILE_SECONDS + ACCESS_SECONDS
    return parse(within(seconds, file, lambda: _content(file, FILE_SECONDS)), file)


def _content(file: str, seconds: float) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: {_reason(error)}") from None
    try:
        return _read(descriptor, file, seconds)
    finally:
        os.close(descriptor)


def parse(content: bytes, name: str) -> Snapshot:
    """Return the snapshot that *content* holds; *name* is for the complaint."""
    if content.startswith(_GZIP):
        content = _unpacked(content, name)
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise UsageError(f"{name}: is empty")
    try:
        envelope = msgspec.json.decode(content, type=_Envelope)
    except msgspec.ValidationError:
        raise UsageError(f"{name}: is JSON, but no snapshot: a snapshot is one object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{name}: {_malformed(content, error)}") from None
    schema = envelope.schema
    if schema != SCHEMA:
        raise UsageError(f"{name}: {_wrong_schema(schema)}")
    try:
        machine = msgspec.json.decode(content, type=Snapshot)
    except msgspec.ValidationError as error:
        raise UsageError(f"{name}: a fact is of the wrong type: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{name}: {_malformed(content, error)}") from None
    if machine == Snapshot(gpucheck=machine.gpucheck, taken_at=machine.taken_at):
        # Judged, it would have no finding; and what was not examined is never called healthy.
        raise UsageError(f"{name}: holds no fact of any machine")
    return machine


def _unpacked(content: bytes, name: str) -> bytes:
    """Return what is in a gzip file, up to the limit of size: a small file may hold a huge one."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(LIMIT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{name}: is no whole gzip file: {_reason(error)}") from None
    if len(unpacked) > LIMIT_BYTES:
        raise UsageError(f"{name}: holds more than {LIMIT_BYTES >> 20} MiB: no snapshot does")
    return unpacked


def as_json(machine: Snapshot) -> str:
    """Return *machine* as JSON that `read` takes back."""
    from gpucheck.render.sanitize import clean_machine

    encoded = msgspec.json.encode(clean_machine(machine))
    return msgspec.json.format(encoded, indent=1).decode() + "\n"


def refuse_to_replace(file: Path, *, force: bool) -> None:
    """Raise `UsageError` where *file* is there already and may not be replaced."""
    if not force and os.path.lexists(file) and not _is_stream(file):
        raise UsageError(f"{file}: is there already: --force replaces it")


def refuse_early(file: Path, *, force: bool) -> None:
    """Do the same before a long look at the machine, at a file system that may not answer."""
    within(ACCESS_SECONDS, str(file), lambda: refuse_to_replace(file, force=force))


def save(text: str, file: Path, *, force: bool = False, is_private: bool = False) -> str:
    """Write *text* to *file*, compressed where its name ends in .gz; return what was done.

    The file is whole or as it was before. What *is_private* only its owner may read. Raises
    `UsageError` where that cannot be, or would replace a file without *force*, and `NoAnswerError`
    where the file system does not answer.
    """
    content = text.encode("utf-8")
    if file.suffix == ".gz":
        content = gzip.compress(content, mtime=0)

    def write() -> str:
        refuse_to_replace(file, force=force)
        was_there = os.path.lexists(file) and not _is_stream(file)
        try:
            if _is_stream(file):
                _write_stream(file, content)
            else:
                _write_file(Path(os.path.realpath(file)), content, is_private=is_private)
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: cannot be written: {_reason(error)}") from None
        return "replaced" if was_there else "wrote"

    done = within(WRITE_SECONDS, str(file), write)
    return f"{done} {file} ({len(content) / 1024:,.1f} KiB)"


def _write_file(file: Path, content: bytes, *, is_private: bool) -> None:
    """Write next to *file* and rename: a full disk costs the new one, not the old."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    mode = 0o600 if is_private else 0o666
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_stream(file: Path, content: bytes) -> None:
    """Write to a terminal, a device or a pipe; one that nobody reads is an error at once."""
    handle = os.open(file, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def _is_stream(file: Path) -> bool:
    """Whether *file* is no regular file: nothing in it is lost by writing."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


def expanded(names: Sequence[str]) -> list[str]:
    """Return the files that *names* mean: a directory stands for the snapshots in it."""
    whom = ", ".join(names)
    return within(ACCESS_SECONDS + len(names) * 0.1, whom, lambda: _expanded(names))


def _expanded(names: Sequence[str]) -> list[str]:
    files: list[str] = []
    for name in names:
        folder = Path(name)
        try:
            if not folder.is_dir():
                files.append(name)
                continue
            inside = sorted(each for each in folder.iterdir() if each.name.endswith(_SNAPSHOTS))
        except (OSError, ValueError) as error:
            raise UsageError(f"{name}: {_reason(error)}") from None
        if not inside:
            raise UsageError(f"{name}: is a directory without a snapshot (*.json, *.json.gz)")
        files += map(str, inside)
    return files


def _read(descriptor: int, name: str, seconds: float) -> bytes:
    """Read all that there is, within *seconds* and the limit of size."""
    try:
        status = os.fstat(descriptor)
    except OSError as error:
        raise UsageError(f"{name}: {_reason(error)}") from None
    _refuse_what_is_no_file(status, name, is_stdin=descriptor == 0)
    until = time.monotonic() + seconds
    chunks: list[bytes] = []
    size = 0
    while True:
        if not _wait(descriptor, until):
            after = "nothing came" if not chunks else f"no end came after {size} bytes"
            raise UsageError(f"{name}: {after} in {seconds:g} s")
        try:
            chunk = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            continue
        except OSError as error:
            raise UsageError(f"{name}: cannot be read: {_reason(error)}") from None
        if not chunk:
            if chunks or not stat.S_ISFIFO(status.st_mode) or _is_hung_up(descriptor):
                return b"".join(chunks)
            # A FIFO that nobody has opened for writing yet reads as ended: give somebody the time.
            if time.monotonic() > until:
                raise UsageError(f"{name}: is a FIFO that nobody writes to (waited {seconds:g} s)")
            time.sleep(0.01)
            continue
        chunks.append(chunk)
        size += len(chunk)
        if size > LIMIT_BYTES:
            raise UsageError(f"{name}: holds more than {LIMIT_BYTES >> 20} MiB: no snapshot does")


def _refuse_what_is_no_file(status: os.stat_result, name: str, *, is_stdin: bool) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name}: is a directory, and a snapshot is a file")
    if stat.S_ISCHR(mode):
        if is_stdin and os.isatty(0):
            raise UsageError(
                "stdin: is a terminal; give it a snapshot: gpucheck doctor --from - < FILE"
            )
        if not (is_stdin and status.st_rdev == os.makedev(1, 3)):  # /dev/null reads as empty
            raise UsageError(f"{name}: is a device, and a snapshot is a file")
    if stat.S_ISBLK(mode):
        raise UsageError(f"{name}: is a device, and a snapshot is a file")
    if stat.S_ISREG(mode) and status.st_size > LIMIT_BYTES:
        size = status.st_size / (1 << 20)
        raise UsageError(f"{name}: holds {size:,.0f} MiB; no snapshot is over {LIMIT_BYTES >> 20}")


def _wait(descriptor: int, until: float) -> bool:
    """Wait until there is something to read, or the end; False when the time is over."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left = until - time.monotonic()
    return left > 0 and bool(poll.poll(left * 1000))


def _is_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _wrong_schema(schema: object) -> str:
    if schema is None:
        return f'is no snapshot: it lacks "schema": "{SCHEMA}"'
    if not isinstance(schema, str):
        return f'is no snapshot: its "schema" is not the text "{SCHEMA}"'
    family, _, version = schema[:80].partition("/")
    if family == "gpucheck.report":
        return "is a report, not the facts that a report is made from: see gpucheck snapshot"
    if family == "gpucheck.snapshot":
        with suppress(ValueError):
            if int(version) > int(SCHEMA.partition("/")[2]):
                return f"is a {schema}, from a newer gpucheck: this one reads {SCHEMA}"
    return f"is a {schema[:80]}, and this gpucheck reads {SCHEMA}"


def _malformed(content: bytes, error: Exception) -> str:
    """Say what the content is instead of JSON, as far as its first bytes tell."""
    if isinstance(error, RecursionError):
        return "is nested too deeply for a snapshot"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is UTF-16, and a snapshot is UTF-8"
    if content.startswith((b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ", b"PK\x03\x04")):
        return "is compressed: unpack it first"
    if content.startswith(b"\0"):
        return "is no text: it begins with zero bytes"
    if str(error) == "Input data was truncated" and not content.rstrip().endswith(b"}"):
        return f"is cut off after {len(content)} bytes"
    reason = str(error).removeprefix("JSON is malformed: ")
    return f"is not JSON: {reason}"


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{reason[:1].lower()}{reason[1:]}"

"""Replaces the content of a file in one step: whoever looks sees the old bytes or the new, whole.

The new bytes go to a new file in the same folder, get the old one's mode, owner and extended
attributes, are flushed to disk, and take the old one's name by one rename.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpucheck.probes.startup_files import LIMIT_BYTES
from gpucheck.usage_error import UsageError

BACKUPS_KEPT = 10
LOCK_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A file as it was read once: its bytes, and which file it was."""

    path: Path  # as named
    target: Path  # with all links followed: what is replaced
    content: bytes | None  # None: there is no such file
    identity: tuple[int, int] | None  # device and inode


def read(path: Path) -> Original:
    """Read *path* once, and make sure that it may be replaced.

    Raises UsageError for what is no regular file, is read-only, larger than 512 KiB, has a second
    name, or belongs to somebody else.
    """
    try:
        target = Path(os.path.realpath(path))
        handle = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Original(path=path, target=target, content=None, identity=None)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        facts = os.fstat(handle)
        _refuse(path, facts)
        content = _read_all(handle)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    finally:
        _close(handle)
    if len(content) > LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {LIMIT_BYTES >> 10} KiB: no start-up file")
    return Original(path=path, target=target, content=content, identity=_identity(facts))


def _close(handle: int) -> None:
    """Close what was only read or locked: there, a failure to close loses nothing."""
    with contextlib.suppress(OSError):
        os.close(handle)


def _refuse(path: Path, facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{path} is a directory")
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{path} is a device, a pipe or a socket: no regular file")
    if os.geteuid() not in (0, facts.st_uid):
        raise UsageError(f"{path} belongs to another user (uid {facts.st_uid})")
    if not facts.st_mode & 0o222:
        raise UsageError(f"{path} is read-only (mode {stat.S_IMODE(facts.st_mode):04o})")
    if facts.st_nlink > 1:
        raise UsageError(f"{path} has {facts.st_nlink} names (hard links), which this would part")


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _read_all(handle: int) -> bytes:
    chunks: list[bytes] = []
    left = LIMIT_BYTES + 1
    while left > 0 and (chunk := os.read(handle, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def replace(original: Original, content: bytes | None, *, backups: Path) -> str:
    """Put *content* in the place of *original* (None: remove it), after a copy into *backups*.

    Return what could not be kept of the old file, in a sentence; "" where all was.

    Raises UsageError, with nothing changed, where the file is no longer as it was read, or the
    system does not let us: a full disk, a read-only file system, a folder that is not ours.
    """
    note = ""
    if content == original.content:
        return note
    with _telling_why(original.path):
        if content is not None and original.content is None:
            original.target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(original.target.parent) as is_locked:
            _refuse_changed(original)
            if original.content is not None:
                _keep_copy(original, original.content, backups)
            if content is None:
                _refuse_changed(original)
                original.target.unlink()
            else:
                note = _put(original, content, is_locked)
            _flush_folder(original.target.parent)
    return note


@contextlib.contextmanager
def _telling_why(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else path
        raise UsageError(
            f"{path} was left as it was: {error.strerror or error} ({place})"
        ) from None


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Keep other gpuchecks out of *folder*; yield False where its file system knows no locks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + LOCK_PATIENCE_SECONDS
        is_locked = True
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UsageError(f"{folder} is locked by another program") from None
                time.sleep(0.02)
            except OSError:  # some network file systems lock no folders
                is_locked = False
                break
        yield is_locked
    finally:
        _close(handle)


def _refuse_changed(original: Original) -> None:
    try:
        now = read(original.path)
    except UsageError:
        now = None
    if (
        now is None
        or (now.target, now.identity) != (original.target, original.identity)
        or now.content != original.content
    ):
        raise UsageError(
            f"{original.path} was changed by somebody just now: look, and run this again"
        )


def _put(original: Original, content: bytes, is_locked: bool) -> str:
    folder, name = original.target.parent, original.target.name
    prefix = f".{name.lstrip('.')}.gpucheck-"
    if is_locked:  # then no other gpucheck is at work, and such files are what a killed one left
        for left in folder.glob(f"{_literally(prefix)}*"):
            left.unlink(missing_ok=True)
    fresh = folder / f"{prefix}{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(fresh, flags, 0o600)
    note = ""
    try:
        try:
            _write_all(handle, content)
            if original.identity is None:
                if os.geteuid() == 0:  # in a user's home, the file is to be the user's
                    home = folder.stat()
                    os.fchown(handle, home.st_uid, home.st_gid)
                os.fchmod(handle, 0o666 & ~_umask())
            else:
                note = _take_after(handle, original.target)
            os.fsync(handle)
        finally:
            os.close(handle)
        _refuse_changed(original)
        os.rename(fresh, original.target)  # noqa: PTH104 - the one step that all this is about
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return note


def _literally(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in text)


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_ACL = "system.posix_acl_access"


def _take_after(handle: int, old: Path) -> str:
    """Give the new file the owner, the extended attributes and the mode of *old*.

    Return what could not be kept, in a sentence; "" where all was.
    """
    facts = old.stat()
    fresh = os.fstat(handle)
    mode, note = stat.S_IMODE(facts.st_mode), ""
    if (fresh.st_uid, fresh.st_gid) != (facts.st_uid, facts.st_gid):
        try:
            os.fchown(handle, facts.st_uid, facts.st_gid)
        except PermissionError:
            if fresh.st_uid != facts.st_uid:
                raise
            # Nobody but a member may give a file to a group. What the old group might do, the new
            # one may only where everybody may.
            mode = mode & ~0o070 | mode & (mode & 0o007) << 3
            note = f"its group {facts.st_gid} could not be kept: you are not in it"
    names = _attributes(lambda: os.listxattr(old))
    if _ACL not in names:
        _without_acl(handle)
    for name in names:
        value = os.getxattr(old, name)
        try:
            os.setxattr(handle, name, value)
        except OSError:
            if _attribute(handle, name) != value:
                raise
    os.fchmod(handle, mode)
    return note


def _without_acl(handle: int) -> None:
    """Take away what the folder's default ACL gave: the mode would open it to others (acl(5))."""
    try:
        os.removexattr(handle, _ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise


def _attributes(names: Callable[[], list[str]]) -> list[str]:
    try:
        return names()
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return []
        raise


def _attribute(handle: int, name: str) -> bytes | None:
    try:
        return os.getxattr(handle, name)
    except OSError:
        return None


def _flush_folder(folder: Path) -> None:
    """Flush the rename itself. It is done by now, so a file system that cannot is no failure."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def name_of(target: Path) -> str:
    """Return one file name that stands for the path *target*."""
    return str(target).replace("%", "%25").replace("/", "%")[-200:]


def _keep_copy(original: Original, content: bytes, backups: Path) -> None:
    """Keep the old bytes under *backups*, where the last ten of each file stay."""
    folder = backups / name_of(original.target)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    moment = time.strftime("%Y-%m-%dT%H%M%S", time.gmtime())
    name = f"{moment}.{time.time_ns() % 1_000_000_000:09}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(folder / name, flags, 0o600)
    try:
        try:
            _write_all(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
    except BaseException:
        (folder / name).unlink(missing_ok=True)
        raise
    for old in sorted(folder.iterdir())[:-BACKUPS_KEPT]:
        old.unlink(missing_ok=True)

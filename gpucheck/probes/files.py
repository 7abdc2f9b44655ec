"""Reads files whose kind, size and content nobody vouches for."""

import errno
import os
import stat
from pathlib import Path

from gpucheck.snapshot import Unknown, unread

LIMIT_BYTES = 1 << 20

#: How "it is not there" is said; a name that is too long, or leads through a file, is not there.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def read_bytes(path: Path | str, limit: int = LIMIT_BYTES) -> bytes | Unknown | None:
    """Return the first *limit* bytes of a regular file; None where there is no such file.

    A FIFO, a device, a socket and a directory are unknown: reading one may never end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        return unread(path, error)
    except ValueError as error:  # a NUL byte in the name
        return Unknown(f"{str(path)!r}: {error}")
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return Unknown(f"{path} is not a regular file")
        chunks: list[bytes] = []
        left = limit
        while left > 0 and (chunk := os.read(handle, left)):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    except OSError as error:
        return unread(path, error)
    finally:
        os.close(handle)


def read_text(path: Path | str, limit: int = LIMIT_BYTES) -> str | Unknown | None:
    """Return the beginning of a regular file as text; bytes that are not UTF-8 are replaced."""
    data = read_bytes(path, limit)
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data


def names_in(folder: Path | str) -> tuple[str, ...] | Unknown | None:
    """Return the sorted names in *folder*; None where there is no such folder."""
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - Path.iterdir is slower
    except OSError as error:
        if error.errno in ABSENT:
            return None
        return unread(folder, error)
    except ValueError as error:
        return Unknown(f"{str(folder)!r}: {error}")


def first_line(path: Path) -> str | Unknown | None:
    """Return the first line of a small file, without the NUL that device trees end with."""
    text = read_text(path, 4096)
    if not isinstance(text, str):
        return text
    return text.strip("\0\n ").partition("\n")[0] or None


def exists(path: Path) -> bool:
    """Whether something is at *path*; what may not be looked at counts as absent."""
    try:
        return path.exists()
    except OSError:
        return False

"""Reads the file system below a root, following absolute links within it."""

import os
import stat
from pathlib import Path

_LIMIT_BYTES = 1 << 20  # of a text file that we read: version files and headers are far smaller
_LINKS_LIMIT = 40  # as the kernel's own


class Disk:
    """Reads the file system under a root, following absolute links within it."""

    def __init__(self, root: Path) -> None:
        self._root = str(root).rstrip("/")
        self.unreadable: str | None = None

    def real(self, path: str) -> str:
        """Return where *path* lies for the kernel."""
        return self._root + path

    def resolve(self, path: str) -> str | None:
        """Follow every link of an absolute path; None where it leads to nothing."""
        pending = [part for part in reversed(path.split("/")) if part]
        done = ""
        links = 0
        while pending:
            part = pending.pop()
            if part == ".":
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{part}"
            try:
                mode = os.lstat(self.real(here)).st_mode
                if not stat.S_ISLNK(mode):
                    done = here
                    continue
                target = str(Path(self.real(here)).readlink())
            except (OSError, ValueError):
                return None
            links += 1
            if links > _LINKS_LIMIT:
                return None
            if target.startswith("/"):
                done = ""
            pending += [part for part in reversed(target.split("/")) if part]
        return done or "/"

    def is_link(self, path: str) -> bool:
        try:
            return stat.S_ISLNK(os.lstat(self.real(path)).st_mode)
        except (OSError, ValueError):
            return False

    def is_file(self, path: str) -> bool:
        resolved = self.resolve(path)
        try:
            return resolved is not None and stat.S_ISREG(Path(self.real(resolved)).stat().st_mode)
        except OSError:
            return False

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder; none where it cannot be listed."""
        resolved = self.resolve(folder)
        if resolved is None:
            return []
        try:
            return sorted(entry.name for entry in Path(self.real(resolved)).iterdir())
        except NotADirectoryError:
            return []
        except OSError as error:
            self.unreadable = f"{folder}: {error.strerror}"
            return []

    def text(self, path: str) -> str | None:
        """Return the beginning of a text file; None where there is none to read."""
        resolved = self.resolve(path)
        if resolved is None:
            return None
        try:
            # O_NONBLOCK: a FIFO in the place of a file must not hold us up.
            descriptor = os.open(self.real(resolved), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return os.read(descriptor, _LIMIT_BYTES).decode("utf-8", "replace")
        except OSError:
            return None
        finally:
            os.close(descriptor)

"""Interactive shells on screens of tmux, for tests of what a person sees."""

import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

GPUCHECK = Path(sys.executable).parent / "gpucheck"


class Terminal:
    """An interactive shell in a home of its own, on a screen that can be read."""

    def __init__(self, shell: str, home: Path, columns: int = 120, lines: int = 50) -> None:
        program = shutil.which(shell) or shell
        self.variables = {
            "HOME": str(home),
            "PATH": f"{home}/bin:/usr/bin:/bin",
            "SHELL": program,
            "LANG": "C.UTF-8",
            "TERM": "screen",
        }
        (home / "bin").mkdir(exist_ok=True)
        if not (home / "bin/gpucheck").exists():
            (home / "bin/gpucheck").symlink_to(GPUCHECK)
        self._socket = f"gpucheck-{uuid.uuid4().hex}"
        words = ["env", "-i", *(f"{name}={value}" for name, value in self.variables.items())]
        self._tmux("new-session", "-d", "-x", str(columns), "-y", str(lines), "-c", str(home))
        self._tmux("respawn-pane", "-k", "-c", str(home), *words, program, "-i")
        self.types("echo rea''dy\n")
        self.shows("\nready")

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments],
            capture_output=True,
            text=True,
            env=self.variables,
            timeout=20,
        ).stdout

    def types(self, text: str) -> None:
        for number, line in enumerate(text.split("\n")):
            if number:
                self._tmux("send-keys", "Enter")
            if line:
                self._tmux("send-keys", "-l", line)

    def presses(self, key: str) -> None:
        self._tmux("send-keys", key)

    def screen(self, *, colors: bool = False) -> str:
        """What the screen shows; with the sequences that color it."""
        return self._tmux("capture-pane", "-p", *(["-e"] if colors else []))

    def shows(self, text: str, seconds: float = 20.0) -> bool:
        """Wait until the screen holds *text*; False where it does not come."""
        until = time.monotonic() + seconds
        while text not in self.screen():
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def completes(self, line: str, expected: str, tabs: int = 1) -> bool:
        """Type *line* on an empty screen and press Tab; say whether *expected* comes."""
        self.presses("C-c")
        self.types("clear; echo cle''ared\n")
        assert self.shows("cleared\n"), self.screen()
        self.types(line)
        assert self.shows(line.rstrip()), self.screen()
        for _ in range(tabs):
            self.presses("Tab")
        return self.shows(expected)

    def close(self) -> None:
        self._tmux("kill-server")

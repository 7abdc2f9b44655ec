"""Makes SVG pictures of real reports, with no font and no link from elsewhere.

`python -m tools.pictures SNAPSHOT.json ...` judges each stored snapshot with the command itself,
as on a terminal, and writes the picture beside it. Without arguments: all of tests/recorded.
"""

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

RECORDED = Path(__file__).parents[1] / "tests" / "recorded"
COLUMNS = 84
FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
THEME = TerminalTheme(
    (24, 26, 31),
    (208, 212, 220),
    [
        (24, 26, 31),
        (240, 96, 88),
        (120, 200, 120),
        (230, 180, 80),
        (110, 160, 250),
        (200, 140, 240),
        (90, 200, 210),
        (208, 212, 220),
    ],
)


def picture(text: str, title: str, columns: int = COLUMNS) -> str:
    """Return terminal output (with ANSI colours) as an SVG that needs nothing from elsewhere."""
    console = Console(
        record=True,
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="standard",
        legacy_windows=False,
    )
    console.print(Text.from_ansi(text.rstrip("\n")))
    svg = console.export_svg(title=title, theme=THEME, unique_id="report")
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)  # some viewers fold blanks
    svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-variant-east-asian:[^;]*;", "", svg)
    svg = re.sub(r"font-family:[^;\"}]*", f"font-family: {FONTS}", svg)
    svg = "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"
    outside = re.findall(r"url\((?!#)[^)]*\)|https?://(?!www\.w3\.org/)[^\"'\s]*", svg)
    if outside:
        raise ValueError(f"the picture would fetch {outside[0]}")
    return svg


def report_of(snapshot: Path, columns: int = COLUMNS) -> str:
    """Return what a terminal of that width shows of `gpucheck doctor --from SNAPSHOT`."""
    done = subprocess.run(
        [Path(sys.executable).with_name("gpucheck"), "doctor", "--from", str(snapshot)],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "FORCE_COLOR": "1",
            "COLUMNS": str(columns),
        },
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    if done.returncode > 1:
        raise SystemExit(f"{snapshot}: no report (status {done.returncode})")
    return done.stdout


def of_snapshot(snapshot: Path) -> str:
    """Return the picture of the report that a stored snapshot gives."""
    return picture(report_of(snapshot), "gpucheck doctor")


def snapshots() -> list[Path]:
    """The recorded files that are snapshots."""
    start = b'"schema": "gpucheck.snapshot/'
    return [file for file in sorted(RECORDED.glob("*.json")) if start in file.read_bytes()[:200]]


def main(arguments: list[str]) -> None:
    for snapshot in [Path(name) for name in arguments] or snapshots():
        target = snapshot.with_suffix(".svg")
        target.write_text(of_snapshot(snapshot), encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The examples of docs/library.md, each run by another process, as its reader would."""

import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import gpucheck
from gpucheck import api, snapshot_file
from gpucheck.render import Format
from machines import HEALTHY, gpu, machine

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"([^\n]*)\n\n```python\n(.*?)```", PAGE, re.DOTALL)
LOST = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="GPU_IS_LOST"))})


def example(ending: str) -> str:
    """The code that follows the line with this *ending*."""
    [code] = [code for line, code in BLOCKS if line.endswith(ending)]
    return code


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, timeout=100
    )


def verdict_here(cwd: Path) -> str:
    doctor = python("-m", "gpucheck", "doctor", "--json", "--ignore", "ENV,CUD", cwd=cwd)
    return json.loads(doctor.stdout)["verdict"]


def test_tests_that_need_gpus_are_skipped_with_the_reason_where_those_are_broken(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(example("In `conftest.py`:"))
    (tmp_path / "test_training.py").write_text(example("In `test_training.py`:"))

    ran = python("-m", "pytest", "-rs", "-p", "no:xdist", "-p", "no:randomly", cwd=tmp_path)

    if verdict_here(tmp_path) in ("broken", "incomplete"):
        assert re.search(r"SKIPPED .*gpucheck: (broken|incomplete): \w{3}\d{3} ", ran.stdout)
        assert "1 skipped" in ran.stdout
    else:
        assert "1 passed" in ran.stdout, ran.stdout
    assert ran.returncode == 0, ran.stdout


def test_a_notebook_s_cells_work_beside_its_threads_and_its_event_loop(tmp_path: Path):
    cells = [example("In a cell:"), example("the findings are data:")]
    kernel = f"""
import asyncio, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
async def run(names):
    for cell in {cells!r}:
        exec(cell, names)
names = {{}}
asyncio.run(run(names))
known = {{"error", "warning", "info"}}
print(sorted({{severity for severity, *_ in names["worst_first"]}} - known))
"""

    ran = python("-W", "error", "-c", kernel, cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("gpucheck ")
    assert ran.stdout.endswith("[]\n")


@pytest.mark.parametrize(("machine", "status"), [(HEALTHY, 0), (LOST, 1)], ids=["sound", "lost"])
def test_a_hook_takes_a_broken_node_out_of_service(machine, status: int, tmp_path: Path):
    (tmp_path / "check_node.py").write_text(example("In `check_node.py`:"))
    snapshot_file.save(snapshot_file.as_json(machine), tmp_path / "node.json")

    ran = python("check_node.py", "node.json", cwd=tmp_path)

    assert ran.returncode == status, ran.stderr
    assert ran.stdout.count("\n") == 1
    assert ("GPU001" in ran.stdout) == bool(status)


def test_a_hook_examines_its_own_node(tmp_path: Path):
    (tmp_path / "check_node.py").write_text(example("In `check_node.py`:"))

    ran = python("check_node.py", cwd=tmp_path)
    refused = python("check_node.py", "/nowhere", cwd=tmp_path)

    assert ran.returncode in (0, 1)
    assert ran.stdout.count("\n") == 1
    assert (refused.returncode, refused.stderr) == (
        1,
        "check_node: /nowhere: no such file or directory\n",
    )


def test_every_public_name_and_every_field_is_on_the_page():
    for name in (*gpucheck.__all__, "Unknown"):
        assert f"`{name}" in PAGE, name
    for name in re.findall(r"`(\w+)`", PAGE.partition("| `Report` |")[2].partition("\n")[0]):
        assert hasattr(gpucheck.examine(HEALTHY), name), name
    [finding] = gpucheck.examine(LOST, select=["GPU001"]).findings
    for name in re.findall(r"`(\w+)`", PAGE.partition("| `Finding` |")[2].partition("\n")[0]):
        assert hasattr(finding, name), name
    for name in re.findall(r"`(\w+)`", PAGE.partition("| `Scope(…)` |")[2].partition(", as")[0]):
        assert hasattr(gpucheck.Scope(), name), name


def test_render_takes_every_format_there_is():
    forms = typing.get_args(typing.get_type_hints(api.render)["form"])

    assert set(forms) == {each.value for each in Format}


def test_the_examples_have_the_types_that_they_claim(tmp_path: Path):
    for number, (_, code) in enumerate(BLOCKS):
        if "worst_first" not in code:  # it goes on where the cell before it ends
            (tmp_path / f"example_{number}.py").write_text(code)

    checked = python(
        *("-m", "mypy", "--config-file=", "--strict", "--allow-untyped-defs"),
        *("--cache-dir", str(tmp_path / "cache"), "."),
        cwd=tmp_path,
    )

    assert checked.returncode == 0, checked.stdout

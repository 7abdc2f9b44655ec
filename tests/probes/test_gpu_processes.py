"""Processes that hold GPU memory have names, or are known to be gone."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.nvml import (
    h200,
)

from gpucheck.probes.gpu_processes import process_name
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    GpuProcess,
)
from nvml_looks import look
from seen_facts import seen


@contextlib.contextmanager
def zombie():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        yield process.pid
    finally:
        process.wait()


def test_processes_carry_their_names_and_whether_they_are_dead(tmp_path):
    with zombie() as dead:
        holds = {os.getpid(): 5 << 30, dead: 1 << 30, 4_000_000_000: -1}

        found = look(tmp_path, [h200(processes=holds, graphics_processes={os.getpid(): 1})])

    by_id = {one.pid: one for one in seen(seen(found.gpus)[0].processes)}
    assert len(by_id) == 3
    assert by_id[os.getpid()].name == Path("/proc/self/comm").read_text().strip()
    assert by_id[os.getpid()].used_bytes == 5 << 30
    assert by_id[os.getpid()].kind == "compute"
    assert by_id[dead].is_zombie is True
    assert by_id[4_000_000_000] == GpuProcess(
        pid=4_000_000_000, name=None, used_bytes=NOT_SUPPORTED
    )


def test_a_process_name_may_hold_brackets_and_blanks(tmp_path):
    (tmp_path / "proc/42").mkdir(parents=True)
    (tmp_path / "proc/42/stat").write_text("42 (a ) Z (b) S 1 42 42 0\n")

    assert process_name(42, tmp_path) == ("a ) Z (b", False)
    assert process_name(43, tmp_path) == (None, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.namespaces
def test_a_process_that_proc_hides_is_not_taken_for_one_that_is_gone():
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from gpucheck.probes.nvml import process_name;"
        " print(process_name(1), end='')"
    )
    become = (
        'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --clear-groups "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", become, "sh", sys.executable, "-c", code]

    ended = subprocess.run(command, cwd="/", capture_output=True, text=True)

    if ended.returncode or not ended.stdout.startswith(("(None", "(Unknown")):
        pytest.skip(f"/proc hides nothing here: {ended.stderr or ended.stdout}")
    assert ended.stdout == "(Unknown(why='process 1 is hidden from this user'), False)"

"""`gpucheck fleet` through a real Open MPI: each node is a rank, and a rank may die."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from gpucheck.fleet.engines.mpi import OpenMpi
from gpucheck.fleet.reading import answers
from gpucheck.fleet.run import gather, tasks
from gpucheck.usage_error import UsageError

#: Open MPI starts its daemon on a node through this, as it would through ssh; the ranks inherit
#: its environment, and so know which node they are.
AGENT = """\
node=$1; shift
[ "$node" != n4 ] || { echo "ssh: connect to host n4 port 22: No route to host" >&2; exit 255; }
export GPUCHECK_TEST_NODE=$node
exec sh -c "$*"
"""
GPUCHECK = """\
case $GPUCHECK_TEST_NODE in
n2) kill -9 $$ ;;
n3) echo "cannot open the driver" >&2; exit 3 ;;
esac
exec {python} -m gpucheck "$@"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if shutil.which("mpirun") is None:
        pytest.skip("Open MPI's mpirun is not installed (make engines)")
    for name, text in {"agent": AGENT, "gpucheck": GPUCHECK.format(python=sys.executable)}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("OMPI_MCA_plm_rsh_agent", str(tmp_path / "agent"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where Open MPI keeps its sessions
    for name in list(os.environ):
        if name.startswith(("SLURM", "PBS", "LSB")):
            monkeypatch.delenv(name)
    return tmp_path


def test_a_rank_that_dies_ends_no_other(programs: Path):
    wanted = tasks("quick", ["n1", "n2", "n3", "n4"], [str(programs / "gpucheck")])
    out = programs / "out"

    outcomes = list(gather(OpenMpi(), wanted, out, job="quick", timeout_seconds=60))

    why = {answer.node: answer.failure for answer in answers([str(out)])}
    assert len(outcomes) == 4
    assert why["n1"] == ""
    assert "on node n2 exited on signal 9" in why["n2"]
    assert why["n3"] == "mpirun ended with status 3: cannot open the driver"
    assert why["n4"].endswith("ssh: connect to host n4 port 22: No route to host")


def test_a_program_that_is_not_on_the_node_is_named(programs: Path):
    wanted = tasks("quick", ["n1"], ["/nowhere/gpucheck"])

    [outcome] = gather(OpenMpi(), wanted, programs / "out", job="quick", timeout_seconds=60)

    assert "could not access or execute an executable" in outcome.why


def test_the_nodes_are_those_of_the_job(programs: Path, monkeypatch):
    (programs / "nodes").write_text("n2\nn2\nn1\n")
    monkeypatch.setenv("PBS_NODEFILE", str(programs / "nodes"))

    assert OpenMpi().nodes() == ("n2", "n1")


def test_outside_a_job_the_nodes_have_to_be_named(programs: Path):
    with pytest.raises(UsageError, match="outside a job of PBS or LSF"):
        OpenMpi().nodes()


def test_without_mpirun_the_call_is_wrong(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UsageError, match="there is no mpirun here"):
        OpenMpi()

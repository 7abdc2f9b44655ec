"""Each node is asked by its engine's own command; what it answers, or why not, is a file."""

import shlex
import stat
import time
from pathlib import Path

import msgspec
import pytest

from gpucheck.fleet.engines import ENGINES, engine
from gpucheck.fleet.engines.interface import Settings, Task
from gpucheck.fleet.engines.processes import Local
from gpucheck.fleet.engines.slurm import NodeState, Slurm, parse_sinfo
from gpucheck.fleet.engines.ssh import Ssh
from gpucheck.fleet.jobs import JOBS
from gpucheck.fleet.pairs import ALLREDUCE
from gpucheck.fleet.run import gather, snapshot_in, tasks
from gpucheck.usage_error import UsageError
from machines import HEALTHY

GOOD = msgspec.json.encode(HEALTHY)


class WithOneDrained(Local):
    """Runs here, and knows one node that cannot be asked."""

    def out_of_reach(self, nodes):
        return {node: "drained: bad PSU" for node in nodes if node == "gone"}


def program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def gathered(
    folder: Path, commands: dict[str, tuple[str, ...]], seconds: float = 5.0, job: str = "doctor"
):
    wanted = [Task(node=node, words=words) for node, words in commands.items()]
    outcomes = gather(WithOneDrained(), wanted, folder, job=job, timeout_seconds=seconds)
    return {one.node: one.why for one in outcomes}


def test_each_node_is_a_snapshot_or_a_reason(tmp_path: Path):
    (tmp_path / "good.json").write_bytes(GOOD)
    out = tmp_path / "out"
    cat = f"cat {tmp_path}/good.json"
    why = gathered(
        out,
        {
            "well": (program(tmp_path, "well", cat),),
            "noisy": (
                program(tmp_path, "noisy", f"echo 'Welcome to {{this}} node'; {cat}; echo Bye."),
            ),
            "broken": (program(tmp_path, "broken", f"{cat}; exit 1"),),
            "refuses": (program(tmp_path, "refuses", "echo 'Permission denied' >&2; exit 255"),),
            "garbage": (program(tmp_path, "garbage", "echo hello"),),
            "cut": (program(tmp_path, "cut", f"head -c 900 {tmp_path}/good.json"),),
            "killed": (program(tmp_path, "killed", "kill -9 $$"),),
            "absent": ("/nowhere/ssh",),
            "gone": ("true",),
        },
    )

    assert why.pop("refuses").endswith("ended with status 255: Permission denied")
    assert why.pop("killed").endswith("was ended by signal 9")
    assert why == {
        "well": "",
        "noisy": "",
        "broken": "",
        "garbage": "what it sent is no snapshot: hello",
        "cut": "its answer is cut off after 900 characters",
        "absent": "could not start /nowhere/ssh: No such file or directory",
        "gone": "drained: bad PSU",
    }
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        *("absent.failed", "broken.json", "cut.failed", "garbage.failed", "gone.failed"),
        *("killed.failed", "noisy.json", "refuses.failed", "well.json"),
    ]
    assert (out / "noisy.json").read_bytes() == GOOD


def test_a_node_that_hangs_stops_nobody_else_and_its_last_words_are_kept(tmp_path: Path):
    began = time.monotonic()
    hangs = program(tmp_path, "hangs", "echo 'job 7 queued and waiting' >&2; exec sleep 60")
    why = gathered(tmp_path / "out", {"hangs": (hangs,), "garbage": ("echo", "x")}, seconds=2.0)

    assert why["hangs"] == "late: 2 s; job 7 queued and waiting"
    assert time.monotonic() - began < 10


def test_a_node_that_never_stops_writing_is_cut_short(tmp_path: Path):
    why = gathered(tmp_path / "out", {"floods": ("yes", "x" * 4000)}, seconds=30.0)

    assert why == {"floods": "sent more than 64 MiB"}


def test_a_daemon_that_keeps_the_pipes_does_not_hold_the_answer_back(tmp_path: Path):
    (tmp_path / "good.json").write_bytes(GOOD)
    leaves = program(tmp_path, "leaves", f"sleep 20 & cat {tmp_path}/good.json")
    began = time.monotonic()
    why = gathered(tmp_path / "out", {"leaves": (leaves,)}, seconds=30.0)

    assert why == {"leaves": ""}
    assert time.monotonic() - began < 10


def test_a_second_run_asks_only_those_that_gave_nothing(tmp_path: Path):
    (tmp_path / "good.json").write_bytes(GOOD)
    out = tmp_path / "out"
    flaky = program(
        tmp_path, "flaky", f"[ -e {tmp_path}/again ] && exec cat {tmp_path}/good.json; exit 1"
    )
    well = program(tmp_path, "well", f"echo x >> {tmp_path}/asked; cat {tmp_path}/good.json")
    gathered(out, {"well": (well,), "flaky": (flaky,)})
    (tmp_path / "again").touch()

    assert gathered(out, {"well": (well,), "flaky": (flaky,)}) == {"flaky": ""}
    assert (tmp_path / "asked").read_text() == "x\n"
    assert not (out / "flaky.failed").exists()


def test_answers_to_two_questions_do_not_mix(tmp_path: Path):
    gathered(tmp_path / "out", {"garbage": ("echo", "x")})

    with pytest.raises(UsageError, match="holds answers to doctor, not to bench"):
        gathered(tmp_path / "out", {"garbage": ("echo", "x")}, job="bench")


def test_whoever_leaves_early_leaves_no_process(tmp_path: Path):
    wanted = [
        Task(node="first", words=("echo", "x")),
        Task(node="long", words=("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 100")),
    ]
    outcomes = gather(Local(), wanted, tmp_path / "out", job="doctor", timeout_seconds=60)
    assert next(outcomes).node == "first"
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        time.sleep(0.02)

    outcomes.close()

    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@pytest.mark.parametrize("job", [name for name in JOBS if name != ALLREDUCE])
def test_every_job_is_a_command_that_prints_a_snapshot(job: str):
    [task] = tasks(job, ["n1"], ["/opt/my tools/gpucheck"])

    assert task.words[:1] == ("/opt/my tools/gpucheck",)
    assert {"snapshot", "--snapshot"} & set(task.words)
    assert "-" in task.words


def test_a_snapshot_is_found_among_noise_whatever_its_layout():
    spaced = msgspec.json.format(GOOD, indent=1)

    assert snapshot_in(b'motd {"schema": 1}\n' + spaced + b"\nlogout\n") == (spaced, "")
    assert snapshot_in(b"") == (b"", "what it sent is no snapshot: nothing")
    assert "not whole" in snapshot_in(GOOD[:-1] + b" Warning: slow disk" + GOOD[-1:])[1]


def test_ssh_asks_nothing_and_quotes_what_runs_there():
    command = Ssh().command(Task(node="n1", words=("/opt/my tools/gpucheck", "snapshot")), 60)

    assert command[0] == "ssh"
    assert "BatchMode=yes" in command
    assert command[-2:] == ("n1", "'/opt/my tools/gpucheck' snapshot")


@pytest.mark.parametrize("name", ["ssh", "mpi"])
def test_a_node_named_like_an_option_is_refused(name: str, monkeypatch, tmp_path: Path):
    program(tmp_path, "mpirun", "true")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    chosen = engine(name, Settings())

    with pytest.raises(UsageError, match="no name of a node"):
        chosen.command(Task(node="-oProxyCommand=x", words=("gpucheck",)), 60)  # type: ignore[attr-defined]


def test_a_job_that_works_the_gpus_has_the_slurm_node_to_itself(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    slurm = Slurm(gpus=8)

    for job, alone in (("doctor", False), ("bench", True)):
        [task] = tasks(job, ["n1"], ["gpucheck"])
        command = slurm.command(task, 60)
        assert {"--nodelist=n1", "--gres=gpu:8", "--time=2"} < set(command)
        assert ("--exclusive" in command) == alone


def test_inside_a_slurm_job_each_node_is_a_step_of_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2,4]")
    slurm = Slurm(gpus=8)

    assert slurm.nodes() == ("n1", "n2", "n4")
    assert "--overlap" in slurm.command(Task(node="n1", words=("gpucheck",)), 60)


@pytest.mark.parametrize("name", ["local", "ssh"])
def test_an_engine_without_a_list_of_nodes_asks_for_one(name: str):
    with pytest.raises(UsageError, match=f"--engine {name} needs --nodes"):
        engine(name, Settings()).nodes()


def test_a_plan_of_commands_names_the_file_that_each_fills(tmp_path: Path):
    wanted = tasks("quick", ["a b"], ["gpucheck"])

    text = Ssh().plan(wanted, timeout_seconds=60, out=tmp_path)

    assert shlex.split(text)[-2:] == [">", str(tmp_path / "a b.json")]


def test_sinfo_says_who_is_out_of_reach_and_why():
    text = (
        "n1|idle|gpu:h100:8(S:0-1)|none\nn2|drained|(null)|bad PSU [root] | old\n"
        "n3|idle*|gpu:2,gpu:a100:1|none\nn4|mixed|(null)|none\nn1|idle|gpu:h100:8(S:0-1)|none\n"
    )

    assert parse_sinfo(text) == {
        "n1": NodeState(gpus=8, away=""),
        "n2": NodeState(gpus=0, away="drained: bad PSU [root] | old"),
        "n3": NodeState(gpus=3, away="idle*, does not respond"),
        "n4": NodeState(gpus=0, away=""),
    }


def test_no_engine_is_named_and_missing():
    from gpucheck.fleet import engines

    assert tuple(engines._MADE) == ENGINES

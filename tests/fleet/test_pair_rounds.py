"""The rounds are run by a real engine: here, with programs that answer as nodes do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpucheck.fleet.engines.processes import Local
from gpucheck.fleet.judging import judge_all
from gpucheck.fleet.pairs.circle import pairs_of_round
from gpucheck.fleet.pairs.encounters import FILE, Encounter, read
from gpucheck.fleet.pairs.judging import results_of
from gpucheck.fleet.pairs.running import Rounds
from gpucheck.fleet.reading import answers
from gpucheck.fleet.report import FleetReport, report_of
from gpucheck.fleet.rules import Fleet
from gpucheck.usage_error import UsageError

#: Answers as `gpucheck fleet meet` does; who it is and whom it meets stand in its arguments.
NODE = """\
import json, sys, time
me, other, fault = sys.argv[1:4]
def say(**facts):
    print(json.dumps({"schema": "gpucheck.pair/1", **facts}, separators=(",", ":")), flush=True)
print("motd: welcome {to} the machine")
if fault == "refuses":
    sys.exit("Permission denied (publickey).")
say()
if fault == "dies":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
rate = {"slow": 5.0}.get(fault, 40.0 + len(me + other) % 2)
wrong = "3 of 9 sums on GPU 1 are wrong" if fault == "wrong" else ""
say(is_over=True, gpus=8, rate=None if fault == "broken" else rate, wrong=wrong,
    why="GPU 0 could not add up with it: closed" if fault == "broken" else "")
"""


class Nodes(Local):
    """Real processes that answer as nodes would; `faults` holds a node's, or a pair's."""

    def __init__(self, program: Path, faults: dict[str | frozenset[str], str]) -> None:
        self.program, self.faults = program, faults
        self.asked: list[str] = []

    def run(self, tasks, **how):
        pair_of = {}
        for first, second in zip(tasks[::2], tasks[1::2], strict=True):
            assert ("--first" in first.words, "--first" in second.words) == (True, False)
            assert first.words[3:5] == second.words[3:5]  # where, and at which port
            pair_of[first.node], pair_of[second.node] = second.node, first.node
        self.pair_of = pair_of
        self.asked += [task.node for task in tasks]
        return super().run(tasks, **how)

    def out_of_reach(self, nodes):
        return {node: "drained: bad fan" for node in nodes if self.faults.get(node) == "drained"}

    def command(self, task, timeout_seconds):
        other = self.pair_of[task.node]
        own = (self.faults.get(each) for each in (task.node, frozenset((task.node, other))))
        fault = next((each for each in own if each), "")
        # What one of two suffers, both see.
        if not fault and self.faults.get(other) in ("slow", "wrong"):
            fault = self.faults[other]
        return sys.executable, "-I", "-S", str(self.program), task.node, other, fault or "none"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "node.py"
    file.write_text(NODE)
    return file


def run(
    program: Path, count: int, faults: dict[str | frozenset[str], str], name: str = "out"
) -> tuple[Nodes, FleetReport]:
    engine, folder = Nodes(program, faults), program.parent / name
    nodes = tuple(f"n{number:02d}" for number in range(count))
    rounds = Rounds(engine=engine, nodes=nodes, program=("gpucheck",), folder=folder, fan_out=5)
    encounters = list(rounds.run())
    kept = read(folder)
    assert all(one in kept for one in encounters)
    silent = tuple(judge_all(answers([str(folder)]), processes=1))
    results = (*silent, *results_of(kept))
    return engine, report_of(Fleet(results=results, asked=nodes, encounters=kept))


def rows(report: FleetReport) -> list[tuple[str, str]]:
    return [(finding.code, finding.nodes) for finding in report.findings]


def test_well_nodes_meet_twice_and_that_is_all(program: Path):
    engine, report = run(program, 10, {})

    assert (report.verdict, rows(report), report.examined) == ("healthy", [], 10)
    assert len(engine.asked) == 2 * 10


@pytest.mark.parametrize("fault", ["slow", "wrong", "dies", "broken"])
def test_a_bad_node_is_named(program: Path, fault: str):
    _, report = run(program, 10, {"n03": fault})

    assert rows(report) == [("FLT020", "n03")]
    assert report.verdict == "broken"
    assert report.verdicts == {"broken": 1, "healthy": 9}


def test_a_bad_path_is_named(program: Path):
    pair = frozenset(pairs_of_round([f"n{number:02d}" for number in range(9)], 1)[1])

    _, report = run(program, 9, {pair: "broken"})

    [(code, _)] = rows(report)
    assert code == "FLT021"
    assert all(node in report.findings[0].saw for node in pair)


def test_nodes_that_cannot_be_asked_are_named_with_their_reasons(program: Path):
    _, report = run(program, 10, {"n02": "drained", "n07": "refuses"})

    assert sorted(rows(report)) == [("FLT003", "n02"), ("FLT003", "n07")]
    saws = {finding.nodes: finding.saw for finding in report.findings}
    assert saws["n02"] == "drained: bad fan"
    assert "Permission denied" in saws["n07"]
    assert report.verdict == "incomplete"
    assert report.examined == 8


def test_a_second_run_into_the_folder_asks_those_that_never_began(program: Path):
    run(program, 8, {"n03": "refuses"})

    engine, report = run(program, 8, {})

    assert (report.verdict, rows(report)) == ("healthy", [])
    assert len(engine.asked) == 4  # two meetings of n03
    assert engine.asked.count("n03") == 2
    assert not (program.parent / "out/n03.failed").exists()


def test_the_folder_of_another_job_is_refused(program: Path):
    (program.parent / "out").mkdir()
    (program.parent / "out/.asked-for").write_text("bench\n")

    with pytest.raises(UsageError, match="holds answers to bench"):
        run(program, 4, {})


def test_a_folder_of_meetings_is_judged_again(program: Path):
    run(program, 8, {"n03": "wrong", "n05": "refuses"})

    done = subprocess.run(
        [sys.executable, "-m", "gpucheck", "fleet", "judge", str(program.parent / "out")],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert "FLT020  A node fails or slows what it computes with others: 1 node" in done.stdout
    assert "nodes n03" in done.stdout
    assert "FLT003" in done.stdout


def test_a_file_of_meetings_that_is_cut_off_is_a_wrong_call(tmp_path: Path):
    whole = json.dumps({"round": 1, "first": "a", "second": "b"})
    (tmp_path / FILE).write_text(f"{whole}\n{whole[:10]}")

    with pytest.raises(UsageError, match=FILE):
        read(tmp_path)


def test_the_second_node_looks_for_the_first_without_the_user_that_ssh_logs_in_as(tmp_path: Path):
    nodes = ("root@n1", "root@n2")
    rounds = Rounds(engine=Local(), nodes=nodes, program=("gpucheck",), folder=tmp_path)

    first, second = rounds.tasks(1, [nodes])

    words = ("gpucheck", "fleet", "meet", "n1", "28101", "--device=cuda")
    assert (first.words, second.words) == ((*words, "--first"), words)


def test_who_met_has_a_partner_and_the_slower_rate():
    one = Encounter(round=1, first="a", second="b")

    assert (one.partner_of("a"), one.partner_of("b"), one.rate, one.failure) == ("b", "a", None, "")


def test_three_nodes_meet_on_the_cpu_as_the_command_is_typed(tmp_path: Path):
    pytest.importorskip("torch", reason="torch is not in this environment")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "gpucheck", "fleet", "run", "allreduce", "--engine", "local"),
            *("--nodes", "a,b,c", "--out", str(tmp_path / "out"), "--device", "cpu"),
            *("--remote-command", f"{sys.executable} -m gpucheck"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 of 3 nodes examined, 3 rehearsal\n\nRehearsal.\n"
    assert len(read(tmp_path / "out")) == 2

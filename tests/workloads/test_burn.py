"""The burn on the CPU: the same program, small sizes, and faults slipped into its processes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from interpreters import patched_python

import machines
from gpucheck import burn_evidence as evidence
from gpucheck.report import Report, examine
from gpucheck.snapshot import Burn, Unknown, replace
from gpucheck.workloads import burn as burns
from gpucheck.workloads.burn import BurnRun
from gpucheck.workloads.burn_journal import FILE, Journal
from gpucheck.workloads.burn_plan import BurnPlan, BurnPlanError
from machines import machine

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
    ),
]

#: What a GPU does from its start on, in the names of the modules that do the work.
ON_GPU = """
import os, signal, time
ready = PREPARATIONS["prepare"]
def prepare_and_spoil(gpu, **order):
    from gpucheck_payload import burn_memory, burn_products, exact
    facts = ready(gpu=gpu, **order)
    {spoil}
    return facts
PREPARATIONS["prepare"] = prepare_and_spoil
"""


def run(folder: Path, python: str = sys.executable, *, seconds: float = 1.5, **plan: Any) -> Burn:
    made = BurnPlan(device="cpu", minutes=seconds / 60, **{"gpus": "2", **plan})
    journal = Journal(folder / "journal", resume=False)
    with BurnRun(made, journal=journal, folder=folder / "journal", python=python) as started:
        return started.burn()


def judged(burn: Burn) -> Report:
    return examine(machine(replace(machines.HEALTHY, burn=burn)), select=("BRN",))


def spoiled(folder: Path, spoil: str) -> str:
    """Return a Python whose burns do *spoil* on each GPU when it is prepared."""
    return patched_python(folder, "burn", ON_GPU.format(spoil=spoil.replace("\n", "\n    ")))


def test_each_phase_is_carried_out_and_nothing_is_found(tmp_path: Path):
    burn = run(tmp_path, seconds=3.0)

    assert isinstance(burn.gpus, tuple)
    for gpu in burn.gpus:
        kinds = {work.kind for work in gpu.work}
        assert kinds == {
            *("bf16", "fp16", "tf32", "int8", "fp32", "fp64", "memory", "h2d", "d2h"),
        }
        assert gpu.stopped is None
        assert gpu.loaded_seconds > 0.5 * burn.elapsed_seconds
    assert {work.kind for work in burn.work} == {"peer", "all-reduce"}
    assert (burn.proof, burn.stopped, burn.faults, burn.errors) == (None, None, (), ())
    assert burn.alarms == burn.alarms_found > 10
    assert judged(burn).verdict == "rehearsal"
    assert [each.name for each in (tmp_path / "journal").iterdir()] == [FILE]


def test_a_gpu_that_computes_wrongly_is_named(tmp_path: Path):
    flip = """
if gpu == 1:
    multiply, calls = burn_products.Product.multiply, []
    def wrong(self, slot):
        multiply(self, slot)
        calls.append(1)
        if len(calls) == 3:
            exact.words(slot)[5] ^= 1 << 20
    burn_products.Product.multiply = wrong"""

    burn = run(tmp_path, spoiled(tmp_path, flip), phases=("tensor",))

    report = judged(burn)
    [finding] = report.findings
    assert (finding.code, finding.gpus, report.verdict) == ("BRN001", (1,), "broken")
    assert "1 of " in finding.saw
    assert "bf16 products of 128 × 128 × 1024 wrong; 1 word in the first (row 0, column 10)" in (
        finding.saw
    )
    assert finding.saw.endswith(
        "bit 20; not repeatable (0 of 10); its inputs were intact; the same products were right on "
        "1 other GPU"
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burns, "_SILENCE_SECONDS", 8.0)


def test_gpus_that_die_or_hang_stop_and_the_others_go_on(tmp_path: Path, impatient: None):
    spoil = """
multiply = burn_products.Product.multiply
def fails(self, slot):
    if gpu == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)
if gpu:
    burn_products.Product.multiply = fails"""
    python = spoiled(tmp_path, spoil)

    burn = run(tmp_path, python, gpus="3", phases=("memory", "tensor"), seconds=2.0)

    assert isinstance(burn.gpus, tuple)
    sound, killed, hung = burn.gpus
    assert sound.stopped is None
    assert {work.kind for work in sound.work} > {"memory", "bf16"}
    assert "crashed with SIGKILL" in str(killed.stopped)
    assert "no answer in 8 s" in str(hung.stopped)
    assert [(one.code, one.gpus) for one in judged(burn).findings] == [
        ("BRN008", (1,)),
        ("BRN008", (2,)),
    ]


def test_a_slow_gpu_is_named(tmp_path: Path):
    slow = """
if gpu == 1:
    multiply = burn_products.Product.multiply
    def slowly(self, slot):
        multiply(self, slot)
        time.sleep(0.05)
    burn_products.Product.multiply = slowly"""

    burn = run(tmp_path, spoiled(tmp_path, slow), phases=("core",))

    assert judged(burn).findings == (), "on the CPU no speed is judged"
    [finding] = judged(replace(burn, device="cuda")).findings
    assert (finding.code, finding.gpus) == ("BRN006", (1,))


def test_a_factor_that_changes_in_memory_is_told_from_wrong_arithmetic(tmp_path: Path):
    flip = """
if gpu == 0:
    restore, calls = burn_products.Product.restore, []
    def damaged(self):
        restore(self)
        calls.append(1)
        if len(calls) == 1:
            exact.words(self.left)[3] ^= 1 << 21
    burn_products.Product.restore = damaged"""

    burn = run(tmp_path, spoiled(tmp_path, flip), gpus="1", phases=("core",))

    [finding] = judged(burn).findings
    assert finding.code == "BRN001"
    assert "numbers of the left factor had changed" in finding.saw
    assert "its inputs were intact" not in finding.saw


def test_a_data_type_that_this_torch_lacks_costs_no_other(tmp_path: Path):
    lacks = """
import torch
def none(*_, **__):
    raise NotImplementedError("no int8 here")
torch._int_mm = none"""

    burn = run(tmp_path, spoiled(tmp_path, lacks), gpus="1", phases=("tensor",))

    [gpu] = evidence.gpus(machine(burn=burn))
    assert {work.kind for work in gpu.work} == {"bf16", "fp16", "tf32"}
    assert burn.errors == ("gpu 0: tensor: int8: NotImplementedError: no int8 here",)
    assert judged(burn).verdict == "incomplete"


def test_a_cpu_that_multiplies_wrongly_proves_nothing(tmp_path: Path):
    wrong = """
import torch
right = torch.mm
def off_by_one(left, right_factor, **more):
    found = right(left, right_factor, **more)
    if found.dtype == torch.float32:
        found[0, 0] += 1
    return found
torch.mm = off_by_one"""

    burn = run(tmp_path, spoiled(tmp_path, wrong), gpus="1", phases=("core",))

    assert "the CPU's own product is wrong" in str(burn.proof)
    assert judged(burn).verdict == "incomplete"


@pytest.mark.parametrize(
    "plan", [{"gpus": "two"}, {"gpus": "0,0"}, {"phases": ("tensor", "speed")}]
)
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, Any]):
    with pytest.raises(BurnPlanError):
        BurnPlan(**plan).check()


def test_a_gpu_on_which_somebody_computes_is_left_alone(tmp_path: Path):
    plan = BurnPlan(device="cpu", gpus="2", minutes=0.01, phases=("core",))
    journal = Journal(tmp_path, resume=False)

    with BurnRun(plan, journal=journal, folder=tmp_path, python=sys.executable) as started:
        burn = started.burn(busy={1: "another process works on the GPU (pid 7)"})

    assert [gpu.index for gpu in evidence.gpus(machine(burn=burn))] == [0]
    assert burn.errors == ("gpu 1: another process works on the GPU (pid 7)",)
    assert judged(burn).verdict == "incomplete"


# --------------------------------------------------------------------------------- the command


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "gpucheck", "burn", "--device", "cpu", "--gpus", "1", *options]


def started(*options: str, start_new_session: bool = False) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def wait_for_work(folder: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (folder / FILE).exists() and b'"worked"' in (folder / FILE).read_bytes():
            return
        time.sleep(0.05)
    raise AssertionError("nothing was done in a minute")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_verdict_within_five_seconds(tmp_path: Path, number: int):
    folder = tmp_path / "burn"
    process = started("--minutes", "0.5", "-o", str(folder), "--json")
    wait_for_work(folder)

    began = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)

    assert time.monotonic() - began < 5
    assert process.returncode == 1, errors
    report = json.loads(output)
    assert report["verdict"] == "incomplete"
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    assert report["burn"]["stopped"] == f"stopped by {name}"
    assert report["burn"]["gpus"][0]["work"]


def test_a_signal_to_all_its_processes_while_it_starts_ends_it_with_a_verdict(tmp_path: Path):
    folder = tmp_path / "burn"
    process = started("--minutes", "10", "-o", str(folder), "--json", start_new_session=True)
    until = time.monotonic() + 30
    while not (folder / FILE).exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)

    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=30)

    assert process.returncode == 1, errors
    report = json.loads(output)
    assert (report["verdict"], report["burn"]["stopped"]) == ("incomplete", "stopped by SIGTERM")


def test_a_burn_goes_on_after_a_kill_and_after_a_reboot(tmp_path: Path):
    folder = tmp_path / "burn"
    process = started("--minutes", "0.1", "-o", str(folder), "--json")
    wait_for_work(folder)
    process.kill()
    process.communicate(timeout=30)
    journal = folder / FILE
    half = b'{"event":"worked","seconds":0.9,"gpu":0,"wo'
    another_boot = os.urandom(16).hex()
    lines = journal.read_bytes().splitlines()
    first = json.loads(lines[0])
    before = sum(
        work["count"]
        for line in lines
        if (event := json.loads(line))["event"] == "worked"
        for work in event["work"]
    )
    rebooted = json.dumps({**first, "boot": another_boot}).encode()
    journal.write_bytes(b"\n".join([rebooted, *lines[1:], half]))

    page = tmp_path / "burn.html"
    ended = subprocess.run(
        command("--resume", str(folder), "--json", "--html", str(page)),
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    [finding] = report["findings"]
    assert finding["code"] == "BRN012"
    assert finding["saw"].startswith("the machine restarted after 0.0 minutes")
    assert report["burn"]["elapsed_seconds"] == pytest.approx(6, abs=1.5)
    assert sum(work["count"] for work in report["burn"]["gpus"][0]["work"]) > before > 0
    assert "<svg" in page.read_text()
    again = subprocess.run(command("--resume", str(folder)), capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.strip().endswith("the burn is over: there is nothing to resume")


def test_a_folder_with_a_burn_is_not_written_over(tmp_path: Path):
    (tmp_path / FILE).write_text("")

    ended = subprocess.run(command("-o", str(tmp_path)), capture_output=True, text=True)

    assert ended.returncode == 2
    assert "go on with it by --resume" in ended.stderr


def test_a_journal_that_is_none_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / FILE).write_text('{"event": "worked"}\n')

    for folder in (tmp_path, tmp_path / "nowhere"):
        ended = subprocess.run(command("--resume", str(folder)), capture_output=True, text=True)

        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1


def test_the_facts_survive_a_snapshot(tmp_path: Path):
    burn = run(tmp_path, gpus="1", phases=("core",), seconds=0.6)

    again = msgspec.json.decode(msgspec.json.encode(burn), type=Burn)

    assert again == burn
    assert not isinstance(burn.stopped, Unknown)

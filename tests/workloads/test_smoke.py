import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from interpreters import patched_python

from gpucheck.probes.messages import Downloading, Drawing, Message, Notice
from gpucheck.report import Finding, examine
from gpucheck.snapshot import NotFinite, Snapshot, Training, TrainingFailure
from gpucheck.workloads.plan import Plan
from gpucheck.workloads.smoke import Smoke
from seen_facts import seen

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
    ),
]
DEADLINE_SECONDS = 25.0  # the import of torch alone takes ten on a busy machine


FAULTS = Path(__file__).with_name("faults.py").read_text()


def train(data: Path, cache: Path, *, fault: str = "", **plan: Any) -> Training:
    """Rehearse a smoke training on the CPU."""
    variables, python = dict(os.environ), sys.executable
    if fault:
        variables["GPUCHECK_TEST_FAULT"] = fault
        python = patched_python(cache / "faulty" / fault, "training", FAULTS)
        plan.setdefault("timeout_seconds", 30.0)
    settings = {"device": "cpu", "data": str(data), "cache": str(cache), **plan}
    with Smoke(Plan(**settings), python=python, variables=variables) as smoke:
        return smoke.finish()


def findings(training: Training) -> list[Finding]:
    return list(examine(Snapshot(training=training), select=("TRN",)).findings)


def codes(training: Training) -> list[str]:
    return [finding.code for finding in findings(training)]


def failure(training: Training) -> TrainingFailure:
    assert isinstance(training.failure, TrainingFailure)
    return training.failure


@pytest.fixture(scope="module")
def sound(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return train(digits, tmp_path_factory.mktemp("cache"))


def test_a_sound_machine_passes_every_rule_that_a_rehearsal_can_judge(sound: Training):
    training = sound

    report = examine(Snapshot(training=training), select=("TRN",))

    assert not report.findings
    assert not report.not_checked
    assert {"TRN001", "TRN003", "TRN004", "TRN007"} <= set(report.passed)
    assert isinstance(training.replicas, tuple)
    assert [replica.images for replica in training.replicas] == [15_000] * 4
    assert isinstance(training.losses, tuple)
    assert len(training.losses) == 10
    assert set(training.phases_ms) >= {"import", "data", "copies", "training", "parity", "total"}


def test_one_seed_gives_one_curve_and_another_seed_another(
    sound: Training, digits: Path, tmp_path: Path
):
    same = train(digits, tmp_path, seed=sound.seed, gpus="3")
    other = train(digits, tmp_path, seed=sound.seed + 1, gpus="2")

    assert sound.losses == pytest.approx(same.losses, abs=1e-5)
    assert sound.losses != pytest.approx(other.losses, abs=1e-2)
    assert not codes(same)


def test_more_epochs_than_one_are_compared_by_their_first(digits: Path, tmp_path: Path):
    training = train(digits, tmp_path, epochs=2)

    assert not codes(training)
    assert isinstance(training.losses, tuple)
    assert len(training.losses) == 20
    assert isinstance(training.replicas, tuple)
    assert training.replicas[0].images == 30_000


def test_a_replica_that_returns_zeros_is_named(digits: Path, tmp_path: Path):
    training = train(digits, tmp_path, fault="zero replica:2")

    [parity] = [finding for finding in findings(training) if finding.code == "TRN003"]
    assert parity.subject == "replica 2"
    assert parity.explained_by is None


def test_a_number_that_is_not_finite_is_named_with_its_batch(digits: Path, tmp_path: Path):
    training = train(digits, tmp_path, fault="nan:40")

    assert training.not_finite == NotFinite(step=40, what="the loss")
    assert codes(training) == ["TRN002"]


def test_the_gradients_of_the_very_last_batch_count_too(digits: Path, tmp_path: Path):
    training = train(digits, tmp_path, fault="nan gradient:235", gpus="1")

    assert isinstance(training.not_finite, NotFinite)
    assert training.not_finite.step == 235
    assert training.not_finite.what == "the parameter 1.weight after the step"
    assert codes(training) == ["TRN002"]


def test_a_copy_that_flips_one_bit_is_found(digits: Path, tmp_path: Path):
    training = train(digits, tmp_path, fault="flipped bit:1", gpus="2")

    assert isinstance(training.copies, tuple)
    first = training.copies[0]
    assert (first.source, first.target) == (0, 1)
    assert first.error == "1 of 65,539 bytes differ, first at 1,000"


def test_whatever_hangs_ends_at_the_deadline_with_the_place(digits: Path, tmp_path: Path):
    def hang(fault: str) -> Training:
        return train(digits, tmp_path, fault=fault, timeout_seconds=DEADLINE_SECONDS)

    began = time.monotonic()
    with ThreadPoolExecutor() as together:  # most of the time they wait
        step, copies, stopped = together.map(hang, ["hang:50", "hang in copies:0", "stop:20"])
    seconds = time.monotonic() - began

    assert seconds < DEADLINE_SECONDS + 60
    assert codes(step) == codes(copies) == codes(stopped) == ["TRN005"]
    assert (failure(step).phase, failure(step).step) == ("training", 50)
    assert any("_hang" in frame for frame in failure(step).stack)
    assert failure(copies).phase == "copies"
    assert "stopped" in str(failure(stopped).message)
    for training in (step, copies, stopped):
        assert DEADLINE_SECONDS <= seen(failure(training).after_seconds) < DEADLINE_SECONDS + 10


@pytest.mark.parametrize(
    ("fault", "code", "kind", "said"),
    [
        ("kill:20", "TRN011", "crash", "SIGKILL"),
        ("leave:20", "TRN011", "exit", "exit status 7"),
        ("raise:20", "TRN011", "error", "an illegal memory access"),
        ("out of memory:20", "TRN010", "out of memory", "allocate memory"),
    ],
)
def test_a_child_that_ends_early_is_named_with_its_reason(
    digits: Path, tmp_path: Path, fault: str, code: str, kind: str, said: str
):
    training = train(digits, tmp_path, fault=fault)

    [finding] = findings(training)
    assert (finding.code, failure(training).kind) == (code, kind)
    assert failure(training).step == 20
    assert said in finding.saw


def test_a_crash_is_told_with_the_place_in_the_program(digits: Path, tmp_path: Path):
    training = train(digits, tmp_path, fault="segv:20")

    [finding] = findings(training)
    assert finding.code == "TRN011"
    assert "SIGSEGV in batch 20" in finding.saw
    assert failure(training).kind == "crash"
    assert any(frame.startswith("training.py") for frame in failure(training).stack)
    assert "Fatal Python error: Segmentation fault" in failure(training).last_lines


def test_data_that_is_not_there_is_a_finding(tmp_path: Path):
    training = train(tmp_path / "nowhere", tmp_path)

    [finding] = findings(training)
    assert (finding.code, finding.subject) == ("TRN008", str(tmp_path / "nowhere"))


def test_synthetic_digits_are_drawn_into_the_cache_and_pass(tmp_path: Path):
    training = train(Path("synthetic"), tmp_path)

    assert training.data == "synthetic"
    assert not codes(training)
    assert (tmp_path / "synthetic" / "train-images-idx3-ubyte").exists()


def test_a_spoiled_cache_of_synthetic_digits_is_drawn_again(tmp_path: Path):
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "train-images-idx3-ubyte").write_bytes(b"half a fi")

    training = train(Path("synthetic"), tmp_path)

    assert not codes(training)


def test_digits_that_were_drawn_once_are_at_hand_where_no_data_is_named(
    digits: Path, tmp_path: Path, faulty_python: str
):
    (tmp_path / "synthetic").symlink_to(digits)
    variables = {**os.environ, "GPUCHECK_TEST_FAULT": "leave:1"}
    reported: list[Message] = []
    plan = Plan(device="cpu", gpus="1", cache=str(tmp_path))

    with Smoke(
        plan,
        python=faulty_python,
        variables=variables,
        listener=reported.append,
    ) as smoke:
        training = smoke.finish()

    assert training.data_directory == str(tmp_path / "synthetic")
    assert not any(isinstance(each, Downloading | Drawing) for each in reported)
    [notice] = [each.text for each in reported if isinstance(each, Notice)]
    assert notice == f"no MNIST in {tmp_path}/mnist: synthetic digits drawn earlier"


def test_without_cuda_the_gpus_that_were_asked_for_are_missing(digits: Path, tmp_path: Path):
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    plan = Plan(data=str(digits), cache=str(tmp_path))
    with Smoke(plan, python=sys.executable, variables={**os.environ, **hidden}) as smoke:
        training = smoke.finish()

    [finding] = findings(training)
    assert finding.code == "TRN006"
    assert "torch sees 0 GPUs" in finding.saw
    assert training.losses != ()


# --------------------------------------------------------------------------------- the command


def start(digits: Path, tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gpucheck",
            "smoke",
            "--device",
            "cpu",
            "--data",
            str(digits),
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
    )


def children_of(pid: int) -> list[int]:
    """The processes below *pid*, its children's children too."""
    below = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            child = int(path.parent.name)
            below += [child, *children_of(child)]
    return below


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_log_has_the_form_that_everybody_greps_for(digits: Path, tmp_path: Path):
    process = start(digits, tmp_path)
    output, errors = process.communicate(timeout=100)

    assert process.returncode == 0, errors
    lines = output.splitlines()
    form = r"Train Epoch: 1 \[6400/60000 \(11%\)\]\tLoss: \d\.\d{6}"
    assert re.fullmatch(form, lines[1])
    assert sum(line.startswith("Train Epoch: 1 [") for line in lines) == 10
    assert "A REHEARSAL ON THE CPU: NO GPU WAS PROVEN." in output
    assert not errors


def test_json_is_one_object_with_the_report_and_the_training(digits: Path, tmp_path: Path):
    import json

    facts = str(tmp_path / "facts.json")
    process = start(digits, tmp_path, "--json", "--snapshot", facts)
    output, errors = process.communicate(timeout=100)
    report = json.loads(output)
    again = subprocess.run(
        [sys.executable, "-m", "gpucheck", "doctor", "--json", "--select", "TRN", "--from", facts],
        capture_output=True,
        text=True,
    )

    assert not errors
    assert report["schema"] == "gpucheck.report/1"
    assert len(report["training"]["losses"]) == 10
    assert report["training"]["parity"] < 1e-5
    judged_again = json.loads(again.stdout)
    for part in ("verdict", "exit_code", "findings", "passed", "training"):
        assert judged_again[part] == report[part]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_no_process_is_left(digits: Path, tmp_path: Path, how: signal.Signals):
    process = start(digits, tmp_path, "--epochs", "1000")
    assert process.stdout is not None
    while "Train Epoch" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    below = children_of(process.pid)

    process.send_signal(how)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert ("gpucheck: stopped by Ctrl-C" in errors) == (how is signal.SIGINT)
    assert "Traceback" not in errors
    assert below
    until = time.monotonic() + 20
    while any(is_alive(pid) for pid in below) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in below if is_alive(pid)]


@pytest.mark.parametrize(
    "options",
    [
        ["--gpus", "two"],
        ["--gpus", "0,,1"],
        ["--epochs", "0"],
        ["--strategy", "fsdp"],
        ["--batch-size", "-1"],
    ],
)
def test_a_wrong_call_is_refused_in_one_line(digits: Path, tmp_path: Path, options: list[str]):
    process = start(digits, tmp_path, *options)
    output, errors = process.communicate(timeout=100)

    assert process.returncode == 2
    assert not output
    assert len(errors.splitlines()) == 1


def test_a_python_without_torch_is_refused_with_the_line_that_installs_it(
    digits: Path, tmp_path: Path
):
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True
    )

    process = start(digits, tmp_path, "--python", str(tmp_path / "bare/bin/python"))
    output, errors = process.communicate(timeout=100)

    assert process.returncode == 2
    assert not output
    [line] = errors.splitlines()
    assert "bare/bin/python has no torch. Install it: " in line
    assert "pip" in line
    assert "torch" in line.partition("Install it: ")[2]
    assert "--index-url https://download.pytorch.org/whl/cpu" in line  # it is a rehearsal


def test_a_download_without_torchvision_is_refused_with_the_line_that_installs_it(tmp_path: Path):
    python = patched_python(
        tmp_path / "bin", "smoke", "import sys\nsys.modules['torchvision'] = None\n"
    )

    process = start(Path("download"), tmp_path, "--python", python)
    output, errors = process.communicate(timeout=100)

    assert process.returncode == 2, output
    assert errors.splitlines()[-1].startswith(f"gpucheck: {python} has no torchvision")


def test_a_folder_without_mnist_is_refused_before_anything_starts(tmp_path: Path):
    process = start(tmp_path / "nowhere", tmp_path)
    output, errors = process.communicate(timeout=100)

    assert process.returncode == 2
    assert not output
    [line] = errors.splitlines()
    assert f"--data {tmp_path / 'nowhere'}: no such directory" in line
    assert "--data synthetic" in line


def test_synthetic_digits_are_announced_with_the_reason(tmp_path: Path):
    python = patched_python(
        tmp_path / "bin",
        "mnist",
        "def download(directory):\n    raise OSError('the network is\x1b[2J down')\n",
    )
    command = [sys.executable, "-m", "gpucheck", "smoke", "--device", "cpu", "--python", python]

    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )

    assert ended.returncode == 0, ended.stderr
    assert "synthetic digits" in ended.stderr
    assert "the network is" in ended.stderr
    assert "\x1b" not in ended.stderr

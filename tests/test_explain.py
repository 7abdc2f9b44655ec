"""`gpucheck explain` knows codes, families, Xids and pasted errors, or says that it does not."""

import os
import random
import subprocess
import sys
import time

import pytest

from gpucheck.cli.explain import pasted
from gpucheck.explain import explanation, rule_list
from gpucheck.explain.pasted import pages
from gpucheck.families import FAMILIES
from gpucheck.knowledge import cuda_errors, xid
from gpucheck.rules import RULES
from gpucheck.usage_error import NoAnswerError, UsageError


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_rule_is_explained_with_its_title_and_its_causes():
    for rule in RULES:
        text = explanation(f" {rule.code.lower()}\n")

        assert flat(f"{rule.code} ({rule.severity.value}): {rule.title}") in flat(text)
        assert flat(rule.explanation) in flat(text)
        for root in rule.caused_by:
            assert f"\n  {root}  " in text or root not in {each.code for each in RULES}


def test_a_rule_lists_related_xids_and_messages():
    text = explanation("GPU004")

    assert "Related Xids: 48, 94-95" in text
    assert "uncorrectable ecc error encountered" in text


def test_a_family_is_listed():
    assert explanation("gpu").startswith("GPU: each GPU's health\n  GPU001  error    ")


def test_the_list_holds_every_rule_once():
    listed = [line.split()[0] for line in rule_list().splitlines() if line.startswith("  ")]

    assert sorted(listed) == sorted(rule.code for rule in RULES)
    assert {rule.family for rule in RULES} <= {family.prefix for family in FAMILIES}


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("GPU999", "GPU0"),
        ("CUDA_ERROR_NO_DEVISE", "CUDA_ERROR_NO_DEVICE"),
        ("NVML_ERROR_GPU_LOST", "NVML_ERROR_GPU_IS_LOST"),
        ("cudaErrorNoDevic", "CUDA_ERROR_NO_DEVICE"),
    ],
)
def test_an_unknown_code_gets_the_nearest(wrong: str, near: str):
    with pytest.raises(UsageError, match=rf"did you mean .*{near}"):
        explanation(wrong)


@pytest.mark.parametrize("text", ["", "  ", "hello world", "no such error", "4242"])
def test_a_text_that_is_not_known_is_said_to_be_so_in_one_line(text: str):
    with pytest.raises(UsageError) as refused:
        explanation(text)

    assert "\n" not in str(refused.value)


def test_where_nothing_is_known_it_says_what_to_run_next():
    with pytest.raises(UsageError, match="run `gpucheck doctor` on the machine"):
        explanation("something failed somewhere")


def test_a_pasted_error_gets_meaning_fault_commands_proof_link_and_rules():
    text = explanation("RuntimeError: CUDA error: uncorrectable ECC error encountered")

    assert text.startswith("Error 214: ")
    assert "\nWhose fault: the hardware.\n" in text
    assert "\nWhat to do: Stop the work on the GPU" in text
    assert "\n  $ sudo nvidia-smi --gpu-reset -i 0\n" in text
    assert "\nIt worked when " in text
    assert "\nRead more: https://docs.nvidia.com/" in text
    assert "\n  GPU004  Uncorrected ECC errors since the driver loaded\n" in text


def test_root_needs_no_sudo():
    assert "sudo" not in explanation("Xid 79", as_root=True)


def test_commands_say_where_they_run():
    text = explanation("Failed to initialize NVML: GPU access blocked by the operating system")

    assert "\n  in Windows:\n  > wsl --update\n" in text


def test_the_general_error_is_dropped_where_a_specific_one_is_known():
    text = explanation(
        "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"
    )

    assert text.startswith("Error 802")
    assert "Also:" not in text


def test_several_errors_of_one_text_are_named_and_the_first_is_explained():
    text = explanation(
        "RuntimeError: CUDA error: an illegal memory access was encountered\n"
        "torch.OutOfMemoryError: CUDA out of memory"
    )

    assert text.count("What to do:") == 1
    assert text.count("\nAlso:\n") == 1


@pytest.mark.parametrize("width", [40, 80, 120])
def test_text_is_wrapped_and_commands_are_not_broken(width: int):
    text = explanation("error 802", width=width)

    for line in text.splitlines():
        if not line.startswith(("  $", "  GPU", "  DRV", "  LNK", "Read more")):
            assert len(line) <= width, line


# --- Xids


@pytest.mark.parametrize("row", xid.table().xids, ids=lambda row: str(row.number))
def test_a_line_of_every_xid_gives_its_meaning_and_its_action(row: xid.XidMeaning):
    generator = random.Random(row.number)
    bus = f"{generator.randrange(1 << 16):04x}:{generator.randrange(256):02x}:00"
    line = (
        f"[{generator.random() * 1e5:12.6f}] NVRM: Xid (PCI:{bus}): {row.number}, "
        f"pid={generator.randrange(1, 1 << 22)}, name=python3, Ch {generator.randrange(64):08x}"
    )

    for text in (line, f"Xid {row.number}", f"xid {row.number}", f"XID: {row.number}"):
        shown = flat(explanation(text))

        assert flat(row.meaning) in shown
        assert row.name.split(" ")[0] in shown
        assert row.what_to_do in shown
        assert "Whose fault: " in shown
    assert bus in explanation(line)


def test_a_reset_names_the_gpu_of_the_line():
    text = explanation("NVRM: Xid (PCI:0000:3b:00): 62, 2f1b(2e7c) 00000000 00000000")

    assert "nvidia-smi --gpu-reset -i 0000:3b:00" in text


def test_of_several_xids_the_strongest_comes_first():
    log = "\n".join(
        f"NVRM: Xid (PCI:0000:3b:00): {number}, pid=1, name=python" for number in (45, 13, 79, 154)
    )

    assert [page.name for page in pages(log)] == ["xid-154", "xid-79", "xid-13", "xid-45"]


def test_xid_154_says_what_its_line_asks_for():
    text = explanation(
        "NVRM: Xid (PCI:0000:18:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 "
        "(Node Reboot Required)"
    )

    assert 'This line asks for: "Node Reboot Required".' in flat(text)


def test_an_nvlink_5_line_says_link_unit_and_severity():
    text = explanation(
        "NVRM: Xid (PCI:0000:66:00): 145, RLW_RXPIPE Nonfatal XC0 i0 Link 03 (0x0409a0c2 0x1)"
    )

    assert "The line reports link 3, unit RLW_RXPIPE, nonfatal." in flat(text)


def test_an_xid_that_the_catalog_lacks_is_said_to_be_so():
    assert "no meaning for Xid 555" in flat(explanation("Xid 555"))


def test_an_sxid_is_never_taken_for_an_xid():
    fatal = "nvidia-nvswitch0: SXid (PCI:0000:c2:00.0): 20034, Fatal, Link 28 LTSSM Fault Up"
    harmless = "nvidia-nvswitch4: SXid (PCI:0000:c6:00.0): 19084, Non-fatal, Link 29 AN1 Heartbeat"

    assert [page.name for page in pages(fatal)] == ["sxid-20034"]
    assert "This one is fatal" in flat(explanation(fatal))
    assert "This one is not fatal" in flat(explanation(harmless))
    assert [page.name for page in pages("SXid 79")] == ["sxid-79"]


# --- codes


@pytest.mark.parametrize("row", cuda_errors.table().names, ids=lambda row: str(row.code))
def test_every_cuda_error_is_known_by_number_and_by_its_names(row: cuda_errors.ErrorName):
    shown = {pages(f"error {row.code}")[0].name, pages(f"CUDA error: {row.code}")[0].name}
    for name in (row.name, row.runtime_name):
        if name is not None:
            shown.add(pages(name)[0].name)

    assert len(shown) == 1


@pytest.mark.parametrize("row", cuda_errors.table().nvml, ids=lambda row: row.name)
def test_every_nvml_error_is_known_by_number_and_name(row: cuda_errors.ErrorCode):
    assert pages(f"nvml error {row.code}")[0].name == pages(row.name)[0].name


def test_a_bare_number_that_is_an_xid_too_shows_both():
    assert [page.name for page in pages("46")] == ["busy-46", "xid-46"]


# --- pastes


def test_the_decisive_line_of_a_long_traceback_is_found_and_quoted():
    noise = "".join(
        f'  File "/opt/app/module{at}.py", line {at}, in forward\n    x = layer(x)\n'
        for at in range(100)
    )
    text = explanation(
        "2026-01-02 03:04:05,678 ERROR Traceback (most recent call last):\n"
        + noise
        + "\x1b[31mRuntimeError: CUDA error: device-side assert triggered\x1b[0m\n"
        + "CUDA kernel errors might be asynchronously reported at some other API call\n"
    )

    assert text.startswith("  RuntimeError: CUDA error: device-side assert triggered\n")
    assert "\x1b" not in text


def test_a_line_of_a_report_leads_to_its_rule():
    assert explanation("✗ DRV006  the driver is not of one version").startswith("DRV006 (")


def run(*words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", "explain", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **variables},
    )


@pytest.mark.parametrize(
    "words",
    [
        ("-lcuda: cannot find -lcuda, says ld with -h",),
        ("-- unsupported GNU version! gcc versions later than 12 are not supported!",),
        ("--list-gpus", "failed:", "no", "CUDA-capable", "device", "is", "detected"),
        ("-", "no CUDA-capable device is detected"),
    ],
)
def test_a_paste_may_begin_with_a_dash(words: tuple[str, ...]):
    answer = run(*words)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert "What to do: " in answer.stdout


def test_stdin_is_read_for_a_dash_and_for_nothing():
    for words in (("-",), ()):
        answer = run(*words, stdin="x\n" * 1000 + "NVRM: API mismatch: the client has …\n")

        assert answer.returncode == 0
        assert "Whose fault: the driver" in answer.stdout


def test_explain_alone_on_a_terminal_says_how_to_use_it():
    pytest.importorskip("pty")
    script = (
        "import pty, sys; sys.exit(pty.spawn([sys.executable, '-m', 'gpucheck', 'explain']) >> 8)"
    )
    started = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert answer.returncode == 0
    assert 'gpucheck explain "Xid 79"' in answer.stdout
    assert time.monotonic() - started < 30


def test_a_terminal_of_40_columns_gets_lines_of_40_columns():
    answer = run("error 802", COLUMNS="40")

    lines = [line for line in answer.stdout.splitlines() if not line.startswith(("  ", "Read"))]
    assert all(len(line) <= 40 for line in lines)


def test_without_docstrings_gpucheck_refuses_in_one_line():
    answer = run("DRV006", PYTHONOPTIMIZE="2")

    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    assert "PYTHONOPTIMIZE" in answer.stderr


def test_without_assertions_it_says_the_same():
    assert run("DRV006", PYTHONOPTIMIZE="1").stdout == run("DRV006").stdout != ""


@pytest.mark.parametrize(
    ("said", "page"),
    [
        ("nvml return code 9", "smi-no-driver"),
        ("NVML error 999: Unknown Error", "nvml-unknown"),
        ("cuInit(0) failed with error 802", "not-ready-802"),
        ("cuda driver library init failure: 205", "cuda-205"),
        ("error code 801", "not-supported-801"),
        ("Xid error 62", "xid-62"),
        ("XID_79", "xid-79"),
        ("what is xid 48?", "xid-48"),
        ("Triton Error [CUDA]: misaligned address", "misaligned-716"),
        ("cudaErrorUnknown(999)", "unknown-999"),
    ],
)
def test_people_write_codes_in_many_ways(said: str, page: str):
    assert pages(said)[0].name == page


def test_a_pipe_that_says_nothing_is_given_up_on():
    reading, writing = os.pipe()

    with pytest.raises(NoAnswerError, match=r"stdin did not answer in 0.1 s"):
        pasted(reading, patience_seconds=0.1)
    os.close(writing)
    os.close(reading)


def test_what_came_through_an_endless_pipe_is_explained():
    reading, writing = os.pipe()
    os.write(writing, b"NVRM: Xid (PCI:0000:17:00): 79, GPU has fallen off the bus.\n")

    assert "Xid (PCI:0000:17:00): 79" in pasted(reading, patience_seconds=0.1)
    os.close(writing)
    os.close(reading)

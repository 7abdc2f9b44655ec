"""Markdown for a bug report shows text as it is, and names nobody."""

from gpucheck.render import Format, render
from gpucheck.render.markdown import escape
from gpucheck.report import Report, examine
from gpucheck.rule import Answers, Command, Remedy, Severity, Symptom, command, rule
from gpucheck.snapshot import Snapshot
from machines import HEALTHY, gpu, machine


def finding(saw: str, fix: str = "Reboot.", *steps: Command) -> Report:
    @rule("DRV006", Severity.ERROR, "versions differ")
    def judge(machine: Snapshot) -> Answers:
        """Why it matters."""
        yield Symptom(saw=saw, remedy=Remedy(fix, steps))

    return examine(HEALTHY, rules=[judge])


def test_a_finding_reads_like_this():
    text = render(finding("570 and 580", "Reboot.", command("reboot", root=True)), Format.MARKDOWN)

    assert text.startswith(
        "## gpucheck report: broken\n\nBroken: 1 error.\n\nFix first: DRV006 versions differ"
    )
    assert "### error DRV006: versions differ\n\n- saw: 570 and 580\n" in text
    assert "  ```sh\n  sudo reboot\n  ```" in text
    assert "| Driver | 580.159.04, open module, CUDA 13.0, cuInit works, persistence on |" in text


def test_marks_html_mentions_and_issue_numbers_lose_their_meaning():
    assert escape("a|b") == "a\\|b"
    assert escape("<img src=x>") == "\\<img src=x\\>"
    assert escape("`x` *y* __z__") == "\\`x\\` \\*y\\* \\_\\_z\\_\\_"
    assert escape("[a](b)") == "\\[a\\](b)"
    assert escape("@someone and #12") == "@&#8203;someone and #&#8203;12"
    assert escape("&lt;") == "\\&lt;"


def test_backticks_do_not_end_a_block_of_commands():
    text = render(finding("x", "Run", command("echo ````"), command("echo b")), Format.MARKDOWN)

    assert "  `````sh\n  echo ````\n  echo b\n  `````" in text


def test_private_details_are_taken_out():
    private = (
        "GPU-00000000-0000-0000-0000-000000000000 of host-1 in /home/alice/venv, 1650923012340"
    )

    text = render(finding(saw=private), Format.MARKDOWN)

    for name in ("00000000-0000", "host-1", "alice", "1650923012340"):
        assert name not in text
    assert "\\~2" in text


def test_the_table_of_gpus_stands_in_a_block():
    text = render(examine(machine(nvml={"gpus": (gpu(0),)}), rules=[]), Format.MARKDOWN)

    assert "```text\nGPU  Name" in text

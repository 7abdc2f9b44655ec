"""The report for people: sections in order, one line where all is well, and what to do first.

It is long because the report is one page, and each part of it is looked at.
"""

import re
from typing import Any

import pytest

from gpucheck.families import SECTIONS, prefixes_of
from gpucheck.render.style import Style, cells
from gpucheck.render.terminal import as_text, summary
from gpucheck.report import Report, examine
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Rule,
    Severity,
    Symptom,
    command,
    rule,
)
from gpucheck.rules import RULES
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    GpuPair,
    GpuProcess,
    PeerCopy,
    Snapshot,
    Unknown,
    replace,
)
from machines import HEALTHY, gpu, machine
from torches import DEEP

FAMILIES = ("HST", "DRV", "GPU", "CUD", "DNN", "LIB", "ENV", "TOR", "LNK")


def passes(code: str) -> Rule:
    @rule(code, Severity.ERROR, "passes")
    def judge(machine: Snapshot) -> Answers:
        """Why."""
        yield from ()

    return judge


def answers(code: str, *given: object) -> Rule:
    @rule(code, Severity.ERROR, "not a finding")
    def judge(machine: Snapshot) -> Answers:
        """Why."""
        yield from given  # type: ignore[misc]

    return judge


def seen_as(saw: str, subject: str = "") -> Symptom:
    return Symptom(saw=saw, subject=subject, remedy=Remedy("Do something"))


def finds(
    code: str,
    title: str,
    *symptoms: Symptom,
    severity: Severity = Severity.ERROR,
    caused_by: tuple[str, ...] = (),
) -> Rule:
    @rule(code, severity, title, caused_by=caused_by)
    def judge(machine: Snapshot) -> Answers:
        """Nothing that uses the GPU can start.

        And much more.
        """
        yield from symptoms

    return judge


SOUND = [passes(f"{family}001") for family in FAMILIES]
MISMATCH = finds(
    "DRV006",
    "The kernel module and the libraries are of different versions",
    Symptom(
        saw="the loaded module is 570.86.15; libcuda.so.1 and libnvidia-ml.so.1 are 580.159.04",
        remedy=Remedy("Reboot.", (command("reboot", root=True),)),
    ),
)
NVML_FAILS = finds(
    "DRV016",
    "NVML does not start",
    Symptom(saw="nvmlInitWithFlags answered 18", remedy=Remedy("See its cause.")),
    caused_by=("DRV006",),
)
TORCH_FAILS = finds(
    "TOR008",
    "torch sees no GPU",
    Symptom(saw="is_available() is false", remedy=Remedy("See its cause.")),
    caused_by=("DRV006",),
)


def text_of(report: Report, width: int = 80, *, verbose: bool = False, **style: Any) -> str:
    return as_text(report, Style(width=width, **style), verbose=verbose)


def test_a_healthy_machine_reads_like_this():
    text = text_of(examine(HEALTHY, rules=SOUND))

    assert (
        text
        == """\
gpucheck 0.1.0 on host-1

✓ Host         Ubuntu 24.04.3 LTS, kernel 6.8.0-50-generic, x86_64, virtual
✓ Driver       580.159.04, open module, CUDA 13.0, cuInit works, persistence on
✓ GPUs         2 × NVIDIA H200
  GPU  Name     Temp    Power  Memory  ECC       PCIe  NVLink  Procs    State
    0  H200  37/89°C  82/700W  0/140G   ok  gen 5 x16   18/18      0  ✓ ok
    1  H200  37/89°C  82/700W  0/140G   ok  gen 5 x16   18/18      0  ✓ ok
✓ Multi-GPU    NV18 between the pair, peer-to-peer supported
✓ Libraries    5 for torch: 5 from wheels; NCCL 2.28.9
✓ cuDNN        9.19.0 is what torch loads (its wheel); 9.14.0 is the system's
✓ Frameworks   torch 2.11.0+cu130 for CUDA 13.0 in /opt/venv/bin/python3
✓ CUDA         13.0 in /usr/local/cuda-13.0, gcc 13.3.0 (nvcc takes up to 15)
✓ Environment  CUDA_HOME=/usr/local/cuda, LD_LIBRARY_PATH is unset

✓ Healthy: 9 checks passed.
"""
    )


def test_a_broken_machine_reads_like_this():
    rules = [
        *SOUND,
        MISMATCH,
        NVML_FAILS,
        TORCH_FAILS,
        answers("GPU002", NotChecked(why="NVML does not start")),
    ]
    broken = machine(driver={"module_version": "570.86.15"}, nvml={"gpus": Unknown("no NVML")})

    text = text_of(examine(broken, rules=rules))

    assert (
        text
        == """\
gpucheck 0.1.0 on host-1

✓ Host         Ubuntu 24.04.3 LTS, kernel 6.8.0-50-generic, x86_64, virtual
✗ Driver       570.86.15, open module, CUDA 13.0, cuInit works
  ✗ DRV006  The kernel module and the libraries are of different versions
    saw  the loaded module is 570.86.15; libcuda.so.1 and libnvidia-ml.so.1 are
         580.159.04
    why  Nothing that uses the GPU can start.
    fix  Reboot.
           sudo reboot
    └ ✗ DRV016  NVML does not start: nvmlInitWithFlags answered 18
    └ ✗ TOR008  torch sees no GPU: is_available() is false
? GPUs         2 on the PCI bus; NVML shows none
✓ Multi-GPU    NV18 between the pair, peer-to-peer supported
✓ Libraries    5 for torch: 5 from wheels; NCCL 2.28.9
✓ cuDNN        9.19.0 is what torch loads (its wheel); 9.14.0 is the system's
✗ Frameworks   torch 2.11.0+cu130 for CUDA 13.0 in /opt/venv/bin/python3 (the
               active environment) (see DRV006)
✓ CUDA         13.0 in /usr/local/cuda-13.0, gcc 13.3.0 (nvcc takes up to 15)
✓ Environment  CUDA_HOME=/usr/local/cuda, LD_LIBRARY_PATH is unset

? No answer: GPU002: NVML does not start
✗ Broken: 1 error and 2 consequences.
  Fix first: DRV006 The kernel module and the libraries are of different
    versions
  gpucheck explain DRV006 says more
"""
    )


def test_the_same_in_ascii_has_signs_of_as_many_shapes():
    rules = [*SOUND, MISMATCH, finds("ENV001", "a note", seen_as("x"))]

    text = text_of(examine(HEALTHY, rules=rules), unicode=False)

    assert text.isascii()
    assert "+ Host" in text
    assert "x DRV006" in text
    assert "2 x NVIDIA H200" in text


def test_colours_change_nothing_but_the_colour():
    report = examine(HEALTHY, rules=[*SOUND, MISMATCH, NVML_FAILS])

    coloured = text_of(report, colour=True)

    assert re.sub(r"\x1b\[[0-9]+m", "", coloured) == text_of(report)
    assert "\x1b[31m" in coloured


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("gpus", [1, 2, 8, 16])
def test_no_line_is_wider_than_the_terminal_but_commands(width: int, gpus: int):
    names = ("NVIDIA H200", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3")
    many = machine(
        nvml={
            "count": gpus,
            "gpus": tuple(gpu(n, name=names[n % 3]) for n in range(gpus)),
            "pairs": tuple(
                GpuPair(
                    a=a, b=b, topology="NV18" if a % 2 else "PHB", p2p_read="OK", p2p_write="OK"
                )
                for a in range(gpus)
                for b in range(a + 1, gpus)
            ),
        }
    )
    hot = finds(
        "GPU012",
        "A GPU slows itself down for heat",
        *(seen_as(f"GPU {n}: 0x40", f"gpu {n}") for n in range(gpus)),
    )
    report = examine(many, rules=[*SOUND, MISMATCH, NVML_FAILS, hot])

    for verbose in (False, True):
        lines = text_of(report, width, verbose=verbose).splitlines()
        assert not [line for line in lines if cells(line) > width and "sudo" not in line]


def test_a_command_is_never_broken():
    install = command(
        "apt-get install --yes {packages}", packages=[f"package-{n}" for n in range(30)], root=True
    )
    rules = [finds("DRV002", "No driver", Symptom(saw="x", remedy=Remedy("y", (install,))))]

    text = text_of(examine(HEALTHY, rules=rules), 60)

    assert f"\n           sudo {install.text}\n" in text


def test_one_finding_on_many_gpus_is_told_once():
    hot = finds(
        "GPU012",
        "A GPU slows itself down for heat",
        *(seen_as(f"GPU {n} is at 95 °C", f"gpu {n}") for n in range(16)),
    )
    report = examine(HEALTHY, rules=[hot])

    text, verbose = text_of(report), text_of(report, verbose=True)

    assert text.count("GPU012  A GPU slows itself") == 1
    assert "GPU012  A GPU slows itself down for heat (gpu 0, gpu 1, gpu 2 and 13 more)" in text
    assert "and 13 more (-v shows them)" in text
    assert "GPU 15 is at 95 °C" not in text
    assert "GPU 15 is at 95 °C" in verbose


def test_a_gpu_with_a_finding_shows_it_in_its_row():
    lost = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="GPU_IS_LOST"))})
    gone = finds("GPU001", "A GPU is lost", seen_as("x", "gpu 1"))

    lines = text_of(examine(lost, rules=[gone])).splitlines()

    [row] = [line for line in lines if line.startswith("    1 ")]
    assert row.endswith("✗ lost GPU001")


def test_eighty_columns_hold_who_is_lost_and_every_column():
    lost = gpu(1, state="lost", error="GPU_IS_LOST", name=Unknown("lost"))
    long = gpu(2, name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition")
    eight = machine(nvml={"gpus": (gpu(0), lost, long, *(gpu(n) for n in range(3, 8)))})
    gone = finds("GPU001", "A GPU is lost", seen_as("x", "gpu 1"))

    lines = text_of(examine(eight, rules=[gone])).splitlines()

    at = next(n for n, line in enumerate(lines) if line.split()[:2] == ["GPU", "Name"])
    heading, _, row, named = lines[at : at + 4]
    assert " ".join(heading.split()) == "GPU Name Temp Power Memory ECC PCIe NVLink Procs State"
    assert row.endswith("✗ lost GPU001")
    assert "RTX PRO" in named
    assert max(map(cells, lines)) <= 80


def test_the_ways_between_eight_gpus_are_a_matrix_of_eighty_columns():
    pairs = tuple(
        GpuPair(a=a, b=b, topology="NV18" if a % 2 == b % 2 else "SYS", p2p_read="OK")
        for a in range(8)
        for b in range(a + 1, 8)
    )
    eight = machine(nvml={"gpus": tuple(map(gpu, range(8))), "pairs": pairs})

    lines = text_of(examine(eight, rules=[passes("LNK001")]), verbose=True).splitlines()

    [row] = [line for line in lines if line.startswith("    7   SYS  NV18")]
    assert len(row.split()) == 9
    assert max(map(cells, lines)) <= 80


def test_a_cell_tells_unknown_from_not_there():
    odd = machine(
        nvml={
            "gpus": (
                gpu(0, temperature_celsius=Unknown("no answer"), power_watts=NOT_SUPPORTED),
                gpu(1, ecc_is_on=NOT_SUPPORTED, nvlinks=NOT_SUPPORTED, pcie_width=8),
            )
        }
    )

    lines = text_of(examine(odd, rules=[passes("GPU001")])).splitlines()

    assert " ".join(lines[4].split()) == "0 H200 ? - 0/140G ok gen 5 x16 18/18 0 ✓ ok"
    assert " ".join(lines[5].split()) == "1 H200 37/89°C 82/700W 0/140G - gen 5 x8/16 - 0 ✓ ok"


def test_the_memory_column_shows_the_worst():
    from gpucheck.snapshot import RemappedRows

    def remapped(**changes: object) -> RemappedRows:
        plain = {"correctable": 0, "uncorrectable": 0, "is_pending": False, "has_failed": False}
        return RemappedRows(**{**plain, **changes})  # type: ignore[arg-type]

    worn = machine(
        nvml={
            "gpus": (
                gpu(0, remapped_rows=remapped(has_failed=True, is_pending=True)),
                gpu(1, remapped_rows=remapped(is_pending=True)),
                gpu(2, uncorrected_ecc_volatile=3, remapped_rows=remapped(correctable=2)),
                gpu(3, remapped_rows=remapped(correctable=2)),
                gpu(4, ecc_is_on=False),
            )
        }
    )

    lines = text_of(examine(worn, rules=[passes("GPU001")])).splitlines()

    for line, worst in zip(
        lines[4:9], ("failed", "pending", "3 bad", "2 rows", "off"), strict=True
    ):
        assert f"0/140G {worst} gen 5 x16" in " ".join(line.split())


def test_pairs_that_differ_are_shown_as_a_matrix():
    pairs = (
        GpuPair(a=0, b=1, topology="NV18", p2p_read="OK", p2p_write="OK"),
        GpuPair(a=0, b=2, topology="SYS", p2p_read="CNS", p2p_write="CNS"),
        GpuPair(a=1, b=2, topology="SYS", p2p_read="CNS", p2p_write="CNS"),
    )
    three = machine(nvml={"count": 3, "gpus": (gpu(0), gpu(1), gpu(2)), "pairs": pairs})

    text = text_of(examine(three, rules=[passes("LNK001")]), verbose=True)

    assert "  GPU   0    1    2\n    0   ·    NV18 SYS!\n    1   NV18 ·    SYS!\n" in text
    assert "2 pairs by SYS, 1 pair by NV18, peer-to-peer supported in 1 of 3" in text


def test_verbose_shows_what_passed_what_was_not_checked_and_who_holds_the_gpus():
    busy = machine(
        nvml={"gpus": (gpu(0, processes=(GpuProcess(pid=7, name="python", used_bytes=1 << 30),)),)}
    )
    left_out = NotChecked(why="idle", subject="gpu 0", kind="by design")
    rules = [passes("GPU001"), answers("LNK002", left_out)]

    text, verbose = (text_of(examine(busy, rules=rules), verbose=v) for v in (False, True))

    assert "LNK002" not in text
    assert text.endswith("  Not checked: 1 by design. (-v shows them)\n")
    assert "  ? LNK002  not a finding (gpu 0): not checked, by design: idle\n" in verbose
    assert "  ✓ GPU001  not found: passes\n" in verbose
    assert "gpu 0: python (pid 7, 1.0 GiB)" in verbose


def test_a_section_of_which_nothing_could_be_judged_is_no_pass():
    rules = [answers("HST001", NotChecked(why="x")), answers("TOR001", NotApplicable())]

    text = text_of(examine(machine(), rules=rules))

    assert "? Host" in text
    assert "– Frameworks" in text
    assert "✓" not in text
    assert "nothing could be checked" in text


def test_a_section_whose_facts_are_not_known_is_no_pass_whatever_passed():
    text = text_of(examine(Snapshot(), rules=[passes("TOR001"), passes("LNK001")]))

    assert "? Frameworks" in text
    assert "? Multi-GPU" in text


def test_sections_that_were_not_asked_for_are_left_out():
    text = text_of(examine(HEALTHY, rules=SOUND, select=["DRV"]))

    assert "Driver" in text
    assert "Frameworks" not in text
    assert "H200" not in text


def test_a_warning_alone_is_no_failure():
    warns = finds("HST002", "small shm", seen_as("x"), severity=Severity.WARNING)

    assert summary(examine(HEALTHY, rules=[*SOUND, warns])) == (
        "Degraded: 1 warning; nothing is broken."
    )


def test_a_note_does_not_spoil_a_healthy_machine():
    note = finds("DNN004", "two cuDNNs", seen_as("x"), severity=Severity.INFO)

    report = examine(HEALTHY, rules=[*SOUND, note])

    assert summary(report) == "Healthy: 9 checks passed, 1 note."
    assert "Fix first" not in text_of(report)


def test_a_machine_of_which_nothing_is_known_can_be_shown():
    rules = [answers(f"{family}001", NotChecked(why="not examined")) for family in FAMILIES]

    text = text_of(examine(Snapshot(), rules=rules))

    assert "unknown: not examined" in text


def test_questions_without_an_answer_are_loud_and_grouped_by_their_reason():
    rules = [
        answers(
            "GPU010",
            NotChecked(why="no NVML", subject="gpu 0"),
            NotChecked(why="no NVML", subject="gpu 1"),
        ),
        answers("GPU011", NotChecked(why="no NVML")),
        answers("GPU018", NotChecked(why="needs --deep", kind="by design")),
        answers("GPU019", NotChecked(why="Permission denied", kind="no permission")),
    ]

    text, verbose = (text_of(examine(machine(), rules=rules), verbose=v) for v in (False, True))

    assert "? No answer: GPU010 (GPUs 0-1), GPU011: no NVML\n" in text
    assert "needs --deep" not in text
    assert "Not checked: 1 by design and 1 for want of permission. (-v shows them)\n" in text
    assert "  ? GPU010  not a finding (GPUs 0-1): not checked, no answer: no NVML\n" in verbose
    assert "  ? GPU018  not a finding: not checked, by design: needs --deep\n" in verbose


def test_a_section_most_of_whose_questions_stayed_open_is_not_called_sound():
    rules = [
        passes("GPU001"),
        answers("GPU010", NotChecked(why="no NVML")),
        answers("GPU011", NotChecked(why="no NVML")),
    ]

    text = text_of(examine(machine(), rules=rules))

    assert "? GPUs" in text


def held() -> Rule:
    symptoms = (
        Symptom(
            saw="application clocks hold it to 1200 MHz",
            remedy=Remedy(
                f"Reset the application clocks of GPU {n}",
                (command("nvidia-smi -rac -i {n}", n=n, root=True, lasts="reboot"),),
            ),
            subject=f"gpu {n}",
            gpus=(n,),
        )
        for n in range(8)
    )
    return finds("GPU015", "Clocks are held down", *symptoms, severity=Severity.WARNING)


def test_one_cause_on_eight_gpus_is_one_finding_whose_commands_are_printed_once():
    text = text_of(examine(machine(host={"has_sudo": True}), rules=[held()]))

    assert "! GPU015  Clocks are held down (GPUs 0-7)\n" in text
    assert text.count("saw  application clocks hold it to 1200 MHz") == 1
    assert "    fix  Reset the application clocks of GPUs 0-7\n         (until reboot):\n" in text
    assert [line.strip() for line in text.splitlines() if "-rac" in line] == [
        f"sudo nvidia-smi -rac -i {n}" for n in range(8)
    ]


def test_commands_stand_alone_on_their_lines_so_that_a_block_can_be_pasted():
    text = text_of(examine(HEALTHY, rules=[*SOUND, MISMATCH]))

    assert "\n           sudo reboot\n" in text
    assert "$ " not in text
    assert text.count("sudo reboot") == 1


def test_the_end_names_what_to_fix_first_and_repeats_no_command():
    text = text_of(examine(HEALTHY, rules=[*SOUND, MISMATCH, NVML_FAILS]))

    end = text[text.index("✗ Broken: ") :]
    assert "Fix first: DRV006 The kernel module and the libraries are of different" in end
    assert "gpucheck explain DRV006 says more" in end
    assert "sudo" not in end


def test_a_note_is_one_line_that_verbose_opens():
    note = finds(
        "DNN004",
        "Several cuDNNs are installed",
        Symptom(saw=f"9.19.0 in {'/very/long' * 20}", remedy=Remedy("Remove one")),
        severity=Severity.INFO,
    )
    report = examine(HEALTHY, rules=[*SOUND, note])

    text, verbose = text_of(report), text_of(report, verbose=True)

    [line] = [line for line in text.splitlines() if "DNN004" in line]
    assert line.endswith("…")
    assert cells(line) <= 80
    assert "Remove one" not in text
    assert "Remove one" in verbose


def test_a_long_saw_is_three_lines_and_a_count():
    long = finds("LIB001", "From elsewhere", seen_as("libcublas.so.13 from /x " * 40))
    report = examine(HEALTHY, rules=[long])

    text, verbose = text_of(report), text_of(report, verbose=True)

    assert text.count("libcublas") < 12
    assert "more lines: -v)" in text
    assert verbose.count("libcublas") == 40


def test_alternatives_are_introduced_as_a_choice():
    choice = finds(
        "TOR011",
        "Two installers",
        Symptom(
            saw="x",
            remedy=Remedy(
                "Keep one of them",
                alternatives=(
                    Remedy("Keep conda's", (command("/x/python -m pip uninstall torch"),)),
                    Remedy("Keep pip's", (command("conda remove pytorch"),)),
                ),
            ),
        ),
    )

    text = text_of(examine(HEALTHY, rules=[choice]))

    assert (
        """\
    fix  Keep one of them
         either: Keep conda's
           /x/python -m pip uninstall torch
         or: Keep pip's
           conda remove pytorch
"""
        in text
    )


def test_the_command_that_shows_that_a_fix_worked_is_shown_under_verbose():
    remedy = Remedy("Reboot", verify=command("nvidia-smi -q"))
    broken = finds("DRV006", "Versions differ", Symptom(saw="x", remedy=remedy))
    report = examine(HEALTHY, rules=[broken])

    assert "         check: nvidia-smi -q\n" in text_of(report, verbose=True)
    assert "nvidia-smi -q" not in text_of(report)


def test_a_finding_that_no_section_claims_is_printed_all_the_same():
    odd = finds("XYZ001", "A family without a section", seen_as("x"))

    text = text_of(examine(HEALTHY, rules=[*SOUND, odd]))

    assert "✗ XYZ001  A family without a section" in text


def test_every_rule_s_findings_have_a_section():
    claimed = {prefix for name in SECTIONS for prefix in prefixes_of(name)}

    assert {each.family for each in RULES} <= claimed


def test_the_heading_says_when_the_facts_were_taken():
    taken = replace(HEALTHY, taken_at="2026-11-25T14:02:07+00:00")

    assert text_of(examine(taken, rules=SOUND)).startswith(
        "gpucheck 0.1.0 on host-1, 2026-11-25 14:02:07 UTC\n"
    )


def test_quiet_says_what_is_wrong_and_nothing_of_a_healthy_machine():
    style = Style(width=80)
    note = finds("DNN004", "a note", seen_as("x"), severity=Severity.INFO)

    assert as_text(examine(HEALTHY, rules=[*SOUND, note]), style, quiet=True) == ""
    wrong = as_text(examine(HEALTHY, rules=[*SOUND, MISMATCH]), style, quiet=True)
    assert wrong.startswith("  ✗ DRV006  ")
    silent = answers("DRV009", NotChecked(why="no answer in 30 s"))
    assert as_text(examine(HEALTHY, rules=[silent]), style, quiet=True) == (
        "? No answer: DRV009: no answer in 30 s\n"
    )


def test_what_is_not_known_and_essential_is_said_in_the_verdict():
    silent = answers("DRV009", NotChecked(why="no answer in 30 s"))

    text = text_of(examine(HEALTHY, rules=[*SOUND[:1], silent]))

    assert text.endswith(
        "? No answer: DRV009: no answer in 30 s\n"
        "? Incomplete: there is no answer to whether CUDA starts (DRV009).\n"
    )


@pytest.mark.parametrize("gpus", [2, 8])
def test_a_healthy_machine_fits_on_a_screen(gpus: int):
    many = machine(nvml={"count": gpus, "gpus": tuple(gpu(n) for n in range(gpus))})

    lines = text_of(examine(many)).splitlines()

    assert len(lines) <= 24
    assert max(map(cells, lines)) <= 80
    assert not [line for line in lines if line.startswith(("✗", "!"))]


def test_many_questions_with_one_reason_are_counted_and_named_with_v():
    codes = [f"GPU0{n}" for n in range(10, 15)]
    rules = [answers(code, NotChecked(why="no NVML")) for code in codes]

    text, verbose = (text_of(examine(machine(), rules=rules), verbose=v) for v in (False, True))

    assert "? No answer: 5 checks of GPU (-v names them): no NVML\n" in text
    assert "? No answer: GPU010, GPU011, GPU012, GPU013, GPU014: no NVML\n" in verbose


def test_a_copy_that_came_back_different_is_an_error_under_its_own_heading():
    copies = (PeerCopy(source=0, target=1, error="3 words came back different"),)
    broken = machine(deep=replace(DEEP, copies=copies))

    text = text_of(examine(broken))

    assert "✗ Multi-GPU" in text
    assert "✗ LNK014  A copy between GPUs came back different" in text
    assert "Multi-GPU    NV18 between the pair, peer-to-peer supported" in text
    assert "gpucheck doctor --deep" not in text
    assert text.count("✗ drain") == 2  # both ends


def test_the_mark_of_the_gpus_is_that_of_their_worst_row():
    rules = [
        finds(
            "LNK009",
            "A link is down",
            Symptom(saw="link 3", gpus=(1,), remedy=Remedy("Look at it")),
        ),
        answers("GPU010"),
    ]

    lines = text_of(examine(machine(), rules=rules)).splitlines()

    [section] = [line for line in lines if " GPUs  " in line]
    assert section.startswith("✗ GPUs")


def test_reasons_of_an_nvml_that_does_not_answer_are_one_line():
    rules = [
        answers("GPU010", NotChecked(why="nvmlInitWithFlags: Driver Not Loaded")),
        answers("DRV015", NotChecked(why="NVML: Driver Not Loaded")),
    ]

    text = text_of(examine(machine(), rules=rules))

    assert "? No answer: GPU010, DRV015: Driver Not Loaded\n" in text

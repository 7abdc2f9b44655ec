"""The report for people: sections in order, one line where all is well, and what to do first."""

import re

import pytest

from gpucheck.render.style import Style, cells
from gpucheck.render.terminal import as_text, summary
from gpucheck.report import Report, examine
from gpucheck.rule import Answers, NotApplicable, NotChecked, Rule, Severity, Symptom, rule
from gpucheck.snapshot import NOT_SUPPORTED, GpuPair, GpuProcess, Snapshot, Unknown
from machines import HEALTHY, gpu, machine

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
        fix="Reboot.",
        commands=("sudo reboot",),
    ),
)
NVML_FAILS = finds(
    "DRV016",
    "NVML does not start",
    Symptom(saw="nvmlInitWithFlags answered 18", fix="See its cause."),
    caused_by=("DRV006",),
)
TORCH_FAILS = finds(
    "TOR008",
    "torch sees no GPU",
    Symptom(saw="is_available() is false", fix="See its cause."),
    caused_by=("DRV006",),
)


def text_of(report: Report, width: int = 80, *, verbose: bool = False, **style: bool) -> str:
    return as_text(report, Style(width=width, **style), verbose=verbose)


def test_a_healthy_machine_reads_like_this():
    text = text_of(examine(HEALTHY, rules=SOUND))

    assert (
        text
        == """\
gpucheck 0.1.0 on host-1

✓ Host         Ubuntu 24.04.3 LTS, kernel 6.8.0-50-generic, x86_64, virtual
               (kvm), 32 CPUs, 256 GiB
✓ Driver       580.159.04, open module, CUDA 13.0, cuInit works, persistence on
✓ GPUs         2 × NVIDIA H200
  GPU  Name     Temp    Power  Memory  ECC  PCIe  NVLink  Procs    State
    0  H200  37/89°C  82/700W  0/140G   ok  5x16   18/18      0  ✓ ok
    1  H200  37/89°C  82/700W  0/140G   ok  5x16   18/18      0  ✓ ok
✓ CUDA         13.0 in /usr/local/cuda-13.0, gcc 13.3.0 (nvcc takes up to 15)
✓ cuDNN        9.19.0 is what torch loads (its wheel); 9.14.0 is the system's
✓ Libraries    5 for torch: 5 from wheels; NCCL 2.28.9
✓ Environment  CUDA_HOME=/usr/local/cuda, LD_LIBRARY_PATH is unset
✓ PyTorch      2.11.0+cu130 for CUDA 13.0 in /opt/venv/bin/python3 (the active
               environment)
✓ Multi-GPU    NV18 between the pair, peer-to-peer copies OK

✓ Healthy: 9 checks passed, and nothing is wrong.
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
               (kvm), 32 CPUs, 256 GiB
✗ Driver       570.86.15, open module, CUDA 13.0, cuInit works
  ✗ DRV006  The kernel module and the libraries are of different versions
    saw  the loaded module is 570.86.15; libcuda.so.1 and libnvidia-ml.so.1 are
         580.159.04
    why  Nothing that uses the GPU can start.
    fix  Reboot.
         $ sudo reboot
    └ ✗ DRV016  NVML does not start: nvmlInitWithFlags answered 18
    └ ✗ TOR008  torch sees no GPU: is_available() is false
? GPUs         2 on the PCI bus; NVML shows none
✓ CUDA         13.0 in /usr/local/cuda-13.0, gcc 13.3.0 (nvcc takes up to 15)
✓ cuDNN        9.19.0 is what torch loads (its wheel); 9.14.0 is the system's
✓ Libraries    5 for torch: 5 from wheels; NCCL 2.28.9
✓ Environment  CUDA_HOME=/usr/local/cuda, LD_LIBRARY_PATH is unset
✗ PyTorch      2.11.0+cu130 for CUDA 13.0 in /opt/venv/bin/python3 (the active
               environment) (see DRV006)
✓ Multi-GPU    NV18 between the pair, peer-to-peer copies OK

✗ Broken: The kernel module and the libraries are of different versions. 1 error
  and 2 consequences in all. 1 check could not be made (-v says why).
  Do this first (DRV006): Reboot.
    $ sudo reboot
  gpucheck explain DRV006 says more.
"""
    )


def test_the_same_in_ascii_has_signs_of_as_many_shapes():
    rules = [*SOUND, MISMATCH, finds("ENV001", "a note", Symptom(saw="x", fix="y"))]

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
        *(Symptom(saw=f"GPU {n}: 0x40", fix="Cool it.", subject=f"gpu {n}") for n in range(gpus)),
    )
    report = examine(many, rules=[*SOUND, MISMATCH, NVML_FAILS, hot])

    for verbose in (False, True):
        lines = text_of(report, width, verbose=verbose).splitlines()
        assert not [line for line in lines if cells(line) > width and "$" not in line]


def test_a_command_is_never_broken():
    command = "sudo apt-get install --yes " + " ".join(f"package-{n}" for n in range(30))
    rules = [finds("DRV002", "No driver", Symptom(saw="x", fix="y", commands=(command,)))]

    text = text_of(examine(HEALTHY, rules=rules), 60)

    assert f"$ {command}\n" in text


def test_one_finding_on_many_gpus_is_told_once():
    hot = finds(
        "GPU012",
        "A GPU slows itself down for heat",
        *(Symptom(saw=f"GPU {n} is at 95 °C", fix="Cool.", subject=f"gpu {n}") for n in range(16)),
    )
    report = examine(HEALTHY, rules=[hot])

    text, verbose = text_of(report), text_of(report, verbose=True)

    assert text.count("GPU012  A GPU slows itself") == 1
    assert "and 8 more (-v shows them)" in text
    assert "GPU 15 is at 95 °C" not in text
    assert "GPU 15 is at 95 °C" in verbose


def test_a_gpu_with_a_finding_shows_it_in_its_row():
    lost = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="GPU_IS_LOST"))})
    gone = finds("GPU001", "A GPU is lost", Symptom(saw="x", fix="y", subject="gpu 1"))

    lines = text_of(examine(lost, rules=[gone])).splitlines()

    [row] = [line for line in lines if line.startswith("    1  ")]
    assert row.endswith("✗ lost GPU001")


def test_eighty_columns_hold_who_is_lost_and_every_column():
    lost = gpu(1, state="lost", error="GPU_IS_LOST", name=Unknown("lost"))
    long = gpu(2, name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition")
    eight = machine(nvml={"gpus": (gpu(0), lost, long, *(gpu(n) for n in range(3, 8)))})
    gone = finds("GPU001", "A GPU is lost", Symptom(saw="x", fix="y", subject="gpu 1"))

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

    assert " ".join(lines[4].split()) == "0 H200 ? - 0/140G ok 5x16 18/18 0 ✓ ok"
    assert " ".join(lines[5].split()) == "1 H200 37/89°C 82/700W 0/140G - 5x8/16 - 0 ✓ ok"


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
        assert f"0/140G  {worst:>7}  5x16" in line


def test_pairs_that_differ_are_shown_as_a_matrix():
    pairs = (
        GpuPair(a=0, b=1, topology="NV18", p2p_read="OK", p2p_write="OK"),
        GpuPair(a=0, b=2, topology="SYS", p2p_read="CNS", p2p_write="CNS"),
        GpuPair(a=1, b=2, topology="SYS", p2p_read="CNS", p2p_write="CNS"),
    )
    three = machine(nvml={"count": 3, "gpus": (gpu(0), gpu(1), gpu(2)), "pairs": pairs})

    text = text_of(examine(three, rules=[passes("LNK001")]))

    assert "  GPU   0    1    2\n    0   ·    NV18 SYS!\n    1   NV18 ·    SYS!\n" in text
    assert "2 pairs by SYS, 1 pair by NV18, peer-to-peer copies in 1 of 3" in text


def test_verbose_shows_what_passed_what_was_not_checked_and_who_holds_the_gpus():
    busy = machine(
        nvml={"gpus": (gpu(0, processes=(GpuProcess(pid=7, name="python", used_bytes=1 << 30),)),)}
    )
    rules = [passes("GPU001"), answers("LNK002", NotChecked(why="idle", subject="gpu 0"))]

    text, verbose = (text_of(examine(busy, rules=rules), verbose=v) for v in (False, True))

    assert "LNK002" not in text
    assert "1 check could not be made (-v says why)" in " ".join(text.split())
    assert "  ? LNK002 (gpu 0): not checked: idle\n" in verbose
    assert "  ✓ passed: GPU001\n" in verbose
    assert "gpu 0: python (pid 7, 1.0 GiB)" in verbose


def test_a_section_of_which_nothing_could_be_judged_is_no_pass():
    rules = [answers("HST001", NotChecked(why="x")), answers("TOR001", NotApplicable())]

    text = text_of(examine(machine(), rules=rules))

    assert "? Host" in text
    assert "– PyTorch" in text
    assert "✓" not in text
    assert "nothing could be checked" in text


def test_a_section_whose_facts_are_not_known_is_no_pass_whatever_passed():
    text = text_of(examine(Snapshot(), rules=[passes("TOR001"), passes("LNK001")]))

    assert "? PyTorch" in text
    assert "? Multi-GPU" in text


def test_sections_that_were_not_asked_for_are_left_out():
    text = text_of(examine(HEALTHY, rules=SOUND, select=["DRV"]))

    assert "Driver" in text
    assert "PyTorch" not in text
    assert "H200" not in text


def test_a_warning_alone_is_no_failure():
    warns = finds("HST002", "small shm", Symptom(saw="x", fix="y"), severity=Severity.WARNING)

    assert summary(examine(HEALTHY, rules=[*SOUND, warns])) == (
        "Usable, with 1 warning: nothing is broken, but see above."
    )


def test_a_note_does_not_spoil_a_healthy_machine():
    note = finds("DNN004", "two cuDNNs", Symptom(saw="x", fix="y"), severity=Severity.INFO)

    report = examine(HEALTHY, rules=[*SOUND, note])

    assert summary(report) == (
        "Healthy: 9 checks passed, and nothing is wrong. 1 note above for your information."
    )
    assert "Do this first" not in text_of(report)


def test_a_machine_of_which_nothing_is_known_can_be_shown():
    rules = [answers(f"{family}001", NotChecked(why="not examined")) for family in FAMILIES]

    text = text_of(examine(Snapshot(), rules=rules))

    assert "unknown: not examined" in text


def test_questions_that_stayed_open_for_one_reason_stand_together():
    rules = [
        answers(
            "GPU010",
            NotChecked(why="no NVML", subject="gpu 0"),
            NotChecked(why="no NVML", subject="gpu 1"),
        ),
        answers("GPU011", NotChecked(why="no NVML")),
        answers("GPU018", NotChecked(why="needs --deep")),
    ]

    verbose = text_of(examine(machine(), rules=rules), verbose=True)

    assert "  ? GPU010 (gpu 0, gpu 1), GPU011: not checked: no NVML\n" in verbose
    assert "  ? GPU018: not checked: needs --deep\n" in verbose


def test_a_section_most_of_whose_questions_stayed_open_is_not_called_sound():
    rules = [
        passes("GPU001"),
        answers("GPU010", NotChecked(why="no NVML")),
        answers("GPU011", NotChecked(why="no NVML")),
    ]

    text = text_of(examine(machine(), rules=rules))

    assert "? GPUs" in text

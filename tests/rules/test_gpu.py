"""Each rule of the family GPU: what makes it speak, and what must not."""

from typing import Any

import pytest

import machines
from gpucheck.report import examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import gpu as rules
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    GpuProcess,
    GpuSample,
    Memory,
    NvmlError,
    RemapHistogram,
    RemappedRows,
    RetiredPages,
    Snapshot,
    ThermalThresholds,
    Unknown,
    Xid,
)
from machines import gpu, is_applicable, machine, not_checked, passes, symptoms

MIB = 1 << 20


def with_gpus(*gpus: Any, **sections: Any) -> Snapshot:
    return machine(nvml={"gpus": gpus, "count": len(gpus)}, **sections)


def one(**changes: Any) -> Snapshot:
    """Two H200s, of which GPU 1 has *changes*."""
    return with_gpus(gpu(0), gpu(1, **changes))


def second(**readings: Any) -> GpuSample:
    same: dict[str, Any] = {
        "after_seconds": 1.0,
        "corrected_ecc_volatile": 0,
        "clocks_event_reasons": 1,
        "clock_sm_mhz": 1980,
        "utilization_percent": 100,
        "performance_state": 0,
    }
    return GpuSample(**{**same, **readings})


def held(mebibytes: int, **changes: Any) -> Memory:
    fields = {"total_bytes": 141 << 30, "used_bytes": mebibytes * MIB, "free_bytes": 1 << 30}
    return Memory(**{**fields, "reserved_bytes": 600 * MIB, **changes})


#: what some drivers answer for thresholds that the board has not
ZEROS = ThermalThresholds(
    shutdown_celsius=0, slowdown_celsius=0, gpu_max_celsius=0, memory_max_celsius=0
)

FIRES = [
    (rules.gpu_lost, {"state": "lost"}, "error", "GPU 1 (0000:00:07.0): NVML says GPU_IS_LOST"),
    (rules.gpu_hung, {"state": "hung", "error": "x did not answer"}, "error", "x did not answer"),
    (rules.gpu_hung, {"state": "crashed", "error": "SIGSEGV in x"}, "error", "SIGSEGV in x"),
    (rules.recovery_wanted, {"recovery_action": 1}, "error", "GPU reset"),
    (rules.recovery_wanted, {"recovery_action": 2}, "error", "reboot"),
    (rules.recovery_wanted, {"recovery_action": 4}, "error", "reset"),
    (rules.recovery_wanted, {"recovery_action": 6}, "error", "bus reset"),
    (rules.recovery_wanted, {"recovery_action": 3}, "warning", "peer-to-peer"),
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": 3}, "error", "3 uncorrected"),
    (
        rules.remap_pending,
        {
            "remapped_rows": RemappedRows(
                correctable=0, uncorrectable=1, is_pending=True, has_failed=False
            )
        },
        "warning",
        "waits for the next reset",
    ),
    (
        rules.remap_failed,
        {
            "remapped_rows": RemappedRows(
                correctable=0, uncorrectable=8, is_pending=False, has_failed=True
            )
        },
        "error",
        "a row remap failed",
    ),
    (
        rules.spare_rows_low,
        {"remap_histogram": RemapHistogram(maximum=3070, high=0, partial=0, low=1, none=1)},
        "warning",
        "1 memory banks have no spare rows left, 1 have few",
    ),
    (
        rules.pages_retired,
        {"retired_pages": RetiredPages(single_bit=2, double_bit=1, is_pending=True)},
        "warning",
        "pending",
    ),
    (
        rules.pages_retired,
        {"retired_pages": RetiredPages(single_bit=40, double_bit=20, is_pending=False)},
        "error",
        "60 retired pages",
    ),
    (
        rules.ecc_off,
        {"ecc_is_on": False, "ecc_is_on_after_reboot": False},
        "warning",
        "ships with it on",
    ),
    (rules.ecc_off, {"ecc_is_on_after_reboot": False}, "warning", "off after the next reboot"),
    (rules.corrected_ecc, {"corrected_ecc_volatile": 10_001}, "warning", "10,001 corrected"),
    (
        rules.corrected_ecc,
        {
            "corrected_ecc_volatile": 5,
            "later_sample": second(corrected_ecc_volatile=9, after_seconds=2.0),
        },
        "warning",
        "2.0 a second",
    ),
    (rules.sram_threshold, {"sram_threshold_exceeded": True}, "error", "SRAM"),
    (rules.slowed_down, {"clocks_event_reasons": 0x48}, "error", "HW Thermal Slowdown at 37 °C"),
    (rules.slowed_down, {"clocks_event_reasons": 0x84}, "error", "HW Power Brake Slowdown"),
    (rules.slowed_down, {"clocks_event_reasons": 0x20}, "warning", "SW Thermal Slowdown"),
    (
        rules.slowed_down,
        {"clocks_event_reasons": 0x8, "later_sample": second(clocks_event_reasons=0x9)},
        "error",
        "HW Slowdown",
    ),
    (
        rules.slowed_down,
        {"later_sample": second(clocks_event_reasons=0x40 | 0x4)},
        "error",
        "HW Thermal Slowdown",
    ),
    (
        rules.slowed_down,
        {
            "hardware_thermal_slowdown_ns": 5,
            "later_sample": second(hardware_thermal_slowdown_ns=20_000_005),
        },
        "error",
        "HW Thermal Slowdown",
    ),
    (
        rules.slowed_down,
        {"later_sample": second(power_brake_slowdown_ns=20_000_000)},
        "error",
        "HW Power Brake Slowdown",
    ),
    (
        rules.slowed_down,
        {"later_sample": second(software_thermal_slowdown_ns=20_000_000)},
        "warning",
        "SW Thermal Slowdown",
    ),
    (rules.too_hot, {"temperature_celsius": 89}, "error", "89 °C; it slows down at 89 °C"),
    (rules.too_hot, {"temperature_celsius": 82}, "warning", "it is meant to work to 87 °C"),
    (rules.too_hot, {"memory_temperature_celsius": 90}, "warning", "its memory has 90 °C"),
    (
        rules.too_hot,
        {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": -2},
        "error",
        "at its slowdown threshold",
    ),
    (
        rules.too_hot,
        {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": 5},
        "warning",
        "37 °C; it is meant to work to 42 °C",
    ),
    (
        rules.too_hot,
        {"thresholds": ZEROS, "temperature_margin_celsius": 0},
        "warning",
        "it is meant to work to 37 °C",
    ),
    (
        rules.power_limited,
        {"power_limit_enforced_watts": 500.0},
        "warning",
        "held to 500 W; the default is 700 W",
    ),
    (rules.clocks_held, {"application_clock_sm_mhz": 1200}, "warning", "1200 MHz"),
    (
        rules.clocks_held,
        {
            "later_sample": second(under_load=True, clock_sm_mhz=1005, clocks_event_reasons=0),
        },
        "warning",
        "1005 MHz under load",
    ),
    (rules.compute_mode, {"compute_mode": 2}, "error", "prohibited"),
    (rules.compute_mode, {"compute_mode": 3}, "warning", "exclusive process"),
    (rules.mig_unusable, {"mig_is_on": True, "mig_is_on_after_reset": True}, "error", "no compute"),
    (rules.mig_unusable, {"mig_is_on_after_reset": True}, "warning", "after the next reset"),
    (rules.inforom_corrupt, {"inforom_is_valid": False}, "warning", "InfoROM"),
    (rules.memory_held, {"memory": held(500)}, "warning", "500 MiB are held by no living process"),
    (
        rules.memory_held,
        {"memory": held(20), "processes": (GpuProcess(pid=7, name="python3", is_zombie=True),)},
        "warning",
        "by a zombie: python3 (7)",
    ),
    (rules.unrepairable_memory, {"has_unrepairable_memory": True}, "error", "unrepairable"),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_sick_gpu_is_found_and_the_other_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    found = symptoms(
        rule, with_gpus(gpu(0), gpu(1, **changes), host={"container": None, "hypervisor": None})
    )

    assert [symptom.subject for symptom in found] == ["gpu 1"]
    assert (found[0].severity or rule.severity).value == severity
    assert words in found[0].saw


QUIET = [
    (rules.recovery_wanted, {"recovery_action": 0}),
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": 0, "uncorrected_ecc_aggregate": 9}),
    (
        rules.pages_retired,
        {"retired_pages": RetiredPages(single_bit=9, double_bit=1, is_pending=False)},
    ),
    (
        rules.ecc_off,
        {"ecc_is_on": False, "ecc_is_on_after_reboot": False, "ecc_default": False},
    ),
    (
        rules.corrected_ecc,
        {"corrected_ecc_volatile": 9000, "later_sample": second(corrected_ecc_volatile=9001)},
    ),
    (rules.slowed_down, {"clocks_event_reasons": 0x1}),
    (
        rules.slowed_down,
        {
            "hardware_thermal_slowdown_ns": 9_000_000_000,
            "later_sample": second(hardware_thermal_slowdown_ns=9_001_000_000),
        },
    ),
    (rules.slowed_down, {"clocks_event_reasons": 0x2 | 0x4 | 0x10 | 0x100}),
    (rules.slowed_down, {"clocks_event_reasons": 0x8, "later_sample": second()}),
    (rules.corrected_ecc, {"later_sample": second(corrected_ecc_volatile=2, after_seconds=0.2)}),
    (rules.too_hot, {"temperature_celsius": 81}),
    (rules.too_hot, {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": 6}),
    (rules.too_hot, {"thresholds": ZEROS, "temperature_celsius": 60}),
    (rules.power_limited, {"power_limit_enforced_watts": 750.0}),
    (rules.clocks_held, {"clock_sm_mhz": 210, "later_sample": second(under_load=True)}),
    (
        rules.clocks_held,
        {"later_sample": second(under_load=True, clock_sm_mhz=1200, clocks_event_reasons=0x4)},
    ),
    (
        rules.mig_unusable,
        {"mig_is_on": True, "mig_is_on_after_reset": True, "mig_devices": ("MIG-1",)},
    ),
    (rules.memory_held, {"memory": held(63)}),
    (
        rules.memory_held,
        {"memory": held(9000), "processes": (GpuProcess(pid=7, name="python3"),)},
    ),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    found = symptoms(rule, one(**changes))

    assert not found


NOT_HERE = [
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": NOT_SUPPORTED}),
    (rules.remap_pending, {"remapped_rows": NOT_SUPPORTED}),
    (rules.pages_retired, {"retired_pages": NOT_SUPPORTED}),
    (rules.ecc_off, {"ecc_is_on": NOT_SUPPORTED}),
    (
        rules.too_hot,
        {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": NOT_SUPPORTED},
    ),
    (
        rules.too_hot,
        {
            "thresholds": ThermalThresholds(
                shutdown_celsius=NOT_SUPPORTED,
                slowdown_celsius=NOT_SUPPORTED,
                gpu_max_celsius=NOT_SUPPORTED,
                memory_max_celsius=NOT_SUPPORTED,
            ),
            "temperature_margin_celsius": NOT_SUPPORTED,
        },
    ),
    (rules.recovery_wanted, {"recovery_action": NOT_SUPPORTED}),
    (rules.mig_unusable, {"mig_is_on": NOT_SUPPORTED}),
]


@pytest.mark.parametrize(("rule", "changes"), NOT_HERE)
def test_a_feature_that_the_gpu_lacks_is_neither_a_pass_nor_a_fault(
    rule: Rule, changes: dict[str, Any]
):
    snapshot = one(**changes)

    assert not symptoms(rule, snapshot)
    assert not not_checked(rule, snapshot)
    assert not is_applicable(rule, snapshot)


UNKNOWN = [
    (rules.recovery_wanted, {"recovery_action": 99}, "99 is not known"),
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": Unknown("no answer")}, "no answer"),
    (rules.slowed_down, {"clocks_event_reasons": 0x8}, "two readings"),
    (rules.corrected_ecc, {"corrected_ecc_volatile": 5}, "two readings"),
    (rules.clocks_held, {}, "--deep"),
    (rules.compute_mode, {"compute_mode": 9}, "not known"),
    (
        rules.ecc_off,
        {
            "name": "NVIDIA Z900",
            "ecc_is_on": False,
            "ecc_is_on_after_reboot": False,
            "ecc_default": Unknown("old driver"),
        },
        "default ECC mode is not known",
    ),
    (rules.memory_held, {"memory": held(500, reserved_bytes=NOT_SUPPORTED)}, "told apart"),
    (rules.memory_held, {"memory": held(500), "mig_is_on": True}, "MIG"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    snapshot = one(**changes)

    assert not symptoms(rule, snapshot)
    assert words in not_checked(rule, snapshot)[-1].why
    assert not_checked(rule, snapshot)[-1].subject == "gpu 1"


def test_memory_held_by_processes_outside_a_container_is_not_checked():
    snapshot = with_gpus(gpu(0, memory=held(9000)), host={"container": "docker"})

    assert not symptoms(rules.memory_held, snapshot)
    assert [n.subject for n in not_checked(rules.memory_held, snapshot)] == ["gpu 0"]


def test_a_model_that_ships_with_ecc_on_is_known_where_an_old_driver_does_not_say():
    snapshot = one(ecc_is_on=False, ecc_is_on_after_reboot=False, ecc_default=Unknown("old"))

    [symptom] = symptoms(rules.ecc_off, snapshot)

    assert "sudo nvidia-smi -i 1 -e 1" in symptom.commands


def xid(number: int, **changes: Any) -> Xid:
    fields: dict[str, Any] = {
        "bus_id": "0000:00:07.0",
        "count": 1,
        "first_seconds": 100.0,
        "last_seconds": 100.0,
    }
    return Xid(number=number, **{**fields, **changes})


def test_a_gpu_that_fell_off_the_bus_and_is_gone_is_named_by_its_bus_id():
    snapshot = with_gpus(gpu(0), kernel_log={"xids": (xid(79),)})

    [symptom] = symptoms(rules.gpu_lost, snapshot)

    assert symptom.subject == "GPU at 0000:00:07.0"


def test_a_gpu_that_fell_off_the_bus_and_answers_again_is_not_lost():
    snapshot = with_gpus(gpu(0), gpu(1), kernel_log={"xids": (xid(79),)})

    assert passes(rules.gpu_lost, snapshot)


XIDS = [
    (xid(79), Severity.WARNING, "GPU no longer answers on PCIe"),
    (xid(92), Severity.WARNING, "single-bit"),
    (xid(94), Severity.WARNING, "contained"),
    (xid(63), Severity.INFO, "remapping"),
    (xid(119), Severity.ERROR, "GSP"),
    (xid(48), Severity.ERROR, "once, 100 s after boot"),
    (xid(13, count=2), Severity.INFO, "2 times"),
    (xid(43), Severity.INFO, "program"),
    (xid(45), Severity.INFO, "channels of a process"),
    (xid(31), Severity.INFO, "MMU fault"),
    (xid(144), Severity.WARNING, ""),
    (xid(154, text="GPU recovery action changed from 0x0 (None) to 0x1"), Severity.INFO, "to 0x1"),
    (xid(999, text="something new"), Severity.WARNING, "something new"),
    (
        xid(13, count=5, units=("GPC 0, TPC 1, SM 0",), processes=("a", "b")),
        Severity.WARNING,
        "always on GPC 0, TPC 1, SM 0",
    ),
    (xid(13, count=5, units=("GPC 0", "GPC 1"), processes=("a", "b")), Severity.INFO, "5 times"),
    (xid(13, count=5, units=("GPC 0",), processes=("a",)), Severity.INFO, "5 times"),
    (xid(31, count=3, processes=("a", "b")), Severity.WARNING, "on this GPU alone"),
]


@pytest.mark.parametrize(("entry", "severity", "words"), XIDS)
def test_an_xid_has_the_severity_of_its_table(entry: Xid, severity: Severity, words: str):
    [symptom] = symptoms(rules.xid_errors, machine(kernel_log={"xids": (entry,)}))

    assert symptom.subject == "gpu 1"
    assert symptom.severity is severity
    assert words in symptom.saw
    assert symptom.fix


def test_a_gpu_that_only_the_log_knows_is_lost_but_for_a_container():
    bare = with_gpus(gpu(0), kernel_log={"xids": (xid(79), xid(119))}, host={"container": None})
    container = with_gpus(
        gpu(0), kernel_log={"xids": (xid(79), xid(119))}, host={"container": "docker"}
    )

    assert [s.severity for s in symptoms(rules.xid_errors, bare)] == [Severity.ERROR] * 2
    assert [s.severity for s in symptoms(rules.xid_errors, container)] == [Severity.INFO] * 2
    assert symptoms(rules.gpu_lost, bare)
    assert not symptoms(rules.gpu_lost, container)


def test_a_lost_gpu_that_cannot_say_its_bus_id_is_told_of_once():
    snapshot = with_gpus(
        gpu(0),
        gpu(1, state="lost", bus_id=Unknown("lost")),
        host={"container": None},
        kernel_log={"xids": (xid(79),)},
    )

    assert [symptom.subject for symptom in symptoms(rules.gpu_lost, snapshot)] == ["gpu 1"]


TO_RESET = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"


@pytest.mark.parametrize(
    ("text", "now", "severity"),
    [
        (TO_RESET, Unknown("driver too old"), Severity.ERROR),
        (TO_RESET.replace("GPU Reset", "Node Reboot"), NOT_SUPPORTED, Severity.ERROR),
        (TO_RESET.replace("GPU Reset Required", "Drain P2P"), NOT_SUPPORTED, Severity.WARNING),
        (
            "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
            NOT_SUPPORTED,
            Severity.INFO,
        ),
        (TO_RESET, 0, Severity.INFO),
    ],
)
def test_xid_154_counts_where_nvml_does_not_tell_the_recovery(text, now, severity):
    snapshot = with_gpus(
        gpu(0), gpu(1, recovery_action=now), kernel_log={"xids": (xid(154, text=text),)}
    )

    [symptom] = symptoms(rules.xid_errors, snapshot)

    assert symptom.severity is severity
    assert text in symptom.saw


def test_one_failing_row_of_memory_is_one_complaint():
    snapshot = with_gpus(
        gpu(0),
        gpu(
            1,
            uncorrected_ecc_volatile=1,
            remapped_rows=RemappedRows(
                correctable=0, uncorrectable=1, is_pending=True, has_failed=False
            ),
            recovery_action=4,
        ),
        kernel_log={"xids": (xid(48), xid(63), xid(94), xid(154, text=TO_RESET))},
    )

    report = examine(snapshot, select=["GPU"])

    roots = [(f.code, f.subject) for f in report.findings if f.explained_by is None]
    assert roots == [("GPU004", "gpu 1")]
    assert [f.code for f in report.findings].count("GPU020") == 4


def test_a_firmware_that_hangs_explains_nothing_of_another_gpu():
    snapshot = with_gpus(
        gpu(0, recovery_action=1), gpu(1), kernel_log={"xids": (xid(119), xid(79))}
    )

    report = examine(snapshot, select=["GPU003", "GPU020"])

    assert {f.explained_by for f in report.findings} == {None}


def test_an_mmu_fault_on_several_gpus_is_the_programs():
    logged = (
        xid(31, count=3, processes=("a", "b")),
        xid(31, bus_id="0000:00:06.0", count=3, processes=("a", "b")),
    )

    found = symptoms(rules.xid_errors, machine(kernel_log={"xids": logged}))

    assert {symptom.severity for symptom in found} == {Severity.INFO}


def test_a_log_that_may_not_be_read_is_not_checked():
    snapshot = machine(kernel_log={"xids": Unknown("permission denied")})

    assert [n.why for n in not_checked(rules.xid_errors, snapshot)] == ["permission denied"]


def test_different_models_are_a_warning():
    snapshot = with_gpus(gpu(0), gpu(1), gpu(2, name="NVIDIA A100-SXM4-80GB"))

    [symptom] = symptoms(rules.gpus_differ, snapshot)

    assert symptom.severity is None
    assert "2 × NVIDIA H200" in symptom.saw


def test_a_display_card_beside_compute_gpus_is_only_noted():
    snapshot = with_gpus(gpu(0), gpu(1), gpu(2, name="NVIDIA T400 4GB", display_active=True))

    [symptom] = symptoms(rules.gpus_differ, snapshot)

    assert symptom.severity is Severity.INFO
    assert symptom.commands == ("export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=0,1",)


def test_the_small_card_for_the_screen_is_never_the_usual_model():
    small = Memory(total_bytes=4 << 30, used_bytes=0, free_bytes=4 << 30)
    snapshot = with_gpus(gpu(0, name="NVIDIA T400 4GB", memory=small), gpu(1))

    [symptom] = symptoms(rules.gpus_differ, snapshot)

    assert symptom.severity is Severity.INFO
    assert symptom.commands == ("export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1",)


def test_memory_that_differs_by_the_drivers_share_is_equal():
    almost = held(0, total_bytes=(141 << 30) - (600 << 20))
    half = held(0, total_bytes=70 << 30)

    assert passes(rules.gpus_differ, one(memory=almost))
    assert [s.subject for s in symptoms(rules.gpus_differ, one(memory=half))] == ["memory"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"numa_node": 1}, "NUMA node"),
        ({"name": "NVIDIA A40-48Q"}, "virtual GPU"),
        ({"name": "GRID T4-16Q"}, "virtual GPU"),
        ({"display_active": True}, "display"),
        ({"mig_is_on": True}, "MIG"),
    ],
)
def test_memory_that_somebody_else_may_hold_is_not_checked(changes, words):
    snapshot = with_gpus(gpu(0, memory=held(500), **changes), host={"container": None})

    assert not symptoms(rules.memory_held, snapshot)
    assert words in not_checked(rules.memory_held, snapshot)[0].why


def test_a_process_that_is_hidden_is_none_that_is_gone():
    hidden = GpuProcess(pid=7, name=Unknown("process 7 is hidden from this user"))

    assert passes(rules.memory_held, one(memory=held(9000), processes=(hidden,)))


@pytest.mark.parametrize(
    ("name", "clock", "is_found"),
    [
        ("NVIDIA GeForce RTX 4090", 2700, False),
        ("NVIDIA GeForce RTX 4090", 1500, True),
        ("NVIDIA H200", 2700, True),
    ],
)
def test_a_board_whose_voltage_ends_its_boost_is_not_held_down(name, clock, is_found):
    snapshot = one(
        name=name,
        clock_sm_max_mhz=3105,
        application_clock_sm_mhz=NOT_SUPPORTED,
        later_sample=second(under_load=True, clock_sm_mhz=clock, clocks_event_reasons=0),
    )

    assert bool(symptoms(rules.clocks_held, snapshot)) is is_found


def test_a_desktop_board_of_low_power_is_no_laptop():
    board = gpu(
        0,
        name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        power_limit_enforced_watts=200.0,
    )

    [symptom] = symptoms(rules.power_limited, with_gpus(board))

    assert symptom.severity is None


def test_only_a_reset_is_advised_where_a_reset_helps():
    commands = [
        symptoms(rules.recovery_wanted, one(recovery_action=action))[0].commands
        for action in range(1, 8)
    ]

    reset, reboot = ("sudo nvidia-smi --gpu-reset -i 1",), ("sudo reboot",)
    assert commands == [reset, reboot, (), reset, (), (), reboot]


def test_different_power_limits_of_one_model_fold_under_the_lowered_one():
    report = examine(one(power_limit_enforced_watts=300.0))

    assert [(f.code, f.explained_by) for f in report.findings if f.code[:3] == "GPU"] == [
        ("GPU014", None),
        ("GPU021", "GPU014"),
    ]


def test_the_power_limit_of_a_laptop_comes_and_goes():
    laptop = gpu(0, name="NVIDIA GeForce RTX 4070 Laptop GPU", power_limit_enforced_watts=45.0)

    [symptom] = symptoms(rules.power_limited, with_gpus(laptop))

    assert symptom.severity is Severity.INFO


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("vbios_version", "VBIOS"),
        ("inforom_version", "InfoROM"),
        ("gsp_firmware_version", "GSP firmware"),
    ],
)
def test_different_firmware_of_one_model_is_a_warning(field: str, what: str):
    [symptom] = symptoms(rules.firmware_differs, one(**{field: "1.2.3"}))

    assert symptom.subject == what
    assert "GPU 1 1.2.3" in symptom.saw


def test_different_firmware_of_different_models_is_none():
    snapshot = one(name="NVIDIA A100-SXM4-80GB", vbios_version="1.2.3")

    assert passes(rules.firmware_differs, snapshot)


def test_the_expected_number_of_gpus_counts_only_those_that_work():
    lost = with_gpus(gpu(0), gpu(1, state="lost"), expected_gpus=2)

    [symptom] = symptoms(rules.count_unexpected, lost)

    assert symptom.saw == "1 working GPUs; 2 were expected"
    assert passes(rules.count_unexpected, machine(expected_gpus=2))
    assert not is_applicable(rules.count_unexpected, machine())


def test_where_nvml_failed_no_expected_gpu_is_there():
    broken = machine(
        nvml={
            "gpus": Unknown("NVML did not start"),
            "error": NvmlError(call="nvmlInitWithFlags", code=9),
        },
        expected_gpus=2,
    )

    [symptom] = symptoms(rules.count_unexpected, broken)

    assert symptom.saw == "0 working GPUs; 2 were expected"


def test_a_machine_without_a_gpu_raises_no_question():
    bare = machine(host={"pci_gpus": ()}, nvml={"gpus": Unknown("NVML is not here")})

    for rule in (rules.gpu_lost, rules.too_hot, rules.firmware_differs, rules.gpus_differ):
        assert not symptoms(rule, bare)
        assert not not_checked(rule, bare)
        assert not is_applicable(rule, bare)


def test_a_lost_gpu_explains_what_else_is_wrong_with_it():
    snapshot = with_gpus(
        gpu(0),
        gpu(1, state="lost", recovery_action=2),
        kernel_log={"xids": (xid(79),)},
        expected_gpus=2,
    )

    report = examine(snapshot)

    found = [(f.code, f.explained_by) for f in report.findings if f.code[:3] in ("GPU", "LNK")]
    assert found[0] == ("GPU001", None)
    assert {code for code, root in found[1:] if root == "GPU001"} >= {"GPU003", "GPU020", "GPU022"}


def test_the_healthy_h200_is_healthy():
    codes = {f.code for f in examine(machines.HEALTHY, select=["GPU", "LNK"]).findings}

    assert not codes

"""Rules about PCIe links and ports: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import BARE, assert_fires, assert_quiet, assert_unknown, later, with_gpus
from gpucheck.report import examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import pcie as rules
from gpucheck.snapshot import PciGpu, PciPort, Snapshot, Unknown
from machines import BUS_IDS, gpu, is_applicable, machine, not_checked, passes, symptoms


def slots(**changes: Any) -> tuple[PciGpu, ...]:
    fields: dict[str, Any] = {
        "slot_max_width": 16,
        "acs_redirecting_bridges": (),
        "numa_node": 0,
        "bridges": (),
        "aer": PciPort(bus_id="", aer_correctable=None, aer_nonfatal=None, aer_fatal=None),
    }
    return tuple(PciGpu(bus_id=bus_id, **{**fields, **changes}) for bus_id in BUS_IDS)


REDIRECTING = {"pci_gpus": slots(acs_redirecting_bridges=("0000:00:01.0",))}


FIRES = [
    (rules.pcie_narrow, {"pcie_width": 8}, "warning", "x8; GPU and slot both have x16"),
    (rules.pcie_narrow, {"pcie_width": 4}, "error", "x4"),
    (rules.pcie_narrow, {"pcie_width": 8, "pcie_width_max": 8}, "info", "all that its slot has"),
    (
        rules.pcie_slow,
        {"pcie_generation": 1, "later_sample": later(under_load=True, pcie_generation=3)},
        "warning",
        "PCIe generation 3 under load; GPU and slot both have 5",
    ),
    (
        rules.pcie_replays,
        {"pcie_replays": 100, "later_sample": later(pcie_replays=120)},
        "warning",
        "20 PCIe replays in 1.0 s",
    ),
    (rules.small_bar1, {"bar1_total_bytes": 256 << 20}, "info", "256 MiB"),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_poor_link_is_found_and_the_other_gpu_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (rules.pcie_slow, {"pcie_generation": 1}),
    (rules.pcie_slow, {"pcie_generation": 1, "later_sample": later(under_load=True)}),
    (rules.pcie_replays, {"pcie_replays": 5000, "later_sample": later(pcie_replays=5000)}),
    (rules.pcie_replays, {"later_sample": later(pcie_replays=1)}),
    (rules.small_bar1, {"bar1_total_bytes": 32 << 30}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


UNKNOWN = [
    (rules.pcie_slow, {"pcie_generation": 1}, "idle"),
    (
        rules.pcie_slow,
        {"pcie_generation": 1, "later_sample": later(pcie_generation=1, utilization_percent=0)},
        "idle",
    ),
    (
        rules.pcie_slow,
        {
            "pcie_generation": 1,
            "later_sample": later(under_load=True, pcie_generation=1, performance_state=2),
        },
        "P2",
    ),
    (rules.pcie_replays, {}, "two readings"),
    (rules.pcie_narrow, {"pcie_width": Unknown("no answer")}, "no answer"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


def test_a_slot_with_fewer_lanes_than_the_gpu_is_how_the_machine_is_built():
    snapshot = with_gpus(gpu(0, pcie_width=8), host={"pci_gpus": slots(slot_max_width=8)})

    [symptom] = symptoms(rules.pcie_narrow, snapshot)

    assert symptom.severity is Severity.INFO


@pytest.mark.parametrize("changes", [{"name": "NVIDIA GB10"}, {"c2c_is_on": True}], ids=str)
@pytest.mark.parametrize("rule", [rules.pcie_narrow, rules.pcie_slow], ids=lambda r: r.code)
def test_a_superchip_has_pcie_for_show(rule, changes):
    snapshot = with_gpus(gpu(0, pcie_width=1, pcie_generation=1, **changes))

    assert not symptoms(rule, snapshot)
    assert not is_applicable(rule, snapshot)


def test_a_laptop_has_the_lanes_that_it_has():
    laptop = gpu(0, name="NVIDIA GeForce RTX 4070 Laptop GPU", pcie_width=4)

    [symptom] = symptoms(rules.pcie_narrow, with_gpus(laptop))

    assert symptom.severity is Severity.INFO


def test_acs_above_the_gpus_of_a_bare_machine_is_a_warning():
    [symptom] = symptoms(rules.acs_redirect, machine(host={**REDIRECTING, "hypervisor": None}))

    assert "bridge 0000:00:01.0 above 0000:00:06.0, 0000:00:07.0" in symptom.saw


def test_acs_in_a_virtual_machine_is_the_hosts_business():
    assert not is_applicable(rules.acs_redirect, machine(host=REDIRECTING))


def test_acs_that_may_not_be_read_is_not_checked():
    pci = slots(acs_redirecting_bridges=Unknown("only root may read it"))
    snapshot = machine(host={"pci_gpus": pci, "hypervisor": None})

    assert not_checked(rules.acs_redirect, snapshot)
    assert not symptoms(rules.acs_redirect, snapshot)


def test_a_busy_gpu_at_p0_is_judged_without_deep():
    assert_fires(
        rules.pcie_slow,
        {"pcie_generation": 3, "performance_state": 0, "utilization_percent": 98},
        "warning",
        "PCIe generation 3 under load",
    )
    assert_unknown(rules.pcie_slow, {"pcie_generation": 1, "utilization_percent": 3}, "idle")


def test_a_data_center_gpu_in_a_slot_of_four_lanes_is_in_the_wrong_slot():
    host = {**BARE, "pci_gpus": slots(slot_max_width=4)}
    misplaced = gpu(0, pcie_width=4)
    rented = with_gpus(misplaced, host={**host, "hypervisor": "kvm"})

    [bare] = symptoms(rules.pcie_narrow, with_gpus(misplaced, host=host))
    [virtual] = symptoms(rules.pcie_narrow, rented)

    assert (bare.severity, virtual.severity) == (Severity.WARNING, Severity.INFO)


@pytest.mark.parametrize(
    ("changes", "host"),
    [({"compute_capability": "7.5"}, {}), ({}, {"hypervisor": "kvm"}), ({}, {"is_wsl": True})],
    ids=str,
)
def test_resizable_bar_is_no_question_where_it_cannot_be_had(changes, host):
    small = with_gpus(gpu(0, bar1_total_bytes=256 << 20, **changes), host={**BARE, **host})

    assert not symptoms(rules.small_bar1, small)
    assert not is_applicable(rules.small_bar1, small)


def test_a_translating_iommu_and_acs_are_fixed_together():
    host = {**REDIRECTING, "hypervisor": None, "iommu": "translating"}

    [symptom] = symptoms(rules.acs_redirect, machine(host=host))

    assert "iommu=pt" in symptom.remedy.text
    [step] = symptom.remedy.alternatives[1].steps
    assert (step.text, step.lasts) == ("setpci -s 0000:00:01.0 ECAP_ACS+0x6.w=0000", "reboot")


def test_the_iommu_hides_no_command_against_acs():
    """Linux keeps ACS on where an IOMMU is there: one without the other gains nothing."""
    host = {**REDIRECTING, "hypervisor": None, "iommu": "translating"}

    report = examine(machine(host=host), select=["HST006", "LNK010"])

    assert {(one.code, one.explained_by) for one in report.findings} == {
        ("HST006", None),
        ("LNK010", None),
    }


# ---------------------------------------------------------------------------------- errors of ports


PORT = "0000:00:01.0"


def with_port(corrected: int = 0, nonfatal: int = 0, fatal: int = 0, **sections: Any) -> Snapshot:
    """Two GPUs below one bridge that counted errors."""
    port = PciPort(bus_id=PORT, aer_correctable=corrected, aer_nonfatal=nonfatal, aer_fatal=fatal)
    return machine(host={**BARE, "pci_gpus": slots(bridges=(port,))}, **sections)


def test_hundreds_of_corrected_errors_above_the_gpus_are_a_bad_link():
    [symptom] = symptoms(rules.pcie_errors, with_port(corrected=4166))

    assert symptom.severity is Severity.WARNING
    assert symptom.gpus == (0, 1)
    assert symptom.saw == f"4,166 corrected PCIe errors at port {PORT} above " + " and ".join(
        BUS_IDS
    )


@pytest.mark.parametrize("counts", [{"fatal": 1}, {"nonfatal": 2, "corrected": 500}], ids=str)
def test_any_error_that_lost_data_is_an_error(counts: dict[str, int]):
    [symptom] = symptoms(rules.pcie_errors, with_port(**counts))

    assert symptom.severity is None


def test_a_few_corrected_errors_are_nothing():
    assert passes(rules.pcie_errors, with_port(corrected=12))


def test_the_log_counts_where_the_kernel_keeps_no_counters():
    logged = PciPort(bus_id=PORT, aer_correctable=120, aer_nonfatal=0, aer_fatal=0)
    elsewhere = PciPort(bus_id="0000:80:01.0", aer_correctable=0, aer_nonfatal=0, aer_fatal=3)
    port = PciPort(bus_id=PORT, aer_correctable=None, aer_nonfatal=None, aer_fatal=None)
    snapshot = machine(
        host={**BARE, "pci_gpus": slots(bridges=(port,))},
        kernel_log={"aer_ports": (logged, elsewhere)},
    )

    [symptom] = symptoms(rules.pcie_errors, snapshot)

    assert "120 corrected" in symptom.saw


def test_errors_of_the_gpu_itself_name_it():
    own = PciPort(bus_id=BUS_IDS[1], aer_correctable=900, aer_nonfatal=0, aer_fatal=0)
    pci = (slots()[0], PciGpu(bus_id=BUS_IDS[1], aer=own, bridges=()))

    [symptom] = symptoms(rules.pcie_errors, machine(host={**BARE, "pci_gpus": pci}))

    assert (symptom.subject, symptom.gpus) == ("gpu 1", (1,))
    assert "at the GPU 0000:00:07.0 itself" in symptom.saw

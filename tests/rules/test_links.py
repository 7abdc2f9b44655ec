"""Each rule of the family LNK: what makes it speak, and what must not."""

from typing import Any

import pytest

from gpucheck.report import examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import links as rules
from gpucheck.snapshot import NOT_SUPPORTED, Fabric, GpuPair, GpuSample, PciGpu, Snapshot, Unknown
from machines import (
    BUS_IDS,
    gpu,
    is_applicable,
    machine,
    not_checked,
    nvlink,
    passes,
    symptoms,
)


def with_gpus(*gpus: Any, **sections: Any) -> Snapshot:
    return machine(nvml={"gpus": gpus, "count": len(gpus)}, **sections)


def one(**changes: Any) -> Snapshot:
    """Two H200s, of which GPU 1 has *changes*."""
    return with_gpus(gpu(0), gpu(1, **changes))


def slots(**changes: Any) -> tuple[PciGpu, ...]:
    fields: dict[str, Any] = {"slot_max_width": 16, "acs_redirecting_bridges": (), "numa_node": 0}
    return tuple(PciGpu(bus_id=bus_id, **{**fields, **changes}) for bus_id in BUS_IDS)


def links(down: tuple[int, ...] = (), **changes: Any) -> tuple[Any, ...]:
    return tuple(nvlink(n, **({"is_up": False, **changes} if n in down else {})) for n in range(18))


CRC = sum(11 + n for n in range(18))  # what machines.nvlink's links show together


def second(**readings: Any) -> GpuSample:
    same: dict[str, Any] = {
        "after_seconds": 1.0,
        "pcie_replays": 0,
        "pcie_generation": 5,
        "performance_state": 0,
        "nvlink_crc_errors": CRC,
        "nvlink_replay_errors": 0,
        "nvlink_recovery_errors": 0,
    }
    return GpuSample(**{**same, **readings})


FIRES = [
    (rules.pcie_narrow, {"pcie_width": 8}, "warning", "x8; GPU and slot both have x16"),
    (rules.pcie_narrow, {"pcie_width": 4}, "error", "x4"),
    (rules.pcie_narrow, {"pcie_width": 8, "pcie_width_max": 8}, "info", "all that its slot has"),
    (
        rules.pcie_slow,
        {"pcie_generation": 1, "later_sample": second(under_load=True, pcie_generation=3)},
        "warning",
        "PCIe generation 3 under load; GPU and slot both have 5",
    ),
    (
        rules.pcie_replays,
        {"pcie_replays": 100, "later_sample": second(pcie_replays=120)},
        "warning",
        "20 PCIe replays in 1.0 s",
    ),
    (rules.nvlink_down, {"nvlinks": links(down=(3, 4))}, "error", "16 of 18 NVLinks are up"),
    (rules.nvlink_down, {"nvlinks": links()[:16]}, "error", "16 of 18"),
    (rules.nvlink_down, {"nvlinks": links(down=tuple(range(18)))}, "error", "none of its 18"),
    (
        rules.nvlink_errors,
        {"later_sample": second(nvlink_replay_errors=1)},
        "warning",
        "1 replays",
    ),
    (
        rules.nvlink_errors,
        {"later_sample": second(nvlink_recovery_errors=2)},
        "warning",
        "2 recoveries",
    ),
    (
        rules.nvlink_errors,
        {"later_sample": second(nvlink_crc_errors=CRC + 101)},
        "warning",
        "101 CRC errors",
    ),
    (rules.fabric_not_ready, {"fabric": Fabric(state=2)}, "error", "in progress"),
    (rules.fabric_not_ready, {"fabric": Fabric(state=3, status=15)}, "error", "NVML error 15"),
    (
        rules.fabric_not_ready,
        {"fabric": Fabric(state=3, health=0b010001)},
        "warning",
        "degraded bandwidth, an unhealthy route",
    ),
    (rules.small_bar1, {"bar1_total_bytes": 256 << 20}, "info", "256 MiB"),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_poor_link_is_found_and_the_other_gpu_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    [symptom] = symptoms(rule, one(**changes))

    assert symptom.subject == "gpu 1"
    assert (symptom.severity or rule.severity).value == severity
    assert words in symptom.saw


QUIET = [
    (rules.pcie_slow, {"pcie_generation": 1}),
    (rules.pcie_slow, {"pcie_generation": 1, "later_sample": second(under_load=True)}),
    (rules.pcie_replays, {"pcie_replays": 5000, "later_sample": second(pcie_replays=5000)}),
    (rules.pcie_replays, {"later_sample": second(pcie_replays=1)}),
    (rules.nvlink_down, {"nvlinks": ()}),
    (rules.nvlink_down, {"nvlinks": NOT_SUPPORTED}),
    (rules.nvlink_errors, {"later_sample": second()}),
    (rules.fabric_not_ready, {"fabric": Fabric(state=0)}),
    (rules.fabric_not_ready, {"fabric": Fabric(state=3, health=0b101010)}),
    (rules.fabric_not_ready, {"fabric": NOT_SUPPORTED}),
    (rules.small_bar1, {"bar1_total_bytes": 32 << 30}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert not symptoms(rule, one(**changes))


UNKNOWN = [
    (rules.pcie_slow, {"pcie_generation": 1}, "idle"),
    (rules.pcie_slow, {"pcie_generation": 1, "later_sample": second()}, "idle"),
    (
        rules.pcie_slow,
        {"pcie_generation": 1, "later_sample": second(under_load=True, performance_state=2)},
        "P2",
    ),
    (rules.pcie_replays, {}, "two readings"),
    (rules.nvlink_errors, {}, "two readings"),
    (rules.fabric_not_ready, {"fabric": Fabric(state=9)}, "9 is not known"),
    (rules.pcie_narrow, {"pcie_width": Unknown("no answer")}, "no answer"),
    (rules.nvlink_down, {"nvlinks": (nvlink(0, is_up=Unknown("no answer")),)}, "no answer"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    found = not_checked(rule, one(**changes))

    assert words in found[-1].why
    assert found[-1].subject == "gpu 1"
    assert not symptoms(rule, one(**changes))


def test_a_slot_with_fewer_lanes_than_the_gpu_is_how_the_machine_is_built():
    snapshot = with_gpus(gpu(0, pcie_width=8), host={"pci_gpus": slots(slot_max_width=8)})

    [symptom] = symptoms(rules.pcie_narrow, snapshot)

    assert symptom.severity is Severity.INFO


ALL_DOWN = links(down=tuple(range(18)))


@pytest.mark.parametrize(
    ("first", "hypervisor", "severity"),
    [
        ({}, "kvm", Severity.ERROR),
        ({}, None, Severity.ERROR),
        ({"nvlinks": ALL_DOWN}, None, Severity.WARNING),
        ({"nvlinks": ALL_DOWN}, "kvm", Severity.INFO),
    ],
)
def test_a_gpu_without_its_wired_links_is_judged_by_its_neighbours(first, hypervisor, severity):
    snapshot = with_gpus(gpu(0, **first), gpu(1, nvlinks=ALL_DOWN), host={"hypervisor": hypervisor})

    symptom = symptoms(rules.nvlink_down, snapshot)[-1]

    assert (symptom.severity or Severity.ERROR) is severity


@pytest.mark.parametrize(
    "changes", [{"name": "NVIDIA A100 80GB PCIe"}, {"mig_is_on": True}], ids=str
)
def test_no_bridge_and_mig_leave_no_link_up(changes):
    [symptom] = symptoms(rules.nvlink_down, one(nvlinks=ALL_DOWN, **changes))

    assert symptom.severity is Severity.INFO


def test_one_gpu_alone_in_its_virtual_machine_has_no_links_and_no_fabric():
    alone = with_gpus(gpu(0, nvlinks=ALL_DOWN, fabric=Fabric(state=1)), host={"hypervisor": "kvm"})

    [symptom] = symptoms(rules.nvlink_down, alone)

    assert symptom.severity is Severity.INFO
    assert not symptoms(rules.fabric_not_ready, alone)
    assert not is_applicable(rules.fabric_not_ready, alone)


def test_a_model_that_was_cut_down_has_the_links_of_its_table():
    down = tuple(nvlink(n, is_up=n < 8) for n in range(12))

    cut = with_gpus(gpu(0, name="NVIDIA A800-SXM4-80GB", nvlinks=down))

    assert passes(rules.nvlink_down, cut)


def test_half_of_a_v100_server_in_a_virtual_machine_lacks_the_links_to_the_other_half():
    four = tuple(nvlink(n, is_up=n < 4) for n in range(6))
    gpus = [gpu(n, name="Tesla V100-SXM2-16GB", nvlinks=four) for n in range(2)]

    virtual = symptoms(rules.nvlink_down, with_gpus(*gpus, host={"hypervisor": "xen"}))
    bare = symptoms(rules.nvlink_down, with_gpus(*gpus, host={"hypervisor": None}))

    assert [symptom.severity for symptom in virtual] == [Severity.INFO] * 2
    assert [symptom.severity for symptom in bare] == [None, None]


def test_a_link_that_is_down_counts_though_another_could_not_be_read():
    some = (*links(down=(3,))[:17], nvlink(17, is_up=Unknown("no answer")))

    [symptom] = symptoms(rules.nvlink_down, one(nvlinks=some))

    assert "16 of 18" in symptom.saw


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


def test_nvml_tells_the_numa_node_where_the_kernel_hides_its_devices():
    hidden = {"pci_gpus": Unknown("/sys is not there")}
    reported = with_gpus(gpu(0, numa_affinity="0"), gpu(1, numa_affinity="1"), host=hidden)
    untold = with_gpus(
        gpu(0, numa_affinity=NOT_SUPPORTED), gpu(1, numa_affinity=NOT_SUPPORTED), host=hidden
    )

    assert "node 1: GPU 1" in symptoms(rules.numa_nodes, reported)[0].saw
    assert not_checked(rules.numa_nodes, untold)


def test_a_bridged_model_may_have_fewer_links_up_than_its_board_has():
    bridged = gpu(0, name="NVIDIA A100 80GB PCIe", nvlinks=tuple(nvlink(n) for n in range(8)))

    assert passes(rules.nvlink_down, with_gpus(bridged))


def test_a_lost_gpu_explains_the_dead_links_of_its_peers():
    peer = "0000:00:07.0"
    snapshot = with_gpus(
        gpu(0, nvlinks=links(down=(0, 1), remote_bus_id=peer)), gpu(1, state="lost", bus_id=peer)
    )

    report = examine(snapshot, select=["GPU001", "LNK004"])

    assert [(f.code, f.subject, f.explained_by) for f in report.findings] == [
        ("GPU001", "gpu 1", None),
        ("LNK004", "gpu 0", "GPU001"),
    ]


def test_a_lost_gpu_does_not_explain_dead_links_to_another():
    snapshot = with_gpus(
        gpu(0, nvlinks=links(down=(0, 1), remote_bus_id="0000:00:09.0")), gpu(1, state="lost")
    )

    report = examine(snapshot, select=["GPU001", "LNK004"])

    assert [f.explained_by for f in report.findings] == [None, None]


def test_pairs_that_cannot_reach_each_other_are_named_with_the_reason():
    pair = GpuPair(a=0, b=1, p2p_read="CNS", p2p_write="CNS")

    [symptom] = symptoms(rules.no_peer_access, machine(nvml={"pairs": (pair,)}))

    assert symptom.saw == "GPUs 0-1: the chipset does not support it"


def test_one_gpu_has_nobody_to_reach():
    assert not is_applicable(rules.no_peer_access, with_gpus(gpu(0)))
    assert not is_applicable(rules.numa_nodes, with_gpus(gpu(0)))


def test_gpus_on_two_numa_nodes_are_noted_with_their_cpus():
    pci = (PciGpu(bus_id=BUS_IDS[0], numa_node=0), PciGpu(bus_id=BUS_IDS[1], numa_node=1))

    [symptom] = symptoms(rules.numa_nodes, machine(host={"pci_gpus": pci}))

    assert symptom.saw == "node 0: GPU 0 (CPUs 0-31); node 1: GPU 1 (CPUs 0-31)"


def test_gpus_on_one_numa_node_are_not():
    assert passes(rules.numa_nodes, machine(host={"pci_gpus": slots(numa_node=0)}))


REDIRECTING = {"pci_gpus": slots(acs_redirecting_bridges=("0000:00:01.0",))}


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


INFINIBAND = {"rdma_devices": ("mlx5_0",)}


def test_infiniband_without_any_way_to_gpu_memory_is_a_warning():
    snapshot = machine(host=INFINIBAND, driver={"peermem": False, "dma_buf": False})

    [symptom] = symptoms(rules.no_gpudirect_rdma, snapshot)

    assert "mlx5_0" in symptom.saw


@pytest.mark.parametrize(
    "driver", [{"peermem": True, "dma_buf": False}, {"peermem": False, "dma_buf": True}]
)
def test_either_way_to_gpu_memory_will_do(driver: dict[str, bool]):
    assert passes(rules.no_gpudirect_rdma, machine(host=INFINIBAND, driver=driver))


@pytest.mark.parametrize("name", ["rdmap16s27", "irdma0", "bnxt_re0", "rxe0", "hfi1_0"])
def test_other_makers_adapters_are_no_infiniband(name: str):
    snapshot = machine(host={"rdma_devices": (name,)}, driver={"peermem": False, "dma_buf": False})

    assert not symptoms(rules.no_gpudirect_rdma, snapshot)
    assert not is_applicable(rules.no_gpudirect_rdma, snapshot)


def test_no_infiniband_raises_no_question():
    assert not is_applicable(rules.no_gpudirect_rdma, machine())

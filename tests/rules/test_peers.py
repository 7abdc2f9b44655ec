"""Rules about the ways between GPUs: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import with_gpus
from gpucheck.report import examine
from gpucheck.rules import peers as rules
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    Deep,
    GpuPair,
    GpuWork,
    PciGpu,
    PeerCopy,
    Training,
    Unknown,
)
from machines import BUS_IDS, gpu, is_applicable, machine, not_checked, passes, symptoms


def slots(**changes: Any) -> tuple[PciGpu, ...]:
    fields: dict[str, Any] = {"slot_max_width": 16, "acs_redirecting_bridges": (), "numa_node": 0}
    return tuple(PciGpu(bus_id=bus_id, **{**fields, **changes}) for bus_id in BUS_IDS)


INFINIBAND = {"rdma_devices": ("mlx5_0",)}


def test_nvml_tells_the_numa_node_where_the_kernel_hides_its_devices():
    hidden = {"pci_gpus": Unknown("/sys is not there")}
    reported = with_gpus(gpu(0, numa_affinity="0"), gpu(1, numa_affinity="1"), host=hidden)
    untold = with_gpus(
        gpu(0, numa_affinity=NOT_SUPPORTED), gpu(1, numa_affinity=NOT_SUPPORTED), host=hidden
    )

    assert "node 1: GPU 1" in symptoms(rules.numa_nodes, reported)[0].saw
    assert not_checked(rules.numa_nodes, untold)


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


def test_infiniband_without_any_way_to_gpu_memory_is_a_warning():
    snapshot = machine(host=INFINIBAND, driver={"peermem": False, "dma_buf": False})

    [symptom] = symptoms(rules.no_gpudirect_rdma, snapshot)

    assert "mlx5_0" in symptom.saw


@pytest.mark.parametrize(
    "driver",
    [
        {"peermem": True, "peer_memory_clients": ("nv_mem",), "dma_buf": False},
        {"peermem": False, "dma_buf": True},
    ],
)
def test_either_way_to_gpu_memory_will_do(driver: dict[str, Any]):
    assert passes(rules.no_gpudirect_rdma, machine(host=INFINIBAND, driver=driver))


@pytest.mark.parametrize("name", ["rdmap16s27", "irdma0", "bnxt_re0", "rxe0", "hfi1_0"])
def test_other_makers_adapters_are_no_infiniband(name: str):
    snapshot = machine(host={"rdma_devices": (name,)}, driver={"peermem": False, "dma_buf": False})

    assert not symptoms(rules.no_gpudirect_rdma, snapshot)
    assert not is_applicable(rules.no_gpudirect_rdma, snapshot)


def test_no_infiniband_raises_no_question():
    assert not is_applicable(rules.no_gpudirect_rdma, machine())


def test_a_peermem_that_is_loaded_and_not_registered_does_not_work():
    loaded = {"peermem": True, "peer_memory_clients": None, "dma_buf": False}

    [symptom] = symptoms(rules.no_gpudirect_rdma, machine(host=INFINIBAND, driver=loaded))

    assert "loaded and not registered" in symptom.saw
    assert len(symptom.remedy.alternatives) == 2


def test_adapters_that_manage_switches_are_no_network():
    host = {"rdma_devices": ("mlx5_0",), "switch_managers": ("mlx5_0",)}
    driver = {"peermem": False, "dma_buf": False}

    assert not is_applicable(rules.no_gpudirect_rdma, machine(host=host, driver=driver))


# -------------------------------------------------------------------- copies that were compared


BAD = PeerCopy(source=0, target=1, error="1 of 4 bytes differ, first at 0")
WORKED = tuple(GpuWork(index=n, bus_id=bus_id) for n, bus_id in enumerate(reversed(BUS_IDS)))


def test_a_copy_that_came_back_different_is_a_fault_of_both_gpus():
    [symptom] = symptoms(
        rules.copy_differs, machine(deep=Deep(copies=(BAD,), gpus=WORKED), training=None)
    )

    assert symptom.gpus == (0, 1)
    assert symptom.subject == "gpu 1 → gpu 0"  # CUDA numbers them the other way round


def test_a_copy_that_came_back_the_same_passes():
    same = PeerCopy(source=0, target=1, error=None)

    assert passes(rules.copy_differs, machine(deep=Deep(copies=(same,), gpus=WORKED)))


def test_a_pair_that_two_looks_found_is_one_finding():
    training = Training(copies=(PeerCopy(source=1, target=0, error="differs", gpus=(1, 0)),))

    found = symptoms(
        rules.copy_differs, machine(deep=Deep(copies=(BAD,), gpus=WORKED), training=training)
    )

    assert len(found) == 1


def test_ranks_are_named_as_ranks_and_still_lead_to_their_gpus():
    training = Training(
        strategy="ddp",
        copies=(PeerCopy(source=0, target=1, error="differs", gpus=(1, 0)),),
    )

    [symptom] = symptoms(rules.copy_differs, machine(training=training))

    assert (symptom.subject, symptom.gpus) == ("rank 0 → rank 1", (0, 1))


def test_a_lost_gpu_explains_the_copy_that_failed():
    lost = gpu(1, state="lost")
    snapshot = machine(
        deep=Deep(copies=(BAD,), gpus=WORKED), nvml={"gpus": (gpu(0), lost), "count": 2}
    )

    report = examine(snapshot, select=["GPU001", "LNK014"])

    assert [(one.code, one.explained_by) for one in report.findings] == [
        ("GPU001", None),
        ("LNK014", "GPU001"),
    ]


def test_copies_that_were_not_made_are_not_checked():
    late = machine(deep=Deep(copies=Unknown("no answer in 60 s"), gpus=WORKED))

    assert not_checked(rules.copy_differs, late)


def test_without_deep_or_smoke_nothing_is_asked():
    assert not is_applicable(rules.copy_differs, machine())


def test_one_gpu_has_nobody_to_copy_to():
    assert not is_applicable(rules.copy_differs, machine(deep=Deep(copies=(), gpus=WORKED[:1])))

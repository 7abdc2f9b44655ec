"""What only a comparison shows: drift, mixtures, stragglers, slow places, lemons."""

import os
import random

import msgspec
import pytest
from bench_facts import figure
from bench_facts import measured as measured_bench

from gpucheck.fleet.facts import NodeFinding, NodeResult
from gpucheck.fleet.judging import result_of
from gpucheck.fleet.nodes import folded
from gpucheck.fleet.report import report_of
from gpucheck.fleet.rules import (
    Fleet,
    FleetFinding,
    differs,
    lemon,
    mixed,
    not_examined,
    slow_place,
    straggler,
)
from gpucheck.snapshot import Platform, RdmaDevice, RdmaPort, replace
from machines import gpu, machine

PEERS = ("NVIDIA H200", "8 GPUs", "x86_64", "8 RDMA devices")


def node(number: int, **facts: str) -> NodeResult:
    return NodeResult(
        node=f"gpu{number:05d}",
        verdict="healthy",
        peers=PEERS,
        facts={"driver": "580.95.05", "kernel": "6.8.0-60", **facts},
    )


def measured(nodes: int, *, seed: int, spread: float = 0.02, gpus: int = 8) -> list[NodeResult]:
    """Healthy nodes: normal losses around a median of 700."""
    chance = random.Random(seed)
    return [
        NodeResult(
            node=f"gpu{number:05d}",
            verdict="healthy",
            peers=PEERS,
            measures={
                "bf16": tuple((g, 700 * (1 + chance.gauss(0, spread))) for g in range(gpus)),
            },
        )
        for number in range(nodes)
    ]


def slower(result: NodeResult, gpu: int, factor: float) -> NodeResult:
    numbers = tuple((g, v * factor if g == gpu else v) for g, v in result.measures["bf16"])
    return NodeResult(
        node=result.node, verdict="healthy", peers=result.peers, measures={"bf16": numbers}
    )


def found(findings: object) -> list[tuple[str, str]]:
    return [(f.code, folded(f.nodes)) for f in findings if isinstance(f, FleetFinding)]  # type: ignore[attr-defined]


def test_one_node_of_ten_thousand_with_another_driver_is_named():
    nodes = [node(n) for n in range(10_000)]
    nodes[4711] = node(4711, driver="575.57.08")

    [finding] = differs(Fleet(results=nodes))

    assert (finding.code, finding.nodes) == ("FLT001", ("gpu04711",))
    assert finding.saw == "driver is 575.57.08; 9,999 of 10,000 peers have 580.95.05"


def test_fifteen_percent_are_a_minority_that_differs():
    nodes = [node(n, **({"driver": "575.57.08"} if n < 15 else {})) for n in range(100)]

    assert found(differs(Fleet(results=nodes))) == [("FLT001", "gpu[00000-00014]")]
    assert not list(mixed(Fleet(results=nodes)))


def test_half_and_half_is_one_note_and_no_warning():
    nodes = [node(n, **({"driver": "575.57.08"} if n % 2 else {})) for n in range(100)]

    [finding] = mixed(Fleet(results=nodes))

    assert (finding.code, finding.severity) == ("FLT002", "info")
    assert "50% 575.57.08" in finding.saw
    assert not list(differs(Fleet(results=nodes)))


def test_other_machines_are_no_peers():
    nodes = [node(n) for n in range(20)]
    others = [
        NodeResult(
            node=f"old{n}",
            verdict="healthy",
            peers=("NVIDIA A100", "4 GPUs"),
            facts={"driver": "550.1"},
        )
        for n in range(6)
    ]

    assert not list(differs(Fleet(results=[*nodes, *others])))


def test_four_peers_are_too_few_to_have_a_norm():
    nodes = [node(n) for n in range(3)] + [node(3, driver="575.57.08")]

    assert not list(differs(Fleet(results=nodes)))
    assert not list(mixed(Fleet(results=nodes)))


def test_real_snapshots_drift_by_their_facts():
    plain = machine(nvml={"gpus": (gpu(0), gpu(1))})
    other = machine(nvml={"gpus": (gpu(0), gpu(1, vbios_version="96.00.30.00.01"))})
    nodes = [result_of(f"n{n}", plain) for n in range(9)] + [result_of("n9", other)]

    [finding] = differs(Fleet(results=nodes))

    assert finding.nodes == ("n9",)
    assert finding.saw.startswith("VBIOS is 96.00.30.00.01, ")


def adapter(firmware: str = "28.39.3004", state: str = "ACTIVE") -> RdmaDevice:
    ports = (RdmaPort(number=1, state=state, rate="400 Gb/sec (4X NDR)"),)
    return RdmaDevice(name="mlx5_0", firmware=firmware, board="MT_0000000838", ports=ports)


DGX = Platform(product="DGXH100", board="B1", bios_version="1.6.7", microcode="0x2b0")
BUILT = {"rdma": (adapter(),), "kernel_release": "6.8.0-60-generic", "platform": DGX}


@pytest.mark.parametrize(
    ("changes", "saw"),
    [
        ({"rdma": (adapter(firmware="28.33.0800"),)}, "RDMA firmware is 28.33.0800; 9 of 10"),
        ({"rdma": (adapter(state="DOWN"),)}, "RDMA ports active is 0; 9 of 10 peers have 1"),
        ({"platform": replace(DGX, bios_version="1.1.3")}, "BIOS is 1.1.3; 9 of 10"),
        ({"platform": replace(DGX, microcode="0x1")}, "microcode is 0x1; 9 of 10"),
        ({"platform": replace(DGX, board="B2")}, "board is B2; 9 of 10"),
        ({"kernel_release": "6.8.0-45-generic"}, "kernel is 6.8.0-45-generic; 9 of 10"),
    ],
)
def test_a_node_that_is_built_otherwise_is_named(changes: dict[str, object], saw: str):
    nodes = [result_of(f"n{n}", machine(host=BUILT)) for n in range(9)]
    nodes.append(result_of("n9", machine(host={**BUILT, **changes})))

    [finding] = differs(Fleet(results=nodes))

    assert (finding.code, finding.nodes) == ("FLT001", ("n9",))
    assert finding.saw.startswith(saw)


def test_machines_of_another_product_are_no_peers():
    other = {**BUILT, "platform": Platform(product="SYS-821GE", bios_version="9")}
    nodes = [result_of(f"n{n}", machine(host=BUILT)) for n in range(9)]
    nodes += [result_of(f"m{n}", machine(host=other)) for n in range(2)]

    assert not list(differs(Fleet(results=nodes)))


def test_what_bench_measured_names_the_straggler():
    plain = result_of("n", measured_bench(count=8))
    slow = result_of("n09", measured_bench(figure("memory", 3, value=3500.0), count=8))
    nodes = [msgspec.structs.replace(plain, node=f"n{n:02d}") for n in range(9)] + [slow]

    [finding] = straggler(Fleet(results=nodes))

    assert finding.nodes == ("n09",)
    assert finding.saw.startswith("GPU 3: memory 18.4% under the median of 80 GPUs")


def test_a_node_that_was_asked_and_gave_nothing_is_a_finding_with_its_reason():
    failed = NodeResult(
        node="gpu00002",
        verdict="unreadable",
        findings=(NodeFinding(code="FLT003", severity="error", title="", saw="late", fix=""),),
    )
    fleet = Fleet(results=[node(1), failed], asked=["gpu00001", "gpu00002", "gpu00003"])

    assert sorted((f.saw, f.nodes) for f in not_examined(fleet)) == [
        ("gave no answer", ("gpu00003",)),
        ("late", ("gpu00002",)),
    ]
    assert report_of(fleet).verdict == "incomplete"
    assert report_of(fleet).exit_code == 1
    assert report_of(fleet, allow_missing=True).exit_code == 0


def test_a_slow_gpu_in_eighty_thousand_is_named():
    nodes = measured(10_000, seed=1)
    nodes[77] = slower(nodes[77], gpu=3, factor=0.8)

    [finding] = straggler(Fleet(results=nodes))

    assert finding.nodes == ("gpu00077",)
    assert finding.saw.startswith("GPU 3: bf16 ")


@pytest.mark.parametrize("seed", range(100))
def test_a_healthy_fleet_has_no_straggler(seed: int):
    """80,000 GPUs each, of any spread; without `make soak` only the first ten are that many."""
    many = seed < 10 or "GPUCHECK_SOAK" in os.environ
    spread = (0.002, 0.01, 0.02, 0.03)[seed % 4]
    fleet = Fleet(results=measured(10_000 if many else 1_000, seed=seed, spread=spread))

    assert not list(straggler(fleet)), f"seed {seed}"
    assert not list(slow_place(fleet)), f"seed {seed}"


def test_a_slow_slot_is_one_finding_and_not_many_gpus():
    nodes = [
        slower(each, gpu=7, factor=0.85) if n % 10 < 4 else each
        for n, each in enumerate(measured(100, seed=5, spread=0.005))
    ]

    [finding] = slow_place(Fleet(results=nodes))

    assert len(finding.nodes) == 40
    assert finding.saw.startswith("GPU 7 of 40 nodes: bf16 ")
    assert not list(straggler(Fleet(results=nodes)))


def in_racks(nodes: list[NodeResult], factor: float) -> tuple[list[NodeResult], dict[str, str]]:
    """Put eight nodes into each rack, and slow down all of the first one."""
    racks = {each.node: f"r{n // 8 + 1}" for n, each in enumerate(nodes)}
    for n in range(8):
        for g in range(8):
            nodes[n] = slower(nodes[n], gpu=g, factor=factor)
    return nodes, racks


@pytest.mark.parametrize("factor", [0.955, 0.7])
def test_a_slow_rack_is_one_finding_and_not_its_gpus(factor: float):
    nodes, racks = in_racks(measured(100, seed=9, spread=0.005), factor)

    [finding] = slow_place(Fleet(results=nodes, racks=racks))

    assert finding.saw.startswith("rack r1: bf16 ")
    assert len(finding.nodes) == 8
    assert not list(straggler(Fleet(results=nodes, racks=racks)))


def test_a_gpu_that_is_slow_even_for_its_slow_rack_is_named():
    nodes, racks = in_racks(measured(100, seed=9, spread=0.005), 0.9)
    nodes[3] = slower(nodes[3], gpu=5, factor=0.8)

    [finding] = straggler(Fleet(results=nodes, racks=racks))

    assert (finding.nodes, finding.saw[:6]) == (("gpu00003",), "GPU 5:")


def test_a_node_all_of_whose_gpus_are_slow_is_one_finding():
    nodes = measured(100, seed=9, spread=0.005)
    for g in range(8):
        nodes[3] = slower(nodes[3], gpu=g, factor=0.8)

    [finding] = straggler(Fleet(results=nodes))

    assert finding.saw.startswith("GPUs 0-7: bf16 ")


def test_a_node_flagged_three_times_in_ten_runs_is_a_lemon():
    sick = NodeResult(
        node="gpu00000",
        verdict="degraded",
        findings=(NodeFinding(code="GPU005", severity="warning", title="t", saw="s", fix="f"),),
    )
    earlier = [frozenset({"gpu00000"}), frozenset(), frozenset({"gpu00000"})]

    [finding] = lemon(Fleet(results=[sick, *(node(n) for n in range(1, 20))], history=earlier))

    assert finding.nodes == ("gpu00000",)
    assert finding.saw == "flagged in 3 of the last 4 runs"
    assert not list(lemon(Fleet(results=[sick, node(1)], history=earlier[1:])))

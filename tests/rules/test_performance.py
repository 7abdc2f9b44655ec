"""What `gpucheck bench` measured is judged by physics, siblings, link, model and past."""

import random
from typing import Any

import pytest
from bench_facts import PEER, TYPICAL, figure, figures, measured
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import machines
from gpucheck.knowledge import expected
from gpucheck.report import Finding, examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import performance as rules
from gpucheck.snapshot import Bench, Figure, Gpu, GpuPair, GpuProcess, Snapshot, Unknown
from machines import is_applicable, machine, not_checked, passes, symptoms
from seen_facts import seen

EVERY_RULE = [each for each in vars(rules).values() if isinstance(each, Rule)]
PRODUCTS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")


def findings(snapshot: Snapshot) -> list[Finding]:
    return list(examine(snapshot, select=("PRF",)).findings)


def serious(snapshot: Snapshot) -> list[Finding]:
    return [one for one in findings(snapshot) if one.severity is not Severity.INFO]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_healthy_gpus_are_not_complained_of(rule: Rule):
    snapshot = measured()

    assert not [one for one in symptoms(rule, snapshot) if one.severity is not Severity.INFO] or (
        rule.severity is Severity.INFO
    )


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_without_a_bench_and_on_the_cpu_the_question_does_not_arise(rule: Rule):
    assert not is_applicable(rule, machines.HEALTHY)
    assert not is_applicable(rule, machine(bench=Bench(device="cpu", figures=figures(2))))


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_a_bench_of_which_nothing_is_known_never_fails(rule: Rule):
    assert not symptoms(rule, machine(bench=Bench()))


# ------------------------------------------------------------------------------------ siblings


@pytest.mark.parametrize(
    ("share", "severity"), [(0.9, Severity.WARNING), (0.7, Severity.ERROR), (0.95, None)]
)
def test_a_gpu_that_computes_slower_than_its_siblings_is_named(
    share: float, severity: Severity | None
):
    slow = figure("bf16", 3, value=TYPICAL["bf16"] * share)

    found = symptoms(rules.products_below_siblings, measured(slow))

    assert [(one.gpus, one.severity) for one in found] == ([((3,), severity)] if severity else [])


def test_many_slow_products_of_one_gpu_are_one_finding():
    slow = [figure(each, 3, value=TYPICAL[each] * 0.88) for each in PRODUCTS]

    [found] = [one for one in findings(measured(*slow)) if one.explained_by is None]

    assert (found.code, found.gpus) == ("PRF001", (3,))
    assert all(each in found.saw for each in PRODUCTS)


def test_whether_the_clock_or_the_work_is_slow_is_said():
    cold = figure("bf16", 3, value=600.0, clock_sm_mhz=1200.0)
    odd = figure("bf16", 3, value=600.0)

    [throttled] = symptoms(rules.products_below_siblings, measured(cold))
    [broken] = symptoms(rules.products_below_siblings, measured(odd))

    assert "at 1,200 MHz (median 1,500)" in throttled.saw
    assert "though its clock is as high" in broken.saw


def test_two_gpus_cannot_outvote_each_other():
    [found] = symptoms(
        rules.products_below_siblings, measured(figure("bf16", 1, value=400.0), count=2)
    )

    assert (found.gpus, found.severity) == ((1,), Severity.WARNING)
    assert "two cannot outvote each other" in found.saw


def test_what_was_right_the_second_time_is_no_finding():
    hiccup = figure("bf16", 3, value=500.0, repeated=699.0)

    assert passes(rules.products_below_siblings, measured(hiccup))


def test_gpus_with_other_power_limits_are_no_siblings():
    gpus = tuple(
        machines.gpu(index, power_limit_enforced_watts=700.0 if index < 7 else 500.0)
        for index in range(8)
    )
    snapshot = machine(measured(figure("bf16", 7, value=560.0)), nvml={"gpus": gpus})

    assert not symptoms(rules.products_below_siblings, snapshot)
    [answer] = not_checked(rules.products_below_model, snapshot)
    assert "500 W" in answer.why


@pytest.mark.parametrize(("measure", "share"), [("memory", 0.96), ("h2d", 0.94), ("d2h", 0.94)])
def test_memory_and_host_copies_are_held_closer(measure: str, share: float):
    slow = measured(figure(measure, 5, value=TYPICAL[measure] * share))

    [found] = serious(slow)

    assert found.gpus == (5,)
    assert found.code == ("PRF004" if measure == "memory" else "PRF005")


def test_a_pair_that_copies_slower_than_the_others_is_named():
    [found] = symptoms(rules.peer_copies_slow, measured(figure("peer", 3, 5, value=360.0)))

    assert (found.subject, found.gpus) == ("gpu 3 → gpu 5", (3, 5))


def test_a_gpu_whose_pairs_are_all_slow_is_named_once():
    slow = [figure("peer", 3, other, value=200.0) for other in range(8) if other != 3]

    [found] = symptoms(rules.peer_copies_slow, measured(*slow))

    assert (found.subject, found.severity) == ("gpu 3", Severity.ERROR)
    assert "7 pairs" in found.saw


def test_a_gpu_in_a_slot_with_half_the_lanes_is_not_slower_than_its_siblings():
    half = [figure(each, 5, value=27.5, pcie_width=8) for each in ("h2d", "d2h")]

    assert passes(rules.host_copies_slow, measured(*half))


def test_pairs_over_pcie_may_differ_more_than_pairs_over_nvlink():
    snapshot = measured(figure("peer", 0, 1, value=360.0), count=2)
    over_pcie = GpuPair(a=0, b=1, topology="PHB", p2p_read="OK", p2p_write="OK")

    assert symptoms(rules.peer_copies_slow, snapshot)
    assert passes(
        rules.peer_copies_slow,
        machine(snapshot, nvml={"pairs": (over_pcie,), "gpus": unknown_model(2)}),
    )


def unknown_model(count: int) -> tuple[Gpu, ...]:
    return tuple(machines.gpu(index, name="NVIDIA X1000") for index in range(count))


# --------------------------------------------------------------------------- physics and links


def test_a_figure_beyond_physics_is_not_judged_and_never_called_fast():
    impossible = figure("memory", 2, value=9000.0)

    [answer] = not_checked(rules.memory_slow, measured(impossible))

    assert answer.subject == "gpu 2"
    assert "more than physics allows" in answer.why


def test_a_single_gpus_memory_is_held_against_its_bus_and_clock():
    [found] = symptoms(rules.memory_slow, measured(figure("memory", 0, value=2400.0), count=1))

    assert found.severity is Severity.ERROR
    assert "50% of its bus and clock (4,814 GB/s)" in found.saw


def test_a_host_copy_is_held_against_the_link_in_force():
    slow = figure("h2d", 0, value=30.0)
    narrow = figure("h2d", 0, value=27.0, pcie_width=8)

    [found] = symptoms(rules.host_copies_slow, measured(slow, count=1))

    assert "48% of the link in force (PCIe 5 × 16: 63 GB/s)" in found.saw
    assert passes(rules.host_copies_slow, measured(narrow, count=1))


def test_directions_that_differ_are_a_warning_as_on_a_published_machine():
    [found] = symptoms(
        rules.directions_differ,
        measured(figure("h2d", 0, value=26.28), figure("d2h", 0, value=6.27), count=1),
    )

    assert found.saw == "host to device 26.3 GB/s, device to host 6.27 GB/s"


# --------------------------------------------------------------------------- model and the past


def test_all_gpus_alike_slow_are_slower_than_their_model_and_no_sibling_is_blamed():
    slow = [figure(each, n, value=TYPICAL[each] * 0.5) for each in PRODUCTS for n in range(8)]

    found = findings(measured(*slow))

    assert {one.code for one in found if one.severity is not Severity.INFO} == {"PRF002"}
    assert {gpu for one in found if one.code == "PRF002" for gpu in one.gpus} == set(range(8))


def test_a_model_that_nobody_measured_is_not_judged():
    snapshot = measured(figure("bf16", 0, value=10.0), count=1, name="NVIDIA X1000")

    assert passes(rules.products_below_model, snapshot)


def eight(rate: float, **bench: Any) -> Snapshot:
    reduced = Figure(measure="all-reduce", gpus=tuple(range(8)), size=1 << 30, value=rate)
    return measured(reduced, bench=bench)


def test_all_reduce_is_judged_by_whether_nvls_was_in_use():
    assert passes(rules.all_reduce_slow, eight(361.0, nvls=False))
    assert symptoms(rules.all_reduce_slow, eight(361.0, nvls=True))
    assert not_checked(rules.all_reduce_slow, eight(361.0, nvls=Unknown("not said")))


def test_an_all_reduce_on_rings_over_nvswitches_is_a_note_where_nvls_was_not_in_use():
    [symptom] = symptoms(rules.without_nvls, eight(361.0, nvls=False))

    assert "over 8 GPUs, on rings" in symptom.saw
    assert symptom.gpus == tuple(range(8))
    assert passes(rules.without_nvls, eight(481.0, nvls=True))
    assert not_checked(rules.without_nvls, eight(361.0, nvls=Unknown("not said")))


def test_a_wrong_sum_is_an_error_whatever_its_speed():
    reduced = Figure(
        measure="all-reduce", gpus=(0, 1), size=1 << 20, value=400.0, wrong="1 of 9 sums"
    )

    [found] = symptoms(rules.wrong_sum, measured(reduced, count=2))

    assert found.gpus == (0, 1)


def test_wrong_bytes_of_a_copy_are_an_error_of_the_link():
    bad = figure("peer", 0, 1, wrong="1 of 8 words differ, first at 3")

    [found] = examine(measured(bad, count=2), select=("LNK014",)).findings

    assert (found.subject, found.gpus) == ("gpu 0 → gpu 1", (0, 1))


def test_what_got_slower_since_the_baseline_is_a_warning():
    before = tuple(replace(one, value=TYPICAL["memory"]) for one in (figure("memory", 0),))
    now = figure("memory", 0, value=4100.0)

    [found] = symptoms(rules.below_baseline, measured(now, count=1, bench={"baseline": before}))

    assert found.severity is Severity.WARNING
    assert "4% below its baseline (4,290)" in found.saw
    assert not is_applicable(rules.below_baseline, measured(now, count=1))


# ------------------------------------------------------------------------------------ the rest


def test_a_gpu_that_throttles_for_heat_is_named_and_the_power_cap_is_no_fault():
    hot = figure("bf16", 2, clocks_event_reasons=0x44)

    [found] = symptoms(rules.throttled, measured(hot))

    assert (found.gpus, found.saw) == ((2,), "hardware thermal slowdown while it was measured")


def test_gpus_behind_one_switch_are_a_remark():
    together = [figure("h2d together", n, value=14.0) for n in range(8)]

    [found] = symptoms(rules.shared_uplink, measured(*together))

    assert found.saw == "host to device: 112 GB/s all at once, 440 one by one"


def test_tf32_at_the_speed_of_fp32_is_switched_off_somewhere():
    off = [figure("tf32", n, value=53.0) for n in range(8)]

    assert len(symptoms(rules.tf32_is_off, measured(*off))) == 8


def test_a_gpu_that_hung_is_an_error_and_the_others_are_judged():
    dead = [figure(each, 4, value=Unknown("no answer in 30 s")) for each in TYPICAL]

    [found] = symptoms(rules.stopped_answering, measured(*dead))

    assert found.gpus == (4,)
    assert not symptoms(rules.memory_slow, measured(*dead))


def test_a_gpu_on_which_somebody_works_is_not_judged():
    gpus = tuple(
        machines.gpu(index, processes=(GpuProcess(pid=7),) if index == 1 else ())
        for index in range(8)
    )
    snapshot = machine(measured(figure("bf16", 1, value=300.0)), nvml={"gpus": gpus})

    assert not serious(snapshot)
    assert any("pid 7" in one.why for one in not_checked(rules.products_below_siblings, snapshot))


# ------------------------------------------------------------------------------- any machine


SEEDS = st.integers(0, 1 << 32)


def healthy(seed: int) -> list[Figure]:
    """Figures within the spread that healthy units of one machine show (see expected.json)."""
    generator = random.Random(seed)
    model = expected.reached("NVIDIA H200")
    found = []
    for one in figures(8):
        usual = TYPICAL.get(one.measure, PEER)
        spread = 0.02 if one.measure == "peer" else 0.01
        if one.measure in PRODUCTS:
            known = model.get(f"{one.measure}_gemm_tflops")
            usual, spread = min(usual, known.typical if known else usual), 0.05
        found.append(replace(one, value=generator.uniform(usual * (1 - spread), usual)))
    return found


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_no_healthy_spread_is_a_warning(seed: int):
    assert not serious(measured(*healthy(seed)))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 7))
def test_whichever_gpu_is_slower_by_a_tenth_is_named(seed: int, bad: int):
    scaled = [
        replace(one, value=seen(one.value) * 0.9) if one.gpus == (bad,) else one
        for one in healthy(seed)
    ]

    found = serious(measured(*scaled))

    assert {one.gpus for one in found} == {(bad,)}
    assert {"PRF004", "PRF005"} <= {one.code for one in found}


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.permutations(range(8)))
def test_renumbering_the_gpus_renumbers_the_findings(seed: int, order: list[int]):
    slow = [
        replace(one, value=seen(one.value) * 0.7) if one.gpus in ((2,), (5, 6)) else one
        for one in healthy(seed)
    ]
    renumbered = [replace(one, gpus=tuple(order[gpu] for gpu in one.gpus)) for one in slow]

    def found(figures_now: list[Figure]) -> set[tuple[str, frozenset[int]]]:
        return {(one.code, frozenset(one.gpus)) for one in serious(measured(*figures_now))}

    assert found(renumbered) == {
        (code, frozenset(order[gpu] for gpu in gpus)) for code, gpus in found(slow)
    }

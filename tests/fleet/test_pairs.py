"""Who meets whom, and whose fault it is: simulated fleets with a planted truth, any size."""

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.fleet.pairs.circle import pairs_of_round, rounds_of
from gpucheck.fleet.pairs.encounters import Encounter
from gpucheck.fleet.pairs.judging import FIRST_CONFIRMATION, Meetings
from gpucheck.fleet.pairs.running import CONFIRMATIONS, ROUNDS
from gpucheck.fleet.report import report_of
from gpucheck.fleet.rules import Fleet, failing_node, failing_path
from gpucheck.workloads.pair import Met

#: What a meeting of two nodes gives: its bandwidth, wrong sums, why it failed.
Truth = Callable[[str, str], tuple[float | None, str, str]]


def names(count: int) -> list[str]:
    return [f"gpu{number:04d}" for number in range(count)]


@given(st.integers(2, 60))
def test_every_round_is_a_matching_and_all_rounds_are_all_pairs(count: int):
    nodes = names(count)
    rounds = [pairs_of_round(nodes, number) for number in range(rounds_of(nodes))]

    for pairs in rounds:
        seated = [node for pair in pairs for node in pair]
        assert len(seated) == len(set(seated)) == count - count % 2
    met = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(met) == len(set(met)) == count * (count - 1) // 2


def test_nobody_meets_nobody():
    assert pairs_of_round([], 0) == pairs_of_round(["a"], 0) == []
    assert rounds_of(["a"]) == 0


def fleet(nodes: list[str], truth: Truth, seed: int = 0, spread: float = 0.02) -> Fleet:
    """Let *nodes* meet in as many rounds as the program does."""
    chance = random.Random(seed)
    encounters: list[Encounter] = []

    def meet(number: int, pairs: list[tuple[str, str]]) -> None:
        for first, second in pairs:
            rate, wrong, why = truth(first, second)
            noisy = None if rate is None else rate * (1 + chance.gauss(0, spread))
            met = {
                first: Met(gpus=8, rate=noisy, wrong=wrong, why=why),
                second: Met(gpus=8, rate=noisy, wrong=wrong, why=""),
            }
            encounters.append(Encounter(round=number, first=first, second=second, met=met))

    for number in range(min(ROUNDS, rounds_of(nodes))):
        meet(number + 1, pairs_of_round(nodes, number))
    for number in range(FIRST_CONFIRMATION, FIRST_CONFIRMATION + CONFIRMATIONS):
        meet(number, Meetings(encounters).to_confirm())
    return Fleet(results=(), encounters=encounters)


def well(_: str, __: str) -> tuple[float | None, str, str]:
    return 45.0, "", ""


def bad_node(name: str, *, how: tuple[float | None, str, str]) -> Truth:
    return lambda one, other: how if name in (one, other) else (45.0, "", "")


SLOW = (20.0, "", "")
WRONG = (45.0, "7 of 9 sums on GPU 0 are wrong", "")
DEAD = (None, "", "GPU 0 could not add up with it: its process crashed with SIGKILL")


def found(rule: object, of: Fleet) -> list[tuple[str, ...]]:
    return sorted(tuple(finding.nodes) for finding in rule(of))  # type: ignore[operator]


@pytest.mark.parametrize("count", [4, 5, 6, 8, 9, 64, 1001, 4096])
@pytest.mark.parametrize("how", [WRONG, DEAD])
def test_a_bad_node_is_named_and_its_partners_are_not(count: int, how: tuple[float, str, str]):
    nodes = names(count)
    culprit = nodes[count // 2]

    of = fleet(nodes, bad_node(culprit, how=how))

    assert found(failing_node, of) == [(culprit,)]
    assert found(failing_path, of) == []


@pytest.mark.parametrize("count", [8, 9, 64, 1001, 4096])
def test_a_slow_node_is_named_and_its_partners_are_not(count: int):
    nodes = names(count)

    of = fleet(nodes, bad_node(nodes[3], how=SLOW))

    assert found(failing_node, of) == [(nodes[3],)]
    assert found(failing_path, of) == []
    [finding] = failing_node(of)
    assert "3 of 3 all-reduces with one other node went wrong" in finding.saw
    assert "slow: " in finding.saw


@pytest.mark.parametrize("count", [5, 6, 8, 9, 64, 1001, 4096])
@pytest.mark.parametrize("how", [WRONG, DEAD])
@pytest.mark.parametrize("number", [0, 1])
def test_a_bad_path_is_named_and_no_node(count: int, how: tuple[float, str, str], number: int):
    nodes = names(count)
    pair = frozenset(pairs_of_round(nodes, number)[0])

    of = fleet(nodes, lambda one, other: how if {one, other} == pair else (45.0, "", ""))

    assert found(failing_node, of) == []
    assert [frozenset(each) for each in found(failing_path, of)] == [pair]


def test_several_faults_of_one_fleet_are_each_named():
    nodes = names(2000)
    path = frozenset(pairs_of_round(nodes, 1)[17])
    bad = {nodes[5], nodes[700], nodes[1999]} - path

    def truth(one: str, other: str) -> tuple[float | None, str, str]:
        if bad & {one, other}:
            return WRONG
        return SLOW if path == {one, other} else (45.0, "", "")

    of = fleet(nodes, truth)

    assert found(failing_node, of) == sorted((node,) for node in bad)
    assert [frozenset(each) for each in found(failing_path, of)] == [path]


@pytest.mark.parametrize("seed", range(100))
def test_a_healthy_fleet_has_no_finding_and_nothing_to_confirm(seed: int):
    of = fleet(
        names(1000 + seed), well, seed=seed, spread=random.Random(seed).choice([0.002, 0.03])
    )

    assert not list(failing_node(of)), f"seed {seed}"
    assert not list(failing_path(of)), f"seed {seed}"
    assert len(of.encounters) == (1000 + seed) // 2 * 2


def test_a_noisy_fabric_names_nobody():
    of = fleet(names(200), well, seed=3, spread=0.25)

    assert report_of(of).findings == ()


def test_two_nodes_alone_cannot_be_told_apart():
    of = fleet(names(2), bad_node("gpu0001", how=WRONG))

    [finding] = failing_path(of)
    assert finding.nodes == ("gpu0000", "gpu0001")
    assert "no two nodes are well together" in finding.saw
    assert not list(failing_node(of))


def test_where_nobody_is_well_there_is_one_finding():
    of = fleet(names(50), lambda *_: DEAD)

    [finding] = failing_path(of)
    assert len(finding.nodes) == 50
    assert report_of(of).verdict == "broken"


def test_a_node_that_never_began_costs_nobody_a_verdict():
    nodes = names(6)
    encounters = [
        Encounter(round=number + 1, first=a, second=b, met={a: GOOD, b: GOOD})
        for number in range(2)
        for a, b in pairs_of_round(nodes, number)
    ]
    for at, one in enumerate(encounters):
        if nodes[2] in one.nodes:
            other = one.partner_of(nodes[2])
            alone = {"absent": {nodes[2]: "refused"}, "met": {other: WAITED}}
            encounters[at] = msgspec.structs.replace(one, **alone)

    of = Fleet(results=(), encounters=encounters)

    assert not list(failing_node(of))
    assert not list(failing_path(of))
    assert Meetings(encounters).to_confirm() == []


GOOD = Met(gpus=8, rate=45.0)
WAITED = Met(gpus=8, why="GPU 0 could not meet the other node: timeout")


def test_pairs_across_racks_are_compared_with_such():
    nodes = names(200)
    racks = {node: f"r{number // 10}" for number, node in enumerate(nodes)}

    def truth(one: str, other: str) -> tuple[float | None, str, str]:
        return (45.0 if racks[one] == racks[other] else 20.0), "", ""

    chance = random.Random(1)
    pairs = [(a, b) for n in range(0, 200, 2) for a, b in [(nodes[n], nodes[n + 1])]]
    pairs += [(nodes[n], nodes[n + 50]) for n in range(50)]
    encounters = []
    for a, b in pairs:
        rate = (truth(a, b)[0] or 0) * (1 + chance.gauss(0, 0.01))
        met = {a: Met(rate=rate), b: Met(rate=rate)}
        encounters.append(Encounter(round=1, first=a, second=b, met=met))

    assert not Meetings(encounters, racks).wrong
    assert Meetings(encounters).wrong

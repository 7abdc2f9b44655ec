"""Products of whole numbers have one right result: it is proven, and every bit is compared."""

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not in this environment", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch misses numpy, which we do not need
    import torch

from gpucheck.payload import exact
from gpucheck.payload.burn_memory import HostCopies, burn_all_reduce, burn_memory, burn_peers
from gpucheck.payload.burn_products import Arena, Product, burn
from gpucheck.payload.burn_report import Report
from gpucheck.workloads import burn_plan as plans

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
SHORT = exact.Shape(order=64, inner=64, copies=1, reach=120, period=16)
LONG = exact.Shape(order=64, inner=64, copies=4, reach=42, period=16)
KINDS = ("bf16", "fp16", "tf32", "fp32", "fp64", "int8")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def reference(shape: exact.Shape, folder: Path) -> Any:
    exact.prove(shape, str(folder / "reference"))
    return exact.read(shape, str(folder / "reference"))


def product(folder: Path, kind: str = "bf16", shape: exact.Shape = LONG) -> Product:
    arena = Arena(torch.zeros(1 << 17, dtype=torch.int64))
    return Product(kind, shape, arena, reference(shape, folder), CPU)


# ---------------------------------------------------------------------------------- the numbers


def test_the_same_place_gives_the_same_number_whatever_is_made_with_it():
    made = exact.whole(300, 200, 120, seed=7, device=CPU)

    assert torch.equal(exact.whole(300, 200, 120, 7, CPU)[:10], exact.whole(10, 200, 120, 7, CPU))
    assert (int(made.min()), int(made.max())) == (-120, 120)
    assert abs(float(made.float().mean())) < 1.5
    assert not torch.equal(made, exact.whole(300, 200, 120, 8, CPU))


def test_the_numbers_are_a_hash_of_their_place_on_every_machine():
    def expected(row: int, column: int, reach: int, seed: int) -> int:
        mixed = row * 0x9E3779B1 + column * 0x85EBCA6B + seed * 0xC2B2AE35
        for _ in range(2):
            mixed &= 0xFFFFFFFF
            mixed = (mixed ^ mixed >> 16) * 0x45D9F3B
        mixed &= 0xFFFFFFFF
        mixed ^= mixed >> 16
        return (mixed * (2 * reach + 1) >> 32) - reach

    made = exact.whole(40, 50, 120, seed=20_251, device=CPU)

    assert made.tolist() == [[expected(r, c, 120, 20_251) for c in range(50)] for r in range(40)]


def test_the_reference_is_the_product_in_whole_numbers(tmp_path: Path):
    left, right = exact.factors(LONG, CPU)
    slow = torch.mm(left.long(), right.long().t()) * LONG.copies

    assert torch.equal(reference(LONG, tmp_path).long(), slow)


def test_a_wrong_product_does_not_pass_the_proof():
    left, right = exact.factors(LONG, CPU)
    right_one = torch.mm(left.float(), right.float().t())

    assert exact.is_product(left, right, right_one)
    for row, column, error in ((0, 0, 1.0), (5, 63, -2.0), (15, 31, 2.0**20)):
        wrong = right_one.clone()
        wrong[row, column] += error
        assert not exact.is_product(left, right, wrong)


def test_numbers_whose_sums_fp32_might_round_are_refused(tmp_path: Path):
    large = exact.Shape(order=32, inner=4096, copies=8, reach=120, period=8)

    with pytest.raises(exact.ProofError, match="above 2\\^24"):
        exact.prove(large, str(tmp_path / "reference"))

    assert not list(tmp_path.iterdir())


def test_the_products_of_a_small_gpu_are_proven_as_those_of_a_large_one_are(tmp_path: Path):
    found = plans.shapes(64 << 20, on_cpu=False)

    assert found is not None
    for name, sizes in found.items():
        exact.prove(exact.Shape(*sizes), str(tmp_path / name))
    assert {each.name for each in tmp_path.iterdir()} == {"short", "long"}


# ------------------------------------------------------------------------------- the comparison


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [SHORT, LONG], ids=["short", "long"])
def test_every_data_type_gives_the_reference_bit_for_bit(
    tmp_path: Path, kind: str, shape: exact.Shape
):
    tried = product(tmp_path, kind, shape)

    tried.multiply(tried.slots[0])

    assert not tried.is_wrong(tried.slots[0])
    assert tried.alarm(tried.slots[0], 11)


@pytest.mark.parametrize("change", [float("nan"), float("inf"), -0.0, 1.0])
def test_whatever_stands_in_one_element_is_found(tmp_path: Path, change: float):
    tried = product(tmp_path)
    slot = tried.slots[0]
    tried.multiply(slot)
    tried.expected[64 * 3 + 9] = 0.0  # so that -0.0 is another number by its sign alone
    slot.view(-1, 16, 64)[:, 3, 9] = 0.0
    assert not tried.is_wrong(slot)

    slot[19, 9] = change

    assert tried.is_wrong(slot)
    fault = tried.trace(slot, tried.slots[1])
    assert [word["place"] for word in fault["words"]] == ["row 19, column 9"]


def worked(report: Report, steps: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"faults": [], "work": [], "alarms": 0, "alarms_found": 0}
    for _ in steps:
        for name, new in report.take().items():
            if name in found:
                found[name] = found[name] + new
    return found


def spoil_results(monkeypatch: pytest.MonkeyPatch, *, times: range, bit: int = 20) -> None:
    whole, calls = Product.multiply, iter(range(1 << 30))

    def spoiled(self: Product, slot: Any) -> None:
        whole(self, slot)
        if next(calls) in times:
            exact.words(slot)[70] ^= 1 << bit

    monkeypatch.setattr(Product, "multiply", spoiled)


def test_a_bit_that_flipped_once_in_a_result_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil_results(
        monkeypatch,
        times=range(2, 3),  # the first two measure
    )
    report = Report("tensor")

    found = worked(report, burn(product(tmp_path), 0.1, report, number=3))

    [fault] = found["faults"]
    assert (fault["kind"], fault["size"], fault["count"]) == ("bf16", "64 x 64 x 256", 1)
    assert fault["words"][0]["place"] == "row 2, column 12"
    assert fault["bits"] == [20]
    assert (fault["repeated"], fault["repeats"]) == (0, 10)
    assert (fault["second_look"], fault["inputs"], fault["reference"]) == (True, None, None)
    assert (found["alarms"], found["alarms_found"]) == (1, 1)
    assert sum(work["count"] for work in found["work"]) >= 1


def test_a_product_that_is_always_wrong_is_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil_results(monkeypatch, times=range(2, 1 << 30))
    report = Report("tensor")

    found = worked(report, burn(product(tmp_path), 0.02, report, number=3))

    assert found["faults"]
    assert all(fault["repeated"] == 10 for fault in found["faults"])


def test_a_bit_that_flipped_in_a_factor_is_told_from_wrong_arithmetic(tmp_path: Path):
    tried = product(tmp_path, "fp32", SHORT)
    exact.words(tried.left)[64 * 16 // 2] ^= 1 << 22  # of row 16

    tried.multiply(tried.slots[0])
    fault = tried.trace(tried.slots[0], tried.slots[1])

    assert fault["inputs"].startswith("1 numbers of the left factor had changed (first ")
    assert {word["place"].split(",")[0] for word in fault["words"]} == {"row 16"}
    assert fault["repeated"] == 0, "the factors were written anew"


def test_a_reference_that_changed_is_told_from_wrong_arithmetic(tmp_path: Path):
    tried = product(tmp_path)
    tried.multiply(tried.slots[0])
    exact.words(tried.expected)[3] ^= 1

    fault = tried.trace(tried.slots[0], tried.slots[1])

    assert fault["reference"] == "the reference had changed in 1 words"
    assert fault["inputs"] is None


def test_a_comparison_that_finds_nothing_fails_its_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(exact, "differ", lambda found, expected, mask, flag: None)
    report = Report("tensor")

    found = worked(report, burn(product(tmp_path), 0.02, report, number=3))

    assert (found["alarms"], found["alarms_found"]) == (1, 0)


# ------------------------------------------------------------------------------ memory, copies


def test_memory_that_keeps_what_was_written_is_sound():
    report = Report("memory")
    arena = Arena(torch.zeros(5000, dtype=torch.int64))

    found = worked(report, burn_memory(arena, CPU, 0.05, report, number=0))

    assert found["faults"] == []
    assert found["alarms_found"] == 1
    [work] = found["work"]
    assert work["amount"] == work["count"] * 16 * 5000


@pytest.mark.parametrize("number", range(6))
def test_a_bit_that_flips_in_memory_is_found_in_every_pattern(
    number: int, monkeypatch: pytest.MonkeyPatch
):
    whole = exact.differ
    seen: list[int] = []

    def later(found: Any, *rest: Any) -> None:
        if found.numel() == 2500 and not seen:
            seen.append(1)
            found[1234] ^= 1 << 7
        whole(found, *rest)

    monkeypatch.setattr(exact, "differ", later)
    report = Report("memory")
    arena = Arena(torch.zeros(5000, dtype=torch.int64))

    found = worked(report, burn_memory(arena, CPU, 0.0, report, number=number))

    [fault] = found["faults"]
    assert (fault["kind"], fault["count"], fault["bits"]) == ("memory", 1, [7])
    assert fault["words"][0]["place"] == "byte 9,872 of the memory under test"
    assert (fault["repeated"], fault["second_look"]) == (0, True)


@pytest.mark.parametrize(("kind", "held"), [("h2d", "_there"), ("d2h", "_back")])
def test_a_bit_that_flips_in_a_copy_is_found(kind: str, held: str):
    report = Report("copy")
    copies = HostCopies(4096, CPU, report)
    copies.step()
    if kind == "h2d":  # it was compared where it arrived
        copies._host[0][77] ^= 1 << 33
        copies._host[1][77] ^= 1 << 33
    getattr(copies, held)[77] ^= 1 << 33

    copies.step()
    copies.finish()

    faults = report.take()["faults"]
    assert {fault["kind"] for fault in faults} >= {kind}
    assert faults[0]["bits"] == [33]


def test_copies_that_arrive_are_sound():
    report = Report("copy")
    copies = HostCopies(4096, CPU, report)
    for _ in range(5):
        copies.step()
    copies.alarm(4)

    facts = report.take()

    assert facts["faults"] == []
    assert facts["alarms_found"] == 1
    assert {work["kind"]: work["count"] for work in facts["work"]} == {"h2d": 5, "d2h": 5}


def test_a_copy_that_does_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch):
    report = Report("copy")
    copies = HostCopies(4096, CPU, report)
    copies.step()
    monkeypatch.setattr(copies, "_to_gpu", lambda which: None)

    copies.step()
    copies.finish()

    assert [fault["kind"] for fault in report.take()["faults"]] == ["h2d"]


def test_a_peer_copy_that_changes_a_word_names_the_pair(monkeypatch: pytest.MonkeyPatch):
    whole, calls = exact.differ, []

    def later(found: Any, *rest: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            found[9] ^= 16
        whole(found, *rest)

    monkeypatch.setattr(exact, "differ", later)
    report = Report("peer")

    found = worked(report, burn_peers([4, 6], [CPU, CPU], 4096, 0.0, report, number=0))

    [fault] = found["faults"]
    assert (fault["gpus"], fault["bits"], fault["count"]) == ([6, 4], [4], 1)
    assert found["alarms_found"] == 1


def test_a_wrong_sum_of_an_all_reduce_names_the_gpu(monkeypatch: pytest.MonkeyPatch):
    right = torch.sum

    def wrong(*given: Any, out: Any = None, **more: Any) -> None:
        right(*given, out=out, **more)
        if not calls:
            out[7] += 1
        calls.append(1)

    calls: list[int] = []
    monkeypatch.setattr(torch, "sum", wrong)
    report = Report("allreduce")

    found = worked(report, burn_all_reduce([4, 6], [CPU, CPU], [4096], 0.0, report, number=0))

    [fault] = found["faults"]
    assert (fault["kind"], fault["gpus"]) == ("all-reduce", [4])
    assert found["alarms_found"] == 1

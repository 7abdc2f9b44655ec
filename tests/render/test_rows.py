"""A row for each GPU: its verdict is what a scheduler needs."""

import pytest

from gpu_cases import BARE, later, with_gpus
from gpucheck.render.rows import gpu_rows
from gpucheck.report import examine
from gpucheck.snapshot import Deep, Fabric, GpuWork, PeerCopy
from machines import BUS_IDS, HEALTHY, gpu, machine


def verdicts(snapshot):
    return [row.verdict for row in gpu_rows(examine(snapshot, select=["GPU", "LNK"]))]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "ok"),
        ({"fabric": None}, "ok"),
        ({"power_limit_enforced_watts": 500.0, "later_sample": later()}, "degraded"),
        ({"uncorrected_ecc_volatile": 1}, "drain"),
        ({"state": "lost"}, "drain"),
        ({"state": "hung", "error": "no answer"}, "drain"),
    ],
    ids=str,
)
def test_a_gpu_is_judged_by_what_was_found_about_it(changes, verdict):
    changes = {name: value for name, value in changes.items() if value is not None}
    other = {"power_limit_enforced_watts": changes.get("power_limit_enforced_watts", 700.0)}

    assert verdicts(with_gpus(gpu(0, **other), gpu(1, **changes), host=BARE))[1] == verdict


def test_a_bad_copy_is_a_fault_of_both_its_ends_and_of_no_other():
    bus_ids = (*BUS_IDS, "0000:00:08.0")
    copied = Deep(
        copies=(PeerCopy(source=0, target=2, error="3 words came back different"),),
        gpus=tuple(GpuWork(index=n, bus_id=bus_id) for n, bus_id in enumerate(bus_ids)),
    )
    three = machine(with_gpus(gpu(0), gpu(1), gpu(2)), deep=copied)

    assert verdicts(three) == ["drain", "ok", "drain"]


def test_what_is_wrong_with_the_machine_as_a_whole_is_no_gpus_verdict():
    broken = machine(HEALTHY, driver={"module_version": None})

    assert [row.verdict for row in gpu_rows(examine(broken))] == ["ok", "ok"]


def test_a_row_names_the_root_of_what_was_found_about_its_gpu():
    waiting = [gpu(n, fabric=Fabric(state=1, status=0)) for n in range(2)]
    board = with_gpus(*waiting, host={**BARE, "nvswitches": 4}, driver={"fabric_manager": None})

    report = examine(board, select=["DRV010", "LNK006"])

    assert [row.findings for row in gpu_rows(report)] == [("DRV010",), ("DRV010",)]

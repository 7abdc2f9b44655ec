"""The journal of a burn: what is written down comes back, and adds up."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpucheck.probes.messages import GpuReading
from gpucheck.snapshot import (
    NOT_EXAMINED,
    NOT_SUPPORTED,
    Burn,
    BurnCounters,
    BurnGpu,
    BurnPoint,
    BurnWork,
    Unknown,
)
from gpucheck.workloads import burn_journal as journals
from gpucheck.workloads.burn_journal import FILE, AnyEvent, Counters, Journal, JournalError
from gpucheck.workloads.burn_plan import BurnPlan, possible, shapes
from gpucheck.workloads.burn_seen import counters_of, point_of


def started(seconds: float = 0.0, boot: str = "one", **changes: Any) -> journals.Started:
    facts: dict[str, Any] = {
        "at": "2026-01-01T00:00:00+00:00",
        "plan": BurnPlan().as_record(),
        "gpus": (BurnGpu(index=0, name="NVIDIA H200"),),
        "torch": "2.11.0",
        "cuda": "13.0",
        "xids": (),
    }
    return journals.Started(seconds=seconds, boot=boot, **{**facts, **changes})


def worked(seconds: float, *, amount: float = 1e15, took: float = 10.0, **more: Any) -> AnyEvent:
    work = BurnWork(phase="tensor", kind="bf16", count=1, amount=amount, seconds=took)
    return journals.Worked(seconds=seconds, gpu=0, work=(work,), **more)


def seen(seconds: float, **counters: Any) -> AnyEvent:
    point = BurnPoint(seconds=seconds, temperature_celsius=50.0)
    return journals.Seen(seconds=seconds, gpu=0, point=point, counters=Counters(**counters))


def ended(seconds: float, why: str | None = None) -> AnyEvent:
    return journals.Ended(seconds=seconds, why=why, new_xids=NOT_EXAMINED)


def facts(*events: AnyEvent) -> Burn:
    return journals.facts((started(), *events), device="cuda")


def gpu(*events: AnyEvent) -> BurnGpu:
    found = facts(*events).gpus
    assert isinstance(found, tuple)
    return found[0]


# ------------------------------------------------------------------------------------ the file


def test_what_was_written_down_comes_back(tmp_path: Path):
    journal = Journal(tmp_path / "new", resume=False)
    for event in (started(), worked(5.0), seen(10.0, corrected_ecc=3), ended(12.0, "SIGTERM")):
        journal.add(event)

    again = Journal(tmp_path / "new", resume=True)

    assert again.events == journal.events
    assert (again.seconds, again.is_over) == (12.0, False)
    assert again.first is not None
    assert BurnPlan.of_record(again.first.plan) == BurnPlan()


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_that_a_kill_cut_off_is_left_out_and_spoils_no_other(tmp_path: Path, cut: int):
    journal = Journal(tmp_path, resume=False)
    journal.add(started())
    journal.add(worked(5.0))
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-cut])

    Journal(tmp_path, resume=True).add(ended(6.0))

    kinds = [type(event).__name__ for event in Journal(tmp_path, resume=True).events]
    assert kinds == (["Started", "Worked", "Ended"] if cut == 1 else ["Started", "Ended"])


@pytest.mark.parametrize("text", ['{"event": "worked"}\n', "{}\n", "nonsense\n", '{"event": 7}\n'])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, text: str):
    (tmp_path / FILE).write_text(text)

    with pytest.raises(JournalError):
        Journal(tmp_path, resume=True)


def test_a_full_disk_does_not_end_the_burn(tmp_path: Path):
    journal = Journal(tmp_path, resume=False)
    journal._file = 1 << 20  # no such descriptor

    journal.add(started())

    assert len(journal.events) == 1


# ------------------------------------------------------------------------------------ adding up


def test_the_same_work_is_added_up():
    [work] = gpu(worked(5.0, loaded_seconds=5.0), worked(10.0, loaded_seconds=4.5)).work

    assert (work.count, work.amount, work.seconds) == (2, 2e15, 20.0)
    assert (work.first_rate, work.last_rate) == (None, None), "too short to say"


def test_the_first_minute_is_compared_with_the_last():
    early = [worked(10.0 * at, amount=7e15) for at in range(1, 10)]
    late = [worked(300.0 + 10.0 * at, amount=6e15) for at in range(1, 10)]

    [work] = gpu(*early, *late).work

    assert [work.first_rate, work.last_rate] == pytest.approx([700, 600])


def test_a_counter_that_starts_again_counts_from_zero():
    readings = [seen(10.0 * at, corrected_ecc=number) for at, number in enumerate((5, 5, 8, 1, 2))]

    counters = gpu(*readings).counters

    assert isinstance(counters, BurnCounters)
    assert counters.corrected_ecc == 3 + 1 + 1
    assert counters.pcie_replays == NOT_SUPPORTED


def test_what_was_there_before_the_burn_is_not_counted():
    counters = gpu(seen(1.0, uncorrected_ecc=7), seen(9.0, uncorrected_ecc=7)).counters

    assert isinstance(counters, BurnCounters)
    assert counters.uncorrected_ecc == 0


def test_a_long_burn_keeps_its_extremes_in_few_points():
    events = [
        journals.Seen(
            seconds=float(at),
            gpu=0,
            point=BurnPoint(
                seconds=float(at),
                temperature_celsius=90.0 if at == 777 else 60.0,
                clocks_event_reasons=0x40 if at == 777 else 4,
            ),
            counters=Counters(),
        )
        for at in range(3000)
    ]

    points = gpu(*events).points

    assert len(points) <= 240
    assert max(p.temperature_celsius for p in points) == 90.0  # type: ignore[type-var]
    assert sum(p.clocks_event_reasons == 0x44 for p in points) == 1
    assert points[-1].seconds == 2999.0


@pytest.mark.parametrize(
    ("boot", "between", "reboots"),
    [
        ("one", (), [False]),
        ("two", (), [True]),
        ("", (), [Unknown("no boot id")]),
        ("two", (ended(5.0, "stopped by SIGTERM"),), []),
    ],
)
def test_a_kill_is_told_from_a_reboot_and_from_an_end(
    boot: str, between: tuple[AnyEvent, ...], reboots: list[Any]
):
    turned = journals.Turned(seconds=4.0, turn=1, phase="memory")

    burn = facts(turned, worked(5.0), *between, started(5.0, boot), worked(9.0), ended(9.0))

    assert [one.is_reboot for one in burn.interruptions] == reboots
    assert all((one.phase, one.seconds) == ("memory", 5.0) for one in burn.interruptions)
    assert burn.stopped is None


def test_a_burn_whose_journal_breaks_off_did_not_end():
    assert facts(worked(5.0)).stopped == Unknown("it did not end")


# --------------------------------------------------------------------------------------- NVML


def reading(**changes: Any) -> GpuReading:
    return GpuReading(index=0, uuid="GPU-1", bus_id="0000:01:00.0", **changes)


def test_readings_become_a_point():
    point = point_of(
        [
            reading(temperature_celsius=60, power_watts=600.0, clocks_event_reasons=4),
            reading(temperature_celsius=66, power_watts=700.0, clocks_event_reasons=0x44),
            reading(clock_sm_mhz=1500, pcie_width=16, pcie_generation=5),
        ],
        30.0,
    )

    assert point == BurnPoint(
        seconds=30.0,
        temperature_celsius=66,
        power_watts=650.0,
        clock_sm_mhz=1500,
        clocks_event_reasons=4,  # what was seen once may be a flash
        pcie_width=16,
        pcie_generation=5,
    )


def test_counters_are_the_newest_that_were_read():
    counters = counters_of(
        [
            reading(
                corrected_ecc=1,
                pcie_replays=7,
                remapped_rows=(2, 1, 0, 0),
                slowdowns=((0, 10), (0, 2_500_000_000), (3, 0)),
                nvlink_errors=((0, 1, 2, 30, 40), (1, (3,), 4, 5, 6)),
            ),
            reading(corrected_ecc=2),
        ]
    )

    assert counters == Counters(
        corrected_ecc=2,
        pcie_replays=7,
        remapped_rows=3,
        remaps_pending=0,
        remap_failures=0,
        nvlink_errors=1 + 2 + 4,
        thermal_slowdown_seconds=2.5,
        power_brake_seconds=None,
    )
    assert json.dumps(BurnPlan().as_record())


# --------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize(
    ("gibibytes", "order"), [(126.0, 8192), (70.0, 8192), (7.0, 8192), (1.0, 4096), (0.3, 2048)]
)
def test_products_fit_into_the_smallest_memory(gibibytes: float, order: int):
    found = shapes(int(gibibytes * 2**30), on_cpu=False)

    assert found is not None
    assert {sizes[0] for sizes in found.values()} == {order}


def test_too_little_memory_has_no_product():
    assert shapes(1 << 20, on_cpu=False) is None


def test_a_gpu_gets_the_data_types_that_it_has():
    kinds = [("bf16", "long"), ("fp16", "long"), ("int8", "long"), ("fp32", "short")]

    assert possible(kinds, "7.0") == [("fp16", "long"), ("fp32", "short")]
    assert possible(kinds, "7.5") == [("fp16", "long"), ("int8", "long"), ("fp32", "short")]
    assert possible(kinds, "9.0") == kinds

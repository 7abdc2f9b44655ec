"""What the tests of rules about GPUs and links share: machines with one sick GPU, and questions."""

from typing import Any

from gpucheck.rule import Rule
from gpucheck.snapshot import GpuSample, Memory, Snapshot, Xid
from machines import gpu, is_applicable, machine, not_checked, symptoms

MIB = 1 << 20
BARE = {"container": None, "hypervisor": None}


def with_gpus(*gpus: Any, **sections: Any) -> Snapshot:
    return machine(nvml={"gpus": gpus, "count": len(gpus)}, **sections)


def one(**changes: Any) -> Snapshot:
    """Two H200s of a bare machine, of which GPU 1 has *changes*."""
    return with_gpus(gpu(0), gpu(1, **changes), host=BARE)


def later(**readings: Any) -> GpuSample:
    """A second reading that shows the same as the first."""
    same: dict[str, Any] = {
        "after_seconds": 1.0,
        "corrected_ecc_volatile": 0,
        "clocks_event_reasons": 1,
        "clock_sm_mhz": 1980,
        "utilization_percent": 100,
        "performance_state": 0,
        "pcie_replays": 0,
        "pcie_generation": 5,
        "nvlink_crc_errors": CRC,
        "nvlink_replay_errors": 0,
        "nvlink_recovery_errors": 0,
        "memory": held(0),
        "processes": (),
    }
    return GpuSample(**{**same, **readings})


CRC = sum(11 + n for n in range(18))  # what machines.nvlink's links show together


def held(mebibytes: int, **changes: Any) -> Memory:
    fields = {"total_bytes": 141 << 30, "used_bytes": mebibytes * MIB, "free_bytes": 1 << 30}
    return Memory(**{**fields, "reserved_bytes": 600 * MIB, **changes})


def xid(number: int, **changes: Any) -> Xid:
    """A line about GPU 1."""
    fields: dict[str, Any] = {
        "bus_id": "0000:00:07.0",
        "count": 1,
        "first_seconds": 100.0,
        "last_seconds": 100.0,
    }
    return Xid(number=number, **{**fields, **changes})


def assert_fires(rule: Rule, changes: dict[str, Any], severity: str, words: str) -> None:
    """GPU 1 is found and GPU 0 is not; what was seen does not name the GPU again."""
    found = symptoms(rule, one(**changes))

    assert [(symptom.subject, symptom.gpus) for symptom in found] == [("gpu 1", (1,))]
    assert (found[0].severity or rule.severity).value == severity
    assert words in found[0].saw
    assert not found[0].saw.startswith(("GPU 1", "gpu 1"))
    assert found[0].remedy.text


def assert_quiet(rule: Rule, changes: dict[str, Any]) -> None:
    assert not symptoms(rule, one(**changes))


def assert_not_here(rule: Rule, changes: dict[str, Any]) -> None:
    """Neither a pass nor a fault."""
    snapshot = one(**changes)

    assert not symptoms(rule, snapshot)
    assert not not_checked(rule, snapshot)
    assert not is_applicable(rule, snapshot)


def assert_unknown(rule: Rule, changes: dict[str, Any], words: str) -> None:
    snapshot = one(**changes)

    assert not symptoms(rule, snapshot)
    assert words in not_checked(rule, snapshot)[-1].why
    assert not_checked(rule, snapshot)[-1].subject == "gpu 1"

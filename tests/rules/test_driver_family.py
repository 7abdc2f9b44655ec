import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from driver_machines import (
    BLIND,
    DRV,
    NO_DRIVER,
    NO_GPU,
    NOT_LOADED,
    UNREAD,
    WSL,
    card,
    cuda,
    found_in,
    missing,
    nodes,
)

import machines
from gpucheck.report import examine
from gpucheck.rule import NotApplicable, NotChecked, Rule, Symptom
from gpucheck.snapshot import (
    NvmlError,
    Snapshot,
)
from machines import (
    BUS_IDS,
    HEALTHY,
    machine,
)

# ------------------------------------------------------------------------- families of machines


def test_a_machine_without_a_gpu_has_one_finding_and_no_trail_of_consequences():
    report = examine(NO_GPU, rules=DRV)

    assert [(f.code, f.explained_by) for f in report.findings] == [("DRV001", None)]
    assert not report.not_checked


def test_a_machine_without_a_driver_has_one_root():
    assert found_in(NO_DRIVER) == {"DRV002": None, "DRV009": "DRV002", "DRV016": "DRV002"}


def test_a_module_that_is_not_loaded_is_the_one_root():
    assert found_in(NOT_LOADED) == {"DRV003": None, "DRV009": "DRV003", "DRV016": "DRV003"}


def test_a_driver_update_without_a_restart_is_the_one_root():
    updated = machine(
        driver={
            "module_version": "575.57.08",
            "cuda_init": cuda(803),
        },
        nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=18, message="mismatch")},
    )

    assert found_in(updated) == {"DRV006": None, "DRV009": "DRV006", "DRV016": "DRV006"}


def test_a_missing_uvm_device_is_the_one_root():
    broken = machine(
        driver={
            "device_nodes": nodes(nvidia_uvm=missing("/dev/nvidia-uvm")),
            "loaded_modules": ("nvidia",),
            "cuda_init": cuda(999),
        }
    )

    assert found_in(broken) == {"DRV007": None, "DRV009": "DRV007"}


def test_a_blackwell_gpu_under_the_closed_module_is_the_one_root():
    broken = machine(
        host={"pci_gpus": (card(BUS_IDS[0], "0x2b85"),)},
        driver={"module_kind": "closed", "cuda_init": cuda(100)},
        nvml={"count": 0, "gpus": ()},
        kernel_log={"adapter_failures": (BUS_IDS[0],)},
    )

    assert found_in(broken) == {
        "DRV012": None,
        "DRV009": "DRV012",
        "DRV015": "DRV012",
        "DRV017": "DRV012",
    }


def test_wsl_with_its_driver_is_well():
    report = examine(WSL, rules=DRV)

    assert not report.findings


def test_a_sandbox_that_hides_the_bus_and_the_module_but_has_its_gpus_is_well():
    sandbox = machine(
        host={"pci_gpus": (), "container": "kubernetes"},
        driver={"module_version": None, "module_kind": None, "proc_gpus": (), "libraries": ()},
    )

    assert found_in(sandbox) == {}


def test_a_machine_that_lends_all_its_gpus_to_virtual_machines_says_so_and_no_more():
    lender = machine(
        NO_GPU, host={"pci_gpus": tuple(card(bus, driver="vfio-pci") for bus in BUS_IDS)}
    )

    assert found_in(lender) == {"DRV023": None}


# -------------------------------------------------------------------------------------- all rules


@pytest.mark.parametrize("rule", DRV, ids=lambda rule: rule.code)
def test_every_rule_of_the_family_has_nothing_to_say_without_a_gpu(rule: Rule):
    answers = list(rule(NO_GPU))

    if rule.code != "DRV001":
        assert all(isinstance(answer, NotApplicable) for answer in answers)
        assert answers


@pytest.mark.parametrize("rule", DRV, ids=lambda rule: rule.code)
@pytest.mark.parametrize("section", ["host", "driver", "nvml", "kernel_log"])
def test_no_rule_finds_fault_with_a_section_of_which_nothing_is_known(rule: Rule, section: str):
    blank = machine(**{section: type(getattr(HEALTHY, section))()})

    answers = list(rule(blank))

    assert not [answer for answer in answers if isinstance(answer, Symptom)]
    assert all(isinstance(answer, NotChecked | NotApplicable) for answer in answers)


def with_one_fact_changed(base: Snapshot, fact: Any) -> Iterator[Snapshot]:
    """Every snapshot that differs from *base* in one field, where its type takes *fact*."""
    for section in ("host", "driver", "nvml", "kernel_log"):
        for field in getattr(base, section).__struct_fields__:
            changed = machine(base, **{section: {field: fact}})
            with contextlib.suppress(msgspec.ValidationError):
                yield msgspec.json.decode(msgspec.json.encode(changed), type=Snapshot)


@pytest.mark.parametrize("base", [HEALTHY, WSL], ids=["healthy", "wsl"])
def test_one_fact_that_nobody_knows_is_no_fault(base: Snapshot):
    for changed in with_one_fact_changed(base, UNREAD):
        report = examine(changed, rules=DRV)

        assert not report.findings
        assert not [n for n in report.not_checked if "gpucheck's own" in n.why]


@pytest.mark.parametrize("fact", [None, UNREAD], ids=["none", "unknown"])
@pytest.mark.parametrize(
    "base", [NO_GPU, NO_DRIVER, NOT_LOADED, WSL], ids=["no gpu", "no driver", "not loaded", "wsl"]
)
def test_no_rule_stumbles_over_a_fact_that_is_missing(base: Snapshot, fact: Any):
    for changed in with_one_fact_changed(base, fact):
        report = examine(changed, rules=DRV)

        assert not [n for n in report.not_checked if "gpucheck's own" in n.why]


def test_codes_run_from_drv001_to_drv024():
    assert sorted(rule.code for rule in DRV) == [f"DRV{n:03}" for n in range(1, 25)]


def test_the_healthy_machine_is_looked_at_in_full():
    report = examine(machines.HEALTHY, rules=DRV)

    assert not report.findings
    assert not report.not_checked

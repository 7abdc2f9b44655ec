from typing import Any

import pytest
from driver_machines import UNREAD, only

from gpucheck.rule import Severity
from gpucheck.rules import kernel_notes as rules
from gpucheck.snapshot import KernelLine
from machines import BUS_IDS, commands, machine, not_checked, passes

KILLED = KernelLine(text="Out of memory: Killed process 7 (python3)", process="python3")


def test_a_gpu_program_that_the_kernel_killed_for_lack_of_memory_is_noted():
    symptom = only(rules.kernel_notes, machine(kernel_log={"oom_kills": (KILLED,)}))

    assert symptom.saw.startswith("the kernel killed python3, 1 time, for lack of host memory")
    assert KILLED.text in symptom.saw
    assert rules.kernel_notes.severity is Severity.INFO


def test_a_browser_s_end_is_nobody_s_matter_here():
    browser = KernelLine(text="Out of memory: Killed process 8 (chrome)", process="chrome")

    assert passes(rules.kernel_notes, machine(kernel_log={"oom_kills": (browser,)}))


def test_a_gpu_that_the_iommu_denied_an_address_is_noted():
    fault = KernelLine(text="DMAR: [DMA Read] Request device [00:06.0]", bus_id=BUS_IDS[0], count=3)
    denied = machine(host={"hypervisor": None}, kernel_log={"iommu_faults": (fault,)})

    symptom = only(rules.kernel_notes, denied)

    assert "0000:00:06.0, 3 times" in symptom.saw
    assert "iommu=pt" in commands(symptom)[0]


def test_another_device_s_fault_is_another_device_s():
    fault = KernelLine(text="DMAR: [DMA Read] Request device [99:00.0]", bus_id="0000:99:00.0")

    assert passes(rules.kernel_notes, machine(kernel_log={"iommu_faults": (fault,)}))


def test_a_task_that_hangs_in_the_driver_is_noted():
    task = KernelLine(text="INFO: task nv_queue:9 blocked for more than 120 s", process="nv_queue")

    assert task.text in only(rules.kernel_notes, machine(kernel_log={"hung_tasks": (task,)})).saw


@pytest.mark.parametrize("log", [{}, {"oom_kills": (), "iommu_faults": (), "hung_tasks": ()}])
def test_a_quiet_log_has_no_notes(log: dict[str, Any]):
    assert passes(rules.kernel_notes, machine(kernel_log=log))


def test_a_log_that_may_not_be_read_has_no_answer():
    assert not_checked(rules.kernel_notes, machine(kernel_log={"oom_kills": UNREAD}))

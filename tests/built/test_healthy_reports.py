"""What the owner of a healthy machine sees: nothing wrong, on one screen of 24 lines."""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from built.machine import BuiltMachine
from built.test_driver_kinds import on_metal
from built.test_guests_and_links import gpus_at, nvlink_5
from built.test_kinds import UBUNTU, distribution, one_card, without_toolkit
from fakes.nvml import geforce_laptop, h200

pytestmark = pytest.mark.namespaces

LINES, COLUMNS = 24, 80
Make = Callable[[BuiltMachine], Any]
MACHINES: dict[str, Make] = {}


def healthy(make: Make) -> Make:
    MACHINES[make.__name__] = make
    return make


@healthy
def two_h200s(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)


@healthy
def eight_h100s(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    gpus_at(machine, h200(name="NVIDIA H100 80GB HBM3"), 8, "2330")
    machine.environment["FAKE_COUNT"] = "8"


@healthy
def a_laptop(machine: BuiltMachine) -> None:
    distribution(machine, "Fedora Linux 41 (Workstation Edition)")
    on_metal(machine, chassis="10")
    one_card(machine, geforce_laptop(), "0x28e0")
    without_toolkit(machine)


@healthy
def a_container(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "all"
    without_toolkit(machine)


@healthy
def a_slurm_job_with_two_of_eight(machine: BuiltMachine) -> None:
    ids = [f"0000:{n:02x}:00.0" for n in range(1, 9)]
    machine.pci(*ids)
    machine.kernel_module(gpus=ids)
    machine.gpus = [h200(pci=f"{bus} 0x233510de 0x00000000") for bus in ids[4:6]]
    for minor in range(8):
        machine.device(f"nvidia{minor}")
    machine.environment |= {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_GPUS": "4,5",
    }


@healthy
def a_node_with_mps(machine: BuiltMachine) -> None:
    machine.gpus = [h200(compute_mode=3), h200(compute_mode=3)]


@healthy
def a_node_without_torch(machine: BuiltMachine) -> None:
    machine.without_torch()
    without_toolkit(machine)
    del machine.environment["VIRTUAL_ENV"]
    own = importlib.util.find_spec("torch")
    if own is not None and own.origin is not None:  # gpucheck's own torch would be examined
        machine.remove(str(Path(own.origin).parent))


@healthy
def a_board_with_eight_b200s(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    on_metal(machine)
    nvlink_5(machine, "3 0 0 1", "mlx5_ib", "ib_umad", "ib_core")
    machine.environment["FAKE_COUNT"] = "8"


@contextmanager
def mps(folder: Path) -> Iterator[None]:
    program = folder / "nvidia-cuda-mps-control"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as process:
        yield
        process.kill()


@pytest.mark.parametrize("name", MACHINES)
def test_a_healthy_machine_is_one_screen_without_a_warning(
    name: str, machine: BuiltMachine, tmp_path: Path
):
    MACHINES[name](machine)
    machine.environment["COLUMNS"] = str(COLUMNS)

    with mps(tmp_path):
        shown = machine.run("doctor")

    lines = shown.stdout.splitlines()
    assert shown.returncode == 0, shown.stdout
    assert any(line.startswith("✓ Healthy: ") for line in lines), shown.stdout
    assert not [line for line in lines if line.lstrip()[:1] in ("!", "✗")], shown.stdout
    assert len(lines) <= LINES, shown.stdout
    assert max(map(len, lines)) <= COLUMNS, shown.stdout

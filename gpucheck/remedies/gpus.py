"""Builds what is to be done about a GPU: a reset, a reboot, a look at its power, heat and seat."""

import re

from gpucheck.derived import is_container, is_virtual
from gpucheck.rule import Command, Place, Remedy, command
from gpucheck.snapshot import Gpu, Snapshot, value


def place_of_driver(machine: Snapshot) -> Place:
    """Return where the kernel module is, and with it what resets and restarts GPUs."""
    if machine.host.is_wsl is True:
        return "windows"
    return "host" if is_container(machine) else "here"


#: Names of GPUs that only laptops have. "Max-Q Workstation" is a desktop's board.
_LAPTOP_NAME = re.compile(r"Laptop|Mobile|Max-Q Design$|GeForce MX[0-9]|[0-9]{3,4}M$")


def is_laptop(gpu: Gpu, machine: Snapshot) -> bool:
    """Tell whether a GPU is part of a laptop: by its name, else by the machine's chassis."""
    if _LAPTOP_NAME.search(value(gpu.name) or ""):
        return True
    return machine.host.is_laptop is True and not is_virtual(machine)


def name_on_host(gpu: Gpu, machine: Snapshot) -> str:
    """Return what `nvidia-smi -i` takes for this GPU; a container counts its GPUs by itself."""
    if place_of_driver(machine) == "host" and isinstance(gpu.bus_id, str):
        return gpu.bus_id
    return str(gpu.index)


def reset_command(gpu: Gpu, machine: Snapshot) -> Command:
    """Return the command that resets one GPU; under WSL the virtual machine takes it along."""
    place = place_of_driver(machine)
    if place == "windows":
        return command("wsl --shutdown", on="windows")
    return command(
        "nvidia-smi --gpu-reset -i {gpu}", gpu=name_on_host(gpu, machine), root=True, on=place
    )


def reset(gpu: Gpu, machine: Snapshot, text: str) -> Remedy:
    """Return the remedy that resets one GPU. What runs on it ends: *text* says when to do it."""
    return Remedy(text, steps=(reset_command(gpu, machine),))


def reset_all(machine: Snapshot, text: str) -> Remedy:
    """Return the remedy that resets all GPUs together, as NVLink wants it."""
    place = place_of_driver(machine)
    if place == "windows":
        return Remedy(text, steps=(command("wsl --shutdown", on="windows"),))
    return Remedy(text, steps=(command("nvidia-smi --gpu-reset", root=True, on=place),))


def reboot(machine: Snapshot, text: str) -> Remedy:
    """Return the remedy that restarts the system that the driver runs in."""
    place = place_of_driver(machine)
    if place == "windows":
        return Remedy(text, steps=(command("shutdown /r /t 0", on="windows"),))
    return Remedy(text, steps=(command("reboot", root=True, on=place),))


def power_cycle(machine: Snapshot, gpu: Gpu | None = None) -> Remedy:
    """Return the remedy for a board that a restart alone may not bring back.

    A warm reboot keeps the slot under power: only power off and on resets all of a board.
    """
    place = place_of_driver(machine)
    if place == "windows":
        return Remedy(
            "Shut Windows down and turn the machine on again",
            steps=(command("shutdown /s /t 0", on="windows"),),
        )
    off = command("poweroff", root=True, on=place)
    if is_virtual(machine):
        return Remedy(
            "Stop this virtual machine and start it again; if the GPU is lost again, ask whoever"
            " runs the host to power-cycle it and to replace the GPU",
            steps=(off,),
        )
    if gpu is not None and is_laptop(gpu, machine):
        return Remedy(
            "Shut the laptop down, unplug it for a minute, turn it on again; if the GPU is lost"
            " again, update the BIOS and turn off runtime power management"
            " (NVreg_DynamicPowerManagement=0x00)",
            steps=(off,),
        )
    return Remedy(
        "Power-cycle the machine; if the GPU is lost again, check its power cables, cooling and"
        " seat while the machine is off, then have it replaced",
        steps=(off,),
    )


def replace_board(text: str = "") -> Remedy:
    """Return the remedy for a board that is worn out."""
    return Remedy(
        text or "Take the GPU out of use, run the vendor's field diagnostic, have it replaced"
    )


def check_cooling(gpu: Gpu, machine: Snapshot) -> Remedy:
    """Return the remedy for heat, in terms of who can reach the fans."""
    if is_virtual(machine):
        text = "Ask whoever runs the host to check the cooling of this GPU"
    elif is_laptop(gpu, machine):
        text = "Give the laptop air, clean its fans, choose a cooler power profile"
    else:
        text = "Check fans, filters, airflow and the temperature of the air that comes in"
    return Remedy(
        text,
        verify=command("nvidia-smi -i {gpu} -q -d TEMPERATURE,PERFORMANCE", gpu=gpu.index),
    )


def reseat(machine: Snapshot, what: str = "the GPU") -> str:
    """Return the imperative for a connector that nobody but the owner of the hardware reaches."""
    if is_virtual(machine):
        return f"Ask whoever runs the host to reseat {what} and to check the slot and its riser"
    return f"Power down and reseat {what}; try another slot; replace the riser or cable if any"

"""Says what to do about a GPU that does not come up, as this kind of machine allows it."""

from gpucheck.derived import is_container, is_virtual
from gpucheck.remedies import system_packages
from gpucheck.rule import Remedy
from gpucheck.snapshot import Snapshot, value


def no_response(machine: Snapshot) -> Remedy:
    """Return what to do about a GPU that does not answer: power first, and never a reset."""
    return Remedy(_where(machine))


def _where(machine: Snapshot) -> str:
    if machine.host.is_wsl is True:
        return "In Windows, restart the machine; check the GPU in the Device Manager."
    if is_container(machine):
        return "Have the host's administrator power the host off and on; nothing in here can."
    if is_virtual(machine):
        return (
            "Stop this virtual machine and start it again, so that the host resets the GPU; if it "
            "stays away, move to another host and report this one to its provider."
        )
    if machine.host.is_laptop is True:
        return (
            "Shut the laptop down fully and disconnect its power for a minute. If it comes back: "
            "keep the GPU out of D3cold (remove bbswitch, exclude it from TLP's runtime power "
            "management, update the firmware)."
        )
    return (
        "Power the machine off fully (not a reboot), wait a minute, and start it. If it comes "
        "back: check the board's power cables and its seat, then try it in another slot."
    )


def power_management(machine: Snapshot) -> Remedy:
    """Return what to do about a GPU that stays in D3cold."""
    if is_virtual(machine) or is_container(machine):
        return no_response(machine)
    modules = value(machine.driver.loaded_modules) or ()
    culprit = (
        "Remove bbswitch, which is loaded"
        if "bbswitch" in modules
        else "Turn off what suspends the GPU (bbswitch, TLP's runtime power management, the "
        "firmware's hybrid graphics)"
    )
    return Remedy(
        f"{culprit}, shut the machine down fully, and start it again. `pcie_port_pm=off` on the "
        "kernel's command line keeps the port above the GPU powered.",
        system_packages.kernel_parameter(machine, "pcie_port_pm=off"),
    )


def after_failed_start(machine: Snapshot) -> Remedy:
    """Return what to do where a GPU's firmware was left half started."""
    if is_virtual(machine) or is_container(machine):
        return no_response(machine)
    return Remedy(
        "Power the machine off fully, and start it: a reboot does not reset the GPU's firmware. If "
        "it comes back, update the board's VBIOS and the system's firmware"
        + ("." if machine.host.is_laptop is True else ", and check the seat.")
    )

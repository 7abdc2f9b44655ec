"""What NVIDIA says of each Xid and recovery action. Sources are in xid.json, by key."""

from functools import cache

import msgspec

from gpucheck.knowledge import published

#: What each class of action means for whoever runs the machine.
ACTIONS = {
    "none": "Nothing has to be done at once.",
    "restart_app": "Restart the program that was hit; the GPU itself is sound.",
    "reset_gpu": "Drain the GPU, then reset it.",
    "reset_gpu_if_uvm": "Drain the GPU and reset it, if the program used managed memory.",
    "reboot": "Drain the machine, then reboot it.",
    "restart_vm": "Restart the virtual machine.",
    "check_hardware": "Power the machine down, then check cables and seating.",
    "update_software": "Update the driver and the firmware.",
    "investigate_software": "Look for the fault in the software: driver, firmware, settings.",
    "contact_support": "Contact the vendor of the machine.",
    "decode_nvlink": "Reset all GPUs together, or reboot; keep the log line for the vendor.",
    "follow_xid_154": "Do what the line itself says.",
    "follow_other_xid": "Follow the Xid next to it in the log.",
}

#: Whose fault an Xid is.
CAUSES = {
    "app": "the program",
    "driver": "the driver",
    "firmware": "the GPU's firmware",
    "hw": "the GPU itself",
    "memory": "the GPU's memory",
    "nvlink": "NVLink",
    "bus": "the PCIe connection",
    "power": "the power supply",
    "thermal": "heat",
}

#: What to do where the action did not help, or the Xid comes again.
FOLLOW_UPS = {
    "check_app": "If it comes again, debug the program that was hit.",
    "check_app_then_diag": "If it comes again on one GPU with different programs, test that GPU "
    "with NVIDIA's diagnostics (dcgmi diag -r 3); else debug the program.",
    "check_link": "If it comes again, check the NVLink and the GPU at its other end.",
    "contact_support": "If it comes again, contact the vendor of the machine.",
    "decode_nvlink": "If it comes again, send the whole log line to the vendor of the machine.",
    "follow_other_xid": "Follow the Xid that was logged next to it.",
    "investigate_software": "If it comes again, update the driver and the firmware.",
    "restart_fabric_manager_if_alone": "If it comes again without another Xid on a machine with "
    "NVSwitches, restart nvidia-fabricmanager.",
    "run_diag": "If it comes again, test the GPU with NVIDIA's diagnostics (dcgmi diag -r 3).",
    "update_software": "Use versions of the driver that go together in host and guest.",
}


class XidMeaning(msgspec.Struct, frozen=True):
    """One Xid: `severity` is info, warning, critical, or follow (the cause is another Xid).

    `advice` says what to do in one imperative sentence; where it is empty, ACTIONS says it.
    *codes* are the rules that report it, or that look for what it means.
    """

    number: int
    name: str
    meaning: str
    action: str
    severity: str
    causes: tuple[str, ...]
    codes: tuple[str, ...]
    source: tuple[str, ...]
    confidence: str
    advice: str = ""
    follow_up: str = ""

    @property
    def what_to_do(self) -> str:
        """What this Xid asks for, where nothing else is known of the case."""
        return (self.advice or ACTIONS[self.action]).removesuffix(".")


class RecoveryAction(msgspec.Struct, frozen=True):
    """A value of NVML's GPU recovery action."""

    value: int
    action: str
    meaning: str
    source: tuple[str, ...]
    confidence: str


class Table(msgspec.Struct, frozen=True):
    """The file as it is."""

    sources: dict[str, str]
    xids: tuple[XidMeaning, ...]
    recovery_actions: tuple[RecoveryAction, ...]


@cache
def table() -> Table:
    """Return all Xids and recovery actions."""
    return published("xid.json", Table)


def find(number: int) -> XidMeaning | None:
    """Return what the Xid *number* means; None where the table does not know it."""
    return _by_number().get(number)


def recovery_action(value: int) -> RecoveryAction | None:
    """Return the recovery action that NVML gives as *value*; None where the table lacks it."""
    return _by_value().get(value)


@cache
def _by_number() -> dict[int, XidMeaning]:
    return {row.number: row for row in table().xids}


@cache
def _by_value() -> dict[int, RecoveryAction]:
    return {row.value: row for row in table().recovery_actions}

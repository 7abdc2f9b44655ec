"""Chooses, by the machine's facts, what to do about the errors with which CUDA and NVML start."""

import re

from gpucheck.derived import cuda_works, is_container, is_virtual, nvml_works
from gpucheck.remedies import containers, system_packages
from gpucheck.rule import Command, Remedy, command
from gpucheck.snapshot import Fabric, Snapshot, value

NVML_UNKNOWN = 999
SHUT_WSL_DOWN = command("wsl.exe --shutdown", on="windows")
UPDATE_WSL = command("wsl.exe --update", on="windows", lasts="permanent")
KERNEL_LINES = command("dmesg | grep -i -e xid -e nvrm | tail -n 40", root=True, needs="dmesg")
#: NVIDIA's CUDA 12.9 and 13.0 release notes, known issue on HMM.
DISABLE_HMM = command(
    "echo options nvidia_uvm uvm_disable_hmm=1 | tee /etc/modprobe.d/nvidia-uvm-hmm.conf",
    root=True,
    lasts="permanent",
)
RELOAD_UVM = command("modprobe -r nvidia_uvm && nvidia-modprobe -c 0 -u", root=True, lasts="reboot")
FABRIC_PROVIDER = (
    "The fabric that joins these GPUs is managed outside of this {place}: report to its "
    "{owner} that its fabric manager has not finished (or is not running), and start the {place} "
    "again after that."
)


def windows_driver(text: str) -> Remedy:
    """Return *text* and what follows it in Windows, whose driver serves WSL."""
    return Remedy(
        f"{text}, then update WSL and shut it down, so that it starts again.",
        (UPDATE_WSL, SHUT_WSL_DOWN),
    )


def no_answer(machine: Snapshot) -> Remedy:
    """Return what to do about a driver that hangs or crashes."""
    if machine.host.is_wsl is True:
        return windows_driver("Update the NVIDIA driver in Windows")
    if is_container(machine):
        return Remedy(
            "Have the host's kernel log read for Xid errors, and the host rebooted: a driver that "
            "hangs or crashes does not recover by itself.",
            (
                command(
                    "dmesg | grep -i -e xid -e nvrm | tail -n 40",
                    root=True,
                    on="host",
                    needs="dmesg",
                ),
                command("reboot", root=True, on="host"),
            ),
        )
    return Remedy(
        "Look for Xid errors in the kernel log, then reboot: a driver that hangs or crashes does "
        "not recover by itself.",
        (KERNEL_LINES, system_packages.REBOOT),
    )


def of_cuda(machine: Snapshot, code: int) -> Remedy | None:
    """Return the cause of a CUresult that this machine's facts support, as a remedy; else None."""
    if machine.host.is_wsl is True:
        return _wsl(code)
    if code in (3, 999) and _hmm_is_likely(machine):
        return _disable_hmm()
    if code in (802, 919):
        return _not_ready(machine)
    return {
        3: _not_initialised,
        46: _unavailable,
        304: _refused_call,
        803: _mismatch,
        804: _no_compatibility,
        999: _unknown,
        100: _no_device,
    }.get(code, lambda _: None)(machine)


def of_nvml(machine: Snapshot, code: int) -> Remedy | None:
    """Return the cause of an nvmlReturn_t that this machine's facts support; else None."""
    if machine.host.is_wsl is True:
        if code in (9, 17):
            return Remedy(
                "In Windows, put the GPU into WDDM mode (in TCC mode WSL does not see it), or "
                "install the current NVIDIA driver there; then shut WSL down.",
                (
                    Command("nvidia-smi -dm WDDM", on="windows", lasts="permanent"),
                    SHUT_WSL_DOWN,
                ),
            )
        return _wsl(code)
    if code == NVML_UNKNOWN and is_container(machine):
        return _lost_devices()
    if code == NVML_UNKNOWN:
        return Remedy(
            "Look at what the driver says in the kernel log, then reboot.",
            (
                command("dmesg | grep -i -E 'nvrm|xid' | tail", root=True, needs="dmesg"),
                system_packages.REBOOT,
            ),
        )
    if code in (15, 16):
        return no_answer(machine) if is_container(machine) else None
    if code == 9 and is_container(machine):
        return containers.start_with_gpus(machine)
    if code == 9:
        return Remedy("Load the kernel module.", (system_packages.LOAD_MODULE,))
    if code == 18 and is_container(machine):
        return Remedy("Create the container again, or remove the driver from its image.")
    return None


def _wsl(code: int) -> Remedy:
    del code  # whatever it is: the driver is Windows' own
    return windows_driver("Install the current NVIDIA driver in Windows")


def _lost_devices() -> Remedy:
    return Remedy(
        "Create the container again. If it worked before, it has lost its right to open "
        "/dev/nvidia*, mostly by a `systemctl daemon-reload` on the host: give it the devices by "
        "CDI (`--device nvidia.com/gpu=all`), or let Docker use the cgroupfs driver."
    )


def _hmm_is_likely(machine: Snapshot) -> bool:
    """Whether heterogeneous memory management can be what keeps nvidia_uvm from starting.

    NVML works, the module is the open one, HMM is not disabled, and the kernel is Enterprise
    Linux 9's (which has parts of it backported) or one of series 6.
    """
    release = value(machine.host.kernel_release) or ""
    return (
        nvml_works(machine)
        and not cuda_works(machine)
        and not is_container(machine)
        and machine.driver.module_kind == "open"
        and machine.driver.uvm_disables_hmm is False
        and re.search(r"\.el9|^6\.", release) is not None
    )


def _disable_hmm() -> Remedy:
    return Remedy(
        "Load nvidia_uvm without HMM, which fails to start on some kernels with the open module.",
        (DISABLE_HMM, RELOAD_UVM),
        alternatives=(Remedy("If that does not help, reboot.", (system_packages.REBOOT,)),),
    )


def _not_ready(machine: Snapshot) -> Remedy | None:
    """Error 802 has four owners: this machine's fabric manager, its host's, CC mode, or HMM."""
    if value(machine.host.nvswitches) and not is_container(machine):
        return None  # DRV010 knows it
    gpus = value(machine.nvml.gpus) or ()
    in_fabric = any(isinstance(gpu.fabric, Fabric) and gpu.fabric.state for gpu in gpus)
    is_guest = is_virtual(machine)
    if in_fabric and (is_container(machine) or is_guest):
        place = "container" if is_container(machine) else "virtual machine"
        owner = "administrator" if is_container(machine) else "provider"
        return Remedy(FABRIC_PROVIDER.format(place=place, owner=owner))
    if _hmm_is_likely(machine):
        return _disable_hmm()
    if is_container(machine) or is_guest:
        return Remedy(
            "Ask whoever runs the host whether its fabric manager runs, and whether these GPUs "
            "are in confidential-computing mode and were not set ready."
        )
    return Remedy(
        "Look at the fabric manager's state; where confidential computing is on, set the GPUs "
        "ready after attestation.",
        (
            Command("systemctl status nvidia-fabricmanager"),
            Command("nvidia-smi conf-compute -grs"),
        ),
    )


def _not_initialised(machine: Snapshot) -> Remedy | None:
    if is_container(machine):
        return containers.start_with_gpus(machine)
    return Remedy(
        "Reload nvidia_uvm; if that does not help, reboot.",
        (RELOAD_UVM,),
        alternatives=(Remedy("Reboot.", (system_packages.REBOOT,)),),
    )


def _unavailable(machine: Snapshot) -> Remedy | None:
    gpus = value(machine.nvml.gpus) or ()
    closed = [gpu for gpu in gpus if value(gpu.compute_mode) in (2, 3)]
    if closed:
        allow = command(
            "nvidia-smi -c DEFAULT",
            root=True,
            lasts="reboot",
            **({"on": "host"} if is_container(machine) else {}),  # type: ignore[arg-type]
        )
        return Remedy("Let several processes use the GPU, or end the one that holds it.", (allow,))
    if any(value(gpu.processes) for gpu in gpus):
        return Remedy(
            "End the processes that hold the GPU, then try again.", (Command("nvidia-smi"),)
        )
    return no_answer(machine)


def _refused_call(machine: Snapshot) -> Remedy | None:
    if is_container(machine):
        return _lost_devices()
    return Remedy(
        "Check that this user may open /dev/nvidia*, and lift the limits of memory and open "
        "files of this shell.",
        (Command("ls -l /dev/nvidia*"), Command("ulimit -v -n", needs="sh")),
    )


def _mismatch(machine: Snapshot) -> Remedy | None:
    if is_container(machine):
        return Remedy(
            "Remove the driver's and the compatibility libraries from the image's search path, "
            "so that the host's are found; then create the container again."
        )
    return Remedy(
        "Reboot, so that the kernel module is of the libraries' version.",
        (system_packages.REBOOT,),
    )


def _no_compatibility(machine: Snapshot) -> Remedy | None:
    where = "the image" if is_container(machine) else "LD_LIBRARY_PATH and /etc/ld.so.conf.d"
    whose = "the host's driver" if is_container(machine) else "the driver"
    return Remedy(
        f"Remove the compatibility libraries from {where}: this GPU may not use them. Update "
        f"{whose} instead where a newer CUDA is needed."
    )


def _no_device(machine: Snapshot) -> Remedy | None:
    if nvml_works(machine):
        return Remedy(
            "Unset CUDA_VISIBLE_DEVICES, and check that the GPUs are not in MIG mode without "
            "instances.",
            (command("unset CUDA_VISIBLE_DEVICES", lasts="shell"), Command("nvidia-smi -L")),
        )
    if is_container(machine):
        return containers.start_with_gpus(machine)
    return Remedy("Read what the kernel log says of the GPU.", (KERNEL_LINES,))


def _unknown(machine: Snapshot) -> Remedy | None:
    if is_container(machine):
        return _lost_devices()
    after = ", which a suspend may have left broken" if machine.host.is_laptop is True else ""
    return Remedy(
        f"Reload nvidia_uvm{after}; if that does not help, reboot.",
        (RELOAD_UVM,),
        alternatives=(Remedy("Reboot.", (system_packages.REBOOT,)),),
    )

"""Says how a container gets its GPUs, in the words of the runtime that started it."""

from gpucheck import derived
from gpucheck.rule import Command, Remedy, command
from gpucheck.snapshot import Snapshot, value

#: Systems that boot inside a container of their own: nothing is mounted into them by a runtime.
WHOLE_SYSTEMS = ("lxc", "lxc-libvirt", "systemd-nspawn", "openvz", "rkt", "incus")
CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
#: NVIDIA Container Toolkit's documentation, "Support for Container Device Interface".
NEW_SPECIFICATION = command(
    "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    root=True,
    lasts="permanent",
    on="host",
)
MAKE_UVM = command("nvidia-modprobe -c 0 -u", root=True, lasts="reboot", on="host")


def run(machine: Snapshot, option: str = "") -> Command:
    """Return the command that runs a container like this with its GPUs, and one more *option*."""
    if machine.host.container == "podman":
        template = "podman run --device nvidia.com/gpu=all {option} IMAGE"
    else:
        template = "docker run --gpus all {option} IMAGE"
    if option:
        return command(template, on="host", option=option)
    return Command(template.replace("{option} ", ""), on="host")


def start_with_gpus(machine: Snapshot) -> Remedy:
    """Return how to start a container like this with its GPUs."""
    kind = value(machine.host.container) or ""
    if kind == "kubernetes":
        return Remedy("Request `nvidia.com/gpu: 1` (or more) in the pod's resource limits.")
    if kind == "apptainer":
        return Remedy(
            "Start it with --nv.", (command("apptainer exec --nv IMAGE COMMAND", on="host"),)
        )
    if kind in WHOLE_SYSTEMS:
        devices = (
            "On the host, pass /dev/nvidia0, /dev/nvidiactl and /dev/nvidia-uvm into this "
            "container's configuration, and restart it"
        )
        if _has_libraries_of_the_module(machine):
            return Remedy(f"{devices}.")
        return Remedy(
            f"{devices}; install the libraries of the host's driver version inside it (NVIDIA's "
            ".run file with --no-kernel-module)."
        )
    if kind == "podman":
        return Remedy("Start it with its GPUs.", (run(machine),))
    return Remedy(
        "Start it with its GPUs; the host needs the NVIDIA Container Toolkit.", (run(machine),)
    )


def _has_libraries_of_the_module(machine: Snapshot) -> bool:
    libcuda = derived.selected_libcuda(machine)
    return libcuda is not None and libcuda.version == machine.driver.module_version


def runtime_did_not_act(machine: Snapshot, asked: str) -> Remedy:
    """Return what to do where NVIDIA_VISIBLE_DEVICES asks for GPUs (*asked*) and none came."""
    kind = value(machine.host.container) or ""
    if kind == "kubernetes":
        runtime = (
            "set `runtimeClassName: nvidia` in the pod, or make nvidia containerd's default "
            "runtime on the node"
        )
        if asked.startswith(("GPU-", "MIG-")):
            return Remedy(
                f"The device plugin gave this pod a GPU, so the request is there, but its runtime "
                f"is not NVIDIA's: {runtime}."
            )
        return Remedy(
            f"{runtime[0].upper()}{runtime[1:]}, and request `nvidia.com/gpu: 1` in the pod's "
            "limits: the value `all` comes with most CUDA images by itself."
        )
    if kind == "podman":
        return start_with_gpus(machine)
    return Remedy(
        "Start the container with `--gpus all`: the variable alone does nothing under Docker's "
        "default runtime, and it comes with most CUDA images. The host needs the NVIDIA Container "
        "Toolkit.",
        (run(machine),),
    )


def without_uvm(machine: Snapshot) -> Remedy:
    """Return how a container that has its GPUs gets /dev/nvidia-uvm, which CUDA needs too."""
    kind = value(machine.host.container) or ""
    if kind in WHOLE_SYSTEMS:
        return Remedy(
            "Load nvidia_uvm on the host, then pass /dev/nvidia-uvm and /dev/nvidia-uvm-tools into "
            "this container's configuration and restart it.",
            (MAKE_UVM,),
        )
    return Remedy(
        "Load nvidia_uvm on the host, write its CDI specification again, which was made without "
        "that device, and create the container again.",
        (MAKE_UVM, NEW_SPECIFICATION),
        alternatives=(
            Remedy(
                "Pass the two devices by hand.",
                (
                    MAKE_UVM,
                    command(
                        "docker run --gpus all --device /dev/nvidia-uvm "
                        "--device /dev/nvidia-uvm-tools IMAGE"
                        if kind != "podman"
                        else "podman run --device nvidia.com/gpu=all --device /dev/nvidia-uvm "
                        "--device /dev/nvidia-uvm-tools IMAGE",
                        on="host",
                    ),
                ),
            ),
        )
        if kind in ("docker", "podman", "containerd")
        else (),
    )

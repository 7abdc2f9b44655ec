"""Finds out what surrounds this system: a container, a hypervisor."""

import re
from pathlib import Path

from gpucheck.probes.files import exists, first_line, read_bytes, read_text
from gpucheck.snapshot import Unknown

#: Words in a control group's path → what made it.
_CONTAINER_GROUPS = (
    ("kubepods", "kubernetes"),
    ("libpod", "podman"),
    ("/docker", "docker"),
    ("docker-", "docker"),
    ("/lxc", "lxc"),
    ("containerd", "containerd"),
    ("crio-", "kubernetes"),
    ("/ecs/", "docker"),
)
#: Words in the firmware's vendor and product names → the hypervisor.
_HYPERVISORS = (
    ("kvm", "kvm"),
    ("qemu", "kvm"),
    ("openstack", "kvm"),
    ("kubevirt", "kvm"),
    ("amazon ec2", "amazon"),
    ("google", "google"),
    ("vmware", "vmware"),
    ("virtualbox", "virtualbox"),
    ("innotek", "virtualbox"),
    ("xen", "xen"),
    ("bochs", "bochs"),
    ("parallels", "parallels"),
    ("bhyve", "bhyve"),
    ("nutanix", "nutanix"),
    ("digitalocean", "kvm"),
    ("alibaba cloud", "kvm"),
    ("apple virtualization", "apple"),
    ("microsoft corporation virtual machine", "hyperv"),
)


def container(root: Path) -> str | Unknown | None:
    """Return what made the container that this runs in; None: it is none."""
    variables: dict[str, str] = {}
    for pid in ("1", "self"):
        data = read_bytes(root / "proc" / pid / "environ", 1 << 18)
        if isinstance(data, bytes):
            variables |= parse_container_variables(data)
    kind = variables.get("container", "")
    groups = read_text(root / "proc/1/cgroup", 1 << 16)
    if "KUBERNETES_SERVICE_HOST" in variables or exists(
        root / "var/run/secrets/kubernetes.io/serviceaccount"
    ):
        return "kubernetes"
    if isinstance(groups, str) and (group := parse_container_group(groups)):
        return group
    if "APPTAINER_CONTAINER" in variables or "SINGULARITY_CONTAINER" in variables:
        return "apptainer"
    if exists(root / ".singularity.d"):
        return "apptainer"
    marker = first_line(root / "run/systemd/container")
    kind = kind or (marker if isinstance(marker, str) else "")
    if kind and kind not in ("wsl", "host"):
        return {"oci": "docker"}.get(kind, kind)
    for mark, name in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if exists(root / mark) and not _is_left_over(root):
            return name
    if groups is None and not (root / "proc").is_dir():
        return Unknown("/proc is not there")
    return None


def _is_left_over(root: Path) -> bool:
    """Whether this is a whole machine, booted from a disk that was made from a container image.

    Then the kernel's own threads are in sight, and / is a block device.
    """
    mounts = read_text(root / "proc/self/mounts", 1 << 18)
    return (
        first_line(root / "proc/2/comm") == "kthreadd"
        and isinstance(mounts, str)
        and re.search(r"^/dev/\S+ / ", mounts, re.M) is not None
    )


def parse_container_variables(data: bytes) -> dict[str, str]:
    """Return those variables of /proc/PID/environ that containers set, and no other."""
    wanted = (
        b"container",
        b"KUBERNETES_SERVICE_HOST",
        b"APPTAINER_CONTAINER",
        b"SINGULARITY_CONTAINER",
    )
    found: dict[str, str] = {}
    for entry in data.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name in wanted and value:
            found[name.decode()] = value.decode("utf-8", "replace")
    return found


def parse_container_group(text: str) -> str | None:
    """Return what made the control group of process 1, by /proc/1/cgroup."""
    for word, name in _CONTAINER_GROUPS:
        if word in text:
            return name
    return None


def hypervisor(root: Path, is_wsl: bool | Unknown) -> str | Unknown | None:
    """Return the hypervisor that runs this system; None: bare metal."""
    kind = first_line(root / "sys/hypervisor/type")
    if kind == "xen":
        capabilities = first_line(root / "proc/xen/capabilities")
        if isinstance(capabilities, str) and "control_d" in capabilities:
            return None  # the first domain drives the hardware itself
        return "xen"
    if is_wsl is True:
        return "hyperv"
    cpuinfo = read_text(root / "proc/cpuinfo", 1 << 16)
    flag = parse_hypervisor_flag(cpuinfo) if isinstance(cpuinfo, str) else None
    if flag is False:
        return None
    dmi = root / "sys/class/dmi/id"
    names = [first_line(dmi / name) for name in ("sys_vendor", "product_name", "bios_vendor")]
    name = parse_firmware_names(" ".join(name for name in names if isinstance(name, str)))
    if name is not None:
        return name
    tree = read_text(root / "proc/device-tree/hypervisor/compatible", 4096)
    if isinstance(tree, str):
        return "kvm" if "kvm" in tree else "xen" if "xen" in tree else "unnamed"
    if flag:
        return "unnamed"
    if any(isinstance(name, str) for name in names) or exists(root / "proc/device-tree"):
        return None
    return Unknown("neither the CPU nor the firmware says whether this is a virtual machine")


def parse_hypervisor_flag(cpuinfo: str) -> bool | None:
    """Whether an x86 CPU says that it runs under a hypervisor; None for CPUs with no such flag."""
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.M)
    return None if found is None else "hypervisor" in found[1].split()


def parse_firmware_names(names: str) -> str | None:
    """Return the hypervisor that the firmware's vendor and product names betray."""
    lower = names.lower()
    if ".metal" in lower:  # Amazon's bare-metal instances bear its vendor name too
        return None
    return next((name for word, name in _HYPERVISORS if word in lower), None)

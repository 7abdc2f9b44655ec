"""Finds out what the operating system is, and what surrounds it."""

import os
import platform
import re
from pathlib import Path
from typing import Literal

from gpucheck.knowledge.programs import table
from gpucheck.probes import firmware, pci_bus, privileges, surroundings
from gpucheck.probes.files import exists, first_line, names_in, read_bytes, read_text
from gpucheck.snapshot import Host, PciGpu, Unknown, unread

#: EFI's global variable namespace (UEFI specification, 3.3).
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
CAP_IPC_LOCK = 14  # linux/capability.h

_WSL_KERNEL = re.compile(r"microsoft[^ ]*wsl|microsoft-standard|-microsoft\b|\bwsl2?\b", re.I)


def probe(root: Path = Path("/")) -> Host:
    """Return the facts of the machine whose file tree is *root*.

    Limits, groups and CPU affinity are those of this process.
    """
    kernel = _kernel_release(root)
    is_wsl = _is_wsl(root, kernel)
    limit = _locked_memory_limit(root)
    gpus = pci_bus.gpus(root)
    groups = _groups()
    return Host(
        system=platform.system(),
        distribution=_distribution(root),
        kernel_release=kernel,
        machine=platform.machine(),
        name=first_line(root / "proc/sys/kernel/hostname"),
        is_wsl=is_wsl,
        tegra=_tegra(root),
        container=surroundings.container(root),
        hypervisor=surroundings.hypervisor(root, is_wsl),
        is_root=os.geteuid() == 0 if hasattr(os, "geteuid") else Unknown("no user ids here"),
        groups=groups,
        has_sudo=privileges.has_sudo(groups, os.environ),
        programs=privileges.programs(table(), os.environ),
        other_users=privileges.other_users(root, privileges.own_users(os.environ)),
        shm_bytes=_shm_bytes(root),
        locked_memory_limit_bytes=limit,
        memory_bytes=_memory(root),
        cpus_usable=_cpus_usable(root),
        cpus_present=_cpus_present(root),
        rdma_devices=_rdma_devices(root),
        rdma=firmware.rdma(root),
        switch_managers=_switch_managers(root),
        iommu=_iommu(root, gpus),
        secure_boot=_secure_boot(root),
        lockdown=_lockdown(root),
        signatures_enforced=_signatures_enforced(root),
        is_laptop=_is_laptop(root),
        pci_gpus=gpus,
        platform=firmware.platform(root),
        nvswitches=pci_bus.nvswitches(root),
    )


# ------------------------------------------------------------------------------------- the system


def _distribution(root: Path) -> str | Unknown | None:
    for place in ("etc/os-release", "usr/lib/os-release"):
        text = read_text(root / place, 1 << 16)
        if isinstance(text, str):
            return parse_os_release(text)
        if isinstance(text, Unknown):
            return text
    return None


def parse_os_release(text: str) -> str | None:
    """Return PRETTY_NAME (else NAME and VERSION_ID) of an os-release file."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, is_set, value = line.strip().partition("=")
        if is_set:
            value = value.strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = re.sub(r"\\(.)", r"\1", value[1:-1])
            values[name] = value
    pretty = values.get("PRETTY_NAME")
    return pretty or f"{values.get('NAME', '')} {values.get('VERSION_ID', '')}".strip() or None


def _kernel_release(root: Path) -> str | Unknown:
    line = first_line(root / "proc/sys/kernel/osrelease")
    return line if isinstance(line, str) else platform.release() or Unknown("no kernel release")


def _is_wsl(root: Path, kernel: str | Unknown) -> bool | Unknown:
    version = read_text(root / "proc/version", 4096)
    if isinstance(kernel, str) and _WSL_KERNEL.search(kernel):
        return True
    if isinstance(version, str) and _WSL_KERNEL.search(version):
        return True
    # A kernel that the user built for WSL bears any name; the GPU still comes through /dev/dxg.
    return (root / "dev/dxg").exists() and (root / "usr/lib/wsl").is_dir()


def _tegra(root: Path) -> str | Unknown | None:
    model = first_line(root / "proc/device-tree/model")
    compatible = read_text(root / "proc/device-tree/compatible", 4096)
    release = first_line(root / "etc/nv_tegra_release")
    if isinstance(compatible, str) and "nvidia,tegra" in compatible:
        return model if isinstance(model, str) else "Tegra"
    if isinstance(model, str) and re.search(r"jetson|tegra", model, re.I):
        return model
    if isinstance(release, str):
        return f"Tegra, L4T {release.lstrip('# ').partition(' (')[0]}"
    return None


def _groups() -> tuple[str, ...] | Unknown:
    try:
        import grp

        numbers = sorted({*os.getgroups(), os.getegid()})
    except (ImportError, OSError, AttributeError) as error:
        return Unknown(str(error))
    names = []
    for number in numbers:
        try:
            names.append(grp.getgrgid(number).gr_name)
        except (KeyError, OSError):
            names.append(str(number))
    return tuple(names)


# -------------------------------------------------------------------------------- memory and CPUs


def _shm_bytes(root: Path) -> int | Unknown | None:
    try:
        shm = os.statvfs(root / "dev/shm")
    except FileNotFoundError:
        return None
    except OSError as error:
        return unread("/dev/shm", error)  # noqa: S108
    return shm.f_blocks * shm.f_frsize


def _locked_memory_limit(root: Path) -> int | Unknown | None:
    """Return the limit that binds this process, in bytes.

    A process with CAP_IPC_LOCK may lock any amount, whatever the limit says.
    """
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    except (ImportError, OSError, ValueError) as error:
        return Unknown(str(error))
    if limit == resource.RLIM_INFINITY:
        return None
    status = read_text(root / "proc/self/status", 1 << 16)
    if isinstance(status, str) and parse_capabilities(status) >> CAP_IPC_LOCK & 1:
        return None
    return limit


def parse_capabilities(status: str) -> int:
    """Return the effective capabilities in /proc/PID/status; 0 where it does not say."""
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]{1,16})\s*$", status, re.M)
    return int(found[1], 16) if found else 0


def _memory(root: Path) -> int | Unknown:
    text = read_text(root / "proc/meminfo", 1 << 16)
    if not isinstance(text, str):
        return text or Unknown("/proc/meminfo is not there")
    return parse_meminfo(text)


def parse_meminfo(text: str) -> int | Unknown:
    """Return the memory of the machine in bytes."""
    found = re.search(r"^MemTotal:\s*([0-9]{1,15}) kB", text, re.M)
    return int(found[1]) * 1024 if found else Unknown("/proc/meminfo names no MemTotal")


def _cpus_present(root: Path) -> int | Unknown:
    text = first_line(root / "sys/devices/system/cpu/online")
    if isinstance(text, str) and (count := parse_cpu_list(text)):
        return count
    return os.cpu_count() or Unknown("the number of CPUs is not known")


def parse_cpu_list(text: str) -> int | None:
    """Count the CPUs of a kernel list such as "0-3,8"; None for anything else."""
    count = 0
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part)
        if found is None:
            return None
        count += int(found[2] or found[1]) - int(found[1]) + 1
    return count if count > 0 else None


def _cpus_usable(root: Path) -> int | Unknown:
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        present = _cpus_present(root)
        if isinstance(present, Unknown):
            return present
        count = present
    quota = _cpu_quota(root)
    return count if quota is None else max(1, min(count, -int(-quota // 1)))


def _cpu_quota(root: Path) -> float | None:
    """Return how many CPUs the control groups above this process let it use; None: all."""
    groups = read_text(root / "proc/self/cgroup", 1 << 16)
    if not isinstance(groups, str):
        return None
    least: float | None = None
    for controllers, path in parse_cgroup(groups):
        folders = ["."] if not controllers else ["cpu", "cpu,cpuacct", "cpuacct,cpu"]
        if controllers and "cpu" not in controllers:
            continue
        for name in folders:
            top = root / "sys/fs/cgroup" / name
            if controllers and not top.is_dir():
                continue
            parts = [part for part in path.split("/") if part not in ("", ".", "..")]
            # Inside a container the path may be the host's, of which nothing is here but the top.
            for depth in range(len(parts), -1, -1):
                folder = top.joinpath(*parts[:depth])
                quota = _quota_of(folder)
                if quota is not None and (least is None or quota < least):
                    least = quota
    return least


def _quota_of(folder: Path) -> float | None:
    text = read_text(folder / "cpu.max", 4096)
    if isinstance(text, str):
        return parse_quota(*[*text.split(), "", ""][:2])
    quota = read_text(folder / "cpu.cfs_quota_us", 4096)
    period = read_text(folder / "cpu.cfs_period_us", 4096)
    if isinstance(quota, str) and isinstance(period, str):
        return parse_quota(quota.strip(), period.strip())
    return None


def parse_cgroup(text: str) -> list[tuple[tuple[str, ...], str]]:
    """Return (controllers, path) of each line of /proc/PID/cgroup; version 2 names none."""
    found = []
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            found.append((tuple(name for name in parts[1].split(",") if name), parts[2]))
    return found


def parse_quota(quota: str, period: str) -> float | None:
    """Return CPUs from microseconds per period; None where there is no limit ("max", -1)."""
    if not re.fullmatch(r"[0-9]{1,15}", quota) or not re.fullmatch(r"[0-9]{1,15}", period):
        return None
    return int(quota) / int(period) if int(quota) > 0 and int(period) > 0 else None


def _rdma_devices(root: Path) -> tuple[str, ...] | Unknown:
    names = names_in(root / "sys/class/infiniband")
    if names is None and not (root / "sys").is_dir():
        return Unknown("/sys is not there")
    return () if names is None else names


#: What an adapter that manages NVSwitches carries in its vital product data (NVIDIA's fabric
#: manager user guide, NVLink 5: "SW_MNG" in the VPD marks the ConnectX-7 bridges).
SWITCH_MANAGEMENT = b"SW_MNG"


def _switch_managers(root: Path) -> tuple[str, ...] | Unknown:
    """Return the RDMA devices that manage NVSwitches and carry no network."""
    names = _rdma_devices(root)
    if isinstance(names, Unknown):
        return names
    found = []
    for name in names:
        device = root / "sys/class/infiniband" / name / "device"
        data = read_bytes(device / "vpd", 1 << 15)
        if isinstance(data, Unknown):
            return Unknown(f"the product data of {name} may not be read: only root may")
        if data is not None and SWITCH_MANAGEMENT in data:
            found.append(name)
    return tuple(found)


# ------------------------------------------------------------------------------ firmware and IOMMU


def _lockdown(root: Path) -> str | Unknown | None:
    """Return the level of the kernel's lockdown: "none [integrity] confidentiality"."""
    text = read_text(root / "sys/kernel/security/lockdown", 4096)
    if not isinstance(text, str):
        return text
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else Unknown("the lockdown file names no level")


def _signatures_enforced(root: Path) -> bool | Unknown:
    """Whether the kernel takes only signed modules, Secure Boot or not."""
    options = first_line(root / "proc/cmdline")
    if isinstance(options, str) and re.search(
        r"(?:^|\s)module\.sig_enforce(?:=1|=y)?(?:\s|$)", options
    ):
        return True
    text = first_line(root / "sys/module/module/parameters/sig_enforce")
    return text == "Y" if not isinstance(text, Unknown) else text


#: portable, laptop, notebook, sub-notebook, convertible, detachable (SMBIOS, chassis types)
_LAPTOPS = frozenset(("8", "9", "10", "14", "31", "32"))


def _is_laptop(root: Path) -> bool | Unknown:
    text = first_line(root / "sys/class/dmi/id/chassis_type")
    if isinstance(text, Unknown):
        return text
    batteries = names_in(root / "sys/class/power_supply")
    has_battery = isinstance(batteries, tuple) and any(name.startswith("BAT") for name in batteries)
    return text in _LAPTOPS or has_battery


def _secure_boot(root: Path) -> bool | Unknown | None:
    firmware = root / "sys/firmware"
    if not firmware.is_dir():
        return Unknown("/sys/firmware is not there")
    if not (firmware / "efi").is_dir():
        return None
    data = read_bytes(root / SECURE_BOOT, 64)
    if data is None:
        return Unknown("the EFI variable SecureBoot is not shown")
    return parse_secure_boot(data) if isinstance(data, bytes) else data


def parse_secure_boot(data: bytes) -> bool | Unknown:
    """Read the EFI variable SecureBoot: four bytes of attributes, then 0 or 1."""
    if len(data) != 5:
        return Unknown("the EFI variable SecureBoot has another size than 5 bytes")
    return data[4] == 1


def _iommu(
    root: Path, gpus: tuple[PciGpu, ...] | Unknown
) -> Literal["off", "passthrough", "translating"] | Unknown:
    """Say how the IOMMU treats the GPUs; where there are none, how it treats all devices."""
    if not (root / "sys").is_dir():
        return Unknown("/sys is not there")
    kinds: list[str | Unknown | None] = []
    if isinstance(gpus, tuple) and gpus:
        for gpu in gpus:
            group = root / "sys/bus/pci/devices" / gpu.bus_id / "iommu_group"
            if exists(group):
                kinds.append(first_line(group / "type"))
    else:
        groups = root / "sys/kernel/iommu_groups"
        names = names_in(groups)
        if isinstance(names, Unknown):
            return names
        kinds = [first_line(groups / name / "type") for name in names or ()]
    command_line = first_line(root / "proc/cmdline")
    return judge_iommu(kinds, command_line if isinstance(command_line, str) else "")


def judge_iommu(
    kinds: list[str | Unknown | None], command_line: str
) -> Literal["off", "passthrough", "translating"] | Unknown:
    """Tell from the domain types of the devices' IOMMU groups, else from the kernel's options.

    The types are the kernel's (Documentation/ABI/testing/sysfs-kernel-iommu_groups): "identity"
    passes addresses through; "DMA" and "DMA-FQ" translate; others belong to guests.
    """
    if not kinds:
        return "off"
    named = {kind for kind in kinds if isinstance(kind, str)}
    if any(kind.startswith("DMA") for kind in named):
        return "translating"
    if "identity" in named:
        return "passthrough"
    options = command_line.split()
    if "iommu=pt" in options or "iommu.passthrough=1" in options:
        return "passthrough"
    if named and len(named) == len(set(kinds)):
        return "off"  # handed to guests: none is translated for this system
    return Unknown("the kernel does not say of which type its IOMMU domains are")

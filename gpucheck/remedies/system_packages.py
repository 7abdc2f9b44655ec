"""Names the commands that install and switch drivers, in the words of each Linux distribution."""

import re
from typing import Literal

from gpucheck.snapshot import Snapshot

Family = Literal["ubuntu", "debian", "fedora", "rhel", "suse", "arch", "nixos", ""]

#: A word of os-release's PRETTY_NAME, and whose package manager and package names it stands for.
_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("ubuntu", "ubuntu"),
    ("linux mint", "ubuntu"),
    ("zorin", "ubuntu"),
    ("elementary os", "ubuntu"),
    ("debian", "debian"),
    ("fedora", "fedora"),
    ("red hat", "rhel"),
    ("rocky", "rhel"),
    ("alma", "rhel"),
    ("centos", "rhel"),
    ("oracle linux", "rhel"),
    ("suse", "suse"),
    ("nixos", "nixos"),
    ("arch linux", "arch"),
    ("manjaro", "arch"),
    ("endeavouros", "arch"),
)
#: NVIDIA's repository for RHEL and its rebuilds, by their major version and the machine.
_REPOSITORY = (
    "https://developer.download.nvidia.com/compute/cuda/repos/rhel{0}/{1}/cuda-rhel{0}.repo"
)
_REBOOT = "sudo reboot"


def family(machine: Snapshot) -> Family:
    """Return whose packages this system uses; "" where its name says nothing."""
    name = machine.host.distribution
    text = name.lower() if isinstance(name, str) else ""
    return next((kind for word, kind in _FAMILIES if word in text), "")


def _major(machine: Snapshot) -> int:
    name = machine.host.distribution
    found = re.search(r"\d{1,4}", name) if isinstance(name, str) else None
    return int(found[0]) if found else 0


def kernel(machine: Snapshot) -> str:
    """Return the running kernel's release, as a command line can use it."""
    release = machine.host.kernel_release
    return release if isinstance(release, str) else "$(uname -r)"


def install_driver(machine: Snapshot) -> tuple[str, ...]:
    """Return the commands that install the newest driver; empty where they are not known.

    Source: NVIDIA's driver installation guide (kernel modules); RPM Fusion's for Fedora.
    """
    kind = family(machine)
    if kind == "ubuntu":
        return "sudo ubuntu-drivers install", _REBOOT
    if kind == "debian":
        return "sudo apt install nvidia-driver", _REBOOT
    if kind == "fedora":
        return "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda", _REBOOT
    if kind == "rhel" and (major := _major(machine)) >= 8:
        cpu = "sbsa" if machine.host.machine == "aarch64" else "x86_64"
        add = f"sudo dnf config-manager --add-repo {_REPOSITORY.format(major, cpu)}"
        stream = ("sudo dnf module enable nvidia-driver:open-dkms",) if major < 10 else ()
        return add, *stream, "sudo dnf install nvidia-open", _REBOOT
    if kind == "arch":
        return "sudo pacman -S nvidia-open", _REBOOT
    return ()


def where_drivers_are(machine: Snapshot) -> str:
    """Return what else has to be said where the driver is not in the distribution's own set."""
    return {
        "debian": " It is in Debian's non-free section.",
        "fedora": " The packages are RPM Fusion's: enable its nonfree repository first.",
        "rhel": " NVIDIA's repository has the packages; DKMS comes from EPEL.",
        "nixos": ' Set services.xserver.videoDrivers = [ "nvidia" ] in the configuration.',
    }.get(family(machine), "")


def install_headers(machine: Snapshot) -> tuple[str, ...]:
    """Return the commands that install the running kernel's headers."""
    release = kernel(machine)
    return {
        "ubuntu": (f"sudo apt install linux-headers-{release}",),
        "debian": (f"sudo apt install linux-headers-{release}",),
        "fedora": (f"sudo dnf install kernel-devel-{release}",),
        "rhel": (f"sudo dnf install kernel-devel-{release}",),
        "suse": ("sudo zypper install kernel-default-devel",),
        "arch": ("sudo pacman -S linux-headers",),
    }.get(family(machine), ())


def build_module(machine: Snapshot) -> tuple[str, ...]:
    """Return the commands that build the module for the running kernel where DKMS has no tree."""
    if family(machine) == "fedora":
        return f"sudo akmods --force --kernels {kernel(machine)}", "sudo modprobe nvidia"
    return install_driver(machine)


def open_module(machine: Snapshot, branch: int) -> tuple[str, ...]:
    """Return the commands that change to the open kernel module of a driver *branch*.

    Source: NVIDIA's driver installation guide, "Switching between Driver Module Flavors".
    """
    kind = family(machine)
    if kind == "ubuntu":
        return f"sudo apt install nvidia-driver-{branch}-open", _REBOOT
    if kind == "debian":
        return "sudo apt install nvidia-open-kernel-dkms", _REBOOT
    if kind == "rhel" and _major(machine) in (8, 9):
        switch = "sudo dnf module switch-to nvidia-driver:open-dkms --allowerasing"
        return switch, _REBOOT
    if kind in ("rhel", "fedora"):
        return "sudo dnf install --allowerasing nvidia-open", _REBOOT
    if kind == "arch":
        return "sudo pacman -S nvidia-open", _REBOOT
    return ()


def older_driver(machine: Snapshot, branch: int) -> tuple[str, ...]:
    """Return the commands that install a driver *branch* that is not the newest."""
    if family(machine) == "ubuntu":
        return f"sudo apt install nvidia-driver-{branch}", _REBOOT
    return ()


def renew_ram_disk(machine: Snapshot) -> tuple[str, ...]:
    """Return the command that renews the initial ram disk."""
    return {
        "ubuntu": ("sudo update-initramfs -u",),
        "debian": ("sudo update-initramfs -u",),
        "arch": ("sudo mkinitcpio -P",),
        "nixos": ("sudo nixos-rebuild boot",),
    }.get(family(machine), ("sudo dracut --force",))


def kernel_parameter(machine: Snapshot, parameter: str) -> tuple[str, ...]:
    """Return the commands that add *parameter* to the kernel's command line and restart."""
    kind = family(machine)
    if kind in ("fedora", "rhel"):
        return f"sudo grubby --update-kernel=ALL --args={parameter}", _REBOOT
    edit = rf"sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{parameter} /' /etc/default/grub"
    if kind in ("ubuntu", "debian"):
        return edit, "sudo update-grub", _REBOOT
    if kind == "arch":
        return edit, "sudo grub-mkconfig -o /boot/grub/grub.cfg", _REBOOT
    if kind == "suse":
        return edit, "sudo grub2-mkconfig -o /boot/grub2/grub.cfg", _REBOOT
    return ()


def fabric_manager(machine: Snapshot, version: object) -> tuple[str, ...]:
    """Return the command that installs the fabric manager of the driver's own *version*."""
    if not isinstance(version, str):
        return ()
    branch = version.partition(".")[0]
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        return (f"sudo apt install 'nvidia-fabricmanager-{branch}={version}-*'",)
    if kind in ("rhel", "fedora"):
        return (f"sudo dnf install nvidia-fabric-manager-{version}",)
    return ()


def signing_key(machine: Snapshot) -> str:
    """Return the public key with which this system signs the modules that it builds itself."""
    kind = family(machine)
    if kind == "ubuntu":
        return "/var/lib/shim-signed/mok/MOK.der"
    if kind == "fedora" and not isinstance(machine.driver.dkms_version, str):
        return "/etc/pki/akmods/certs/public_key.der"
    return "/var/lib/dkms/mok.pub"


def owner_of_file(machine: Snapshot, path: str) -> tuple[str, ...]:
    """Return the command that says which package brought *path*."""
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        return (f"dpkg -S {path}",)
    if kind in ("rhel", "fedora", "suse"):
        return (f"rpm -qf {path}",)
    if kind == "arch":
        return (f"pacman -Qo {path}",)
    return ()


def remove_driver(machine: Snapshot, path: str) -> tuple[str, ...]:
    """Return the commands that remove a Linux driver's libraries, of which one is *path*."""
    kind = family(machine)
    if kind == "ubuntu":
        return "sudo apt-get purge 'libnvidia-compute-*' 'nvidia-driver-*'", "sudo ldconfig"
    if kind == "debian":
        return "sudo apt-get purge libcuda1 'nvidia-driver*'", "sudo ldconfig"
    return owner_of_file(machine, path)


def run_container(machine: Snapshot) -> str:
    """Return the command that runs a container like this with its GPUs."""
    if machine.host.container == "podman":
        return "podman run --device nvidia.com/gpu=all"
    return "docker run --gpus all"


def start_with_gpus(machine: Snapshot) -> tuple[str, tuple[str, ...]]:
    """Return what has to be done, and the commands, to start a container like this with GPUs."""
    return {
        "kubernetes": ("Ask for `nvidia.com/gpu: 1` (or more) in the pod's resource limits.", ()),
        "apptainer": ("Start it with --nv.", ("apptainer exec --nv IMAGE …",)),
        "podman": ("Start it with its GPUs.", (f"{run_container(machine)} …",)),
    }.get(
        machine.host.container if isinstance(machine.host.container, str) else "",
        (
            "Start it with its GPUs; the host needs the NVIDIA Container Toolkit.",
            ("docker run --gpus all …",),
        ),
    )

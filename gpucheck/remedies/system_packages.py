"""Names the commands that install and switch drivers, in the words of each Linux distribution."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Literal

from gpucheck.rule import Command, command
from gpucheck.snapshot import Snapshot, value

Family = Literal["ubuntu", "debian", "fedora", "rhel", "suse", "arch", "nixos", ""]
Steps = tuple[Command, ...]

#: A word of os-release's PRETTY_NAME, and whose package manager and package names it stands for.
_FAMILIES: tuple[tuple[str, Family], ...] = (
    ("ubuntu", "ubuntu"),
    ("linux mint", "ubuntu"),
    ("pop!_os", "ubuntu"),
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
#: The package that adds NVIDIA's repository to Debian: driver installation guide, "Debian".
_KEYRING = (
    "https://developer.download.nvidia.com/compute/cuda/repos/debian{0}/{1}/"
    "cuda-keyring_1.1-1_all.deb"
)
#: The driver branch that each Debian release has: packages.debian.org/nvidia-driver.
_DEBIANS_OWN = {11: 470, 12: 535, 13: 550}
REBOOT = command("reboot", root=True)
LOAD_MODULE = command("modprobe nvidia", root=True, lasts="reboot")
#: As root, and for good.
_change = partial(command, root=True, lasts="permanent")
#: apt has its list of sources in the one file or in the other
_NON_FREE = (
    r"sed -i -E 's/^(deb .*|Components:.*)\bmain\b.*/\1main contrib non-free non-free-firmware/'"
    " $(ls /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null)"
)
#: before Debian 12, which moved firmware into a section of its own
_OLD_NON_FREE = r"sed -i -E 's/^(deb .*)\bmain\b.*/\1main contrib non-free/' /etc/apt/sources.list"


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
    """Return the running kernel's release, as people read it."""
    return value(machine.host.kernel_release) or "$(uname -r)"


def install_driver(machine: Snapshot, least_branch: int = 0) -> Steps:
    """Return the commands that install the newest driver; empty where they are not known.

    Debian keeps one branch for years: where that is older than *least_branch*, NVIDIA's own
    repository is added.

    Source: NVIDIA's driver installation guide (kernel modules); RPM Fusion's for Fedora; Debian's
    wiki, NvidiaGraphicsDrivers, for the sections that its packages are in.
    """
    kind = family(machine)
    if kind == "ubuntu":
        return _change("ubuntu-drivers install"), REBOOT
    if kind == "debian" and least_branch > _DEBIANS_OWN.get(_major(machine), least_branch):
        return _from_nvidia_for_debian(machine)
    if kind == "debian":
        return *non_free(machine), _change("apt install nvidia-driver"), REBOOT
    if kind == "fedora":
        return _change("dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda"), REBOOT
    if kind == "rhel" and (major := _major(machine)) >= 8:
        cpu = "sbsa" if machine.host.machine == "aarch64" else "x86_64"
        add = _change(
            "dnf config-manager --add-repo {repository}", repository=_REPOSITORY.format(major, cpu)
        )
        stream = (_change("dnf module enable nvidia-driver:open-dkms"),) if major < 10 else ()
        return add, *stream, _change("dnf install nvidia-open"), REBOOT
    if kind == "arch":
        return _change("pacman -S nvidia-open"), REBOOT
    return ()


def _from_nvidia_for_debian(machine: Snapshot) -> Steps:
    if _major(machine) < 12:
        return ()
    cpu = "sbsa" if machine.host.machine == "aarch64" else "x86_64"
    address = _KEYRING.format(_major(machine), cpu)
    return (
        command("wget {address}", needs="wget", address=address),
        _change("dpkg -i {package}", package=address.rpartition("/")[2]),
        command("apt update", root=True),
        _change("apt install nvidia-open"),
        REBOOT,
    )


def non_free(machine: Snapshot) -> Steps:
    """Return the commands that let apt see Debian's non-free section; empty elsewhere."""
    if family(machine) != "debian":
        return ()
    is_old = 0 < _major(machine) < 12
    return _change(_OLD_NON_FREE if is_old else _NON_FREE), command("apt update", root=True)


def where_drivers_are(machine: Snapshot) -> str:
    """Return what else has to be said where the driver is not in the distribution's own set."""
    return {
        "debian": " It is in Debian's non-free section, which has to be enabled first.",
        "fedora": " The packages are RPM Fusion's: enable its nonfree repository first.",
        "rhel": " NVIDIA's repository has the packages; DKMS comes from EPEL.",
        "nixos": ' Set services.xserver.videoDrivers = [ "nvidia" ] in the configuration.',
    }.get(family(machine), "")


def install_headers(machine: Snapshot) -> Steps:
    """Return the commands that install the running kernel's headers."""
    kind = family(machine)
    release = value(machine.host.kernel_release)
    if release is None:
        return ()
    if kind in ("ubuntu", "debian"):
        headers = "apt install linux-headers-{release}"
        return (_change(headers, release=release),)
    if kind in ("fedora", "rhel"):
        headers = "dnf install kernel-devel-{release}"
        return (_change(headers, release=release),)
    if kind == "suse":
        return (_change("zypper install kernel-default-devel"),)
    if kind == "arch":
        return (_change("pacman -S linux-headers"),)
    return ()


def dkms_build(machine: Snapshot) -> Steps:
    """Return the commands by which DKMS builds the module for the running kernel and loads it."""
    release = value(machine.host.kernel_release)
    if release is None:
        return _change("dkms autoinstall"), LOAD_MODULE
    build = _change("dkms autoinstall -k {release}", release=release)
    return build, LOAD_MODULE


def build_module(machine: Snapshot) -> Steps:
    """Return the commands that build the module for the running kernel where DKMS has no tree."""
    if family(machine) == "fedora":
        release = value(machine.host.kernel_release)
        if release is None:
            return _change("akmods --force"), LOAD_MODULE
        build = _change("akmods --force --kernels {release}", release=release)
        return build, LOAD_MODULE
    return install_driver(machine)


def install_gcc(machine: Snapshot, major: str) -> Steps:
    """Return the commands that install gcc *major* and make it the compiler that builds use."""
    if family(machine) not in ("ubuntu", "debian"):
        return ()
    program = f"/usr/bin/gcc-{major}"
    return (
        _change("apt install {package}", package=f"gcc-{major}"),
        _change("update-alternatives --install /usr/bin/cc cc {program} 100", program=program),
        _change("update-alternatives --set cc {program}", program=program),
    )


def open_module(machine: Snapshot, branch: int) -> Steps:
    """Return the commands that change to the open kernel module of a driver *branch*.

    Source: NVIDIA's driver installation guide, "Switching between Driver Module Flavors".
    """
    kind = family(machine)
    if kind == "ubuntu":
        package = f"nvidia-driver-{branch}-open"
        return _change("apt install {package}", package=package), REBOOT
    if kind == "debian":
        return *non_free(machine), _change("apt install nvidia-open-kernel-dkms"), REBOOT
    if kind == "rhel" and _major(machine) in (8, 9):
        switch = "dnf module switch-to nvidia-driver:open-dkms --allowerasing"
        return _change(switch), REBOOT
    if kind in ("rhel", "fedora"):
        return _change("dnf install --allowerasing nvidia-open"), REBOOT
    if kind == "arch":
        return _change("pacman -S nvidia-open"), REBOOT
    return ()


def older_driver(machine: Snapshot, branch: int) -> Steps:
    """Return the commands that install a driver *branch* with the closed module."""
    kind = family(machine)
    if kind == "ubuntu":
        return _change("apt install {package}", package=f"nvidia-driver-{branch}"), REBOOT
    if kind == "debian" and branch == _DEBIANS_OWN.get(_major(machine)):
        return install_driver(machine)
    if kind == "debian" and branch == 470 and _major(machine) == 12:
        package = "nvidia-tesla-470-driver"
        install = _change("apt install {package}", package=package)
        return *non_free(machine), install, REBOOT
    if kind == "rhel" and _major(machine) in (8, 9):
        stream = f"nvidia-driver:{branch}-dkms"
        switch = "dnf module switch-to {stream} --allowerasing"
        return _change(switch, stream=stream), REBOOT
    return ()


def firmware(machine: Snapshot, version: str) -> Steps:
    """Return the commands that install the GSP firmware of the driver's own *version*."""
    kind = family(machine)
    branch = version.partition(".")[0]
    if kind == "ubuntu":
        package = f"nvidia-firmware-{branch}-{version}"
        return _change("apt install --reinstall {package}", package=package), REBOOT
    if kind == "debian":
        return *non_free(machine), _change("apt install --reinstall firmware-nvidia-gsp"), REBOOT
    if kind in ("rhel", "fedora"):
        return _change("dnf reinstall {package}", package="nvidia-kmod-common"), REBOOT
    if kind == "arch":
        return _change("pacman -S nvidia-utils"), REBOOT
    return ()


def renew_ram_disk(machine: Snapshot) -> Steps:
    """Return the command that rebuilds the initramfs."""
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        return (_change("update-initramfs -u"),)
    if kind == "arch":
        return (_change("mkinitcpio -P"),)
    if kind == "nixos":
        return (_change("nixos-rebuild boot"),)
    return (_change("dracut --force"),)


def kernel_parameter(machine: Snapshot, parameter: str) -> Steps:
    """Return the commands that add *parameter* to the kernel's command line and restart."""
    kind = family(machine)
    if kind in ("fedora", "rhel"):
        grubby = "grubby --update-kernel=ALL --args={parameter}"
        return _change(grubby, parameter=parameter), REBOOT
    if not re.fullmatch(r"[\w.=,:-]+", parameter):
        return ()
    edit = _change(
        "sed -i {program} /etc/default/grub", program=rf's/^GRUB_CMDLINE_LINUX="/&{parameter} /'
    )
    if kind in ("ubuntu", "debian"):
        return edit, _change("update-grub"), REBOOT
    if kind == "arch":
        return edit, _change("grub-mkconfig -o /boot/grub/grub.cfg"), REBOOT
    if kind == "suse":
        return edit, _change("grub2-mkconfig -o /boot/grub2/grub.cfg"), REBOOT
    return ()


def without_kernel_parameter(machine: Snapshot, parameters: Sequence[str]) -> Steps:
    """Return the commands that take *parameters* from the kernel's command line and restart."""
    kind = family(machine)
    if kind in ("fedora", "rhel"):
        grubby = "grubby --update-kernel=ALL --remove-args={parameters}"
        text = " ".join(parameters)
        return _change(grubby, parameters=text), REBOOT
    update = {
        "ubuntu": "update-grub",
        "debian": "update-grub",
        "arch": "grub-mkconfig -o /boot/grub/grub.cfg",
        "suse": "grub2-mkconfig -o /boot/grub2/grub.cfg",
    }.get(kind)
    if update is None or not all(re.fullmatch(r"[\w.=,:-]+", each) for each in parameters):
        return ()
    programs = [word for each in parameters for word in ("-e", f"s/ *{re.escape(each)}//g")]
    edit = _change("sed -i {programs} /etc/default/grub", programs=programs)
    return edit, Command(update, root=True, lasts="permanent"), REBOOT


def fabric_manager(machine: Snapshot, version: object) -> Steps:
    """Return the command that installs the fabric manager of the driver's own *version*."""
    if not isinstance(version, str):
        return ()
    branch = version.partition(".")[0]
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        package = f"nvidia-fabricmanager-{branch}={version}-*"
        return (_change("apt install {package}", package=package),)
    if kind in ("rhel", "fedora"):
        return (_change("dnf install {package}", package=f"nvidia-fabric-manager-{version}"),)
    return ()


def subnet_manager(machine: Snapshot) -> Steps:
    """Return the command that installs the subnet manager of NVLink 5, of NVIDIA's repository."""
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        return (_change("apt install nvlsm"),)
    if kind in ("rhel", "fedora"):
        return (_change("dnf install nvlsm"),)
    return ()


def enroll_key(machine: Snapshot) -> Command:
    """Return the command that enrolls the key which signs this system's own modules.

    Source of SUSE's: https://en.opensuse.org/SDB:NVIDIA_drivers, "Secureboot".
    """
    if family(machine) == "suse" and not isinstance(machine.driver.dkms_version, str):
        text = (
            "mokutil --import $(ls /usr/share/nvidia-pubkeys/*.der /var/lib/nvidia-pubkeys/*.der)"
        )
        return Command(text, root=True, lasts="permanent")
    key = signing_key(machine)
    return command("mokutil --import {key}", root=True, lasts="permanent", key=key)


def signing_key(machine: Snapshot) -> str:
    """Return the public key with which this system signs the modules that it builds itself."""
    kind = family(machine)
    if kind == "ubuntu":
        return "/var/lib/shim-signed/mok/MOK.der"
    if kind == "fedora" and not isinstance(machine.driver.dkms_version, str):
        return "/etc/pki/akmods/certs/public_key.der"
    return "/var/lib/dkms/mok.pub"


def owner_of_file(machine: Snapshot, path: str) -> Steps:
    """Return the command that says which package brought *path*."""
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        return (command("dpkg -S {path}", path=path),)
    if kind in ("rhel", "fedora", "suse"):
        return (command("rpm -qf {path}", path=path),)
    if kind == "arch":
        return (command("pacman -Qo {path}", path=path),)
    return ()


def remove_driver(machine: Snapshot, path: str) -> Steps:
    """Return the commands that remove a Linux driver's libraries, of which one is *path*."""
    kind = family(machine)
    cache = _change("ldconfig")
    if kind == "ubuntu":
        return _change("apt-get purge 'libnvidia-compute-*' 'nvidia-driver-*'"), cache
    if kind == "debian":
        return _change("apt-get purge libcuda1 'nvidia-driver*'"), cache
    return owner_of_file(machine, path)


def remove_package(machine: Snapshot, package: str) -> Steps:
    """Return the command that takes *package* out of a Debian system or image."""
    if family(machine) in ("ubuntu", "debian") and package:
        return (_change("apt-get purge {package}", package=package),)
    return ()

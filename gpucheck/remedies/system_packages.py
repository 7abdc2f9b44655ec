"""Names the commands that install and switch drivers, in the words of each Linux distribution."""

import re
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
REBOOT = command("reboot", root=True)
LOAD_MODULE = command("modprobe nvidia", root=True, lasts="reboot")
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


def _for_kernel(machine: Snapshot, known: str, unknown: str) -> Command:
    """Return a lasting command of root's with the running kernel's release in it."""
    release = value(machine.host.kernel_release)
    if release is None:
        return command(unknown, root=True, lasts="permanent")
    return command(known, root=True, lasts="permanent", release=release)


def _install(template: str, /, **words: str) -> Command:
    return command(template, root=True, lasts="permanent", on="here", needs="", **words)


def install_driver(machine: Snapshot) -> Steps:
    """Return the commands that install the newest driver; empty where they are not known.

    Source: NVIDIA's driver installation guide (kernel modules); RPM Fusion's for Fedora; Debian's
    wiki, NvidiaGraphicsDrivers, for the sections that its packages are in.
    """
    kind = family(machine)
    if kind == "ubuntu":
        return _install("ubuntu-drivers install"), REBOOT
    if kind == "debian":
        return *non_free(machine), _install("apt install nvidia-driver"), REBOOT
    if kind == "fedora":
        return _install("dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda"), REBOOT
    if kind == "rhel" and (major := _major(machine)) >= 8:
        cpu = "sbsa" if machine.host.machine == "aarch64" else "x86_64"
        add = _install(
            "dnf config-manager --add-repo {repository}",
            repository=_REPOSITORY.format(major, cpu),
        )
        stream = (_install("dnf module enable nvidia-driver:open-dkms"),) if major < 10 else ()
        return add, *stream, _install("dnf install nvidia-open"), REBOOT
    if kind == "arch":
        return _install("pacman -S nvidia-open"), REBOOT
    return ()


def non_free(machine: Snapshot) -> Steps:
    """Return the commands that let apt see Debian's non-free section; empty elsewhere."""
    if family(machine) != "debian":
        return ()
    is_old = 0 < _major(machine) < 12
    return _install(_OLD_NON_FREE if is_old else _NON_FREE), command("apt update", root=True)


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
    if kind in ("ubuntu", "debian"):
        known = "apt install linux-headers-{release}"
        return (_for_kernel(machine, known, 'apt install "linux-headers-$(uname -r)"'),)
    if kind in ("fedora", "rhel"):
        known = "dnf install kernel-devel-{release}"
        return (_for_kernel(machine, known, 'dnf install "kernel-devel-$(uname -r)"'),)
    if kind == "suse":
        return (_install("zypper install kernel-default-devel"),)
    if kind == "arch":
        return (_install("pacman -S linux-headers"),)
    return ()


def dkms_build(machine: Snapshot) -> Steps:
    """Return the commands by which DKMS builds the module for the running kernel and loads it."""
    build = _for_kernel(
        machine, "dkms autoinstall -k {release}", 'dkms autoinstall -k "$(uname -r)"'
    )
    return build, LOAD_MODULE


def build_module(machine: Snapshot) -> Steps:
    """Return the commands that build the module for the running kernel where DKMS has no tree."""
    if family(machine) == "fedora":
        build = _for_kernel(
            machine,
            "akmods --force --kernels {release}",
            'akmods --force --kernels "$(uname -r)"',
        )
        return build, LOAD_MODULE
    return install_driver(machine)


def install_gcc(machine: Snapshot, major: str) -> Steps:
    """Return the commands that install gcc *major* and make it the compiler that builds use."""
    if family(machine) not in ("ubuntu", "debian"):
        return ()
    program = f"/usr/bin/gcc-{major}"
    return (
        _install("apt install {package}", package=f"gcc-{major}"),
        _install("update-alternatives --install /usr/bin/cc cc {program} 100", program=program),
        _install("update-alternatives --set cc {program}", program=program),
    )


def open_module(machine: Snapshot, branch: int) -> Steps:
    """Return the commands that change to the open kernel module of a driver *branch*.

    Source: NVIDIA's driver installation guide, "Switching between Driver Module Flavors".
    """
    kind = family(machine)
    if kind == "ubuntu":
        package = f"nvidia-driver-{branch}-open"
        return _install("apt install {package}", package=package), REBOOT
    if kind == "debian":
        return *non_free(machine), _install("apt install nvidia-open-kernel-dkms"), REBOOT
    if kind == "rhel" and _major(machine) in (8, 9):
        switch = "dnf module switch-to nvidia-driver:open-dkms --allowerasing"
        return _install(switch), REBOOT
    if kind in ("rhel", "fedora"):
        return _install("dnf install --allowerasing nvidia-open"), REBOOT
    if kind == "arch":
        return _install("pacman -S nvidia-open"), REBOOT
    return ()


def older_driver(machine: Snapshot, branch: int) -> Steps:
    """Return the commands that install a driver *branch* with the closed module."""
    kind = family(machine)
    if kind == "ubuntu":
        return _install("apt install {package}", package=f"nvidia-driver-{branch}"), REBOOT
    if kind == "rhel" and _major(machine) in (8, 9):
        stream = f"nvidia-driver:{branch}-dkms"
        switch = "dnf module switch-to {stream} --allowerasing"
        return _install(switch, stream=stream), REBOOT
    return ()


def firmware(machine: Snapshot, version: str) -> Steps:
    """Return the commands that install the GSP firmware of the driver's own *version*."""
    kind = family(machine)
    branch = version.partition(".")[0]
    if kind == "ubuntu":
        package = f"nvidia-firmware-{branch}-{version}"
        return _install("apt install --reinstall {package}", package=package), REBOOT
    if kind == "debian":
        return *non_free(machine), _install("apt install --reinstall firmware-nvidia-gsp"), REBOOT
    if kind in ("rhel", "fedora"):
        return _install("dnf reinstall {package}", package="nvidia-kmod-common"), REBOOT
    if kind == "arch":
        return _install("pacman -S nvidia-utils"), REBOOT
    return ()


def renew_ram_disk(machine: Snapshot) -> Steps:
    """Return the command that rebuilds the initramfs."""
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        return (_install("update-initramfs -u"),)
    if kind == "arch":
        return (_install("mkinitcpio -P"),)
    if kind == "nixos":
        return (_install("nixos-rebuild boot"),)
    return (_install("dracut --force"),)


def kernel_parameter(machine: Snapshot, parameter: str) -> Steps:
    """Return the commands that add *parameter* to the kernel's command line and restart."""
    kind = family(machine)
    if kind in ("fedora", "rhel"):
        add = "grubby --update-kernel=ALL --args={parameter}"
        return _install(add, parameter=parameter), REBOOT
    if not re.fullmatch(r"[\w.=,:-]+", parameter):
        return ()
    edit = _install(
        "sed -i {program} /etc/default/grub",
        program=rf's/^GRUB_CMDLINE_LINUX="/&{parameter} /',
    )
    if kind in ("ubuntu", "debian"):
        return edit, _install("update-grub"), REBOOT
    if kind == "arch":
        return edit, _install("grub-mkconfig -o /boot/grub/grub.cfg"), REBOOT
    if kind == "suse":
        return edit, _install("grub2-mkconfig -o /boot/grub2/grub.cfg"), REBOOT
    return ()


def fabric_manager(machine: Snapshot, version: object) -> Steps:
    """Return the command that installs the fabric manager of the driver's own *version*."""
    if not isinstance(version, str):
        return ()
    branch = version.partition(".")[0]
    kind = family(machine)
    if kind in ("ubuntu", "debian"):
        package = f"nvidia-fabricmanager-{branch}={version}-*"
        return (_install("apt install {package}", package=package),)
    if kind in ("rhel", "fedora"):
        return (_install("dnf install {package}", package=f"nvidia-fabric-manager-{version}"),)
    return ()


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
    cache = command("ldconfig", root=True, lasts="permanent")
    if kind == "ubuntu":
        return _install("apt-get purge 'libnvidia-compute-*' 'nvidia-driver-*'"), cache
    if kind == "debian":
        return _install("apt-get purge libcuda1 'nvidia-driver*'"), cache
    return owner_of_file(machine, path)


def remove_package(machine: Snapshot, package: str) -> Steps:
    """Return the command that takes *package* out of a Debian system or image."""
    if family(machine) in ("ubuntu", "debian") and package:
        return (_install("apt-get purge {package}", package=package),)
    return ()

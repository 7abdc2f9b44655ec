"""Commands are in the words of the machine's own system_packages."""

import pytest

from gpucheck.remedies import system_packages
from gpucheck.snapshot import Snapshot
from machines import machine


def on(name: str, **host: object) -> Snapshot:
    return machine(host={"distribution": name, **host})


NAMES = {
    "Ubuntu 24.04.1 LTS": "ubuntu",
    "Linux Mint 22": "ubuntu",
    "Debian GNU/Linux 12 (bookworm)": "debian",
    "Fedora Linux 41 (Workstation Edition)": "fedora",
    "Red Hat Enterprise Linux 9.4 (Plow)": "rhel",
    "Rocky Linux 8.10 (Green Obsidian)": "rhel",
    "AlmaLinux 10.0 (Purple Lion)": "rhel",
    "openSUSE Leap 15.6": "suse",
    "SUSE Linux Enterprise Server 15 SP6": "suse",
    "Arch Linux": "arch",
    "NixOS 24.11 (Vicuna)": "nixos",
    "Slackware 15.0": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_is_known_by_its_name(name: str):
    assert system_packages.family(on(name)) == NAMES[name]


def test_a_system_that_nobody_knows_gets_no_command_of_another():
    unknown = on("Slackware 15.0")

    for commands in (
        system_packages.install_driver(unknown),
        system_packages.install_headers(unknown),
        system_packages.open_module(unknown, 580),
        system_packages.older_driver(unknown, 580),
        system_packages.kernel_parameter(unknown, "iommu=pt"),
        system_packages.fabric_manager(unknown, "580.159.04"),
        system_packages.owner_of_file(unknown, "/usr/lib/libcuda.so.1"),
    ):
        assert commands == ()


def test_rhel_has_streams_up_to_version_9_and_none_from_10_on():
    nine = system_packages.install_driver(on("Rocky Linux 9.5 (Blue Onyx)"))
    ten = system_packages.install_driver(on("AlmaLinux 10.0 (Purple Lion)"))

    assert "sudo dnf module enable nvidia-driver:open-dkms" in nine
    assert not any("module enable" in command for command in ten)
    assert "/rhel9/x86_64/cuda-rhel9.repo" in nine[0]
    assert "/rhel10/x86_64/cuda-rhel10.repo" in ten[0]


def test_the_kernels_parameters_are_changed_by_each_systems_own_tool():
    assert system_packages.kernel_parameter(on("Fedora Linux 41"), "iommu=pt") == (
        "sudo grubby --update-kernel=ALL --args=iommu=pt",
        "sudo reboot",
    )
    assert "sudo update-grub" in system_packages.kernel_parameter(on("Ubuntu 24.04"), "iommu=pt")


def test_the_fabric_manager_is_of_the_drivers_own_version():
    assert system_packages.fabric_manager(on("Ubuntu 24.04"), "580.159.04") == (
        "sudo apt install 'nvidia-fabricmanager-580=580.159.04-*'",
    )


def test_podmans_containers_are_started_by_podman():
    inside = on("Debian GNU/Linux 12", container="podman")

    assert system_packages.start_with_gpus(inside)[1] == (
        "podman run --device nvidia.com/gpu=all …",
    )

"""Commands are in the words of the machine's own system_packages."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from gpucheck.remedies import containers, system_packages
from gpucheck.rule import Command
from gpucheck.snapshot import Snapshot
from machines import machine


def on(name: str, **host: object) -> Snapshot:
    return machine(host={"distribution": name, **host})


def texts(steps: Iterable[Command]) -> list[str]:
    return [step.text for step in steps]


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

    assert "dnf module enable nvidia-driver:open-dkms" in texts(nine)
    assert not any("module enable" in text for text in texts(ten))
    assert "/rhel9/x86_64/cuda-rhel9.repo" in nine[0].text
    assert "/rhel10/x86_64/cuda-rhel10.repo" in ten[0].text


def test_the_kernels_parameters_are_changed_by_each_systems_own_tool():
    fedora = system_packages.kernel_parameter(on("Fedora Linux 41"), "iommu=pt")
    ubuntu = system_packages.kernel_parameter(on("Ubuntu 24.04"), "iommu=pt")

    assert texts(fedora) == ["grubby --update-kernel=ALL --args=iommu=pt", "reboot"]
    assert texts(ubuntu) == [
        """sed -i 's/^GRUB_CMDLINE_LINUX="/&iommu=pt /' /etc/default/grub""",
        "update-grub",
        "reboot",
    ]
    assert all(step.root for step in (*fedora, *ubuntu))


def test_a_parameter_that_a_shell_would_read_as_more_gives_no_command():
    assert system_packages.kernel_parameter(on("Ubuntu 24.04"), "a=$(reboot)") == ()


def test_debian_s_non_free_section_is_enabled_before_its_driver_is_installed():
    new = texts(system_packages.install_driver(on("Debian GNU/Linux 12 (bookworm)")))
    old = texts(system_packages.install_driver(on("Debian GNU/Linux 11 (bullseye)")))

    assert "non-free non-free-firmware" in new[0]
    assert "non-free-firmware" not in old[0]
    assert new[1:] == old[1:] == ["apt update", "apt install nvidia-driver", "reboot"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "deb http://deb.debian.org/debian bookworm main non-free-firmware",
            "deb http://deb.debian.org/debian bookworm main contrib non-free non-free-firmware",
        ),
        ("Components: main", "Components: main contrib non-free non-free-firmware"),
        ("# deb cdrom: main", "# deb cdrom: main"),
    ],
)
def test_the_section_is_added_to_either_kind_of_list(tmp_path: Path, before: str, after: str):
    listing = tmp_path / "list"
    listing.write_text(f"{before}\n")
    [enable, _] = system_packages.non_free(on("Debian GNU/Linux 12 (bookworm)"))
    script = enable.text.partition(" $(ls")[0]

    subprocess.run(["/bin/sh", "-c", f"{script} {listing}"], check=True)

    assert listing.read_text() == f"{after}\n"


def test_the_fabric_manager_is_of_the_drivers_own_version():
    [step] = system_packages.fabric_manager(on("Ubuntu 24.04"), "580.159.04")

    assert step.text == "apt install 'nvidia-fabricmanager-580=580.159.04-*'"


def test_podmans_containers_are_started_by_podman():
    inside = on("Debian GNU/Linux 12", container="podman")

    assert texts(containers.start_with_gpus(inside).steps) == [
        "podman run --device nvidia.com/gpu=all IMAGE"
    ]


def test_a_container_s_uvm_comes_from_its_host_and_a_new_specification():
    remedy = containers.without_uvm(on("Fedora Linux 41", container="podman"))

    assert texts(remedy.steps) == [
        "nvidia-modprobe -c 0 -u",
        "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    ]
    assert {step.on for step in remedy.steps} == {"host"}


@pytest.mark.parametrize(
    ("kind", "asked", "word"),
    [
        ("kubernetes", "GPU-1234", "is not NVIDIA's"),
        ("kubernetes", "all", "runtimeClassName: nvidia"),
        ("docker", "all", "--gpus all"),
    ],
)
def test_a_runtime_that_did_not_act_is_named(kind: str, asked: str, word: str):
    assert word in containers.runtime_did_not_act(on("Ubuntu 24.04", container=kind), asked).text

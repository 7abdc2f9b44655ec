"""What the report prints of a remedy can be obeyed by this user, on this machine."""

import pytest

from gpucheck.render.remedy import Adviser, Way, with_sudo
from gpucheck.rule import Remedy, command
from gpucheck.snapshot import GpuProcess, Snapshot
from machines import gpu, machine

RESET = command("nvidia-smi -rac -i {gpu}", gpu=3, root=True, lasts="reboot")
INSTALL = command("apt install nvidia-driver-580", root=True, lasts="permanent")
REBOOT = command("reboot", root=True)


def on(**host: object) -> Snapshot:
    known = {"has_sudo": True, "programs": None, "other_users": 0, **host}
    return machine(host={name: fact for name, fact in known.items() if fact is not None})


def the_way(remedy: Remedy, where: Snapshot) -> Way:
    [way] = Adviser(where).ways(remedy)
    return way


def shown(remedy: Remedy, where: Snapshot) -> list[tuple[str, tuple[str, ...]]]:
    return [(block.heading, block.lines) for block in the_way(remedy, where).blocks]


def test_a_user_with_sudo_gets_sudo_and_how_long_it_lasts():
    assert shown(Remedy("x", (RESET,)), on()) == [
        ("(until reboot)", ("sudo nvidia-smi -rac -i 3",))
    ]


def test_root_gets_no_sudo():
    assert shown(Remedy("x", (RESET,)), on(is_root=True)) == [
        ("(until reboot)", ("nvidia-smi -rac -i 3",))
    ]


def test_where_there_is_no_sudo_the_heading_says_as_root():
    assert shown(Remedy("x", (RESET,)), on(has_sudo=False)) == [
        ("as root (until reboot)", ("nvidia-smi -rac -i 3",))
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nvidia-smi -i 0", "sudo nvidia-smi -i 0"),
        ("sed -i 's/a;b>/c/' /etc/f", "sudo sed -i 's/a;b>/c/' /etc/f"),
        ("echo a > /etc/f", "sudo sh -c 'echo a > /etc/f'"),
        ("lspci | grep -i nvidia", "sudo sh -c 'lspci | grep -i nvidia'"),
        ("cd /x", "sudo sh -c 'cd /x'"),
    ],
)
def test_sudo_covers_the_whole_of_a_line(text: str, line: str):
    assert with_sudo(text) == line


def test_a_reboot_waits_for_the_success_of_what_comes_before_it():
    assert shown(Remedy("x", (INSTALL, REBOOT)), on()) == [
        ("(permanent)", ("sudo apt install nvidia-driver-580 &&", "sudo reboot"))
    ]


def test_a_reboot_warns_where_others_are_at_work():
    busy = (GpuProcess(pid=7, name="python", used_bytes=1),)
    shared = machine(host={"other_users": 2}, nvml={"gpus": (gpu(0, processes=busy),)})

    assert the_way(Remedy("x", (REBOOT,)), shared).notes == (
        "the reboot ends the work of 2 other users and 1 process on the GPUs",
    )
    assert the_way(Remedy("x", (REBOOT,)), on()).notes == ()


@pytest.mark.parametrize(
    ("container", "where"), [("docker", "on the host"), ("kubernetes", "on the node")]
)
def test_in_a_container_what_changes_the_kernel_is_labelled_for_the_host(
    container: str, where: str
):
    inside = on(container=container, is_root=True)

    assert shown(Remedy("x", (REBOOT,)), inside) == [(f"{where}, as root", ("reboot",))]
    assert shown(Remedy("x", (RESET,)), inside) == [
        (f"{where}, as root (until reboot)", ("nvidia-smi -rac -i 3",))
    ]
    assert shown(Remedy("x", (command("nvidia-smi -q"),)), inside) == [("", ("nvidia-smi -q",))]


def test_a_command_for_the_host_runs_here_where_here_is_the_host():
    step = command("docker ps", on="host")

    assert shown(Remedy("x", (step,)), on(hypervisor=None)) == [("", ("docker ps",))]
    assert shown(Remedy("x", (step,)), on(container="docker")) == [("on the host", ("docker ps",))]


def test_wsl_is_restarted_in_windows_and_gets_no_linux_driver_commands():
    wsl = on(is_wsl=True, hypervisor="hyperv")

    assert shown(Remedy("x", (REBOOT,)), wsl) == [("in Windows", ("wsl --shutdown",))]
    assert shown(Remedy("x", (command("modprobe nvidia", root=True),)), wsl) == []


def test_the_recipe_of_an_image_is_no_place_for_sudo():
    step = command("apt-get install -y libcudnn9", root=True, on="image", lasts="permanent")

    assert shown(Remedy("x", (step,)), on(container="docker")) == [
        ("in the image's recipe (permanent)", ("apt-get install -y libcudnn9",))
    ]


def test_steps_that_last_differently_are_pasted_apart():
    steps = (
        command("unset CUDA_HOME", lasts="shell"),
        command("sed -i 7d {file}", file="/home/a b/.bashrc", lasts="permanent"),
    )

    assert shown(Remedy("x", steps), on()) == [
        ("(this shell)", ("unset CUDA_HOME",)),
        ("(permanent)", ("sed -i 7d '/home/a b/.bashrc'",)),
    ]


def test_alternatives_are_a_choice_and_never_a_sequence():
    remedy = Remedy(
        "Keep one torch",
        alternatives=(
            Remedy("Keep conda's", (command("/x/python -m pip uninstall torch"),)),
            Remedy("Keep pip's", (command("conda remove pytorch"),)),
        ),
    )

    ways = Adviser(on()).ways(remedy)

    assert [(way.lead, way.text) for way in ways] == [
        ("", "Keep one torch"),
        ("either", "Keep conda's"),
        ("or", "Keep pip's"),
    ]
    assert ways[0].blocks == ()


def test_a_remedy_with_steps_is_itself_the_first_choice():
    remedy = Remedy("Turn MIG off", (RESET,), alternatives=(Remedy("Create an instance"),))

    assert [(way.lead, way.text) for way in Adviser(on()).ways(remedy)] == [
        ("", "Turn MIG off"),
        ("either", ""),
        ("or", "Create an instance"),
    ]


def test_a_program_that_is_not_here_gets_its_package_named():
    remedy = Remedy("x", (command("lspci -nn"),))

    assert the_way(remedy, on(programs=())).notes == (
        "lspci is not installed here: sudo apt install pciutils",
    )
    assert the_way(remedy, on(programs=(), has_sudo=False)).notes == (
        "lspci is not installed here: as root: apt install pciutils",
    )
    assert the_way(remedy, on(programs=("lspci",))).notes == ()
    assert the_way(remedy, on()).notes == ()


def test_gpucheck_is_called_as_it_can_be_called_here():
    adviser = Adviser(on(), "/opt/gpucheck/.venv/bin/gpucheck")

    [block] = adviser.blocks((command("gpucheck doctor --deep"),))

    assert block.lines == ("/opt/gpucheck/.venv/bin/gpucheck doctor --deep",)


def test_for_programs_a_command_that_belongs_elsewhere_is_a_comment():
    commands = Adviser(on(container="docker")).commands((command("nvidia-smi -q"), REBOOT))

    assert commands == ("nvidia-smi -q", "# on the host: reboot")

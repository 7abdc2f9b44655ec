"""A variable's remedy names who sets it, and what makes the change last."""

import subprocess

import pytest
from env_machines import environment, startup

from gpucheck.probes import startup_files as reader
from gpucheck.remedies import variables
from gpucheck.snapshot import VariableLine, VariableSource
from machines import machine, with_variables


def sourced(**source):
    return environment(sources=(VariableSource(variable="NCCL_P2P_DISABLE", **source),))


def test_a_line_of_a_start_up_file_is_named_and_opened():
    m = startup("# mine\nexport NCCL_P2P_DISABLE=1\n")

    remedy = variables.unset(m, "NCCL_P2P_DISABLE")

    assert remedy.text == "Unset NCCL_P2P_DISABLE; it is set by /home/u/.bashrc:2"
    assert [(step.text, step.lasts) for step in remedy.steps] == [
        ("unset NCCL_P2P_DISABLE", "shell"),
        ("${EDITOR:-vi} +2 /home/u/.bashrc", "permanent"),
    ]


def test_where_nothing_sets_it_the_remedy_says_that():
    remedy = variables.unset(machine(startup_files={"files": ()}), "NCCL_P2P_DISABLE")

    assert "not found in any start-up file" in remedy.text
    assert [step.lasts for step in remedy.steps] == ["shell"]


def test_a_script_of_conda_is_named_with_its_line():
    path = "/opt/conda/etc/conda/activate.d/env_vars.sh"

    remedy = variables.unset(sourced(kind="conda script", path=path, line=3), "NCCL_P2P_DISABLE")

    assert f"conda's {path}:3" in remedy.text
    assert remedy.steps[-1].text == f"${{EDITOR:-vi}} +3 {path}"


def test_a_variable_of_a_conda_environment_is_unset_by_conda():
    m = sourced(kind="conda state", path="/opt/conda/conda-meta/state")

    remedy = variables.unset(m, "NCCL_P2P_DISABLE")

    assert remedy.steps[-1].text == "conda env config vars unset NCCL_P2P_DISABLE"


def test_a_loaded_module_is_unloaded():
    m = sourced(kind="module", path="/opt/modules/nccl/2", module="nccl/2")

    remedy = variables.unset(m, "NCCL_P2P_DISABLE")

    assert "module nccl/2 (/opt/modules/nccl/2)" in remedy.text
    assert remedy.steps[-1].text == "module unload nccl/2"


def test_a_containers_own_environment_is_blamed_in_a_container_only():
    inside = machine(sourced(kind="container"), host={"container": "docker"})

    assert "container's own environment" in variables.unset(inside, "NCCL_P2P_DISABLE").text
    outside = sourced(kind="container")
    assert "container" not in variables.unset(outside, "NCCL_P2P_DISABLE").text


def test_a_file_of_the_system_is_edited_as_root():
    m = startup("export CUDA_HOME=/gone\n", path="/etc/profile.d/cuda.sh")

    remedy = variables.set_variable(m, "CUDA_HOME", "/usr/local/cuda")

    assert [step.root for step in remedy.steps] == [False, True]
    assert not remedy.alternatives


def test_hand_written_exports_can_be_replaced_by_gpuchecks_own():
    m = startup("export CUDA_HOME=/gone\n")

    [other] = variables.set_variable(m, "CUDA_HOME", "/usr/local/cuda").alternatives

    assert [step.text for step in other.steps] == ["gpucheck env install --replace"]


def test_of_several_lines_those_that_name_the_element_are_named():
    m = startup("export PATH=/a:$PATH\nexport PATH=/gone/cuda/bin:$PATH\n")

    remedy = variables.set_list(m, "PATH", ["/usr/bin"], "/gone/cuda/bin")

    assert remedy.text == "Remove /gone/cuda/bin from PATH; it is set by /home/u/.bashrc:2"


SHELLS = {
    "bash": ("export X=/a", "unset X", 'export PATH=/opt/bin:"$PATH"'),
    "fish": ("set -gx X /a", "set -e X", "set -gx PATH /opt/bin $PATH"),
    "tcsh": ("setenv X /a", "unsetenv X", 'setenv PATH /opt/bin:"$PATH"'),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_are_in_the_language_of_the_users_shell(shell):
    m = environment(shell=shell)

    commands = (
        variables.set_variable(m, "X", "/a").steps[0].text,
        variables.unset(m, "X").steps[0].text,
        variables.prepend(m, "PATH", "/opt/bin").steps[0].text,
    )

    assert commands == SHELLS[shell]


def test_a_hostile_value_stays_one_word():
    hostile = "/a'; touch x; `touch y` $(touch z)"

    [step] = variables.set_variable(machine(), "X", hostile).steps

    seen = subprocess.run(
        ["sh", "-c", f'{step.text}; printf %s "$X"'], capture_output=True, text=True
    )
    assert seen.stdout == hostile


def test_slurm_is_named_for_the_gpus_that_it_gave():
    m = with_variables(SLURM_JOB_ID="42", CUDA_VISIBLE_DEVICES="9")

    assert "Slurm, for job 42" in variables.unset(m, "CUDA_VISIBLE_DEVICES").text


@pytest.mark.parametrize(
    ("dialect", "path", "line"),
    [
        ("sh", "/home/u/.bashrc", "export CUDA_VISIBLE_DEVICES=0"),
        ("fish", "/home/u/.config/fish/config.fish", "set -gx CUDA_VISIBLE_DEVICES 0"),
        ("csh", "/home/u/.tcshrc", "setenv CUDA_VISIBLE_DEVICES 0"),
        ("environment", "/etc/environment", "CUDA_VISIBLE_DEVICES=0"),
    ],
)
def test_the_reader_notes_lines_of_other_variables(dialect, path, line):
    file = reader.parse(f"\n{line}\n", path, dialect)

    assert file.others == (VariableLine(variable="CUDA_VISIBLE_DEVICES", line=2),)

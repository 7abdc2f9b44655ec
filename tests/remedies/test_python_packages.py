"""The commands that install packages: right for the tool, the driver and the GPUs that are here."""

from typing import Any

import msgspec
import pytest

from gpucheck.remedies import python_packages
from gpucheck.remedies.torch_builds import fitting
from gpucheck.rule import Remedy
from gpucheck.snapshot import Distribution, PythonProject, Snapshot
from machines import HEALTHY, SITE, gpu, machine
from seen_facts import seen

PYTHON = seen(HEALTHY.pytorch.python)
TORCH = seen(HEALTHY.pytorch.torch)
OLD_DRIVER = {
    "driver": {"module_version": "525.147.05", "cuda_init": None, "libraries": ()},
    "nvml": {"cuda_version": "12.0", "driver_version": "525.147.05"},
}


def with_python(base: Snapshot = HEALTHY, **changes: Any) -> Snapshot:
    return machine(base, pytorch={"python": msgspec.structs.replace(PYTHON, **changes)})


def with_torch(version: str, cuda: str | None, base: Snapshot = HEALTHY, **more: Any) -> Snapshot:
    build = "cuda" if cuda else "cpu"
    torch = msgspec.structs.replace(TORCH, version=version, cuda=cuda, build=build)
    return machine(base, pytorch={"torch": torch, **more})


def installed(*names: str, requires: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "distributions": tuple(
            Distribution(
                name=name, version="1.0", location=SITE, installer="pip", requires=requires
            )
            for name in names
        )
    }


def texts(remedy: Remedy) -> list[str]:
    return [step.text for step in remedy.steps]


# --------------------------------------------------------------------------- which build of torch


@pytest.mark.parametrize(
    ("version", "cuda", "name", "capability", "wanted"),
    [
        ("2.8.0+cu128", "12.8", "NVIDIA GeForce GTX 1080 Ti", "6.1", ("2.8.0", "cu126")),
        ("2.6.0+cu124", "12.4", "NVIDIA GeForce RTX 5090", "12.0", ("2.7.1", "cu128")),
        ("2.11.0+cu130", "13.0", "NVIDIA H200", "9.0", ("2.11.0", "cu130")),
        ("2.9.1+cpu", None, "NVIDIA H200", "9.0", ("2.9.1", "cu130")),
    ],
)
def test_the_release_that_is_here_is_kept_where_one_of_its_builds_fits(
    version, cuda, name, capability, wanted
):
    one = machine(nvml={"gpus": (gpu(0, name=name, compute_capability=capability),)})

    build = fitting(with_torch(version, cuda, one))

    assert build is not None
    assert (build.release, build.variant.variant) == wanted


def test_the_driver_decides_about_the_cuda():
    build = fitting(with_torch("2.11.0+cu130", "13.0", machine(**OLD_DRIVER)))

    assert build is not None
    assert (build.release, build.variant.variant) == ("2.11.0", "cu128")


def test_a_gpu_too_new_for_what_the_driver_runs_needs_a_driver_too():
    blackwell = machine(
        nvml={
            "gpus": (gpu(0, name="NVIDIA B200", compute_capability="10.0"),),
            "cuda_version": "11.4",
            "driver_version": "470.1",
        },
        driver={"module_version": "470.1", "cuda_init": None, "libraries": ()},
    )

    remedy = python_packages.replace_torch(with_torch("2.6.0+cu124", "12.4", blackwell))

    assert "It needs driver 525.60.13 or newer" in remedy.text


def test_the_release_has_to_have_wheels_for_this_python():
    old = msgspec.structs.replace(PYTHON, version="3.8.10")

    build = fitting(machine(pytorch={"torch": None, "python": old}))

    assert build is not None
    assert build.release == "2.4.1"


def test_companions_that_are_here_are_named_with_torch():
    here = installed("torch", "torchvision", "torchaudio")

    remedy = python_packages.replace_torch(with_torch("2.8.0+cpu", None, **here))

    assert texts(remedy) == [
        (
            "/opt/venv/bin/python3 -m pip install torch==2.8.0+cu129 torchvision==0.23.0+cu129 "
            "torchaudio==2.8.0+cu129 --index-url https://download.pytorch.org/whl/cu129"
        )
    ]


def test_who_pins_another_torch_is_named():
    here = installed("xformers", requires=("torch==2.6.0",))
    new = machine(nvml={"gpus": (gpu(0, name="NVIDIA RTX 5090", compute_capability="12.0"),)})

    remedy = python_packages.replace_torch(with_torch("2.6.0+cu124", "12.4", new, **here))

    assert "xformers 1.0 requires torch==2.6.0" in remedy.text


def test_compiled_packages_have_to_follow_another_build():
    here = installed("flash-attn", requires=("torch",))

    remedy = python_packages.replace_torch(with_torch("2.8.0+cpu", None, **here))

    assert "flash-attn must be built for the same torch" in remedy.text


def test_a_vendors_build_is_not_replaced_by_wheels():
    remedy = python_packages.replace_torch(with_torch("2.9.0a0+145a3a7bda.nv25.10", "13.0"))

    assert remedy.steps == ()
    assert "container image" in remedy.text


# -------------------------------------------------------------------------------------- each tool


def test_a_plain_environment_has_its_own_pip_in_front():
    remedy = python_packages.install(HEALTHY, ["nvidia-nccl-cu13==2.28.9"], text="Install it.")

    assert texts(remedy) == ["/opt/venv/bin/python3 -m pip install nvidia-nccl-cu13==2.28.9"]
    assert remedy.steps[0].lasts == "permanent"


def test_an_environment_that_others_own_needs_root():
    remedy = python_packages.install(with_python(is_writable=False), ["x==1"], text="")

    assert remedy.steps[0].root


def test_damaged_files_are_written_anew_without_their_dependencies():
    remedy = python_packages.install(HEALTHY, ["x==1"], text="", again=True)

    assert texts(remedy) == [
        "/opt/venv/bin/python3 -m pip install --force-reinstall --no-deps x==1"
    ]


def test_where_there_is_no_pip_it_is_brought_in_first():
    remedy = python_packages.install(with_python(has_pip=False), ["x==1"], text="")

    assert texts(remedy)[0] == "/opt/venv/bin/python3 -m ensurepip"


def test_uvs_environments_are_filled_by_uv():
    found = with_python(uses_uv=True, has_pip=False)

    assert texts(python_packages.install(found, ["x==1"], text="")) == [
        "uv pip install --python /opt/venv/bin/python3 x==1"
    ]
    assert [each.text for each in python_packages.uninstall(found, ["x"])] == [
        "uv pip uninstall --python /opt/venv/bin/python3 x"
    ]


def test_a_python_of_the_distribution_gets_a_virtual_environment_instead():
    found = with_python(
        path="/usr/bin/python3", externally_managed="/usr/lib/python3.12/EXTERNALLY-MANAGED"
    )

    remedy = python_packages.install(found, ["x==1"], text="Install x.")

    assert texts(remedy) == [
        "/usr/bin/python3 -m venv ~/torch-env",
        "~/torch-env/bin/python -m pip install x==1",
    ]
    assert "EXTERNALLY-MANAGED" in remedy.text


def test_what_conda_installed_conda_replaces():
    conda = Distribution(name="torch", version="2.6.0", location="/opt/venv", installer="conda")
    found = with_torch("2.6.0", None, with_python(conda_tool="micromamba"), distributions=(conda,))

    remedy = python_packages.replace_torch(found)

    assert texts(remedy) == [
        "micromamba install -p /opt/venv -c conda-forge pytorch-gpu=2.6.0 'cuda-version<=12.6'"
    ]


def project(tool: Any, file: str) -> Snapshot:
    own = PythonProject(tool=tool, folder="/home/ada/app", file=f"/home/ada/app/{file}")
    return with_python(project=own)


def test_a_uv_project_is_changed_in_its_file():
    remedy = python_packages.replace_torch(
        with_torch("2.9.1+cpu", None, project("uv", "pyproject.toml"), **installed("torch"))
    )

    assert '[tool.uv.sources]: torch = { index = "pytorch-cu130" }' in remedy.text
    assert "/home/ada/app/pyproject.toml" in remedy.text
    assert texts(remedy) == [
        "uv lock --upgrade-package torch==2.9.1 --project /home/ada/app",
        "uv sync --project /home/ada/app",
    ]
    [trial] = remedy.alternatives
    assert "torch==2.9.1+cu130" in trial.steps[0].text


@pytest.mark.parametrize(
    ("tool", "file", "first"),
    [
        ("poetry", "pyproject.toml", "poetry -C /home/ada/app source add"),
        ("pipenv", "Pipfile", "PIPENV_PIPFILE=/home/ada/app/Pipfile pipenv install torch==2.9.1"),
        ("pixi", "pixi.toml", "pixi install --manifest-path /home/ada/app/pixi.toml"),
    ],
)
def test_other_projects_are_changed_by_their_own_tool(tool, file, first):
    found = with_torch("2.9.1+cpu", None, project(tool, file), **installed("torch"))

    assert texts(python_packages.replace_torch(found))[0].startswith(first)


# ------------------------------------------------------------------------------------- hostility


@pytest.mark.parametrize(
    "requirement", ["torch==2.0`id`", "x; rm -rf ~", "$(id)", "", "a==1 --index-url http://x", "é"]
)
def test_what_is_no_requirement_gives_no_command(requirement):
    assert python_packages.install(HEALTHY, [requirement], text="Install it.").steps == ()
    assert python_packages.uninstall(HEALTHY, [requirement]) == ()


def test_a_path_is_quoted():
    found = with_python(path="/tmp/a b;$(id)/python")

    [step] = python_packages.install(found, ["x==1"], text="").steps

    assert step.text.startswith("'/tmp/a b;$(id)/python' -m pip")


def test_without_a_python_there_is_only_the_text():
    assert python_packages.install(
        machine(pytorch={"python": None}), ["x"], text="Install x."
    ) == Remedy("Install x.")


def test_a_pixi_project_with_a_torch_from_wheels_names_the_index_in_its_file():
    found = with_torch("2.9.1+cpu", None, project("pixi", "pixi.toml"), **installed("torch"))

    assert (
        'torch = { version = "==2.9.1", index = "https://download.pytorch.org/whl/cu130" }'
        in python_packages.replace_torch(found).text
    )


def test_a_pixi_project_with_condas_torch_adds_condas():
    own = PythonProject(tool="pixi", folder="/home/ada/app", file="/home/ada/app/pixi.toml")
    python = with_python(conda_tool="pixi", project=own)
    conda = Distribution(name="torch", version="2.6.0", location="/opt/venv", installer="conda")

    remedy = python_packages.replace_torch(
        with_torch("2.6.0", None, python, distributions=(conda,))
    )

    assert texts(remedy) == [
        "pixi add --manifest-path /home/ada/app/pixi.toml pytorch-gpu=2.6.0 'cuda-version<=12.6'"
    ]

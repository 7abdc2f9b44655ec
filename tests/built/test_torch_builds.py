"""Which torch build, which companions and which toolkit: machines as strangers met them.

Each fault has a healthy twin that stays quiet.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from built.machine import PYTHON, SITE, BuiltMachine
from built.test_kinds import conda, driver, geforce, one_card, torch_for_cuda_12, without_toolkit
from built.test_packages import found, severe
from built.test_torch_libraries import codes, commands, steps

pytestmark = pytest.mark.namespaces


# --------------------------------------------------------------------------- TOR: the right build


def torch_2_8(machine: BuiltMachine, cuda: str, architectures: str) -> None:
    torch_for_cuda_12(
        machine,
        "2.8.0",
        cuda,
        cudnn="9.10.2.21",
        companions=("0.23.0", "3.4.0"),
        architectures=architectures,
    )


def test_a_pascal_card_gets_the_same_release_for_an_older_cuda(machine: BuiltMachine):
    torch_2_8(machine, "12.8", "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120")
    one_card(machine, geforce("GTX 1080 Ti", "6.1", "0x1b06"), "0x1b06", "Kernel")
    driver(machine, "570.133.07", 12080)
    machine.kernel_module("570.133.07", "", gpus=("0000:01:00.0",))
    without_toolkit(machine)

    report = machine.doctor()

    [finding] = found(report, "TOR005")
    assert "torch==2.8.0+cu126" in steps(finding)
    assert "torchvision==0.23.0+cu126" in steps(finding)
    assert "--force-reinstall" not in steps(finding)


def test_that_card_with_that_build_is_well(machine: BuiltMachine):
    torch_2_8(machine, "12.6", "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90")
    one_card(machine, geforce("GTX 1080 Ti", "6.1", "0x1b06"), "0x1b06", "Kernel")
    driver(machine, "570.133.07", 12080)
    machine.kernel_module("570.133.07", "", gpus=("0000:01:00.0",))
    without_toolkit(machine)

    report = machine.doctor()

    assert not {"TOR004", "TOR005", "DNN008"} & codes(report)


def test_a_blackwell_card_with_a_package_that_pins_torch(machine: BuiltMachine):
    torch_for_cuda_12(machine, "2.6.0", "12.4", companions=("0.21.0", "3.2.0"))
    machine.write(f"{SITE}/xformers/__init__.py")
    machine.wheel(
        SITE,
        "xformers",
        "0.0.29.post3",
        ["xformers/__init__.py"],
        requires="Requires-Dist: torch==2.6.0\n",
    )
    one_card(machine, geforce("RTX 5090", "12.0", "0x2b85"), "0x2b85")
    without_toolkit(machine)

    report = machine.doctor()

    [finding] = found(report, "TOR005")
    assert "torch==2.7.1+cu128" in steps(finding)
    assert "xformers 0.0.29.post3 requires torch==2.6.0" in finding["fix"]


def test_a_driver_of_cuda_12_with_a_torch_for_cuda_13(machine: BuiltMachine):
    driver(machine, "570.86.10", 12080)

    report = machine.doctor()

    [finding] = found(report, "TOR004")
    assert "torch==2.11.0+cu128" in steps(finding)
    assert "driver 580.65.06 or newer" in repr(finding)


def test_a_driver_of_cuda_12_with_a_torch_for_cuda_12(machine: BuiltMachine):
    driver(machine, "570.86.10", 12080)
    torch_for_cuda_12(machine, "2.11.0", "12.6", cudnn="9.10.2.21", companions=("0.26.0", "3.6.0"))
    without_toolkit(machine)

    report = machine.doctor()

    assert severe(report) == []


def test_a_torchaudio_of_another_cuda_minor(machine: BuiltMachine):
    driver(machine, "535.183.01", 12020)
    torch_for_cuda_12(machine, "2.4.0", "12.4", companions=("0.19.0", "3.0.0"))
    machine.write(f"{SITE}/torchaudio/__init__.py")
    machine.wheel(
        SITE,
        "torchaudio",
        "2.4.0",
        ["torchaudio/__init__.py"],
        requires="Requires-Dist: torch==2.4.0\n",
    )
    without_toolkit(machine)

    report = machine.doctor()

    [finding] = found(report, "TOR006")
    assert finding["subject"] == "torchaudio"
    assert "torchaudio 2.4.0 is built for CUDA 12.1, torch 2.4.0+cu124" in finding["saw"]
    assert "torchaudio==2.4.0+cu124" in steps(finding)


def cpu_torch(machine: BuiltMachine, installer: str = "pip") -> None:
    machine.without_torch()
    machine.write(f"{SITE}/torch/__init__.py")
    machine.write(f"{SITE}/torch/version.py", "__version__ = '2.9.1+cpu'\ncuda = None\n")
    machine.wheel(SITE, "torch", "2.9.1+cpu", ["torch/version.py"])
    machine.write(f"{SITE}/torch-2.9.1+cpu.dist-info/INSTALLER", f"{installer}\n")


def test_a_cpu_only_torch_of_a_uv_project(machine: BuiltMachine):
    cpu_torch(machine, "uv")
    machine.write("/opt/uv.lock", "version = 1\n")
    machine.write("/opt/pyproject.toml", "[tool.uv.sources]\ntorch = { index = 'pytorch-cpu' }\n")

    report = machine.doctor()

    [finding] = found(report, "TOR002")
    assert "/opt/pyproject.toml" in finding["fix"]
    assert "[tool.uv.sources]" in finding["fix"]
    assert "uv lock --upgrade-package torch==2.9.1 --project /opt" in steps(finding)
    assert "uv sync --project /opt" in steps(finding)
    assert "pip" not in steps(finding)


def test_a_cpu_only_torch_of_micromamba(machine: BuiltMachine):
    conda(machine, cuda=None)
    machine.environment["MAMBA_EXE"] = "/opt/bin/micromamba"
    machine.write("/opt/bin/micromamba", "#!/bin/sh\n", mode=0o755)

    report = machine.doctor()

    [finding] = found(report, "TOR002")
    assert "/opt/bin/micromamba install -p /opt/conda/envs/ml" in steps(finding)
    assert "pytorch-gpu=2.5.1" in steps(finding)


def system_python(machine: BuiltMachine) -> None:
    """Have a Python with a CPU-only torch that belongs to the distribution (PEP 668)."""
    library, packages = "/usr/lib/python3.99", "/usr/lib/python3/dist-packages"
    machine.write(f"{library}/EXTERNALLY-MANAGED", "[externally-managed]\nError=no\n")
    machine.write(f"{packages}/torch/__init__.py")
    machine.write(f"{packages}/torch/version.py", "__version__ = '2.9.1+cpu'\ncuda = None\n")
    real = os.path.realpath(sys.executable)
    machine.write(
        "/opt/system/bin/python3",
        f'#!/bin/sh\nPYTHONPATH={library}:{packages} exec {real} "$@"\n',
        mode=0o755,
    )


def test_a_python_of_the_distribution_gets_a_virtual_environment(machine: BuiltMachine):
    system_python(machine)

    report = machine.doctor("--python", "/opt/system/bin/python3")

    [finding] = found(report, "TOR002")
    assert "/usr/lib/python3.99/EXTERNALLY-MANAGED" in finding["fix"]
    assert "/opt/system/bin/python3 -m venv" in steps(finding)
    assert "torch==2.9.1+cu130" in steps(finding)
    assert "/opt/system/bin/python3 -m pip" not in commands(finding)


def test_a_torch_in_the_users_folder_is_the_root_of_what_it_lacks(machine: BuiltMachine):
    """torch 2.5 in ~/.local before the Python's own: its pins are not the fault of that Python."""
    user = f"/home/user/.local/lib/{PYTHON}/site-packages"
    machine.write(f"{user}/torch/__init__.py")
    machine.write(
        f"{user}/torch/version.py", "__version__ = '2.5.1+cu124'\ncuda = '12.4'\nhip = None\n"
    )
    machine.wheel(
        user,
        "torch",
        "2.5.1+cu124",
        ["torch/version.py"],
        requires="Requires-Dist: nvidia-nccl-cu13==2.21.5\n",
    )
    base = Path(os.path.realpath(sys.executable))
    site = base.parents[1] / "lib" / PYTHON / "site-packages"
    machine.write(f"{site}/torch/__init__.py")
    machine.write(f"{site}/torch/version.py", "__version__ = '2.11.0+cu130'\ncuda = '13.0'\n")
    machine.wheel(str(site), "torch", "2.11.0+cu130", ["torch/version.py"])

    report = machine.doctor("--python", str(base))

    [finding] = found(report, "TOR010")
    assert finding["explained_by"] is None
    assert f"{base} -m pip uninstall -y torch" in steps(finding)
    assert "PYTHONNOUSERSITE" in commands(finding)
    for code in ("LIB004", "TOR006", "TOR005", "TOR004"):
        assert all(each["explained_by"] == "TOR010" for each in found(report, code))


def test_a_toolkits_libraries_before_those_of_a_conda_environment(machine: BuiltMachine):
    conda(machine)
    for name in ("libcublasLt.so.12", "libcublas.so.12"):
        machine.elf(f"/opt/old/{name}.3.4.1", soname=name)
        machine.link(f"/opt/old/{name}", f"{name}.3.4.1")
    site = f"/opt/conda/envs/ml/lib/{PYTHON}/site-packages/torch/lib"
    machine.elf(
        f"{site}/libtorch_cuda.so",
        needed=("libcublas.so.12", "libcudnn.so.9", "libtorch_cpu.so"),
        runpath="$ORIGIN:$ORIGIN/../../../..",
    )
    machine.environment["LD_LIBRARY_PATH"] = "/opt/old"

    report = machine.doctor()

    [finding] = found(report, "LIB001")
    assert "libcublas.so.12 12.3.4.1 instead of 12.6.4.1" in finding["saw"]


def test_a_host_that_nobody_gave_a_torch_has_no_warning(machine: BuiltMachine):
    machine.without_torch()
    del machine.environment["VIRTUAL_ENV"]
    machine.environment["PATH"] = "/usr/local/cuda/bin:/usr/bin:/bin"
    own = importlib.util.find_spec("torch")
    if own is not None and own.origin is not None:  # gpucheck's own torch would be examined
        machine.remove(str(Path(own.origin).parent))

    report = machine.doctor()

    assert severe(report) == []


# ------------------------------------------------------------------------- TOR010: another's torch


def test_a_torch_on_pythonpath_explains_what_it_lacks(machine: BuiltMachine):
    site = "/opt/other"
    machine.write(f"{site}/torch/__init__.py")
    machine.write(
        f"{site}/torch/version.py", "__version__ = '2.5.1+cu124'\ncuda = '12.4'\nhip = None\n"
    )
    machine.wheel(
        site,
        "torch",
        "2.5.1+cu124",
        ["torch/version.py"],
        requires="Requires-Dist: nvidia-nccl-cu13==2.21.5\n",
    )
    machine.environment["PYTHONPATH"] = site

    report = machine.doctor()

    [finding] = found(report, "TOR010")
    assert finding["explained_by"] is None
    assert {f["explained_by"] for f in report["findings"] if f["code"] in ("TOR006", "LIB004")} <= {
        "TOR010"
    }
    assert "unset PYTHONPATH" in steps(finding)


# ----------------------------------------------------------------------------- CUD: what builds use


def test_a_distributions_old_nvcc_is_not_offered_to_a_newer_torch(machine: BuiltMachine):
    torch_for_cuda_12(machine, "2.5.1", "12.4", companions=("0.20.1", "3.1.0"))
    without_toolkit(machine)
    home = "/usr/lib/nvidia-cuda-toolkit"
    machine.program(
        f"{home}/bin/nvcc",
        "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 11.5, V11.5.119",
    )
    machine.write("/usr/bin/nvcc", f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n', mode=0o755)
    machine.write("/usr/include/cuda_runtime_api.h", "#define CUDART_VERSION 11050\n")

    report = machine.doctor()

    [finding] = found(report, "CUD003")
    assert "11.5" in finding["saw"]
    assert "CUDA_HOME=" not in steps(finding)
    for each in found(report, "ENV001"):
        assert each["commands"] == []


def gcc_14(machine: BuiltMachine) -> None:
    torch_for_cuda_12(machine)
    without_toolkit(machine)
    machine.toolkit("/usr/local/cuda-12.4", "12.4.131", max_gcc=13)
    machine.link("/usr/local/cuda", "cuda-12.4")
    machine.environment["CUDA_HOME"] = "/usr/local/cuda"
    machine.environment["PATH"] = "/opt/venv/bin:/usr/local/cuda/bin:/usr/bin:/bin"
    for name, version in (("g++", "14.2.0"), ("g++-12", "12.3.0")):
        machine.program(
            f"/usr/bin/{name}",
            f"g++ (Ubuntu {version}-1) {version}\nCopyright (C) Free Software Foundation, Inc.",
        )


def test_a_compiler_too_new_for_nvcc_where_an_older_one_is_here(machine: BuiltMachine):
    gcc_14(machine)

    report = machine.doctor()

    [finding] = found(report, "CUD004")
    assert "gcc 14.2.0" in finding["saw"]
    assert "NVCC_CCBIN=/usr/bin/g++-12" in steps(finding)


def test_variables_that_name_the_older_compiler(machine: BuiltMachine):
    gcc_14(machine)
    machine.environment.update(CC="gcc-12", CXX="g++-12")

    report = machine.doctor()

    assert not found(report, "CUD004")

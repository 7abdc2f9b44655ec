"""The probe of torch, on trees laid out as the real wheels are, and real Pythons."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes import pytorch
from gpucheck.snapshot import Python, PyTorch, Torch, Unknown
from seen_facts import seen

VERSION_PY = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda!r}
git_version = 'cf30153c4c131c8164ee7798e5022d810682e2cb'
hip: Optional[str] = {hip!r}
rocm: Optional[str] = None
xpu: Optional[str] = None
"""
METADATA = """Metadata-Version: 2.4
Name: torch
Version: 2.11.0
Requires-Dist: filelock
Requires-Dist: setuptools; python_version >= "3.12"
Requires-Dist: cuda-toolkit[cublas,cudart]==13.0.2; platform_system == "Linux"
Requires-Dist: nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"
Requires-Dist: nvidia-nccl-cu13==2.28.9; platform_system == "Linux"
Requires-Dist: nvidia-other==1; platform_system == "Windows"
Requires-Dist: triton==3.6.0; platform_system == "Linux" and python_version < "3.15"
Requires-Dist: optree>=0.13.0; extra == "optree"

Requires-Dist: nvidia-from-the-description==1
"""
TOOLKIT_METADATA = """Metadata-Version: 2.4
Name: cuda-toolkit
Requires-Dist: nvidia-cublas==13.1.0.3.*; extra == "cublas"
Requires-Dist: nvidia-cufft==12.0.0.61.*; extra == "cufft"
Requires-Dist: nvidia-cuda-runtime==13.0.96.*; (sys_platform == "linux") and extra == "cudart"
"""


def environment(folder: Path, python: str = "3.12") -> Path:
    """A virtual environment, by its files; returns its site-packages."""
    site = folder / f"lib/python{python}/site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}.3\n"
    )
    return site


def wheel(site: Path, name: str, version: str, files: dict[str, str], metadata: str = "") -> Path:
    """An installed wheel with its RECORD."""
    described = site / f"{name}-{version}.dist-info"
    described.mkdir(parents=True)
    lines = [f"{described.name}/RECORD,,"]
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        lines.append(f"{path},sha256=x,{len(text)}")
    (described / "RECORD").write_text("\n".join(lines) + "\n")
    (described / "INSTALLER").write_text("pip\n")
    (described / "METADATA").write_text(metadata)
    return described


def install_torch(site: Path, version="2.11.0+cu130", cuda="13.0", hip=None, metadata=METADATA):
    files = {
        "torch/__init__.py": "raise SystemExit('torch was imported')\n",
        "torch/version.py": VERSION_PY.format(version=version, cuda=cuda, hip=hip),
    }
    return wheel(site, "torch", version.partition("+")[0], files, metadata)


def active(folder: Path, **more: str) -> dict[str, str]:
    return {"VIRTUAL_ENV": str(folder), "PATH": "", **more}


def torch_of(found: PyTorch) -> Torch:
    assert isinstance(found.torch, Torch)
    return found.torch


# --------------------------------------------------------------------------- which Python


def test_the_active_environment_is_examined_by_its_files_alone(tmp_path):
    site = environment(tmp_path)
    install_torch(site)

    found = pytorch.probe(None, active(tmp_path), deadline_seconds=0.001)

    assert isinstance(found.python, Python)
    assert found.python.path == f"{tmp_path}/bin/python"
    assert found.python.version == "3.12.3"
    assert found.python.chosen_by == "VIRTUAL_ENV"
    assert found.python.sys_path == (str(site),)
    assert torch_of(found).location == f"{site}/torch"


def test_the_python_asked_for_comes_before_the_active_environment(tmp_path):
    environment(tmp_path / "active")
    asked = environment(tmp_path / "asked")
    install_torch(asked)

    for name in (f"{tmp_path}/asked/bin/python", f"{tmp_path}/asked"):
        found = pytorch.probe(name, active(tmp_path / "active"))

        assert isinstance(found.python, Python)
        assert found.python.chosen_by == "--python"
        assert torch_of(found).location == f"{asked}/torch"


def test_another_python_is_asked_in_a_child(tmp_path):
    found = pytorch.probe(sys.executable, {"PATH": "", "PYTHONPATH": str(tmp_path)})
    install_torch(tmp_path)
    again = pytorch.probe(sys.executable, {"PATH": "", "PYTHONPATH": str(tmp_path)})

    assert isinstance(found.python, Python)
    assert found.python.version == ".".join(map(str, sys.version_info[:3]))
    assert str(tmp_path) in found.python.sys_path
    assert torch_of(again).location == f"{tmp_path}/torch"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sleep 60", "no answer in 0.3 s"),
        ("kill -SEGV $$", "crashed with SIGSEGV"),
        ("exit 3", "exit status 3"),
        ("echo rubbish", "does not answer as a Python does"),
        ("echo gpucheck:[]", "does not answer as a Python does"),
        ("yes", "wrote more than 1 MiB"),
    ],
)
def test_a_python_that_misbehaves_is_a_fact(tmp_path, body, why):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)

    found = pytorch.probe(str(python), {"PATH": "/usr/bin:/bin"}, deadline_seconds=0.3)

    assert isinstance(found.python, Python)
    assert isinstance(found.python.version, Unknown)
    assert why in found.python.version.why
    assert isinstance(found.torch, Unknown)


def test_an_environment_whose_python_is_gone_is_a_fact(tmp_path):
    environment(tmp_path)
    (tmp_path / "bin/python").unlink()
    (tmp_path / "bin/python").symlink_to("/nowhere/python3.12")

    found = pytorch.probe(None, active(tmp_path))

    assert isinstance(found.torch, Unknown)
    assert "is a link to nothing" in found.torch.why


def test_a_python_without_torch_says_where_one_is(tmp_path):
    environment(tmp_path / "empty")
    install_torch(environment(tmp_path / "home/miniforge3/envs/train"))

    found = pytorch.probe(None, active(tmp_path / "empty", HOME=str(tmp_path / "home")))

    assert found.torch is None
    assert isinstance(found.elsewhere, tuple)
    assert f"{tmp_path}/home/miniforge3/envs/train/bin/python" in found.elsewhere


# ------------------------------------------------------------------------------- torch itself


def test_torch_is_read_without_being_imported(tmp_path):
    install_torch(environment(tmp_path))

    torch = torch_of(pytorch.probe(None, active(tmp_path)))

    assert torch.version == "2.11.0+cu130"
    assert torch.build == "cuda"
    assert torch.cuda == "13.0"
    assert torch.cudnn == "9.19.0.56"
    assert torch.nccl == "2.28.9"
    assert torch.is_outside_environment is None


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "build"),
    [
        ("2.11.0+cpu", None, None, "cpu"),
        ("2.11.0", None, None, "cpu"),
        ("2.11.0+rocm7.1", None, "7.1.25", "rocm"),
        ("2.9.0a0+145a3a7bda.nv25.10", "13.0", None, "cuda"),
    ],
)
def test_the_kind_of_a_build(tmp_path, version, cuda, hip, build):
    install_torch(environment(tmp_path), version, cuda, hip, metadata="")

    torch = torch_of(pytorch.probe(None, active(tmp_path)))

    assert torch.build == build
    assert torch.version == version


def test_an_unreadable_version_is_unknown_and_not_a_cpu_build(tmp_path):
    site = environment(tmp_path)
    install_torch(site)
    (site / "torch/version.py").write_bytes(b"\x00\xff" * 100)

    torch = torch_of(pytorch.probe(None, active(tmp_path)))

    assert torch.version == "2.11.0"
    assert isinstance(torch.build, Unknown)
    assert isinstance(torch.cuda, Unknown)


def test_a_build_that_nobody_published_is_not_looked_up_in_the_table(tmp_path):
    install_torch(environment(tmp_path), "2.9.0a0+145a3a7bda.nv25.10", "13.0", metadata="")

    torch = torch_of(pytorch.probe(None, active(tmp_path)))

    assert isinstance(torch.cudnn, Unknown)
    assert isinstance(torch.architectures, Unknown)


def test_the_architectures_are_read_from_the_library_that_holds_them(tmp_path):
    site = environment(tmp_path)
    install_torch(site)
    source = tmp_path / "flags.c"
    source.write_text(
        'const char *flags(void) { return "compute_50 sm_75 sm_90 sm_100a compute_120"; }\n'
        'const char *other(void) { return "sm_35"; }\n'
        'const char *more(void) { return "asm_75 and sm_75 sm_80 sm_86 sm_87 sm_89 sm_90!"; }\n'
    )
    (site / "torch/lib").mkdir()
    library = site / "torch/lib/libtorch_python.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)

    torch = torch_of(pytorch.probe(None, active(tmp_path)))

    assert torch.architectures == ("compute_50", "sm_75", "sm_90", "sm_100a", "compute_120")


def test_a_broken_library_leaves_the_table_to_answer(tmp_path):
    site = environment(tmp_path)
    install_torch(site)
    (site / "torch/lib").mkdir()
    (site / "torch/lib/libtorch_python.so").write_bytes(b"\x7fELF\x02\x01" + b"\xff" * 90)

    torch = torch_of(pytorch.probe(None, active(tmp_path)))

    assert isinstance(torch.architectures, tuple | Unknown)
    assert torch.architectures != ()


# ------------------------------------------------------------------------- whose torch it is


def test_a_torch_on_pythonpath_is_not_the_environments(tmp_path):
    install_torch(environment(tmp_path / "venv"))
    install_torch(tmp_path / "elsewhere", "2.5.1+cu124", "12.4")

    torch = torch_of(
        pytorch.probe(None, active(tmp_path / "venv", PYTHONPATH=f"{tmp_path}/elsewhere"))
    )

    assert torch.version == "2.5.1+cu124"
    assert torch.is_outside_environment == f"PYTHONPATH names {tmp_path}/elsewhere"


def test_a_torch_folder_in_the_current_directory_is_not_the_environments(tmp_path, monkeypatch):
    install_torch(environment(tmp_path / "venv"))
    (tmp_path / "work/torch").mkdir(parents=True)
    (tmp_path / "work/torch/__init__.py").touch()
    monkeypatch.chdir(tmp_path / "work")

    torch = torch_of(pytorch.probe(None, active(tmp_path / "venv")))

    assert torch.is_outside_environment is not None
    assert "in the current directory" in seen(torch.is_outside_environment)


def test_a_folder_of_that_name_without_code_in_it_hides_nothing(tmp_path, monkeypatch):
    install_torch(environment(tmp_path / "venv"))
    (tmp_path / "work/torch").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")

    assert torch_of(pytorch.probe(None, active(tmp_path / "venv"))).is_outside_environment is None


def test_a_path_file_leads_to_an_editable_torch(tmp_path):
    site = environment(tmp_path / "venv")
    install_torch(tmp_path / "source")
    (site / "torch.pth").write_text(f"import os\n# a comment\n{tmp_path}/source\n/nowhere\n")

    torch = torch_of(pytorch.probe(None, active(tmp_path / "venv")))

    assert torch.location == f"{tmp_path}/source/torch"


def test_an_editable_torch_that_only_an_import_would_find_is_unknown(tmp_path):
    site = environment(tmp_path)
    wheel(site, "torch", "2.12.0a0", {"__editable__.torch-2.12.0a0.pth": "import finder\n"})

    assert isinstance(pytorch.probe(None, active(tmp_path)).torch, Unknown)


# ----------------------------------------------------------------------------- distributions


def test_the_requirements_that_apply_here_are_told(tmp_path):
    site = environment(tmp_path)
    install_torch(site)
    wheel(site, "cuda_toolkit", "13.0.2", {}, TOOLKIT_METADATA)
    wheel(site, "torchvision", "0.26.0", {}, "Name: torchvision\nRequires-Dist: torch (==2.11.0)\n")
    wheel(site, "numpy", "2.0.0", {})

    found = pytorch.probe(None, active(tmp_path))

    assert isinstance(found.distributions, tuple)
    reported = {d.name: d for d in found.distributions}
    assert set(reported) == {"torch", "cuda-toolkit", "torchvision"}
    assert reported["torch"].installer == "pip"
    assert reported["torch"].requires == (
        "cuda-toolkit==13.0.2",
        "nvidia-cublas==13.1.0.3.*",
        "nvidia-cuda-runtime==13.0.96.*",
        "nvidia-cudnn-cu13==9.19.0.56",
        "nvidia-nccl-cu13==2.28.9",
        "triton==3.6.0",
    )
    assert reported["torchvision"].requires == ("torch==2.11.0",)


def test_what_conda_installed_is_told_too(tmp_path):
    install_torch(environment(tmp_path))
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta/pytorch-2.5.1-cuda126_py312h_200.json").write_text("{}")
    (tmp_path / "conda-meta/numpy-2.0.0-py312_0.json").write_text("{}")

    found = pytorch.probe(None, active(tmp_path))

    assert isinstance(found.distributions, tuple)
    assert [(d.name, d.version, d.installer) for d in found.distributions] == [
        ("torch", "2.11.0", "pip"),
        ("torch", "2.5.1", "conda"),
    ]


def test_files_that_are_missing_or_of_another_size_are_damage(tmp_path):
    site = environment(tmp_path)
    install_torch(site)
    files = {
        f"nvidia/cudnn/lib/{n}": "12345678" for n in ("libcudnn.so.9", "a.so", "b.pyc", "c,d.h")
    }
    wheel(site, "nvidia_cudnn_cu13", "9.19.0.56", files)
    record = site / "nvidia_cudnn_cu13-9.19.0.56.dist-info/RECORD"
    record.write_text(
        record.read_text().replace("nvidia/cudnn/lib/c,d.h", '"nvidia/cudnn/lib/c,d.h"')
    )
    (site / "nvidia/cudnn/lib/libcudnn.so.9").unlink()
    (site / "nvidia/cudnn/lib/a.so").write_text("123")
    (site / "nvidia/cudnn/lib/b.pyc").unlink()

    found = pytorch.probe(None, active(tmp_path))

    assert isinstance(found.damaged, tuple)
    assert [(d.distribution, Path(d.path).name, d.problem) for d in found.damaged] == [
        ("nvidia-cudnn-cu13", "libcudnn.so.9", "missing"),
        ("nvidia-cudnn-cu13", "a.so", "3 bytes instead of 8"),
    ]


def test_a_whole_wheel_is_not_damaged(tmp_path):
    site = environment(tmp_path)
    wheel(site, "nvidia_nccl_cu13", "2.28.9", {"nvidia/nccl/lib/libnccl.so.2": "x", "c,d.h": "y"})

    assert pytorch.probe(None, active(tmp_path)).damaged == ()


def test_two_majors_of_one_library_in_one_folder_are_mixed(tmp_path):
    site = environment(tmp_path)
    for major, version in (("12", "9.10.2.21"), ("13", "9.19.0.56")):
        files = {"nvidia/cudnn/lib/libcudnn.so.9": "x"}
        wheel(site, f"nvidia_cudnn_cu{major}", version, files)

    assert pytorch.probe(None, active(tmp_path)).mixed_wheels == (f"{site}/nvidia/cudnn/lib",)


def test_cuda_13s_own_folder_beside_cuda_12s_is_not_mixed(tmp_path):
    site = environment(tmp_path)
    wheel(site, "nvidia_cublas_cu12", "12.8.4.1", {"nvidia/cublas/lib/libcublas.so.12": "x"})
    wheel(site, "nvidia_cublas", "13.1.0.3", {"nvidia/cu13/lib/libcublas.so.13": "x"})

    assert pytorch.probe(None, active(tmp_path)).mixed_wheels == ()


def test_wheels_for_two_majors_that_keep_their_files_apart_are_not_mixed(tmp_path):
    site = environment(tmp_path)
    for major in ("12", "13"):
        files = {f"nvidia_cutlass_dsl/libs/_ir.cu{major}.so": "x"}
        wheel(site, f"nvidia_cutlass_dsl_libs_cu{major}", "4.8.0", files)

    assert pytorch.probe(None, active(tmp_path)).mixed_wheels == ()


def test_the_file_that_many_wheels_bring_is_not_damaged(tmp_path):
    site = environment(tmp_path)
    wheel(site, "nvidia_nvtiff_cu13", "0.8.0.82", {"nvidia/__init__.py": ""})
    (site / "nvidia/__init__.py").write_text("# another wheel's")

    assert pytorch.probe(None, active(tmp_path)).damaged == ()


# ------------------------------------------------------------------------------------ parsers


ANY_TEXT = st.text() | st.binary().map(lambda b: b.decode("utf-8", "replace"))


@given(ANY_TEXT)
def test_no_text_breaks_a_parser(text):
    for lines in (text, f"__version__ = {text}", f"cuda: Optional[str] = {text}"):
        pytorch.parse_torch_version(lines)
    pytorch.parse_pyvenv(text)
    pytorch.described(f"{text}\n".encode("utf-8", "replace"))
    pytorch.described(f"gpucheck:{text}\n".encode("utf-8", "replace"))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["version", "prefix", "base_prefix", "path", "user_site"]), inner
            )
        ),
    )
)
def test_no_answer_of_a_python_breaks_us(value):
    pytorch.described(f"gpucheck:{json.dumps(value)}\n".encode())

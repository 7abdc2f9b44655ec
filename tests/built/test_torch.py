"""torch's environments as strangers met them, faulty ones and healthy twins, with real probes.

The first half is what 2 H100s really did with torch 2.11.0+cu130 when its environment was mis-set:
where all work passed, nothing may be called an error.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built.machine import CUDNN_PARTS, MULTIARCH, PYTHON, SITE, TARGETS, BuiltMachine
from built.test_kinds import conda, driver, geforce, one_card, torch_for_cuda_12, without_toolkit
from built.test_packages import found, real_loader, severe

pytestmark = pytest.mark.namespaces

CUDNN = f"{SITE}/nvidia/cudnn/lib"
CU13 = f"{SITE}/nvidia/cu13/lib"
OLD = "/opt/cudnn-9.14"
EXTENSION = f"torch/_C.cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu.so"


def errors(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["code"], f["saw"]) for f in report["findings"] if f["severity"] == "error"]


def codes(report: dict[str, Any]) -> set[str]:
    return {f["code"] for f in report["findings"]}


def commands(finding: dict[str, Any]) -> str:
    return repr([finding["commands"], finding.get("alternatives")])


def steps(finding: dict[str, Any]) -> str:
    return repr(finding["commands"])


# ------------------------------------------------------------- what torch does when it is mis-set


def front_with_runpath(machine: BuiltMachine) -> None:
    """Have the front of cuDNN 9.19 as its wheel has it: LD_LIBRARY_PATH comes before its path."""
    machine.compiled(
        f"{CUDNN}/libcudnn.so.9",
        "unsigned long cudnnGetVersion(void) { return 91900; }"
        "unsigned long cudnnGetCudartVersion(void) { return 13000; }",
        *("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcudnn.so.9"),
        *("-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN"),
    )
    record = f"{SITE}/nvidia_cudnn_cu13-9.19.0.56.dist-info/RECORD"
    names = [f"libcudnn_{part}.so.9" for part in CUDNN_PARTS]
    places = [machine.layer / f"{CUDNN}/{name}".lstrip("/") for name in names]
    front = machine.root / f"{CUDNN}/libcudnn.so.9".lstrip("/")
    lines = [f"nvidia/cudnn/lib/{p.name},sha256=0,{p.stat().st_size}" for p in (front, *places)]
    machine.write(record, "\n".join([*lines, ""]))


def system_cudnn_first(machine: BuiltMachine) -> None:
    machine.environment["LD_LIBRARY_PATH"] = MULTIARCH


def toolkit_first(machine: BuiltMachine) -> None:
    machine.environment["LD_LIBRARY_PATH"] = TARGETS


def whole_old_cudnn_first(machine: BuiltMachine) -> None:
    machine.cudnn(OLD, "9.14.0", versioned=True, parts=CUDNN_PARTS)
    machine.environment["LD_LIBRARY_PATH"] = OLD


def old_front_first(machine: BuiltMachine) -> None:
    machine.cudnn(OLD, "9.14.0", versioned=True, parts=())
    machine.environment["LD_LIBRARY_PATH"] = OLD


def empty_element_where_an_old_cudnn_lies(machine: BuiltMachine) -> None:
    machine.cudnn("/home/user", "9.14.0", versioned=True, parts=CUDNN_PARTS)
    machine.environment["LD_LIBRARY_PATH"] = ":/opt/nothing"
    machine.folder("/opt/nothing")


def preloaded_front(machine: BuiltMachine) -> None:
    machine.environment["LD_PRELOAD"] = f"{MULTIARCH}/libcudnn.so.9"


def lacks_the_unused_part(machine: BuiltMachine) -> None:
    machine.remove(f"{CUDNN}/libcudnn_cnn.so.9")


def lacks_all_of_cudnn(machine: BuiltMachine) -> None:
    for name in ("libcudnn", *(f"libcudnn_{part}" for part in CUDNN_PARTS)):
        machine.remove(f"{CUDNN}/{name}.so.9")


def cudnn_replaced_as_a_whole(machine: BuiltMachine) -> None:
    lacks_all_of_cudnn(machine)
    machine.cudnn(CUDNN, "9.14.0", versioned=False, parts=())
    front = machine.at(f"{CUDNN}/libcudnn.so.9.new")
    machine.cudnn(f"{CUDNN}", "9.14.0", versioned=False, parts=CUDNN_PARTS)
    front.unlink(missing_ok=True)
    for part in CUDNN_PARTS:
        name = f"libcudnn_{part}.so.9"
        machine.elf(f"{CUDNN}/{name}", runpath="$ORIGIN", strings=b"another release")
    with (machine.root / f"{CUDNN}/libcudnn.so.9".lstrip("/")).open("ab") as file:
        file.write(b"another release")


def lacks_what_the_cache_has(machine: BuiltMachine) -> None:
    for name, version in (
        ("libcublasLt.so.13", "1.0.3"),
        ("libnvrtc.so.13", "0.88"),
        ("libnvJitLink.so.13", "0.88"),
    ):
        machine.remove(f"{CU13}/{name}")
        machine.elf(f"{TARGETS}/{name}.{version}", soname=name)
        machine.link(f"{TARGETS}/{name}", f"{name}.{version}")
    machine.remove(f"{SITE}/nvidia/nccl/lib/libnccl.so.2")
    machine.elf(f"{MULTIARCH}/libnccl.so.2.28.3", soname="libnccl.so.2")
    machine.link(f"{MULTIARCH}/libnccl.so.2", "libnccl.so.2.28.3")
    machine.remove(f"{CU13}/libcupti.so.13")
    machine.elf(f"{TARGETS}/libcupti.so.2025.3.1", soname="libcupti.so.13")
    machine.link(f"{TARGETS}/libcupti.so.13", "libcupti.so.2025.3.1")


WORKS = (
    system_cudnn_first,
    toolkit_first,
    whole_old_cudnn_first,
    old_front_first,
    empty_element_where_an_old_cudnn_lies,
    lacks_the_unused_part,
    lacks_what_the_cache_has,
)


@pytest.mark.parametrize("change", WORKS, ids=lambda change: change.__name__)
def test_where_all_of_torchs_work_passes_nothing_is_an_error(
    machine: BuiltMachine, change: Callable[[BuiltMachine], None]
):
    front_with_runpath(machine)
    change(machine)

    report = machine.doctor()

    assert errors(report) == []
    assert real_loader(machine, EXTENSION) == ""


@pytest.mark.parametrize(
    "change",
    [preloaded_front, lacks_all_of_cudnn, cudnn_replaced_as_a_whole],
    ids=lambda change: change.__name__,
)
def test_a_whole_cudnn_older_than_torchs_fails_in_the_first_lstm(
    machine: BuiltMachine, change: Callable[[BuiltMachine], None]
):
    front_with_runpath(machine)
    change(machine)

    report = machine.doctor()

    assert "the first nn.LSTM on a GPU raise" in " ".join(saw for _, saw in errors(report))
    assert real_loader(machine, EXTENSION) == ""


def lacks_engines(machine: BuiltMachine) -> None:
    machine.remove(f"{CUDNN}/libcudnn_engines_precompiled.so.9")


def truncated_ops(machine: BuiltMachine) -> None:
    path = f"{CUDNN}/libcudnn_ops.so.9"
    content = (machine.layer / path.lstrip("/")).read_bytes()
    machine.write(path, content[: len(content) // 2], mode=0o755)


def lacks_what_nobody_has(machine: BuiltMachine) -> None:
    machine.remove(f"{SITE}/nvidia/cusparselt/lib/libcusparseLt.so.0")


def graph_of_another_release(machine: BuiltMachine) -> None:
    machine.elf(f"{CUDNN}/libcudnn_graph.so.9", runpath="$ORIGIN", strings=b"another release")


FAILS = (lacks_engines, truncated_ops, lacks_what_nobody_has, graph_of_another_release)


@pytest.mark.parametrize("change", FAILS, ids=lambda change: change.__name__)
def test_where_torchs_work_fails_the_wheel_is_the_error(
    machine: BuiltMachine, change: Callable[[BuiltMachine], None]
):
    change(machine)

    report = machine.doctor()

    [finding] = found(report, "LIB003")
    assert finding["severity"] == "error"
    assert finding["explained_by"] is None
    assert "--force-reinstall --no-deps nvidia-" in commands(finding)


# --------------------------------------------------------------------- LIB001: another's libraries


def without_rpath(machine: BuiltMachine) -> None:
    """Have NVIDIA's libraries search by DT_RUNPATH, as the real wheels of CUDA 12 do."""
    path = f"{SITE}/nvidia/cusparse/lib/libcusparse.so.12"
    search = "$ORIGIN/../../nvjitlink/lib"
    machine.elf(path, needed=("libnvJitLink.so.12",), runpath=search)
    machine.wheel(
        SITE, "nvidia-cusparse-cu12", "12.8.127", ["nvidia/cusparse/lib/libcusparse.so.12"]
    )


def an_old_toolkit_first(machine: BuiltMachine) -> None:
    driver(machine, "570.86.15", 12080)
    torch_for_cuda_12(
        machine,
        "2.7.0",
        "12.8",
        cudnn="9.7.1.26",
        companions=("0.22.0", "3.3.0"),
        architectures="sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
    )
    without_rpath(machine)
    without_toolkit(machine)
    one_card(machine, geforce("RTX 4090", "8.9", "0x2684"), "0x2684")
    folder = "/usr/local/cuda-12.4/targets/x86_64-linux/lib"
    machine.toolkit("/usr/local/cuda-12.4", "12.4.131")
    machine.elf(f"{folder}/libnvJitLink.so.12.4.127", soname="libnvJitLink.so.12")
    machine.link(f"{folder}/libnvJitLink.so.12", "libnvJitLink.so.12.4.127")
    machine.environment["CUDA_HOME"] = "/usr/local/cuda-12.4"
    machine.environment["PATH"] = "/opt/venv/bin:/usr/local/cuda-12.4/bin:/usr/bin:/bin"


def test_an_older_toolkit_on_the_path_and_the_line_that_puts_it_there(machine: BuiltMachine):
    an_old_toolkit_first(machine)
    line = "export LD_LIBRARY_PATH=/usr/local/cuda-12.4/lib64"
    machine.write("/home/user/.bashrc", "\n" * 8 + f"{line}\n")
    machine.environment["LD_LIBRARY_PATH"] = "/usr/local/cuda-12.4/lib64"

    report = machine.doctor()

    [finding] = found(report, "LIB001")
    assert finding["severity"] == "error"
    assert "libnvJitLink.so.12 12.4.127 instead of 12.8.127" in finding["saw"]
    assert "/home/user/.bashrc:9" in finding["fix"]
    assert {code for code, _ in errors(report)} == {"LIB001"}


def test_without_the_variable_that_torch_is_well(machine: BuiltMachine):
    an_old_toolkit_first(machine)

    report = machine.doctor()

    assert severe(report) == []


# ------------------------------------------------------------------ LIB002: wheels over wheels


def test_a_wheel_for_another_cuda_over_torchs_own(machine: BuiltMachine):
    machine.wheel(SITE, "nvidia-nccl-cu12", "2.29.3", [])
    machine.write(
        f"{SITE}/nvidia_nccl_cu12-2.29.3.dist-info/RECORD", "nvidia/nccl/lib/libnccl.so.2,,\n"
    )
    size = (machine.layer / f"{SITE}/nvidia/nccl/lib/libnccl.so.2".lstrip("/")).stat().st_size
    machine.write(
        f"{SITE}/nvidia_nccl_cu12-2.29.3.dist-info/RECORD",
        f"nvidia/nccl/lib/libnccl.so.2,sha256=0,{size}\n",
    )

    report = machine.doctor()

    [finding] = found(report, "LIB002")
    assert finding["severity"] == "error"
    assert "nvidia-nccl-cu12 2.29.3" in finding["saw"]
    assert "nvidia-nccl-cu13==2.28.9" in commands(finding)


# ------------------------------------------------------------------------------ LIB006: libstdc++


def libstdcxx(machine: BuiltMachine, path: str, *versions: str) -> None:
    machine.write(
        "/tmp/versions", "".join(f"{v} {{ global: f{n}; }};\n" for n, v in enumerate(versions))
    )
    source = "".join(f"void f{n}(void) {{}}\n" for n in range(len(versions)))
    script = machine.root / "tmp/versions"
    options = ("-shared", "-fPIC", "-nostdlib", f"-Wl,--version-script,{script}")
    machine.compiled(path, source, *options, "-Wl,-soname,libstdc++.so.6")
    machine.remove("/tmp/versions")


def torch_that_needs(machine: BuiltMachine, *versions: str) -> None:
    libstdcxx(machine, "/opt/build/libstdc++.so.6", *versions)
    calls = "".join(f"void f{n}(void); " for n in range(len(versions)))
    uses = "".join(f"f{n}();" for n in range(len(versions)))
    path = f"{SITE}/torch/lib/libc10.so"
    library = str(machine.root / "opt/build/libstdc++.so.6")
    machine.compiled(
        path,
        f"{calls} void use(void) {{ {uses} }}",
        *("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libc10.so", "-xnone", library),
    )


def test_an_old_libstdcxx_of_another_program_first(machine: BuiltMachine):
    torch_that_needs(machine, "GLIBCXX_3.4", "GLIBCXX_3.4.29")
    libstdcxx(machine, "/opt/matlab/lib/libstdc++.so.6", "GLIBCXX_3.4")
    machine.environment["LD_LIBRARY_PATH"] = "/opt/matlab/lib"

    report = machine.doctor()

    [finding] = found(report, "LIB006")
    assert finding["severity"] == "error"
    assert "needs GLIBCXX_3.4.29; /opt/matlab/lib/libstdc++.so.6 has up to" in finding["saw"]
    assert "/opt/matlab/lib" in finding["fix"]
    assert "GLIBCXX_3.4.29' not found" in real_loader(machine, "torch/lib/libc10.so")


def test_the_systems_libstdcxx_is_new_enough(machine: BuiltMachine):
    torch_that_needs(machine, "GLIBCXX_3.4", "GLIBCXX_3.4.9")

    report = machine.doctor()

    assert not found(report, "LIB006")


# -------------------------------------------------------------------- LIB007: libcuda off the cache


def test_a_driver_that_ld_library_path_alone_reaches(machine: BuiltMachine):
    for name in ("libcuda", "libnvidia-ml"):
        built = machine.layer / f"{MULTIARCH}/{name}.so.580.159.04".lstrip("/")
        machine.write(f"/usr/lib64-nvidia/{name}.so.1", built.read_bytes(), mode=0o755)
        for ending in (".so", ".so.1", ".so.580.159.04"):
            if (machine.layer / f"{MULTIARCH}/{name}{ending}".lstrip("/")).is_symlink() or (
                machine.layer / f"{MULTIARCH}/{name}{ending}".lstrip("/")
            ).exists():
                machine.remove(f"{MULTIARCH}/{name}{ending}")
    machine.environment["LD_LIBRARY_PATH"] = "/usr/lib64-nvidia"

    report = machine.doctor()

    [finding] = found(report, "LIB007")
    assert finding["severity"] == "info"
    assert "/usr/lib64-nvidia/libcuda.so.1" in finding["saw"]
    assert severe(report) == []


# ---------------------------------------------------------------------- DNN003: the system's parts


def newer_system_cudnn(machine: BuiltMachine) -> None:
    """torch with cuDNN 9.20, whose wheel lacks a part that the system's 9.23 has."""
    parts = (*CUDNN_PARTS, "engines_tensor_ir")
    lacks_all_of_cudnn(machine)
    machine.cudnn(CUDNN, "9.20.0", versioned=False, parts=CUDNN_PARTS)
    old = "nvidia_cudnn_cu13-9.19.0.56.dist-info"
    machine.remove(f"{SITE}/{old}")
    files = [f"nvidia/cudnn/lib/libcudnn_{part}.so.9" for part in CUDNN_PARTS]
    machine.wheel(
        SITE, "nvidia-cudnn-cu13", "9.20.0.48", ["nvidia/cudnn/lib/libcudnn.so.9", *files]
    )
    machine.cudnn_header(f"{SITE}/nvidia/cudnn/include/cudnn_version.h", "9.20.0")
    torch = "torch-2.11.0+cu130.dist-info/METADATA"
    text = (machine.layer / f"{SITE}/{torch}".lstrip("/")).read_text()
    machine.write(f"{SITE}/{torch}", text.replace("9.19.0.56", "9.20.0.48"))
    for stem in ("libcudnn", *(f"libcudnn_{part}" for part in CUDNN_PARTS)):
        machine.remove(f"{MULTIARCH}/{stem}.so.9")
        machine.remove(f"{MULTIARCH}/{stem}.so.9.14.0")
    machine.cudnn(MULTIARCH, "9.23.0", versioned=True, parts=parts)
    machine.cudnn_header(f"/usr/include/{os.uname().machine}-linux-gnu/cudnn_version.h", "9.23.0")


def test_a_part_that_only_the_systems_cudnn_has_names_its_package(machine: BuiltMachine):
    newer_system_cudnn(machine)
    machine.write(
        "/var/lib/dpkg/info/libcudnn9-cuda-13.list",
        f"/.\n{MULTIARCH}/libcudnn_engines_tensor_ir.so.9.23.0\n",
    )

    report = machine.doctor()

    [finding] = found(report, "DNN003")
    assert finding["severity"] == "error"
    assert "libcudnn_engines_tensor_ir.so.9 is 9.23.0" in finding["saw"]
    assert "libcudnn9-cuda-13" in commands(finding)


def test_without_the_systems_cudnn_that_torch_is_well(machine: BuiltMachine):
    newer_system_cudnn(machine)
    without_toolkit(machine)
    for stem in ("libcudnn", *(f"libcudnn_{part}" for part in (*CUDNN_PARTS, "engines_tensor_ir"))):
        machine.remove(f"{MULTIARCH}/{stem}.so.9")
        machine.remove(f"{MULTIARCH}/{stem}.so.9.23.0")

    report = machine.doctor()

    assert severe(report) == []


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

"""Further Python environments and shells of the kinds that strangers reported, with twins.

A case is a function that builds the machine; its decorator names the code of a root, and words of
its evidence and of its remedy. The healthy twins have what the cases have, and no fault.
"""

from collections.abc import Callable
from typing import Any

import pytest
from built.machine import DRIVER, MULTIARCH, PYTHON, SITE, TARGETS, TOOLKIT, BuiltMachine
from built.test_driver_kinds import everything
from built.test_kinds import (
    UBUNTU,
    compat,
    conda,
    distribution,
    driver,
    geforce,
    library,
    one_card,
    torch_for_cuda_12,
    without_toolkit,
)
from built.test_packages import (
    TAG,
    cuda_12_wheels,
    extension,
    install,
    jax,
    tensorflow,
)
from built.test_torch_libraries import libstdcxx, torch_that_needs

pytestmark = pytest.mark.namespaces

Make = Callable[[BuiltMachine], Any]
CASES: dict[str, tuple[str, str, str, Make]] = {}
TWINS: dict[str, Make] = {}


def case(first: str, *, saw: str, fix: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CASES[make.__name__] = (first, saw, fix, make)
        return make

    return keep


def twin(make: Make) -> Make:
    TWINS[make.__name__] = make
    return make


def newer_torch_12(machine: BuiltMachine) -> None:
    torch_for_cuda_12(machine, "2.11.0", "12.6", cudnn="9.10.2.21", companions=("0.26.0", "3.6.0"))
    without_toolkit(machine)


# --------------------------------------------------------------------- K1: another CUDA than torch


@case("PKG001", saw="transformer-engine", fix="transformer-engine")
def transformer_engine_for_cuda_13(machine: BuiltMachine) -> None:
    newer_torch_12(machine)
    file = extension(
        machine,
        "transformer_engine/wheel_lib/libtransformer_engine.so",
        "libcublas.so.13",
        "libcudart.so.13",
        "libcudnn.so.9",
    )
    install(machine, "transformer-engine-cu13", "2.9.0", file)


@case("PKG001", saw="libcublas.so.11", fix="pip install cupy-cuda12x")
def cupy_for_cuda_11_with_cuda_12_s_wheels(machine: BuiltMachine) -> None:
    torch_for_cuda_12(machine)
    without_toolkit(machine)
    files = [
        extension(machine, f"cupy_backends/cuda/libs/{name}.{TAG}-x86_64-linux-gnu.so", library)
        for name, library in (("cublas", "libcublas.so.11"), ("nvrtc", "libnvrtc.so.11.2"))
    ]
    install(machine, "cupy-cuda11x", "13.3.0", *files)


@twin
def faiss_with_its_own_wheels(machine: BuiltMachine) -> None:
    cuda_12_wheels(machine)
    file = extension(
        machine,
        "faiss/_swigfaiss.so",
        "libcublas.so.12",
        "libcudart.so.12",
        runpath="$ORIGIN/../nvidia/cublas/lib:$ORIGIN/../nvidia/cuda_runtime/lib",
    )
    install(machine, "faiss-gpu-cu12", "1.11.0", file)


@twin
def a_package_that_ships_cuda_itself(machine: BuiltMachine) -> None:
    file = extension(
        machine, "dali/libdali.so", "libcudart-0d2f5b5e.so.12.4.127", runpath="$ORIGIN"
    )
    bundled = extension(machine, "dali/libcudart-0d2f5b5e.so.12.4.127")
    install(machine, "nvidia-dali-cuda120", "1.40.0", file, bundled)


# ------------------------------------------------------------------------------ K2: another torch


# ------------------------------------------------------------------------- K3, K4: other frameworks


@case("PKG003", saw="libcudnn.so.8", fix="")
def a_tensorflow_of_cudnn_8_with_cudnn_9(machine: BuiltMachine) -> None:
    tensorflow(machine, "2.15.1", has_path=True)
    for stem in ("libcudnn", "libcudnn_ops_infer", "libcudnn_cnn_infer"):
        machine.at(f"{SITE}/nvidia/cudnn/lib/{stem}.so.8")  # which takes away what was there
    machine.remove(f"{SITE}/nvidia_cudnn_cu12-8.9.7.29.dist-info")
    machine.elf(f"{SITE}/nvidia/cudnn/lib/libcudnn.so.9")
    machine.wheel(SITE, "nvidia-cudnn-cu12", "9.5.1.17", ["nvidia/cudnn/lib/libcudnn.so.9"])


@case("PKG006", saw="nvidia-cudnn-cu12 9.1.0.70 is here, at least 9.8", fix="nvidia-cudnn-cu12<10")
def a_jax_with_an_older_cudnn_than_it_was_built_with(machine: BuiltMachine) -> None:
    jax(machine)
    machine.remove(f"{SITE}/nvidia_cudnn_cu12-9.8.0.87.dist-info")
    machine.cudnn(
        f"{SITE}/nvidia/cudnn/lib", "9.1.0", versioned=False, parts=("ops", "cnn"), cuda=12040
    )
    machine.wheel(SITE, "nvidia-cudnn-cu12", "9.1.0.70", ["nvidia/cudnn/lib/libcudnn.so.9"])
    info = f"{SITE}/jax_cuda12_plugin-0.6.1.dist-info/METADATA"
    machine.write(
        info,
        "Metadata-Version: 2.1\nName: jax-cuda12-plugin\nVersion: 0.6.1\n"
        "Requires-Dist: nvidia-cudnn-cu12<10.0,>=9.8; extra == 'with-cuda'\n",
    )


# ------------------------------------------------------------------- K5: two owners of one folder


@case("PKG004", saw="cupy-cuda13x", fix="uninstall -y")
def two_cupys(machine: BuiltMachine) -> None:
    for name in ("cupy-cuda12x", "cupy-cuda13x"):
        files = [
            extension(machine, f"cupy/_core/core.{TAG}-x86_64-linux-gnu.so", strings=name.encode()),
            extension(
                machine,
                f"cupy_backends/cuda/api/driver.{TAG}-x86_64-linux-gnu.so",
                strings=name.encode(),
            ),
        ]
        install(machine, name, "13.6.0", *files)


@case("PKG004", saw="tensorflow-cpu", fix="tensorflow==2.17.0")
def tensorflow_cpu_over_tensorflow(machine: BuiltMachine) -> None:
    tensorflow(machine, "2.17.0", has_path=True)
    files = [
        extension(machine, f"tensorflow/{name}", strings=b"the CPU build", runpath="$ORIGIN")
        for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
    ]
    install(machine, "tensorflow-cpu", "2.17.0", *files)


# --------------------------------------------------------------------------- K6a: compat libraries


@case("ENV016", saw="is libcuda 575.57.08, older than the driver 580", fix="is its libcuda")
def a_compat_library_mounted_over_the_driver_s(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    library(machine, "libcuda", f"{TOOLKIT}/compat/libcuda.so.575.57.08")
    machine.link(f"{TOOLKIT}/compat/libcuda.so.1", "libcuda.so.575.57.08")
    mounted = machine.at(f"{MULTIARCH}/libcuda.so.{DRIVER}")
    mounted.hardlink_to(machine.at(f"{TOOLKIT}/compat/x").with_name("libcuda.so.575.57.08"))
    machine.environment |= {"FAKE_CODE": "803", "FAKE_VERSION": "12090"}


@case("ENV016", saw="530.30.02", fix="unset LD_LIBRARY_PATH")
def a_compat_library_by_bashrc_on_a_laptop(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    driver(machine, "525.147.05", 12000)
    one_card(machine, geforce("RTX 3060 Laptop GPU", "8 6", "0x2520"), "0x2520")
    compat(machine, "530.30.02")
    machine.write("/home/user/.bashrc", f"export LD_LIBRARY_PATH={TOOLKIT}/compat\n")
    machine.environment |= {"FAKE_CODE": "804", "FAKE_VERSION": "12010"}


# ------------------------------------------------------------------------------- K8: libstdc++


@case("LIB006", saw="GLIBCXX_3.4.30", fix="libstdcxx")
def a_conda_environment_that_lost_its_link(machine: BuiltMachine) -> None:
    conda(machine)
    prefix = "/opt/conda/envs/ml"
    libstdcxx(machine, "/opt/build/libstdc++.so.6", "GLIBCXX_3.4", "GLIBCXX_3.4.30")
    machine.compiled(
        f"{prefix}/lib/{PYTHON}/site-packages/torch/lib/libc10.so",
        "void f0(void); void f1(void); void use(void) { f0(); f1(); }",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-Wl,-soname,libc10.so",
        "-Wl,-rpath,$ORIGIN/../../../..",
        "-xnone",
        str(machine.root / "opt/build/libstdc++.so.6"),
    )
    libstdcxx(machine, f"{prefix}/lib/libstdc++.so.6.0.28", "GLIBCXX_3.4")
    machine.link(f"{prefix}/lib/libstdc++.so.6", "libstdc++.so.6.0.28")
    libstdcxx(machine, f"{prefix}/lib/libstdc++.so.6.0.33", "GLIBCXX_3.4", "GLIBCXX_3.4.30")


@case("LIB006", saw="CXXABI_1.3.15", fix="/opt/Xilinx/lib")
def vivado_s_libstdcxx_lacks_an_abi(machine: BuiltMachine) -> None:
    torch_that_needs(machine, "GLIBCXX_3.4", "CXXABI_1.3.15")
    libstdcxx(machine, "/opt/Xilinx/lib/libstdc++.so.6", "GLIBCXX_3.4", "CXXABI_1.3.9")
    machine.environment["LD_LIBRARY_PATH"] = "/opt/Xilinx/lib"


# -------------------------------------------------------------------------------- K9: two sites


# --------------------------------------------------------------------- K11: fixes for this project


# --------------------------------------------------------------- K12, K13: sudo, separators


@twin
def a_list_with_the_loader_s_other_separator(machine: BuiltMachine) -> None:
    machine.folder("/opt/own/lib")
    machine.environment["LD_LIBRARY_PATH"] = f"/opt/own/lib;{TARGETS}"


@case("ENV032", saw="", fix=f"{TARGETS}:/opt/own/lib")
def a_list_without_any_separator(machine: BuiltMachine) -> None:
    machine.folder("/opt/own/lib")
    machine.write("/home/user/.bashrc", f"export LD_LIBRARY_PATH={TARGETS}$LD_LIBRARY_PATH\n")
    machine.environment["LD_LIBRARY_PATH"] = f"{TARGETS}/opt/own/lib"


@case("ENV028", saw="carriage return", fix="sed -i --follow-symlinks")
def a_start_up_file_of_windows(machine: BuiltMachine) -> None:
    machine.write("/home/user/.bashrc", "export CUDA_HOME=/usr/local/cuda\r\n")
    machine.environment["CUDA_HOME"] = "/usr/local/cuda\r"


# --------------------------------------------------------------------- K14, K15: what is selected


# ------------------------------------------------------------------------ TOR: builds and cards


@twin
def onnxruntime_without_a_gpu_build(machine: BuiltMachine) -> None:
    core = extension(
        machine, f"onnxruntime/capi/onnxruntime_pybind11_state.{TAG}-x86_64-linux-gnu.so"
    )
    install(machine, "onnxruntime", "1.23.2", core)


@twin
def numba_beside_torch(machine: BuiltMachine) -> None:
    file = extension(machine, f"numba/_helperlib.{TAG}-x86_64-linux-gnu.so")
    install(machine, "numba", "0.61.2", file)


# ---------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", CASES)
def test_its_cause_is_a_root_with_what_this_machine_needs(name: str, machine: BuiltMachine):
    code, saw, fix, make = CASES[name]
    make(machine)

    report = machine.doctor()

    roots = [f for f in report["findings"] if f["explained_by"] is None]
    [found, *_] = [f for f in roots if f["code"] == code] or [None]
    assert found, [(f["code"], f["saw"], f["explained_by"]) for f in report["findings"]]
    assert saw in found["saw"]
    assert fix in everything(found)


@pytest.mark.parametrize("name", TWINS)
def test_nothing_is_said_of_its_healthy_twin(name: str, machine: BuiltMachine):
    TWINS[name](machine)

    report = machine.doctor()

    wrong = [f for f in report["findings"] if f["severity"] != "info"]
    assert not wrong, [(f["code"], f["saw"]) for f in wrong]

"""Python environments with GPU packages beside torch or without it, faulty ones and healthy twins.

The inputs are public reports, rebuilt with small real ELF files. Where a library is missing, the
real loader is asked on the same tree and has to agree.

It is long because it is a list: a case for each report.
"""

import hashlib
import sys
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from built.machine import CUDNN_PARTS, MULTIARCH, SITE, BuiltMachine
from built.test_kinds import driver, torch_for_cuda_12, without_toolkit

pytestmark = pytest.mark.namespaces

TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
OWN_PATH = "$ORIGIN"


def install(
    machine: BuiltMachine, name: str, version: str, *files: str, requires: str = ""
) -> None:
    """Write the dist-info of a package whose files are there, with their real sums."""
    machine.wheel(SITE, name, version, files, requires=requires)
    info = f"{SITE}/{name.replace('-', '_')}-{version}.dist-info"
    rows = []
    for file in files:
        content = (machine.root / f"{SITE}/{file}".lstrip("/")).read_bytes()
        digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{file},sha256={digest},{len(content)}")
    machine.write(f"{info}/RECORD", "\n".join([*rows, ""]))


def extension(machine: BuiltMachine, file: str, *needed: str, **options: Any) -> str:
    machine.elf(f"{SITE}/{file}", needed=needed, soname=None, **options)
    return file


def found(report: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [each for each in report["findings"] if each["code"] == code]


def severe(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["code"], f["saw"]) for f in report["findings"] if f["severity"] != "info"]


def real_loader(machine: BuiltMachine, *files: str) -> str:
    """Open *files* one after the other, as torch and then a package do; return the last error."""
    program = (
        "import ctypes, sys\n"
        "for file in sys.argv[1:]:\n"
        "    try:\n"
        "        ctypes.CDLL(file)\n"
        "    except OSError as error:\n"
        "        print(error)\n"
    )
    paths = [file if file.startswith("lib") else f"{SITE}/{file}" for file in files]
    shell = ["/bin/sh", "-c", '/sbin/ldconfig; exec "$@"', "sh"]
    python = ["/opt/venv/bin/python3", "-I", "-c", program, *paths]
    ended = machine.execute([*shell, *python], {})
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


# ---------------------------------------------------------------------------- PKG001: another CUDA


def vllm(machine: BuiltMachine, cudart: str) -> str:
    torch_for_cuda_12(machine, "2.11.0", "12.6", cudnn="9.10.2.21", companions=("0.26.0", "3.6.0"))
    file = extension(machine, "vllm/_C.abi3.so", "libtorch_cuda.so", "libc10.so", cudart)
    install(machine, "vllm", "0.21.0", file, requires="Requires-Dist: torch==2.11.0")
    return file


def test_vllm_for_cuda_13_beside_a_torch_for_cuda_12(machine: BuiltMachine):
    file = vllm(machine, "libcudart.so.13")
    without_toolkit(machine)

    report = machine.doctor()

    [finding] = found(report, "PKG001")
    assert finding["severity"] == "error"
    assert finding["subject"] == "vllm"
    assert finding["saw"] == (
        f"{SITE}/{file} needs libcudart.so.13, which nothing here provides; torch 2.11.0+cu126 "
        "comes with libcudart.so.12: vllm 0.21.0 is built for CUDA 13"
    )
    assert [f["code"] for f in report["findings"] if f["severity"] == "error"] == ["PKG001"]
    assert "libcudart.so.13: cannot open" in real_loader(machine, "torch/_C.so", file)


def test_vllm_for_the_cuda_that_torch_has(machine: BuiltMachine):
    file = vllm(machine, "libcudart.so.12")
    without_toolkit(machine)

    report = machine.doctor()

    assert severe(report) == []
    assert real_loader(machine, "torch/_C.so", file) == ""


def torchcodec(machine: BuiltMachine, nvrtc: str) -> None:
    torch_for_cuda_12(machine, "2.10.0", "12.8", cudnn="9.10.2.21", companions=("0.25.0", "3.6.0"))
    files = [
        extension(
            machine, f"torchcodec/libtorchcodec_core{n}.so", "libtorch_cuda.so", nvrtc, ffmpeg
        )
        for n, ffmpeg in ((6, "libavutil.so.58"), (7, "libavutil.so.59"), (8, "libavutil.so.60"))
    ]
    install(machine, "torchcodec", "0.11.0", *files)


def test_torchcodec_for_cuda_13_beside_a_torch_for_cuda_12(machine: BuiltMachine):
    torchcodec(machine, "libnvrtc.so.13")
    without_toolkit(machine)

    report = machine.doctor()

    [finding] = found(report, "PKG001")
    assert "libnvrtc.so.13" in finding["saw"]
    assert "libavutil" not in finding["saw"]
    assert "torchcodec 0.11.0 is built for CUDA 13" in finding["saw"]


def test_torchcodec_that_lacks_ffmpeg_alone_is_not_our_matter(machine: BuiltMachine):
    torchcodec(machine, "libnvrtc.so.12")
    without_toolkit(machine)

    report = machine.doctor()

    assert severe(report) == []


def bitsandbytes(machine: BuiltMachine, *variants: int) -> None:
    torch_for_cuda_12(machine, "2.6.0", "12.6", companions=("0.21.0", "3.2.0"))
    files = [
        extension(
            machine,
            f"bitsandbytes/libbitsandbytes_cuda{variant}.so",
            f"libcudart.so.{variant // 10}",
            f"libcublas.so.{variant // 10}",
            runpath=f"/usr/local/cuda-{variant // 10}.{variant % 10}/lib64",
        )
        for variant in variants
    ]
    install(machine, "bitsandbytes", "0.45.3", *files, requires="Requires-Dist: torch<3,>=2.0")


def test_bitsandbytes_with_one_file_that_fits(machine: BuiltMachine):
    bitsandbytes(machine, 126, 128, 130)
    without_toolkit(machine)

    report = machine.doctor()

    assert severe(report) == []


def test_bitsandbytes_none_of_whose_files_fits(machine: BuiltMachine):
    bitsandbytes(machine, 130, 132)
    without_toolkit(machine)

    report = machine.doctor()

    [finding] = found(report, "PKG001")
    assert "bitsandbytes 0.45.3 is built for CUDA 13" in finding["saw"]


def test_a_package_for_cuda_beside_a_cpu_only_torch_is_explained_by_that_torch(
    machine: BuiltMachine,
):
    vllm(machine, "libcudart.so.12")
    without_toolkit(machine)
    machine.write(
        f"{SITE}/torch/version.py", "__version__ = '2.11.0+cpu'\ncuda = None\nhip = None\n"
    )
    machine.remove(f"{SITE}/nvidia/cuda_runtime")
    machine.remove(f"{SITE}/nvidia_cuda_runtime_cu12-12.6.127.dist-info")

    report = machine.doctor()

    assert {f["explained_by"] for f in found(report, "PKG001")} == {"TOR002"}


# --------------------------------------------------------------------------- PKG002: another torch

_OLD = "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
_NEW = (
    "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
)
_WARN = "_ZN3c107Warning4warnERKS0_"


def _defining(*symbols: str) -> str:
    return "".join(
        f'void f{n}(void) __asm__("{s}"); void f{n}(void) {{}}\n' for n, s in enumerate(symbols)
    )


def _calling(*symbols: str, weak: Sequence[str] = ()) -> str:
    source = ""
    for number, symbol in enumerate([*symbols, *weak]):
        attribute = "__attribute__((weak))" if symbol in weak else ""
        source += f'extern void f{number}(void) __asm__("{symbol}") {attribute};\n'
    calls = " ".join(f"f{number}();" for number in range(len(symbols) + len(weak)))
    return f"{source}void PyInit_x(void) {{ {calls} }}\n"


def flash_attn(machine: BuiltMachine, calls: str, defines: str = _defining(_NEW, _WARN)) -> str:
    torch_for_cuda_12(machine, "2.6.0", "12.6", companions=("0.21.0", "3.2.0"))
    without_toolkit(machine)
    shared = ("-shared", "-fPIC", "-nostdlib")
    machine.compiled(f"{SITE}/torch/lib/libc10.so", defines, *shared, "-Wl,-soname,libc10.so")
    file = f"flash_attn_2_cuda.{TAG}-x86_64-linux-gnu.so"
    library = str(machine.root / f"{SITE}/torch/lib".lstrip("/"))
    links = (
        "-Wl,--no-as-needed",
        f"-L{library}",
        "-l:libc10.so",
        "-Wl,--unresolved-symbols=ignore-all",
    )
    machine.compiled(f"{SITE}/{file}", calls, *shared, *links)
    install(machine, "flash-attn", "2.7.4.post1", file, requires="Requires-Dist: torch")
    return file


def test_flash_attn_that_was_built_for_another_torch(machine: BuiltMachine):
    file = flash_attn(machine, _calling("_ZN3c105ErrorC2ENS_14SourceLocationESs", _WARN))

    report = machine.doctor()

    [finding] = found(report, "PKG002")
    assert finding["severity"] == "error"
    assert finding["saw"] == (
        f"flash-attn 2.7.4.post1: {SITE}/{file} needs _ZN3c105ErrorC2ENS_14SourceLocationESs "
        "(c10::Error::Error), which torch 2.6.0+cu126 does not define"
    )
    assert "--no-build-isolation" in _commands(finding)
    opened = ("torch/lib/libc10.so", "torch/_C.so", file)
    assert "undefined symbol: _ZN3c105Error" in real_loader_now(machine, *opened)


def test_flash_attn_that_was_built_with_the_other_abi(machine: BuiltMachine):
    flash_attn(machine, _calling(_OLD))

    report = machine.doctor()

    [finding] = found(report, "PKG002")
    assert finding["saw"].endswith("torch 2.6.0+cu126 has it with the other C++ ABI")


def test_flash_attn_for_this_torch_with_a_weak_symbol_that_nobody_has(machine: BuiltMachine):
    file = flash_attn(machine, _calling(_NEW, _WARN, weak=("_ZN5torch8nowhereEv",)))

    report = machine.doctor()

    assert severe(report) == []
    assert real_loader_now(machine, "torch/lib/libc10.so", "torch/_C.so", file) == ""


def test_a_symbol_that_a_sibling_of_the_package_defines(machine: BuiltMachine):
    flash_attn(machine, _calling(_NEW, "_ZN5torch3own4workEv"))
    helper = "flash_attn/libhelper.so"
    machine.compiled(
        f"{SITE}/{helper}", _defining("_ZN5torch3own4workEv"), "-shared", "-fPIC", "-nostdlib"
    )
    file = f"flash_attn_2_cuda.{TAG}-x86_64-linux-gnu.so"
    install(machine, "flash-attn", "2.7.4.post1", file, helper, requires="Requires-Dist: torch")

    report = machine.doctor()

    assert severe(report) == []


def real_loader_now(machine: BuiltMachine, *files: str) -> str:
    """Ask the real loader with all symbols bound at once, as Python binds its extensions."""
    machine.environment["LD_BIND_NOW"] = "1"
    return real_loader(machine, *files)


# ----------------------------------------------------------------------- PKG003: opened by name


CT2 = "ctranslate2.libs/libctranslate2-a7a60d30.so.4.4.0"


def ctranslate2(machine: BuiltMachine, version: str) -> None:
    torch_for_cuda_12(machine, "2.4.0", "12.4", companions=("0.19.0", "3.0.0"))
    without_toolkit(machine)
    library = extension(machine, CT2, runpath=OWN_PATH)
    module = extension(
        machine, f"ctranslate2/_ext.{TAG}-x86_64-linux-gnu.so", CT2.rpartition("/")[2],
        rpath="$ORIGIN/../ctranslate2.libs",
    )  # fmt: skip
    install(machine, "ctranslate2", version, library, module)


def test_ctranslate2_that_wants_cudnn_8_where_cudnn_9_is(machine: BuiltMachine):
    ctranslate2(machine, "4.4.0")

    report = machine.doctor()

    [finding] = found(report, "PKG003")
    assert finding["severity"] == "warning"
    assert "ctranslate2 4.4.0 opens libcudnn_ops_infer.so.8" in finding["saw"]
    assert f"{SITE}/nvidia/cudnn/lib/libcudnn.so.9" in finding["saw"]
    assert "cannot open" in real_loader(machine, "torch/_C.so", "libcudnn_ops_infer.so.8")


def test_ctranslate2_whose_libraries_the_loader_finds(machine: BuiltMachine):
    ctranslate2(machine, "4.5.0")
    folders = [f"{SITE}/nvidia/{name}/lib" for name in ("cublas", "cudnn")]
    machine.environment["LD_LIBRARY_PATH"] = ":".join(folders)

    report = machine.doctor()

    assert severe(report) == []
    assert real_loader(machine, "libcudnn_ops.so.9", "libcublas.so.12") == ""


def test_a_ctranslate2_that_gets_all_from_torch_is_worth_a_note(machine: BuiltMachine):
    ctranslate2(machine, "4.8.5")

    report = machine.doctor()

    assert severe(report) == []
    [finding] = found(report, "PKG003")
    assert "libcublas.so.12 is in" in finding["saw"]


CU12_WHEELS = (
    ("cublas", "12.8.4.1", ("libcublas.so.12", "libcublasLt.so.12")),
    ("cuda_runtime", "12.8.90", ("libcudart.so.12",)),
    ("cuda_cupti", "12.8.90", ("libcupti.so.12",)),
    ("cuda_nvrtc", "12.8.93", ("libnvrtc.so.12",)),
    ("cufft", "11.3.3.83", ("libcufft.so.11",)),
    ("cusolver", "11.7.3.90", ("libcusolver.so.11",)),
    ("cusparse", "12.5.8.93", ("libcusparse.so.12",)),
    ("nvjitlink", "12.8.93", ("libnvJitLink.so.12",)),
    ("nccl", "2.26.2", ("libnccl.so.2",)),
)
CU12_NEEDS = {
    "libcublas.so.12": ("libcublasLt.so.12",),
    "libcusparse.so.12": ("libnvJitLink.so.12",),
    "libcusolver.so.11": ("libcublas.so.12", "libcusparse.so.12"),
}
BESIDE = ":".join(
    ["$ORIGIN", *(f"$ORIGIN/../../{name}/lib" for name in ("cublas", "cusparse", "nvjitlink"))]
)


def cuda_12_wheels(machine: BuiltMachine, cudnn: str = "9.8.0.87") -> list[str]:
    """Lay out NVIDIA's wheels of CUDA 12.8 without torch; return their folders."""
    machine.without_torch()
    without_toolkit(machine)
    for folder, version, sonames in CU12_WHEELS:
        files = [f"nvidia/{folder}/lib/{soname}" for soname in sonames]
        for file, soname in zip(files, sonames, strict=True):
            machine.elf(f"{SITE}/{file}", needed=CU12_NEEDS.get(soname, ()), runpath=BESIDE)
        machine.wheel(SITE, f"nvidia-{folder.replace('_', '-')}-cu12", version, files)
    major = cudnn.partition(".")[0]
    parts = CUDNN_PARTS if major == "9" else ("ops_infer", "cnn_infer")
    version = cudnn.rpartition(".")[0]
    machine.cudnn(f"{SITE}/nvidia/cudnn/lib", version, versioned=False, parts=parts, cuda=12080)
    stems = ("libcudnn", *(f"libcudnn_{part}" for part in parts))
    files = [f"nvidia/cudnn/lib/{stem}.so.{major}" for stem in stems]
    machine.wheel(SITE, "nvidia-cudnn-cu12", cudnn, files)
    return [folder for folder, *_ in CU12_WHEELS] + ["cudnn"]


def tensorflow(machine: BuiltMachine, version: str, *, has_path: bool, gpu: bool = True) -> None:
    folders = cuda_12_wheels(machine, cudnn="8.9.7.29")
    path = ":".join(f"$ORIGIN/../nvidia/{folder}/lib" for folder in folders)
    framework = extension(
        machine, "tensorflow/libtensorflow_framework.so.2", runpath=path if has_path else OWN_PATH
    )
    cc = extension(
        machine,
        "tensorflow/libtensorflow_cc.so.2",
        "libtensorflow_framework.so.2",
        runpath=OWN_PATH,
    )
    info = "tensorflow/python/platform/build_info.py"
    machine.write(
        f"{SITE}/{info}",
        "import collections\nbuild_info = collections.OrderedDict([('cuda_version', '12.3'), "
        f"('cudnn_version', '8'), ('is_cuda_build', {gpu}), ('is_rocm_build', False)])\n",
    )
    install(machine, "tensorflow" if gpu else "tensorflow-cpu", version, framework, cc, info)


def test_tensorflow_2_16_1_that_does_not_look_into_the_wheels(machine: BuiltMachine):
    tensorflow(machine, "2.16.1", has_path=False)

    report = machine.doctor()

    [finding] = found(report, "PKG003")
    assert finding["severity"] == "warning"
    assert f"{SITE}/nvidia/cudnn/lib" in finding["saw"]
    assert "where tensorflow 2.16.1 does not look" in finding["saw"]
    assert "libcudnn.so.8" in finding["saw"]
    assert "export LD_LIBRARY_PATH=" in _commands(finding)
    assert "TOR001" not in {f["code"] for f in report["findings"] if f["severity"] != "info"}
    assert "DNN001" not in {f["code"] for f in report["findings"]}
    assert "cannot open" in real_loader(
        machine, "tensorflow/libtensorflow_cc.so.2", "libcudnn.so.8"
    )


def test_tensorflow_that_looks_into_the_wheels(machine: BuiltMachine):
    tensorflow(machine, "2.17.0", has_path=True)

    report = machine.doctor()

    assert severe(report) == []
    assert not found(report, "PKG003")


def test_numba_cuda_without_the_libraries_that_it_opens(machine: BuiltMachine):
    machine.without_torch()
    without_toolkit(machine)
    for name, version in (("numba", "0.61.2"), ("numba-cuda", "0.15.0")):
        file = extension(machine, f"{name.replace('-', '_')}/_helper.{TAG}-x86_64-linux-gnu.so")
        install(machine, name, version, file)

    report = machine.doctor()

    [finding] = found(report, "PKG003")
    assert "libnvvm.so" in finding["saw"]


def test_numba_cuda_with_a_toolkit_that_cuda_home_names(machine: BuiltMachine):
    machine.without_torch()
    home = "/opt/toolkit"
    machine.toolkit(home, "13.0.88")
    machine.elf(f"{home}/nvvm/lib64/libnvvm.so.4")
    machine.elf(f"{home}/targets/x86_64-linux/lib/libnvrtc.so.13")
    machine.environment["CUDA_HOME"] = home
    for name, version in (("numba", "0.61.2"), ("numba-cuda", "0.15.0")):
        file = extension(machine, f"{name.replace('-', '_')}/_helper.{TAG}-x86_64-linux-gnu.so")
        install(machine, name, version, file)

    report = machine.doctor()

    assert not found(report, "PKG003")


# ---------------------------------------------------------------------- PKG004: the same files


def onnxruntime(machine: BuiltMachine, name: str, *needed: str, strings: bytes = b"") -> None:
    machine.without_torch()
    without_toolkit(machine)
    files = [
        extension(
            machine,
            f"onnxruntime/capi/onnxruntime_pybind11_state.{TAG}-x86_64-linux-gnu.so",
            strings=strings,
        )
    ]
    if needed:
        provider = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
        files.append(extension(machine, provider, *needed))
    install(machine, name, "1.23.2", *files)


def test_onnxruntime_installed_over_onnxruntime_gpu(machine: BuiltMachine):
    onnxruntime(machine, "onnxruntime-gpu", "libcublasLt.so.12", strings=b"the GPU build")
    file = f"onnxruntime/capi/onnxruntime_pybind11_state.{TAG}-x86_64-linux-gnu.so"
    extension(machine, file, strings=b"CPU")
    install(machine, "onnxruntime", "1.23.2", file)

    report = machine.doctor()

    [finding] = found(report, "PKG004")
    assert finding["severity"] == "error"
    assert "those of onnxruntime 1.23.2 are there: no CUDAExecutionProvider" in finding["saw"]
    assert "uninstall -y onnxruntime onnxruntime-gpu" in _commands(finding)
    assert "onnxruntime-gpu==1.23.2" in _commands(finding)
    assert {f["explained_by"] for f in found(report, "PKG001")} == {"PKG004"}


def test_onnxruntime_gpu_alone_with_the_libraries_it_is_linked_to(machine: BuiltMachine):
    onnxruntime(machine, "onnxruntime-gpu", "libcublasLt.so.12")
    machine.elf(f"{MULTIARCH}/libcublasLt.so.12")

    report = machine.doctor()

    assert severe(report) == []
    assert not found(report, "PKG004")


def test_onnxruntime_gpu_without_its_libraries_is_a_warning(machine: BuiltMachine):
    onnxruntime(machine, "onnxruntime-gpu", "libcublasLt.so.12")

    report = machine.doctor()

    [finding] = found(report, "PKG001")
    assert finding["severity"] == "warning"
    assert "onnxruntime-gpu[cuda,cudnn]==1.23.2" in _commands(finding)


def test_namespace_packages_and_equal_files_are_no_clash(machine: BuiltMachine):
    for name in ("azure-core", "azure-storage"):
        own = extension(machine, f"azure/{name}.so", strings=name.encode())
        shared = extension(machine, "azure/shared.so", strings=b"the same")
        install(machine, name, "1.0", own, shared)

    report = machine.doctor()

    assert not found(report, "PKG004")


# -------------------------------------------------------------------- PKG005: an older one first


def cupy(machine: BuiltMachine, nccl: str) -> None:
    torch_for_cuda_12(machine, "2.4.0", "12.4", companions=("0.19.0", "3.0.0"))
    without_toolkit(machine)
    machine.write(f"{SITE}/nvidia_nccl_cu12-2.20.5.dist-info/METADATA", "Name: x\n")
    machine.remove(f"{SITE}/nvidia_nccl_cu12-12.4.127.dist-info")
    file = f"cupy_backends/cuda/libs/nccl.{TAG}-x86_64-linux-gnu.so"
    extension(machine, file, "libnccl.so.2")
    install(machine, "cupy-cuda12x", "13.4.1", file)
    machine.elf(f"{MULTIARCH}/libnccl.so.{nccl}", soname="libnccl.so.2")
    machine.link(f"{MULTIARCH}/libnccl.so.2", f"libnccl.so.{nccl}")


def test_cupy_that_would_load_an_older_nccl_than_torchs(machine: BuiltMachine):
    cupy(machine, "2.16.2")

    report = machine.doctor()

    [finding] = found(report, "PKG005")
    assert finding["severity"] == "info"
    assert "libnccl.so.2 (2.16.2)" in finding["saw"]
    assert "torch brings libnccl.so.2 2.20.5" in finding["saw"]


def test_cupy_with_a_newer_nccl_than_torchs(machine: BuiltMachine):
    cupy(machine, "2.29.3")

    report = machine.doctor()

    assert not found(report, "PKG005")


# ------------------------------------------------------------------------- PKG006: frameworks


def jax(
    machine: BuiltMachine, version: str = "0.6.1", cuda: int = 12, tag: str = "runpath"
) -> None:
    folders = cuda_12_wheels(machine)
    path = {tag: ":".join(f"$ORIGIN/../../nvidia/{folder}/lib" for folder in folders)}
    plugin = extension(machine, f"jax_plugins/xla_cuda{cuda}/xla_cuda_plugin.so", **path)
    sparse = extension(machine, f"jax_cuda{cuda}_plugin/_sparse.so", **path)
    machine.write(f"{SITE}/jax_plugins/xla_cuda{cuda}/__init__.py", "")
    core = extension(machine, "jaxlib/_jax.so")
    machine.write(f"{SITE}/jax/__init__.py")
    install(machine, "jax", version, "jax/__init__.py")
    install(machine, "jaxlib", version, core)
    install(machine, f"jax-cuda{cuda}-plugin", version, sparse)
    install(machine, f"jax-cuda{cuda}-pjrt", version, plugin)


def test_jax_with_its_wheels_is_well_and_needs_no_torch(machine: BuiltMachine):
    jax(machine)

    report = machine.doctor()

    assert severe(report) == []
    [finding] = found(report, "TOR001")
    assert "jax 0.6.1 is here" in finding["saw"]
    assert not finding["commands"]
    assert not found(report, "DNN001")


def a_modules_cuda(machine: BuiltMachine) -> str:
    folder = "/opt/sw/cuda/12.1/lib64"
    for name, number in (("libcusparse.so.12", "12.1.0.106"), ("libnvJitLink.so.12", "12.1.105")):
        real = f"{name.partition('.so')[0]}.so.{number}"
        machine.elf(f"{folder}/{real}", soname=name, runpath=OWN_PATH)
        machine.link(f"{folder}/{name}", real)
    machine.environment["LD_LIBRARY_PATH"] = folder
    machine.environment["LOADEDMODULES"] = "gcc/12.2:cuda/12.1"
    return folder


def test_jax_that_gets_a_modules_cuda_in_place_of_its_wheels(machine: BuiltMachine):
    jax(machine)
    folder = a_modules_cuda(machine)

    report = machine.doctor()

    [finding] = found(report, "PKG006")
    instead = f"libcusparse.so.12: {folder}/libcusparse.so.12 (12.1.0.106) instead of"
    assert instead in finding["saw"]
    assert "unset LD_LIBRARY_PATH" in _commands(finding)
    assert finding["explained_by"] is None
    assert {f["code"] for f in report["findings"] if f["severity"] != "info"} == {"PKG006"}


def test_jax_whose_own_path_wins_for_all_but_what_its_libraries_need(machine: BuiltMachine):
    jax(machine, tag="rpath")
    folder = a_modules_cuda(machine)
    machine.remove(f"{folder}/libcusparse.so.12")

    report = machine.doctor()

    [finding] = found(report, "PKG006")
    assert f"libnvJitLink.so.12: {folder}/libnvJitLink.so.12 (12.1.105)" in finding["saw"]
    assert "libcusparse.so.12:" not in finding["saw"]
    assert f"{folder}/libnvJitLink.so.12.1.105" in mapped(machine, "libcusparse.so.12")


def mapped(machine: BuiltMachine, name: str) -> str:
    """Return what the real loader maps for the wheel's library *name*."""
    file = f"{SITE}/nvidia/cusparse/lib/{name}"
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(open('/proc/self/maps').read())"
    python = ["/opt/venv/bin/python3", "-I", "-c", program, file]
    return machine.execute(python, {}).stdout


def test_a_jax_without_cuda_on_a_machine_with_gpus(machine: BuiltMachine):
    machine.without_torch()
    without_toolkit(machine)
    core = extension(machine, "jaxlib/_jax.so")
    install(machine, "jaxlib", "0.8.0", core)
    machine.write(f"{SITE}/jax/__init__.py")
    install(machine, "jax", "0.8.0", "jax/__init__.py")

    report = machine.doctor()

    [finding] = found(report, "PKG006")
    assert finding["severity"] == "warning"
    assert finding["saw"] == "jax 0.8.0 is built without CUDA, and a GPU is here"
    assert "jax[cuda13]==0.8.0" in _commands(finding)


def test_a_jax_without_cuda_beside_a_torch_with_it_is_worth_a_note(machine: BuiltMachine):
    core = extension(machine, "jaxlib/_jax.so")
    install(machine, "jaxlib", "0.8.0", core)

    report = machine.doctor()

    assert severe(report) == []
    assert [f["severity"] for f in found(report, "PKG006")] == ["info"]


def test_tensorflow_cpu_on_a_machine_with_gpus(machine: BuiltMachine):
    tensorflow(machine, "2.17.0", has_path=False, gpu=False)

    report = machine.doctor()

    [finding] = found(report, "PKG006")
    assert "TensorFlow 2.17.0 is built without CUDA" in finding["saw"]


def test_a_jax_for_cuda_13_on_a_driver_of_cuda_12(machine: BuiltMachine):
    jax(machine, "0.8.0", cuda=13)
    driver(machine, "550.54.14", 12040)

    report = machine.doctor()

    [finding] = found(report, "PKG006")
    assert finding["severity"] == "error"
    assert "is built for CUDA 13; driver 550.54.14 runs up to CUDA 12.4" in finding["saw"]


def test_a_jax_for_cuda_12_on_that_driver(machine: BuiltMachine):
    jax(machine)
    driver(machine, "550.54.14", 12040)

    report = machine.doctor()

    assert not found(report, "PKG006")


def _commands(finding: dict[str, Any]) -> str:
    return "\n".join(map(str, finding["commands"]))

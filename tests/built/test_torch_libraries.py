"""torch's environments as strangers met them, faulty ones and healthy twins, with real probes.

The first half is what 2 H100s really did with torch 2.11.0+cu130 when its environment was mis-set:
where all work passed, nothing may be called an error.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from built.machine import CUDNN_PARTS, MULTIARCH, SITE, TARGETS, BuiltMachine
from built.test_kinds import driver, geforce, one_card, torch_for_cuda_12, without_toolkit
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

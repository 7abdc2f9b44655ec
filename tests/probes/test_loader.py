"""Which libraries `import torch` would map, on wheel trees laid out as pip lays them out."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import msgspec
import pytest
from elf_files import elf
from hypothesis import given
from hypothesis import strategies as st
from wheel_tree import PRELOADING, plant_libraries, plant_system_cudnn, plant_torch, remove

from gpucheck.probes.elf import read_elf
from gpucheck.probes.library_files import _wheels_in, header_version, version_of
from gpucheck.probes.loader import _Import, probe, start
from gpucheck.probes.torch_preloading import Preload, read_preloading
from gpucheck.snapshot import Libraries, Library, Python, PyTorch, Torch, Unknown, replace
from seen_facts import seen

pytestmark = pytest.mark.skipif(
    sysconfig.get_platform() != "linux-x86_64", reason="the trees are of x86-64 ELF files"
)


def by_name(libraries: Libraries) -> dict[str, Library]:
    assert isinstance(libraries.resolved, tuple)
    return {library.soname: library for library in libraries.resolved}


def system(tmp_path: Path) -> Path:
    """A root with nothing in it: no cache, no default directories."""
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    return root


def test_a_healthy_wheel_install_gets_all_its_libraries_from_the_wheels(tmp_path: Path):
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)

    found = probe(pytorch, {}, system(tmp_path))

    libraries = by_name(found)
    assert "libcuda.so.1" not in seen(found.not_found)
    assert {library.origin for library in libraries.values()} == {"wheel"}
    assert all(library.path == library.wheel_path for library in libraries.values())
    assert all(library.version == library.wheel_version for library in libraries.values())
    assert len([name for name in libraries if name.startswith("libcudnn")]) == 8
    assert libraries["libcudart.so.13"].version == "13.0.96"
    assert libraries["libcudart.so.13"].found_via == (
        f"DT_RPATH of {site}/torch/lib/libtorch_global_deps.so"
    )
    assert libraries["libcudart.so.13"].directory == "$ORIGIN/../../nvidia/cu13/lib"
    assert libraries["libcublasLt.so.13"].found_via == "preloaded by torch"
    assert libraries["libcudnn.so.9"].version == "9.19.0"
    assert libraries["libcusolver.so.12"].version == "12.0.4.66"


def test_the_wheels_rpath_beats_ld_library_path(tmp_path: Path):
    pytorch = plant_torch(tmp_path / "site-packages")
    plant_libraries(tmp_path / "old", [("libcudart.so.13", ()), ("libcudnn.so.9", ())])

    found = by_name(probe(pytorch, {"LD_LIBRARY_PATH": f"{tmp_path}/old"}, system(tmp_path)))

    assert found["libcudart.so.13"].origin == "wheel"
    assert found["libcudnn.so.9"].origin == "wheel"
    assert found["libcudart.so.13"].system_path == f"{tmp_path}/old/libcudart.so.13"


def test_ld_library_path_beats_a_runpath(tmp_path: Path):
    pytorch = plant_torch(tmp_path / "site-packages", rpath_tag="runpath", preloading="")
    plant_system_cudnn(tmp_path / "old")

    found = by_name(probe(pytorch, {"LD_LIBRARY_PATH": f"{tmp_path}/old"}, system(tmp_path)))

    front = found["libcudnn.so.9"]
    assert front.path == f"{tmp_path}/old/libcudnn.so.9"
    assert front.real_path == f"{tmp_path}/old/libcudnn.so.9.14.0"
    assert (front.version, front.wheel_version) == ("9.14.0", "9.19.0")
    assert (front.found_via, front.directory) == ("LD_LIBRARY_PATH", f"{tmp_path}/old")
    assert front.origin == "LD_LIBRARY_PATH"


def test_parts_of_the_wheels_cudnn_come_from_ld_library_path(tmp_path: Path):
    """As was seen with the real 9.19: its front opens the parts, and has a RUNPATH only."""
    pytorch = plant_torch(tmp_path / "site-packages")
    plant_system_cudnn(tmp_path / "old")

    found = by_name(probe(pytorch, {"LD_LIBRARY_PATH": f"{tmp_path}/old"}, system(tmp_path)))

    assert found["libcudnn.so.9"].version == "9.19.0"
    assert found["libcudnn_graph.so.9"].version == "9.14.0"


def test_a_system_cudnn_in_a_default_directory_changes_nothing_for_torch(tmp_path: Path):
    pytorch = plant_torch(tmp_path / "site-packages")
    root = system(tmp_path)
    plant_system_cudnn(root / "usr/lib64")

    found = by_name(probe(pytorch, {}, root))

    assert {library.version for name, library in found.items() if "cudnn" in name} == {"9.19.0"}
    assert found["libcudnn.so.9"].system_path == f"{root}/usr/lib64/libcudnn.so.9"
    assert found["libcudnn.so.9"].system_version == "9.14.0"


def test_preloading_shields_what_the_libraries_runpath_would_lose(tmp_path: Path):
    old = tmp_path / "old"
    plant_libraries(old, [("libcublasLt.so.13", ())])
    shielded = plant_torch(tmp_path / "a" / "site-packages")
    bare = plant_torch(tmp_path / "b" / "site-packages", preloading="")
    variables = {"LD_LIBRARY_PATH": str(old)}

    with_preloading = by_name(probe(shielded, variables, system(tmp_path)))
    without = by_name(probe(bare, variables, system(tmp_path)))

    assert with_preloading["libcublasLt.so.13"].origin == "wheel"
    # cublasLt stands in torch's own list of needs, so RPATH finds it; the linker of cuBLAS would
    # not. What only a dependency needs is lost:
    assert without["libcublasLt.so.13"].origin == "wheel"
    plant_libraries(old, [("libnvJitLink.so.13", ())])
    assert by_name(probe(bare, variables, system(tmp_path)))["libnvJitLink.so.13"].path == (
        f"{old}/libnvJitLink.so.13"
    )


def test_leftover_cuda_12_wheels_are_preloaded_first(tmp_path: Path):
    """torch takes nvidia/cublas/lib before nvidia/cu13/lib, whatever CUDA it is built for."""
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    plant_libraries(site / "nvidia" / "cublas" / "lib", [("libcublas.so.12", ())])
    (site / "nvidia_cublas_cu12-12.8.4.1.dist-info").mkdir()

    found = by_name(probe(pytorch, {}, system(tmp_path)))

    assert found["libcublas.so.12"].found_via == "preloaded by torch"
    assert found["libcublas.so.12"].version == "12.8.4.1"
    assert found["libcublas.so.13"].version == "13.1.0.3"


def test_a_library_that_nothing_gives_is_missing(tmp_path: Path):
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    remove(site / "nvidia/nccl/lib/libnccl.so.2")

    found = probe(pytorch, {}, system(tmp_path))

    assert "libnccl.so.2" in found.not_found  # type: ignore[operator]
    assert by_name(found)["libnccl.so.2"].path is None
    assert by_name(found)["libnccl.so.2"].needed_by.endswith("/torch/lib/libtorch_cuda.so")


def test_a_missing_part_of_cudnn_is_reported_and_is_no_part_of_import_torch(tmp_path: Path):
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    remove(site / "nvidia/cudnn/lib/libcudnn_heuristic.so.9")

    found = probe(pytorch, {}, system(tmp_path))

    assert by_name(found)["libcudnn_heuristic.so.9"].path is None
    assert "libcudnn_heuristic.so.9" not in found.not_found  # type: ignore[operator]


def test_a_truncated_library_is_found_and_its_state_told(tmp_path: Path):
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    path = site / "nvidia/nccl/lib/libnccl.so.2"
    path.write_bytes(path.read_bytes()[:200])

    found = by_name(probe(pytorch, {}, system(tmp_path)))["libnccl.so.2"]

    assert found.path == str(path)
    assert found.version == Unknown("the file is cut short at 200 bytes")


def test_torch_rescues_itself_with_the_wheels_where_its_paths_fail(tmp_path: Path):
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    for path in (site / "torch" / "lib").iterdir():  # as if the RPATH had been stripped
        old = read_elf(str(path))
        path.write_bytes(elf(soname=old.soname, needed=old.needed))

    found = by_name(probe(pytorch, {}, system(tmp_path)))

    assert found["libcudart.so.13"].found_via == "preloaded by torch"
    assert found["libcudnn.so.9"].found_via == "preloaded by torch"


def test_a_path_that_is_no_text_can_still_be_written_down(tmp_path: Path):
    pytorch = plant_torch(tmp_path / "site-packages", rpath_tag="runpath", preloading="")
    old = tmp_path / os.fsdecode(b"\xff\x1b[31m")
    plant_system_cudnn(old)

    found = probe(pytorch, {"LD_LIBRARY_PATH": str(old)}, system(tmp_path))

    assert by_name(found)["libcudnn.so.9"].version == "9.14.0"
    assert msgspec.json.decode(msgspec.json.encode(found), type=Libraries) == found


def test_a_conda_pythons_rpath_serves_all_that_has_no_runpath(tmp_path: Path):
    prefix = tmp_path / "conda"
    plant_libraries(prefix / "lib", [("libcudart.so.13", ())])
    (prefix / "conda-meta").mkdir()
    (prefix / "bin").mkdir()
    (prefix / "bin/python3").write_bytes(
        elf(interpreter="/lib64/ld-linux-x86-64.so.2", rpath="$ORIGIN/../lib", needed=["libc.so.6"])
    )
    plant_libraries(tmp_path / "old", [("libcudart.so.13", ())])
    site = prefix / "lib/python3.12/site-packages"
    pytorch = plant_torch(site, rpath_tag="rpath")
    for path in (site / "torch/lib").iterdir():
        path.write_bytes(elf(soname=path.name, needed=read_elf(str(path)).needed))
    shutil.rmtree(site / "nvidia")
    pytorch = replace(pytorch, python=Python(path=str(prefix / "bin/python3"), prefix=str(prefix)))

    found = by_name(probe(pytorch, {"LD_LIBRARY_PATH": f"{tmp_path}/old"}, system(tmp_path)))

    assert found["libcudart.so.13"].path == f"{prefix}/lib/libcudart.so.13"
    assert found["libcudart.so.13"].origin == "conda"
    assert found["libcudart.so.13"].directory == "$ORIGIN/../lib"


def test_no_torch_leaves_nothing_to_resolve(tmp_path: Path):
    assert probe(PyTorch(torch=None), {}, system(tmp_path)).resolved is None


def test_an_unknown_torch_leaves_it_unknown(tmp_path: Path):
    found = probe(PyTorch(), {}, system(tmp_path))

    assert isinstance(found.resolved, Unknown)
    assert isinstance(found.not_found, Unknown)


def test_a_python_that_is_a_script_is_looked_for_behind_it(tmp_path: Path):
    shim = tmp_path / "python"
    shim.write_text("#!/bin/sh\nexec python3\n")
    pytorch = plant_torch(tmp_path / "site-packages")
    behind = Python(path=str(shim), prefix=sys.prefix, sys_path=(str(tmp_path / "site-packages"),))

    found = probe(replace(pytorch, python=behind), {}, system(tmp_path))
    lost = probe(
        replace(pytorch, python=Python(path=str(shim), prefix="/nowhere")), {}, system(tmp_path)
    )

    assert isinstance(found.resolved, tuple)
    assert isinstance(lost.resolved, Unknown)


def test_what_a_real_process_maps_is_what_the_model_says(tmp_path: Path):
    """The same steps by ctypes, in a child whose LD_LIBRARY_PATH holds other copies."""
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    old = tmp_path / "old"
    plant_system_cudnn(old)
    plant_libraries(old, [("libcublasLt.so.13", ()), ("libcusparse.so.12", ())])
    steps = f"""
import ctypes, glob, json
site = {str(site)!r}
ctypes.CDLL(site + "/torch/lib/libtorch_global_deps.so")
for name in ("cublasLt", "cublas", "cudnn", "nvrtc", "cudart", "nvJitLink", "cusparse"):
    ctypes.CDLL(glob.glob(f"{{site}}/nvidia/c*/lib/lib{{name}}.so.*[0-9]")[0])
ctypes.CDLL(glob.glob(site + "/torch/_C.*.so")[0])
ctypes.CDLL(site + "/torch/lib/libtorch_cuda_linalg.so")
maps = open("/proc/self/maps").read().split("\\n")
print(json.dumps(sorted({{line.split()[-1] for line in maps if ".so" in line}})))
"""
    variables = {"LD_LIBRARY_PATH": str(old)}

    child = subprocess.run(
        [sys.executable, "-I", "-c", steps], env=variables, capture_output=True, check=True
    )
    found = by_name(probe(pytorch, variables))

    mapped = {path for path in json.loads(child.stdout) if str(tmp_path) in path}
    said = {
        library.real_path
        for name, library in found.items()
        if not name.startswith("libcudnn_") and name != "libnvrtc.so.13"
    }
    assert {path for path in mapped if "/torch/" not in path and "nvrtc" not in path} == said


@pytest.mark.torch
def test_the_torch_here_maps_what_the_model_says():
    torch = pytest.importorskip("torch")
    package = str(Path(torch.__file__).parent)
    pytorch = PyTorch(
        python=Python(path=sys.executable, prefix=sys.prefix, sys_path=tuple(sys.path)),
        torch=Torch(location=package, build="cpu", cuda=None),
    )
    code = "import torch; print(open('/proc/self/maps').read())"

    child = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    process = start(pytorch, {}, Path("/"))
    assert not isinstance(process, Unknown)
    followed = _Import(process, pytorch, pytorch.torch)  # type: ignore[arg-type]
    followed.run()

    mapped = {line.split()[-1] for line in child.stdout.splitlines() if f"{package}/lib/" in line}
    said = {str(Path(thing.path).resolve()) for thing in process.objects}
    assert mapped == {path for path in said if f"{package}/lib/" in path}
    assert not followed.missing


# ------------------------------------------------------------------------------------ preloading

OLD = """
def _preload_cuda_deps(lib_folder, lib_name):
    for path in sys.path:
        found = glob.glob(os.path.join(nvidia_path, lib_folder, "lib", lib_name))

def _load_global_deps():
    try:
        ctypes.CDLL(path)
        try:
            if "nvidia/cuda_runtime/lib/libcudart.so" not in _maps:
                return
            _preload_cuda_deps("cuda_nvrtc", "libnvrtc.so.*[0-9]")
            _preload_cuda_deps("nvjitlink", "libnvJitLink.so.*[0-9]")
        except Exception:
            pass
    except OSError as err:
        cuda_libs: Dict[str, str] = {
            "cublas": "libcublas.so.*[0-9]",
            "cudnn": "libcudnn.so.*[0-9]",
        }
        for lib_folder, lib_name in cuda_libs.items():
            _preload_cuda_deps(lib_folder, lib_name)

x = 1
"""


def test_torch_of_today_preloads_its_whole_list():
    found = read_preloading(PRELOADING)

    assert found.marker == "libcudart.so"
    assert found.always == found.on_failure
    assert found.always[0] == Preload("cublas", "libcublasLt.so.*[0-9]")
    assert found.always[-1] == Preload("nvtx", "libnvToolsExt.so.*[0-9]", is_required=False)
    assert found.looks_in_cu_folder
    assert found.looks_beside


def test_older_torch_preloads_two_libraries_and_the_rest_on_failure():
    found = read_preloading(OLD)

    assert found.marker == "nvidia/cuda_runtime/lib/libcudart.so"
    assert [preload.folder for preload in found.always] == ["cuda_nvrtc", "nvjitlink"]
    assert [preload.folder for preload in found.on_failure] == ["cublas", "cudnn"]
    assert not found.looks_in_cu_folder
    assert not found.looks_beside


@pytest.mark.torch
def test_the_preloading_of_the_torch_here_is_understood():
    torch = pytest.importorskip("torch")

    found = read_preloading(Path(torch.__file__).read_text(encoding="utf-8"))

    assert found.marker
    assert {"cudnn", "cublas", "nccl"} <= {preload.folder for preload in found.on_failure}


@given(st.text())
def test_no_source_of_torch_raises(text: str):
    read_preloading("\ndef _load_global_deps(" + text)
    read_preloading(text)


# -------------------------------------------------------------------------- versions and ld.so.conf


def test_the_name_of_the_file_behind_the_links_tells_the_version(tmp_path: Path):
    plant_system_cudnn(tmp_path)

    assert version_of(str(tmp_path / "libcudnn.so")) == "9.14.0"


def test_cupti_whose_file_counts_years_does_not_tell(tmp_path: Path):
    (tmp_path / "libcupti.so.2025.3.1").write_bytes(b"")

    assert isinstance(version_of(str(tmp_path / "libcupti.so.2025.3.1")), Unknown)


def test_two_wheels_in_one_folder_leave_it_to_the_header(tmp_path: Path):
    site = tmp_path / "site-packages"
    plant_torch(site)
    (site / "nvidia_cudnn_cu12-9.10.2.21.dist-info").mkdir()
    path = str(site / "nvidia/cudnn/lib/libcudnn.so.9")

    _wheels_in.cache_clear()

    before = version_of(path)
    header = site / "nvidia/cudnn/include/cudnn_version.h"
    header.parent.mkdir()
    header.write_text("#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 10\n#define CUDNN_PATCHLEVEL 2\n")

    assert isinstance(before, Unknown)
    assert version_of(path) == "9.10.2"


@given(st.text())
def test_no_header_raises(text: str):
    header_version(text)
    header_version("#define CUDNN_MAJOR " + text)

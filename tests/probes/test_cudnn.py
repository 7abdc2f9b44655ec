"""Which cuDNNs are installed, which one torch gets, and whether it opens."""

import subprocess
import sysconfig
import time
from pathlib import Path

import pytest
from elf_files import elf
from hypothesis import given
from hypothesis import strategies as st
from wheel_tree import CU13, plant_libraries, plant_system_cudnn, plant_torch

from gpucheck.probes import cudnn, loader
from gpucheck.probes.child import Ended
from gpucheck.snapshot import Cudnn, CudnnOpened, Library, PyTorch, Toolkit, Toolkits, Unknown

pytestmark = pytest.mark.skipif(
    sysconfig.get_platform() != "linux-x86_64", reason="the trees are of x86-64 ELF files"
)

HEADER = "#define CUDNN_MAJOR 9\n#define CUDNN_MINOR {}\n#define CUDNN_PATCHLEVEL 0\n"
NO_TOOLKITS = Toolkits(installed=())
NO_TORCH = PyTorch(python=None, torch=None)


def examine(
    pytorch: PyTorch,
    root: Path,
    *,
    toolkits: Toolkits = NO_TOOLKITS,
    deadline_seconds: float = 20.0,
    **variables: str,
) -> Cudnn:
    libraries = loader.probe(pytorch, variables, root)
    return cudnn.probe(pytorch, libraries, toolkits, variables, root, deadline_seconds)


def working_cudnn(folder: Path, body: str = "return 91900;", start: str = "") -> Path:
    """A libcudnn.so.9 that really opens."""
    folder.mkdir(parents=True, exist_ok=True)
    source = f"""
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void start(void) {{ {start} }}
unsigned long cudnnGetVersion(void) {{ {body} }}
unsigned long cudnnGetCudartVersion(void) {{ return 13010; }}
"""
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcudnn.so.9", "-xc", "-", "-o", "libcudnn.so.9"],
        cwd=folder,
        input=source.encode(),
        check=True,
    )
    return folder / "libcudnn.so.9"


def test_a_wheel_beside_a_system_package_are_two_installs(tmp_path: Path):
    site, root = tmp_path / "site-packages", tmp_path / "root"
    pytorch = plant_torch(site)
    plant_system_cudnn(root / "usr/lib/x86_64-linux-gnu")
    (root / "usr/include/x86_64-linux-gnu").mkdir(parents=True)
    header = root / "usr/include/x86_64-linux-gnu/cudnn_version.h"
    header.write_text(HEADER.format(14))
    packages = root / "var/lib/dpkg/info"
    packages.mkdir(parents=True)
    (packages / "libcudnn9-cuda-13.list").write_text(
        "/usr/lib/x86_64-linux-gnu/libcudnn.so.9.14.0\n"
    )

    found = examine(pytorch, root)

    wheel, system = found.installs  # type: ignore[misc]
    assert (wheel.version, wheel.origin, wheel.cuda_major) == ("9.19.0", "wheel", 13)
    assert (system.version, system.origin, system.cuda_major) == ("9.14.0", "system", 13)
    assert (system.header, system.header_version) == (str(header), "9.14.0")
    assert len(wheel.sublibraries) == len(system.sublibraries) == 7
    assert found.torch_needs == "libcudnn.so.9"
    assert isinstance(found.for_torch, Library)
    assert found.for_torch.path == wheel.directory + "/libcudnn.so.9"
    assert found.for_torch.version == "9.19.0"
    assert found.cuda_major_for_torch == 13
    assert [part.version for part in found.sublibraries_for_torch] == ["9.19.0"] * 7  # type: ignore[union-attr]


def test_a_plain_program_gets_the_systems(tmp_path: Path):
    root = tmp_path / "root"
    plant_system_cudnn(root / "usr/lib/x86_64-linux-gnu")

    found = examine(NO_TORCH, root, LD_LIBRARY_PATH=f"{root}/usr/lib/x86_64-linux-gnu")

    assert found.torch_needs is None
    assert found.for_torch is None
    assert found.selected_for_builds == f"{root}/usr/lib/x86_64-linux-gnu/libcudnn.so.9"


def test_an_archive_copied_into_a_toolkit_is_found_with_its_header(tmp_path: Path):
    home = tmp_path / "cuda-12.4"
    plant_system_cudnn(home / "lib64", "8.9.7")
    for path in sorted((home / "lib64").iterdir()):
        if path.is_symlink():
            path.unlink()
        else:
            path.rename(home / "lib64" / path.name.replace(".so.8.9.7", ".so.8"))
    (home / "include").mkdir()
    (home / "include/cudnn_version.h").write_text(
        "#define CUDNN_MAJOR 8\n#define CUDNN_MINOR 9\n#define CUDNN_PATCHLEVEL 7\n"
    )
    toolkits = Toolkits(installed=(Toolkit(home=str(home), library_directory=None),))

    [install] = examine(NO_TORCH, tmp_path / "root", toolkits=toolkits).installs  # type: ignore[misc]

    assert (install.soname, install.version, install.origin) == (
        "libcudnn.so.8",
        "8.9.7",
        "toolkit",
    )
    assert isinstance(install.cuda_major, Unknown)


def test_the_cuda_of_a_nameless_copy_is_read_from_what_it_needs(tmp_path: Path):
    plant_libraries(
        tmp_path / "lib",
        [("libcudnn.so.8", ()), ("libcudnn_cnn_infer.so.8", ("libcublas.so.11",))],
    )

    [install] = examine(  # type: ignore[misc]
        NO_TORCH, tmp_path / "root", LD_LIBRARY_PATH=str(tmp_path / "lib")
    ).installs

    assert install.cuda_major == 11


def test_a_link_to_a_directory_already_seen_is_no_second_install(tmp_path: Path):
    plant_system_cudnn(tmp_path / "lib")
    (tmp_path / "link").symlink_to("lib")

    found = examine(NO_TORCH, tmp_path / "root", LD_LIBRARY_PATH=f"{tmp_path}/lib:{tmp_path}/link")

    assert len(found.installs) == 1  # type: ignore[arg-type]


def test_a_torch_without_cudnn_needs_none(tmp_path: Path):
    wheels = {folder: files for folder, files in CU13.items() if folder != "cudnn"}
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site, wheels=wheels)
    for name in ("libtorch_cuda.so",):
        (site / "torch/lib" / name).write_bytes(elf(soname=name, needed=["libtorch_cpu.so"]))

    found = examine(pytorch, tmp_path / "root")

    assert (found.torch_needs, found.for_torch) == (None, None)


# ----------------------------------------------------------------------------------------- opening


def test_the_one_that_torch_gets_is_opened_and_asked(tmp_path: Path):
    site = tmp_path / "site-packages"
    pytorch = plant_torch(site)
    path = working_cudnn(site / "nvidia/cudnn/lib")

    found = examine(pytorch, tmp_path / "root")

    assert found.opened == CudnnOpened(path=str(path), version="9.19.0", cuda="13.1")


def test_the_loaders_own_message_is_kept(tmp_path: Path):
    folder = tmp_path / "lib"
    plant_libraries(folder, [("libcudnn.so.9", ("libgone.so.1",))])

    found = examine(NO_TORCH, tmp_path / "root", LD_LIBRARY_PATH=str(folder))

    assert isinstance(found.opened, CudnnOpened)
    assert "libgone.so.1: cannot open shared object file" in str(found.opened.error)


def test_a_library_that_crashes_the_child_is_a_fact(tmp_path: Path):
    working_cudnn(tmp_path / "lib", start="abort();")

    found = examine(NO_TORCH, tmp_path / "root", LD_LIBRARY_PATH=str(tmp_path / "lib"))

    assert isinstance(found.opened, CudnnOpened)
    assert found.opened.error == "opening it crashed with SIGABRT"


def test_a_library_that_hangs_costs_the_deadline_and_no_more(tmp_path: Path):
    working_cudnn(tmp_path / "lib", start="sleep(60);")
    began = time.monotonic()

    found = examine(
        NO_TORCH, tmp_path / "root", deadline_seconds=1.0, LD_LIBRARY_PATH=str(tmp_path / "lib")
    )

    assert found.opened == Unknown("no answer in 1 s")
    assert time.monotonic() - began < 20


def test_nothing_to_open_opens_nothing(tmp_path: Path):
    found = examine(NO_TORCH, tmp_path / "root")

    assert found == Cudnn(
        installs=(),
        torch_needs=None,
        cuda_major_for_torch=None,
        for_torch=None,
        selected_for_builds=None,
        sublibraries_for_torch=None,
        opened=None,
    )


@given(st.binary(max_size=200))
def test_no_answer_of_the_child_raises(data: bytes):
    cudnn.read_answer("/lib/libcudnn.so.9", Ended(stdout=data, exit_code=0))
    cudnn.read_answer("/lib/libcudnn.so.9", Ended(stdout=b"gpucheck:" + data + b"\n", exit_code=0))


@pytest.mark.parametrize(
    "answer", [b"[]", b"1", b'{"version": "x", "cuda": []}', b'{"type": "cudnn", "version": 5}']
)
def test_a_strange_answer_is_no_version(answer: bytes):
    found = cudnn.read_answer("/x", Ended(stdout=b"gpucheck:" + answer + b"\n", exit_code=0))

    assert isinstance(found, Unknown)
    assert "unreadable" in found.why

"""The probe of GPU packages, on trees laid out as wheels are."""

import hashlib
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from elf_files import elf
from wheel_tree import plant_torch

from gpucheck.probes import packages
from gpucheck.probes.package_resolver import jax_preloads, with_other_abi
from gpucheck.snapshot import FileClash, GpuPackage, Packages, Python, PyTorch, Unknown, replace


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    return folder


def install(site: Path, name: str, version: str, **files: bytes) -> None:
    """Write files ("a__b" is a/b.so), with RECORD and metadata."""
    rows = []
    for key, content in files.items():
        path = key.replace("__", "/") + ".so"
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}\n")
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("".join(rows))
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def probe(site: Path, facts: PyTorch | None = None, **variables: str) -> Packages:
    facts = facts if facts is not None else plant_torch(site)
    # A root of its own: what this system's loader would find does not count.
    return packages.probe(facts, variables, root=site.parent / "root", cache=site.parent / "cache")


def gpu_packages(found: Packages) -> dict[str, GpuPackage]:
    assert isinstance(found.gpu_packages, tuple)
    return {each.name: each for each in found.gpu_packages}


def test_a_package_is_resolved_in_the_process_that_imported_torch(site: Path):
    install(site, "vllm", "1.0", vllm___C=elf(needed=["libtorch_cuda.so", "libcudart.so.13"]))
    install(site, "faiss", "1.0", faiss___swig=elf(needed=["libcudart.so.13"]))

    found = gpu_packages(probe(site))

    [cudart] = found["vllm"].libraries
    assert cudart.path == f"{site}/nvidia/cu13/lib/libcudart.so.13"
    assert found["vllm"].uses_torch
    [cudart] = found["faiss"].libraries
    assert cudart.path is None
    assert cudart.elsewhere == (f"{site}/nvidia/cu13/lib/libcudart.so.13",)
    assert cudart.is_loaded_by_torch
    assert not found["faiss"].uses_torch


def test_the_second_look_by_the_cache_gives_the_same(site: Path):
    install(site, "vllm", "1.0", vllm___C=elf(needed=["libtorch_cuda.so", "libcudart.so.12"]))
    facts = plant_torch(site)

    first, second = probe(site, facts), probe(site, facts)

    assert first == second
    assert gpu_packages(first)["vllm"].libraries[0].other_majors == (
        f"{site}/nvidia/cu13/lib/libcudart.so.13",
    )


def test_a_library_that_a_sibling_brings_is_looked_for_along_the_siblings_path(site: Path):
    module = elf(needed=["libcore.so"], rpath="$ORIGIN:$ORIGIN/../nvidia/cu13/lib")
    core = elf(soname="libcore.so", needed=["libcudart.so.13"])
    install(site, "own", "1.0", own__module=module, own__libcore=core)

    [cudart] = gpu_packages(probe(site))["own"].libraries

    assert cudart.path == f"{site}/nvidia/cu13/lib/libcudart.so.13"


def test_an_extension_for_another_python_is_not_looked_at(site: Path):
    facts = plant_torch(site)
    assert isinstance(facts.python, Python)
    facts = replace(facts, python=replace(facts.python, version="3.12.3"))
    name = "own__module.cpython-310-x86_64-linux-gnu"
    install(site, "own", "1.0", **{name: elf(needed=["libcudart.so.12"])})

    assert all(not each.libraries for each in gpu_packages(probe(site, facts)).values())


def test_torch_itself_and_the_wheels_of_its_libraries_are_others_matter(site: Path):
    install(site, "nvidia-foo-cu13", "1.0", nvidia__foo__lib__libfoo=elf(needed=["libcudart.so.9"]))
    install(site, "triton", "3.6.0", triton___C=elf(needed=["libcudart.so.9"]))

    assert gpu_packages(probe(site)) == {}


def test_a_python_whose_loader_is_not_known_leaves_what_files_tell(site: Path, tmp_path: Path):
    install(site, "jax", "0.6.1")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\n")
    facts = PyTorch(python=Python(path=str(script), prefix="/none", sys_path=(str(site),)))

    found = probe(site, facts)

    assert isinstance(found.gpu_packages, Unknown)
    assert isinstance(found.frameworks, tuple)
    assert [each.name for each in found.frameworks] == ["jax"]


def test_no_python_is_unknown(site: Path):
    found = probe(site, PyTorch(python=None))

    assert found.gpu_packages == found.frameworks == Unknown("no Python was found")


def test_a_folder_whose_name_is_not_utf_8_can_be_told(tmp_path: Path):
    site = tmp_path / "caf\udce9"
    site.mkdir()
    install(site, "vllm", "1.0", vllm___C=elf(needed=["libcudart.so.12"]))

    found = probe(site, PyTorch(python=plant_torch(site).python))

    assert gpu_packages(found)["vllm"].location.isprintable()


# --------------------------------------------------------------------------------------- clashes


def clashes(site: Path) -> tuple[FileClash, ...]:
    found = probe(site).clashes
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize("other", [b"CPU", b"another GPU build", b"of equal size"])
def test_whose_files_are_there_is_told_by_size_or_by_sum(site: Path, other: bytes):
    install(site, "onnxruntime-gpu", "1.23.2", onnxruntime__capi__state=b"of this size!")
    install(site, "onnxruntime", "1.23.2", onnxruntime__capi__state=other)

    [clash] = clashes(site)

    assert clash.distributions == ("onnxruntime 1.23.2", "onnxruntime-gpu 1.23.2")
    assert clash.folder == f"{site}/onnxruntime"
    assert clash.present == "onnxruntime 1.23.2"


def test_a_file_that_is_nobodys_tells_nothing(site: Path):
    install(site, "onnxruntime-gpu", "1.23.2", onnxruntime__capi__state=b"GPU")
    install(site, "onnxruntime", "1.23.2", onnxruntime__capi__state=b"plain")
    (site / "onnxruntime/capi/state.so").write_bytes(b"built by hand")

    [clash] = clashes(site)

    assert clash.present is None


def test_equal_files_and_nvidias_wheels_are_no_clash(site: Path):
    for name in ("azure-core", "azure-storage"):
        install(site, name, "1.0", azure__shared=b"the same")
    for major in ("12", "13"):
        content = f"for {major}".encode()
        install(site, f"nvidia-nccl-cu{major}", "2.0", nvidia__nccl__lib__libnccl=content)

    assert clashes(site) == ()


# --------------------------------------------------------------------------------------- parsers


def test_what_jaxs_plugin_preloads_is_read_from_its_text():
    text = '  _load("cublas", ["libcublas.so.12", "libcublasLt.so.12"])\n  _load("cudnn", [])\n'

    assert jax_preloads(text) == [("cublas", "libcublas.so.12"), ("cublas", "libcublasLt.so.12")]


def test_a_symbol_in_the_other_abi_is_that_of_gccs_manual():
    old = b"_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
    string = b"NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
    new = old.replace(b"Ss", string)

    assert with_other_abi(new) == old
    assert with_other_abi(old) == new
    assert with_other_abi(b"_ZN2at5emptyEv") is None

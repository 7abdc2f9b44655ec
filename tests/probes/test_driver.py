"""What the kernel, the file system and the loader say of the driver becomes facts.

It is long because the probe reads many places, each of which can lie.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes import daemons, device_nodes, kernel_module
from gpucheck.probes.driver import probe
from gpucheck.snapshot import DriverLibrary, FabricManager, Unknown

RELEASE = "6.8.0-50-generic"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC x\n"
CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    "GCC version:  gcc version 12.3.0\n"
)
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def write(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file tree with two GPUs and a driver that is loaded."""
    write(tmp_path / "proc/sys/kernel/osrelease", RELEASE + "\n")
    write(tmp_path / "proc/driver/nvidia/version", OPEN)
    write(tmp_path / "proc/driver/nvidia/params", 'DeviceFileMode: 438\nExcludedGpus: ""\n')
    write(tmp_path / "sys/module/nvidia/version", "580.159.04\n")
    write(
        tmp_path / "proc/modules",
        "nvidia_uvm 1830912 - - Live 0x0 (O)\nnvidia 14299136 - - Live 0x0 (O)\n"
        "ext4 1 1 - Live 0x0\n",
    )
    for minor, bus in enumerate(("0000:00:06.0", "0000:00:07.0")):
        write(
            tmp_path / "proc/driver/nvidia/gpus" / bus / "information",
            f"Model: \t\t NVIDIA H200\nBus Location: \t {bus}\nDevice Minor: \t {minor}\n"
            "GPU Excluded:\t No\n",
        )
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
        write(tmp_path / "dev" / name)
    write(tmp_path / "etc/group", "root:x:0:\nvideo:x:44:\n")
    return tmp_path


def unload(root: Path) -> None:
    shutil.rmtree(root / "proc/driver")
    shutil.rmtree(root / "sys")
    write(root / "proc/modules", "ext4 1 1 - Live 0x0\n")


def compile_library(path: Path, *flags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_name("source.c")
    source.write_text('const char release[] = "580.159.04";\nint cuInit(int f) { return f; }\n')
    subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", str(path), str(source)], check=True)
    source.unlink()
    return path


def copies(root: Path, library_path: str | None = None) -> list[DriverLibrary]:
    found = probe(root, library_path).libraries
    assert isinstance(found, tuple)
    return [library for library in found if library.soname == "libcuda.so.1"]


# ------------------------------------------------------------------------------- kernel modules


def test_the_loaded_module_says_its_version_and_kind(root: Path):
    facts = probe(root)

    assert (facts.module_version, facts.module_kind) == ("580.159.04", "open")
    assert facts.loaded_modules == ("nvidia", "nvidia_uvm")
    assert facts.proc_gpus == ("0000:00:06.0", "0000:00:07.0")
    assert facts.dma_buf is True
    assert facts.peermem is False


def test_the_closed_module_is_told_from_the_open_one(root: Path):
    write(root / "proc/driver/nvidia/version", CLOSED)
    write(root / "sys/module/nvidia/version", "550.54.14\n")

    facts = probe(root)

    assert (facts.module_version, facts.module_kind) == ("550.54.14", "closed")
    assert facts.dma_buf is False


def test_no_module_is_none_and_not_unknown(root: Path):
    unload(root)

    facts = probe(root)

    assert (facts.module_version, facts.module_kind) == (None, None)
    assert facts.loaded_modules == ()
    assert facts.proc_gpus == ()


def test_an_empty_tree_gives_facts_and_no_exception(tmp_path: Path):
    facts = probe(tmp_path)

    assert facts.module_version is None
    assert facts.libraries == ()
    assert isinstance(facts.device_nodes, Unknown)


def test_excluded_gpus_come_from_the_parameter_and_from_the_gpu_itself(root: Path):
    write(
        root / "proc/driver/nvidia/params",
        'GpuBlacklist: "GPU-11111111-1111-1111-1111-111111111111"\nExcludedGpus: "0000:3B:00.0"\n',
    )
    write(root / "proc/driver/nvidia/gpus/0000:00:07.0/information", "GPU Excluded:\t Yes\n")

    assert probe(root).excluded_gpus == (
        "0000:3b:00.0",
        "GPU-11111111-1111-1111-1111-111111111111",
        "0000:00:07.0",
    )


# ------------------------------------------------------------------------- files, DKMS, headers


@pytest.mark.parametrize(
    "path",
    [
        "updates/dkms/nvidia.ko.zst",
        "extra/nvidia/nvidia.ko.xz",
        "kernel/drivers/video/nvidia.ko",
        "kernel/nvidia-580/nvidia.ko",
        "updates/dkms/nvidia-current.ko.gz",
    ],
)
@pytest.mark.parametrize("is_indexed", [True, False])
def test_the_module_for_the_running_kernel_is_found(root: Path, path: str, is_indexed: bool):
    folder = root / "lib/modules" / RELEASE
    write(folder / path, b"\x7fELF")
    write(folder / "kernel/drivers/net/nvidia-fake.ko")
    if is_indexed:
        write(folder / "modules.dep", f"kernel/fs/ext4.ko: kernel/a.ko\n{path}: kernel/b.ko\n")

    assert probe(root).module_file == f"/lib/modules/{RELEASE}/{path}"


def test_nouveau_and_nvidia_s_lesser_modules_are_not_the_driver(root: Path):
    folder = root / "lib/modules" / RELEASE
    write(folder / "kernel/drivers/gpu/drm/nouveau/nouveau.ko")
    write(folder / "updates/dkms/nvidia-uvm.ko")
    write(folder / "modules.dep", "updates/dkms/nvidia-uvm.ko: updates/dkms/nvidia-drm.ko\n")

    assert probe(root).module_file is None


@needs_gcc
@pytest.mark.parametrize("is_signed", [True, False])
def test_a_plain_module_file_says_its_version_and_whether_it_is_signed(root: Path, is_signed: bool):
    file = root / "lib/modules" / RELEASE / "updates/nvidia.ko"
    file.parent.mkdir(parents=True)
    (root / "module.c").write_text(
        '__attribute__((section(".modinfo"))) const char a[] = "license=Dual MIT/GPL";\n'
        '__attribute__((section(".modinfo"))) const char b[] = "version=575.57.08";\n'
        '__attribute__((section(".modinfo"))) const char c[] = "vermagic=6.2.6 SMP mod_unload";\n'
    )
    subprocess.run(["gcc", "-c", "-o", str(file), str(root / "module.c")], check=True)
    if is_signed:
        file.write_bytes(file.read_bytes() + b"sig~Module signature appended~\n")

    facts = probe(root)

    assert (facts.module_file_version, facts.module_is_signed) == ("575.57.08", is_signed)
    assert (facts.module_file_kind, facts.module_file_kernel) == ("open", "6.2.6")


def test_a_module_file_that_is_no_whole_elf_is_read_by_its_strings(root: Path):
    strings = b"\x7fELF\0license=NVIDIA\0srcversion=1\0version=595.71.05\0vermagic=6.9.1 SMP\0"
    write(root / "lib/modules" / RELEASE / "updates/nvidia.ko", strings)

    facts = probe(root)

    assert (facts.module_file_version, facts.module_file_kind) == ("595.71.05", "closed")
    assert facts.module_file_kernel == "6.9.1"


def test_a_damaged_module_file_is_unknown(root: Path):
    write(root / "lib/modules" / RELEASE / "updates/nvidia.ko", b"\x7fELF\x02\x01" + b"\xff" * 90)

    assert isinstance(probe(root).module_file_version, Unknown)


def test_dkms_says_the_newest_driver_and_the_kernels_it_has_a_build_for(root: Path):
    tree = root / "var/lib/dkms"
    write(tree / "nvidia/570.86.10/6.5.0-1-generic/x86_64/module/nvidia.ko.zst")
    write(tree / "nvidia/580.159.04/6.8.0-40-generic/x86_64/module/nvidia.ko.zst")
    write(tree / "nvidia/580.159.04/6.8.0-50-generic/x86_64/log/make.log")
    write(tree / "nvidia/580.159.04/source/dkms.conf")
    write(tree / "nvidia-fs/2.27.3/6.8.0-50-generic/x86_64/module/nvidia-fs.ko")

    facts = probe(root)

    assert facts.dkms_version == "580.159.04"
    assert facts.dkms_kernels == ("6.8.0-40-generic",)


def test_no_dkms_tree_is_none(root: Path):
    assert probe(root).dkms_version is None


def test_headers_are_there_when_the_build_link_leads_somewhere(root: Path):
    folder = root / "lib/modules" / RELEASE
    folder.mkdir(parents=True)
    (folder / "build").symlink_to(root / "usr/src/headers")

    before = probe(root).has_kernel_headers
    (root / "usr/src/headers").mkdir(parents=True)

    assert (before, probe(root).has_kernel_headers) == (False, True)


# ------------------------------------------------------------------------------------ libraries


@needs_gcc
def test_the_version_is_read_from_the_real_file_s_name(root: Path):
    compile_library(root / "usr/lib/libcuda.so.580.159.04")
    (root / "usr/lib/libcuda.so.1").symlink_to("libcuda.so.580.159.04")

    [library] = copies(root)

    assert library.path == "/usr/lib/libcuda.so.1"
    assert library.real_path == "/usr/lib/libcuda.so.580.159.04"
    assert (library.version, library.is_selected) == ("580.159.04", True)
    assert library.found_via == "default directory"


@needs_gcc
def test_ld_library_path_wins_over_the_default_directories(root: Path):
    compile_library(root / "usr/lib/libcuda.so.1")
    compile_library(root / "opt/b/libcuda.so.1")
    compile_library(root / "opt/a/libcuda.so.1")

    found = copies(root, "/opt/missing:/opt/a/:/opt/b")

    assert [(library.path, library.is_selected) for library in found] == [
        ("/opt/a/libcuda.so.1", True),
        ("/opt/b/libcuda.so.1", False),
        ("/usr/lib/libcuda.so.1", False),
    ]


@needs_gcc
def test_one_file_under_two_names_is_one_copy(root: Path):
    compile_library(root / "usr/lib/libcuda.so.580.159.04")
    (root / "usr/lib/libcuda.so.1").symlink_to("libcuda.so.580.159.04")
    (root / "lib").symlink_to("usr/lib")

    assert len(copies(root)) == 1


@needs_gcc
def test_another_machine_s_copy_is_passed_over_as_the_loader_does(root: Path):
    foreign = compile_library(root / "opt/a/libcuda.so.1")
    data = bytearray(foreign.read_bytes())
    data[18:20] = (8).to_bytes(2, "little")  # MIPS
    foreign.write_bytes(data)
    compile_library(root / "usr/lib/libcuda.so.1")

    [library] = copies(root, "/opt/a")

    assert (library.path, library.is_selected) == ("/usr/lib/libcuda.so.1", True)


def test_a_file_that_is_no_library_wins_because_the_loader_stops_there(root: Path):
    write(root / "opt/a/libcuda.so.1", "oops")

    [library] = copies(root, "/opt/a")

    assert library.is_selected


@needs_gcc
def test_a_copy_the_loader_does_not_look_at_is_seen_and_does_not_win(root: Path):
    compile_library(root / "usr/local/nvidia/lib64/libcuda.so.1")

    [library] = copies(root)

    assert not library.is_selected


@needs_gcc
def test_a_stub_and_a_compatibility_library_are_told_by_where_they_lie(root: Path):
    compile_library(root / "usr/local/cuda/lib64/stubs/libcuda.so")
    compile_library(root / "usr/local/cuda/compat/libcuda.so.575.57.08")
    (root / "usr/local/cuda/compat/libcuda.so.1").symlink_to("libcuda.so.575.57.08")
    (root / "opt").mkdir()
    (root / "opt/libcuda.so.1").symlink_to("../usr/local/cuda/lib64/stubs/libcuda.so")

    stub, compat = copies(root, "/opt:/usr/local/cuda/compat")

    assert (stub.is_stub, stub.is_compat, stub.is_selected) == (True, False, True)
    assert (compat.is_stub, compat.is_compat, compat.version) == (False, True, "575.57.08")


@needs_gcc
def test_a_copy_with_the_same_build_id_is_the_same_version(root: Path):
    compile_library(root / "opt/libcuda.so.570.86.10", "-Wl,--build-id=0x1234")
    (root / "opt/libcuda.so.1").symlink_to("libcuda.so.570.86.10")
    compile_library(root / "usr/lib/libcuda.so.1", "-Wl,--build-id=0x1234")

    named, nameless = copies(root, "/opt")

    assert (named.version, nameless.version) == ("570.86.10", "570.86.10")


@needs_gcc
def test_a_copy_that_carries_the_loaded_module_s_version_is_of_that_version(root: Path):
    compile_library(root / "usr/lib/libcuda.so.1")

    [library] = copies(root)

    assert library.version == "580.159.04"


@needs_gcc
def test_a_stray_copy_is_of_the_version_that_its_neighbours_and_its_bytes_name(root: Path):
    write(root / "sys/module/nvidia/version", "999.99.99\n")
    compile_library(root / "opt/old/libcuda.so.1")
    write(root / "opt/old/libnvidia-ptxjitcompiler.so.580.159.04")
    write(root / "opt/old/libnvidia-nvvm.so.570.86.10")

    [library] = copies(root, "/opt/old")

    assert library.version == "580.159.04"


@needs_gcc
def test_a_copy_that_says_nothing_of_its_version_is_unknown(root: Path):
    write(root / "sys/module/nvidia/version", "999.99.99\n")
    compile_library(root / "usr/lib/libcuda.so.1")

    [library] = copies(root)

    assert isinstance(library.version, Unknown)


@needs_gcc
def test_equal_copies_in_the_system_and_in_a_mounted_folder_are_of_one_version(root: Path):
    """A managed machine: LD_LIBRARY_PATH leads to a mount, and the system has a nameless copy."""
    mounted = root / "usr/local/nvidia/lib64"
    compile_library(mounted / "libcuda.so.580.159.04", "-Wl,--build-id=0x580")
    (mounted / "libcuda.so.1").symlink_to("libcuda.so.580.159.04")
    compile_library(root / "usr/lib/libcuda.so.1", "-Wl,--build-id=0x580")
    compile_library(root / "usr/local/cuda-13.0/compat/libcuda.so.1")

    found = copies(root, "/usr/local/nvidia/lib64:/usr/local/nvidia/lib")

    assert [(each.path, each.version, each.is_selected) for each in found] == [
        ("/usr/local/nvidia/lib64/libcuda.so.1", "580.159.04", True),
        ("/usr/lib/libcuda.so.1", "580.159.04", False),
    ]


@pytest.mark.skipif(shutil.which("ldconfig") is None, reason="needs ldconfig")
@needs_gcc
def test_the_loader_s_cache_is_asked(root: Path):
    compile_library(root / "opt/driver/libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    write(root / "etc/ld.so.conf", "/opt/driver\n")
    done = subprocess.run(["ldconfig", "-r", str(root), "-X"], capture_output=True)
    if done.returncode:
        pytest.skip("ldconfig may not change its root here")

    [library] = copies(root)

    assert (library.found_via, library.is_selected) == ("ld.so.cache", True)
    assert library.path == "/opt/driver/libcuda.so.1"


def test_a_damaged_cache_and_a_circle_of_links_are_passed_over(root: Path):
    write(root / "etc/ld.so.cache", b"glibc-ld.so.cache1.1\xff\xff\xff\xff")
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/libcuda.so.1").symlink_to("libcuda.so.1")

    assert copies(root, "/usr/lib:relative::$ORIGIN") == []


# --------------------------------------------------------------------------------- device files


def test_the_device_files_are_those_of_the_gpus_that_the_driver_knows(root: Path):
    (root / "dev/nvidia1").unlink()

    nodes = probe(root).device_nodes

    assert isinstance(nodes, tuple)
    assert {node.path: node.exists for node in nodes} == {
        "/dev/nvidiactl": True,
        "/dev/nvidia-uvm": True,
        "/dev/nvidia0": True,
        "/dev/nvidia1": False,
    }


def test_without_the_module_only_device_files_that_are_there_are_facts(root: Path):
    unload(root)
    for node in (root / "dev").iterdir():
        node.unlink()
    write(root / "dev/nvidia3")

    nodes = probe(root).device_nodes

    assert isinstance(nodes, tuple)
    assert [node.path for node in nodes] == ["/dev/nvidia3"]


def test_windows_own_device_stands_for_all_others(root: Path):
    unload(root)
    for node in (root / "dev").iterdir():
        node.unlink()
    write(root / "dev/dxg")

    nodes = probe(root).device_nodes

    assert isinstance(nodes, tuple)
    assert [node.path for node in nodes] == ["/dev/dxg"]


def test_a_device_file_says_its_mode_and_group(root: Path):
    (root / "dev/nvidiactl").chmod(0o660)
    status = (root / "dev/nvidiactl").stat()
    write(root / "etc/group", f"gpuusers:x:{status.st_gid}:\n")

    nodes = probe(root).device_nodes

    assert isinstance(nodes, tuple)
    assert (nodes[0].mode, nodes[0].group) == ("-rw-rw----", "gpuusers")
    assert nodes[0].can_open is True


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_device_file_that_this_user_may_not_open_says_so(root: Path):
    (root / "dev/nvidiactl").chmod(0o000)

    nodes = probe(root).device_nodes

    assert isinstance(nodes, tuple)
    assert (nodes[0].can_open, nodes[0].error) == (False, "Permission denied")


# -------------------------------------------------------------------------------------- daemons


def test_the_persistence_daemon_is_known_by_its_process_or_its_socket(root: Path):
    nothing = probe(root).persistenced_running
    write(root / "proc/77/comm", "nvidia-persiste\n")
    by_process = probe(root).persistenced_running
    (root / "proc/77/comm").unlink()
    write(root / "run/nvidia-persistenced/socket")

    assert (nothing, by_process, probe(root).persistenced_running) == (False, True, True)


def test_in_another_pid_namespace_the_host_s_daemons_are_unknown(root: Path):
    (root / "proc/self/ns").mkdir(parents=True)
    (root / "proc/self/ns/pid").symlink_to("pid:[4026532198]")

    facts = probe(root)

    assert isinstance(facts.persistenced_running, Unknown)
    assert isinstance(facts.fabric_manager, Unknown)


def test_no_fabric_manager_is_none(root: Path):
    assert probe(root).fabric_manager is None


def test_a_fabric_manager_that_is_installed_and_stopped_says_its_version(root: Path):
    write(root / "usr/bin/nv-fabricmanager", b"Fabric Manager\x00570.124.06\x00")

    assert probe(root).fabric_manager == FabricManager(is_running=False, version="570.124.06")


def test_a_running_fabric_manager_of_the_driver_s_version_is_told_by_its_bytes(root: Path):
    write(root / "usr/bin/nv-fabricmanager", b"\x00535.10.01\x00580.159.04\x00")
    write(root / "proc/77/comm", "nv-fabricmanage\n")

    assert probe(root).fabric_manager == FabricManager(is_running=True, version="580.159.04")


def test_dpkg_knows_the_fabric_manager_s_version(root: Path):
    write(root / "usr/bin/nv-fabricmanager", b"\x7fELF")
    write(
        root / "var/lib/dpkg/status",
        "Package: nvidia-fabricmanager-550\nStatus: deinstall ok config-files\n"
        "Version: 550.54.15-1\n\n"
        "Package: nvidia-fabricmanager-575\nStatus: install ok installed\n"
        "Version: 575.57.08-1\n",
    )

    assert probe(root).fabric_manager == FabricManager(is_running=False, version="575.57.08")


# -------------------------------------------------------------------------------------- parsers

lines = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(lines)
def test_no_text_makes_a_parser_raise(text: str):
    kernel_module.parse_module_kind(text)
    kernel_module.parse_modules(text)
    kernel_module.parse_fields(text)
    daemons.parse_package_version(f"Package: nvidia-fabricmanager-{text}")
    daemons.parse_package_version(f"Package: nvidia-fabricmanager-1\n{text}")


@given(st.binary())
def test_no_bytes_make_the_module_parser_raise(data: bytes):
    kernel_module.parse_module_information(data)
    kernel_module.parse_module_information(b"version=" + data)


@pytest.mark.parametrize(
    "path",
    [
        "proc/driver/nvidia/version",
        "proc/driver/nvidia/params",
        "proc/driver/nvidia/gpus/0000:00:06.0/information",
        "proc/modules",
        "sys/module/nvidia/version",
        "etc/group",
        "etc/ld.so.cache",
        "usr/lib/libcuda.so.1",
        "usr/bin/nv-fabricmanager",
        f"lib/modules/{RELEASE}/modules.dep",
        f"lib/modules/{RELEASE}/updates/nvidia.ko",
    ],
)
@pytest.mark.parametrize("kind", ["garbage", "directory", "fifo"])
def test_no_file_of_a_wrong_kind_makes_the_probe_raise_or_hang(root: Path, path: str, kind: str):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    match kind:
        case "garbage":
            file.write_bytes(bytes(range(256)) * 40)
        case "directory":
            file.mkdir()
        case _:
            os.mkfifo(file)

    probe(root, "/usr/lib")


def test_a_device_file_whose_permissions_allow_what_is_denied_is_the_cgroup_s():
    everybody = os.stat_result((0o020666, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    group = os.stat_result((0o020660, 0, 0, 1, 0, 44, 0, 0, 0, 0))

    assert device_nodes.permissions_allow(everybody, 1000, frozenset((1000,)))
    assert device_nodes.permissions_allow(group, 1000, frozenset((44,)))
    assert not device_nodes.permissions_allow(group, 1000, frozenset((1000,)))
    assert device_nodes.permissions_allow(group, 0, frozenset())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_mode_that_forbids_is_not_the_cgroup(root: Path):
    (root / "dev/nvidiactl").chmod(0o000)

    nodes = probe(root).device_nodes

    assert isinstance(nodes, tuple)
    assert not nodes[0].is_denied_by_cgroup


def test_thousands_of_stanzas_of_one_package_take_no_time():
    stanza = "Package: nvidia-fabricmanager-580\nStatus: deinstall ok config-files\n\n"
    started = time.monotonic()

    assert daemons.parse_package_version(stanza * 20_000) is None
    assert time.monotonic() - started < 5


def test_of_several_packages_the_installed_one_counts():
    text = (
        "Package: nvidia-fabricmanager-570\nStatus: deinstall ok config-files\nVersion: 570.1-1\n\n"
        "Package: nvidia-fabricmanager-dev-580\nStatus: install ok installed\nVersion: 580.2-1\n\n"
        "Package: nvidia-fabricmanager-580\nStatus: install ok installed\nVersion: 580.159.04-1\n"
    )

    assert daemons.parse_package_version(text) == "580.159.04"

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucheck.probes import host, pci_bus, surroundings
from gpucheck.snapshot import Unknown
from seen_facts import seen

ANY_TEXT = st.text(max_size=200)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bare-metal machine with nothing special in it."""
    for folder in (
        "proc/sys/kernel",
        "proc/self",
        "proc/1",
        "sys/bus/pci/devices",
        "sys/class",
        "sys/firmware",
        "dev/shm",
        "etc",
    ):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path, "proc/sys/kernel/osrelease", "6.8.0-50-generic\n")
    write(tmp_path, "proc/version", "Linux version 6.8.0-50-generic (buildd@x)\n")
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme sse2\n")
    write(tmp_path, "proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n")
    write(tmp_path, "proc/cmdline", "BOOT_IMAGE=/vmlinuz ro quiet\n")
    return tmp_path


def write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def device(root: Path, chain: str, *, vendor="0x10de", code="0x030200", **more) -> Path:
    """Put a PCI device under the bridges of *chain*, as the kernel lays it out."""
    real = root / "sys/devices/pci0000:00" / chain
    for name, content in {"vendor": vendor, "class": code, "device": "0x2335", **more}.items():
        write(real, name, f"{content}\n")
    link = root / "sys/bus/pci/devices" / real.name
    link.symlink_to(real)
    return real


def config(*, redirect: bool, size: int = 4096) -> bytes:
    """A bridge's configuration space: AER first, then ACS."""
    data = bytearray(4096)
    data[0x100:0x104] = (0x0001 | 1 << 16 | 0x148 << 20).to_bytes(4, "little")
    data[0x148:0x14C] = (0x000D | 1 << 16).to_bytes(4, "little")
    data[0x14E:0x150] = (0x1D if redirect else 0x19).to_bytes(2, "little")
    return bytes(data[:size])


def test_a_plain_machine_is_bare_metal_outside_any_container(root):
    found = host.probe(root)

    assert found.system == "Linux"
    assert found.kernel_release == "6.8.0-50-generic"
    assert found.is_wsl is False
    assert found.tegra is None
    assert found.container is None
    assert found.hypervisor is None
    assert found.memory_bytes == 16 << 20
    assert found.pci_gpus == ()
    assert found.nvswitches == 0
    assert found.iommu == "off"
    assert found.secure_boot is None
    assert found.rdma_devices == ()


def test_a_tree_with_nothing_in_it_is_unknown_and_never_raises(tmp_path):
    found = host.probe(tmp_path)

    assert isinstance(found.pci_gpus, Unknown)
    assert isinstance(found.memory_bytes, Unknown)
    assert isinstance(found.iommu, Unknown)
    assert found.shm_bytes is None


def test_the_machine_that_runs_the_tests_is_told_in_full():
    found = host.probe()

    unknown = [n for n in found.__struct_fields__ if isinstance(getattr(found, n), Unknown)]
    assert "kernel_release" not in unknown
    assert isinstance(found.cpus_usable, int)
    assert found.cpus_usable >= 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n', "Ubuntu 24.04.3 LTS"),
        ("PRETTY_NAME='Arch Linux'\n", "Arch Linux"),
        ("NAME=Alpine\nVERSION_ID=3.20\n", "Alpine 3.20"),
        ("", None),
    ],
)
def test_os_release_names_the_distribution(text, name):
    assert host.parse_os_release(text) == name


@pytest.mark.parametrize(
    "release",
    ["5.15.167.4-microsoft-standard-WSL2", "4.4.0-19041-Microsoft", "6.6.87-custom-WSL2+"],
)
def test_wsl_is_known_by_its_kernel(root, release):
    write(root, "proc/sys/kernel/osrelease", release)

    found = host.probe(root)

    assert found.is_wsl is True
    assert found.hypervisor == "hyperv"


def test_a_kernel_of_ones_own_is_wsl_where_the_gpu_comes_through_dxg(root):
    write(root, "dev/dxg", "")
    (root / "usr/lib/wsl").mkdir(parents=True)

    assert host.probe(root).is_wsl is True


def test_a_kernel_built_by_microsoft_for_its_cloud_is_not_wsl(root):
    write(root, "proc/version", "Linux version 6.6.47.1-1.azl3 (root@CBL-Mariner) microsoft\n")

    assert host.probe(root).is_wsl is False


def test_a_jetson_is_known_by_its_device_tree(root):
    write(root, "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")

    assert host.probe(root).tegra == "NVIDIA Jetson AGX Orin Developer Kit"


def test_a_jetson_is_known_by_its_release_file(root):
    write(root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n")

    assert host.probe(root).tegra == "Tegra, L4T R36"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        (".singularity.d/env/x", "", "apptainer"),
        ("run/systemd/container", "systemd-nspawn\n", "systemd-nspawn"),
        ("proc/1/environ", "PATH=/bin\0container=lxc\0", "lxc"),
        ("proc/self/environ", "KUBERNETES_SERVICE_HOST=10.0.0.1\0", "kubernetes"),
        ("proc/1/cgroup", "0::/kubepods.slice/pod1/x\n", "kubernetes"),
        ("proc/1/cgroup", "12:pids:/docker/0123456789ab\n", "docker"),
        ("proc/1/environ", "container=oci\0", "docker"),
    ],
)
def test_a_container_is_known_by_its_marks(root, name, content, kind):
    write(root, name, content)

    assert host.probe(root).container == kind


def test_a_disk_made_from_an_image_is_no_container(root):
    write(root, ".dockerenv", "")
    write(root, "proc/2/comm", "kthreadd\n")
    write(root, "proc/self/mounts", "/dev/vda1 / ext4 rw 0 0\n")

    assert host.probe(root).container is None


def test_only_the_named_variables_of_other_processes_are_kept():
    found = surroundings.parse_container_variables(b"SECRET=1\0container=podman\0containers=2\0")

    assert found == {"container": "podman"}


@pytest.mark.parametrize(
    ("vendor", "product", "name"),
    [
        ("QEMU", "Standard PC (Q35 + ICH9, 2009)", "kvm"),
        ("Amazon EC2", "p5.48xlarge", "amazon"),
        ("VMware, Inc.", "VMware7,1", "vmware"),
        ("Microsoft Corporation", "Virtual Machine", "hyperv"),
        ("Google", "Google Compute Engine", "google"),
        ("Somebody", "Something", "unnamed"),
    ],
)
def test_a_virtual_machine_is_known_by_the_cpu_and_named_by_its_firmware(
    root, vendor, product, name
):
    write(root, "proc/cpuinfo", "flags\t\t: fpu hypervisor\n")
    write(root, "sys/class/dmi/id/sys_vendor", f"{vendor}\n")
    write(root, "sys/class/dmi/id/product_name", f"{product}\n")

    assert host.probe(root).hypervisor == name


def test_a_bare_metal_machine_of_a_cloud_is_bare_metal(root):
    write(root, "proc/cpuinfo", "processor: 0\n")
    write(root, "sys/class/dmi/id/sys_vendor", "Amazon EC2\n")
    write(root, "sys/class/dmi/id/product_name", "p5.metal\n")

    assert host.probe(root).hypervisor is None


def test_xens_first_domain_is_bare_metal(root):
    write(root, "sys/hypervisor/type", "xen\n")
    guest = host.probe(root).hypervisor
    write(root, "proc/xen/capabilities", "control_d\n")

    assert guest == "xen"
    assert host.probe(root).hypervisor is None


def test_a_cpu_quota_counts_as_that_many_cpus(root):
    write(root, "proc/self/cgroup", "0::/app/worker\n")
    write(root, "sys/fs/cgroup/app/cpu.max", "50000 100000\n")
    write(root, "sys/fs/cgroup/app/worker/cpu.max", "max 100000\n")

    assert host.probe(root).cpus_usable == 1


def test_a_quota_of_the_first_kind_of_control_groups_counts_too(root):
    write(root, "proc/self/cgroup", "4:cpu,cpuacct:/docker/0123\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")

    assert host.probe(root).cpus_usable == 1


def test_no_quota_is_no_limit():
    assert host.parse_quota("max", "100000") is None
    assert host.parse_quota("-1", "100000") is None
    assert host.parse_quota("150000", "100000") == 1.5


def test_online_cpus_are_counted(root):
    write(root, "sys/devices/system/cpu/online", "0-3,8,10-11\n")

    assert host.probe(root).cpus_present == 7


def test_rdma_devices_are_named(root):
    (root / "sys/class/infiniband/mlx5_0").mkdir(parents=True)

    assert host.probe(root).rdma_devices == ("mlx5_0",)


@pytest.mark.parametrize(("last", "is_on"), [(0, False), (1, True)])
def test_secure_boot_is_read_from_the_firmware(root, last, is_on):
    write(root, host.SECURE_BOOT, bytes([6, 0, 0, 0, last]))

    assert host.probe(root).secure_boot is is_on


def test_hidden_firmware_variables_are_unknown(root):
    (root / "sys/firmware/efi/efivars").mkdir(parents=True)

    assert isinstance(host.probe(root).secure_boot, Unknown)


@pytest.mark.parametrize(
    ("kinds", "command_line", "iommu"),
    [
        ([], "", "off"),
        (["DMA-FQ"], "", "translating"),
        (["identity", "DMA"], "", "translating"),
        (["identity"], "", "passthrough"),
        (["unmanaged"], "", "off"),
        ([None], "ro iommu=pt", "passthrough"),
        ([None], "iommu.passthrough=1", "passthrough"),
    ],
)
def test_the_iommu_is_judged_by_the_kinds_of_its_groups(kinds, command_line, iommu):
    assert host.judge_iommu(kinds, command_line) == iommu


def test_an_iommu_whose_kernel_says_nothing_is_unknown():
    assert isinstance(host.judge_iommu([None], "ro quiet"), Unknown)


def test_the_gpus_own_iommu_groups_count(root):
    gpu = device(root, "0000:00:01.0/0000:01:00.0")
    write(gpu, "iommu_group/type", "identity\n")
    write(root, "sys/kernel/iommu_groups/7/type", "DMA\n")

    assert host.probe(root).iommu == "passthrough"


def test_a_gpu_is_told_with_its_slot_driver_and_bridges(root):
    gpu = device(root, "0000:00:01.0/0000:01:00.0/0000:02:08.0/0000:03:00.0", numa_node="1")
    near, far = gpu.parent, gpu.parent.parent
    write(near, "max_link_width", "16\n")
    write(near, "config", config(redirect=True))
    write(far, "config", config(redirect=False))
    write(far.parent, "config", config(redirect=True))
    (root / "sys/bus/pci/drivers/nvidia").mkdir(parents=True)
    (gpu / "driver").symlink_to(root / "sys/bus/pci/drivers/nvidia")

    [found] = seen(host.probe(root).pci_gpus)

    assert found.bus_id == "0000:03:00.0"
    assert found.device_id == "0x2335"
    assert found.driver == "nvidia"
    assert found.numa_node == 1
    assert found.slot_max_width == 16
    assert found.acs_redirecting_bridges == ("0000:02:08.0", "0000:00:01.0")


def test_a_gpu_with_no_bridge_above_it_has_no_slot(root):
    device(root, "0000:00:06.0", numa_node="-1")

    [found] = seen(host.probe(root).pci_gpus)

    assert found.driver is None
    assert found.numa_node is None
    assert found.acs_redirecting_bridges == ()


def test_a_configuration_space_cut_short_is_unknown(root):
    gpu = device(root, "0000:00:01.0/0000:01:00.0")
    write(gpu.parent, "config", config(redirect=True, size=64))

    [found] = seen(host.probe(root).pci_gpus)

    assert isinstance(found.acs_redirecting_bridges, Unknown)
    assert "may not be read" in found.acs_redirecting_bridges.why


def test_other_devices_are_no_gpus_and_switches_are_counted(root):
    device(root, "0000:00:02.0", vendor="0x8086")
    device(root, "0000:00:03.0", code="0x040300")  # a GPU's sound
    device(root, "0000:00:04.0", code="0x068000")
    device(root, "0000:00:05.0", code="0x030000")

    found = host.probe(root)

    assert [gpu.bus_id for gpu in seen(found.pci_gpus)] == ["0000:00:05.0"]
    assert found.nvswitches == 1


@pytest.mark.parametrize("text", ["Unknown", "", "255"])
def test_a_link_that_the_kernel_does_not_know_is_unknown(text):
    assert isinstance(pci_bus.parse_width(text), Unknown)


@settings(max_examples=60)
@given(ANY_TEXT)
def test_parsers_take_any_text(text):
    host.parse_os_release(text)
    surroundings.parse_container_group(text)
    surroundings.parse_hypervisor_flag(text)
    surroundings.parse_hypervisor_flag(f"flags : {text}")
    surroundings.parse_firmware_names(text)
    host.parse_capabilities(text)
    host.parse_capabilities(f"CapEff: {text}")
    host.parse_meminfo(f"MemTotal: {text}")
    host.parse_cpu_list(text)
    host.parse_cgroup(text)
    host.parse_quota(text, text)
    pci_bus.parse_width(text)
    host.judge_iommu([text], text)


@settings(max_examples=60)
@given(st.binary(max_size=300), st.binary(max_size=900))
def test_parsers_take_any_bytes(data, extended):
    surroundings.parse_container_variables(data)
    host.parse_secure_boot(data)
    pci_bus.parse_request_redirect(bytes(256) + extended)
    pci_bus.parse_request_redirect(data)

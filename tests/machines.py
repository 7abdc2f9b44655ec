"""Machines for the tests of rules: a healthy one, and ways to break one thing on it.

`machine()` is a server with two H200s, driver 580.159.04, CUDA 13.0 and torch 2.11 built for it.
`machine(driver={"module_version": None})` is the same with those fields of that section changed.

It is long because a healthy machine has a value for every fact.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gpucheck.rule import NotApplicable, NotChecked, Rule, Symptom
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    ConfidentialComputing,
    CudaInit,
    Cudnn,
    CudnnInstall,
    CudnnOpened,
    CxxLibrary,
    DeviceNode,
    Distribution,
    Driver,
    DriverLibrary,
    Environment,
    Fabric,
    Gpu,
    GpuPair,
    HomeVariable,
    Host,
    HostCompiler,
    KernelLog,
    Libraries,
    Library,
    LoaderFolder,
    Memory,
    NvLink,
    Nvml,
    Packages,
    PathEntry,
    PciGpu,
    PciPort,
    Python,
    PyTorch,
    RemapHistogram,
    RemappedRows,
    Snapshot,
    StartupFiles,
    ThermalThresholds,
    Toolkit,
    Toolkits,
    Torch,
    Variable,
)

DRIVER = "580.159.04"
SITE = "/opt/venv/lib/python3.12/site-packages"
BUS_IDS = ("0000:00:06.0", "0000:00:07.0")
CUDA_13 = Toolkit(
    home="/usr/local/cuda-13.0",
    names=("/usr/local/cuda", "/usr/local/cuda-13", "/usr/local/cuda-13.0"),
    version="13.0",
    version_json="13.0.2",
    nvcc="/usr/local/cuda-13.0/bin/nvcc",
    nvcc_version="13.0.88",
    nvcc_architectures=tuple(f"sm_{n}" for n in (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120)),
    max_gcc=15,
    max_clang=20,
    has_cudart=True,
    library_directory="/usr/local/cuda-13.0/targets/x86_64-linux/lib",
    compat_directory=None,
    compat_version=None,
    origin="local",
)
CUDA_12 = msgspec.structs.replace(
    CUDA_13,
    home="/usr/local/cuda-12.4",
    names=("/usr/local/cuda-12.4",),
    version="12.4",
    version_json="12.4.1",
    nvcc="/usr/local/cuda-12.4/bin/nvcc",
    nvcc_version="12.4.131",
    nvcc_architectures=tuple(
        f"sm_{n}" for n in (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90)
    ),
    max_gcc=13,
    max_clang=17,
    library_directory="/usr/local/cuda-12.4/targets/x86_64-linux/lib",
)


def path_entry(text: str, **changes: Any) -> PathEntry:
    """An element of a path list that exists and is nothing special."""
    plain: dict[str, Any] = {
        "resolved": text or None,
        "is_world_writable": False,
        "toolkit": None,
        "toolkit_version": None,
        "has_nvcc": False,
    }
    return PathEntry(text=text, **{**plain, **changes})


def gpu(index: int = 0, **changes: Any) -> Gpu:
    """A healthy, idle H200."""
    healthy: dict[str, Any] = {
        "name": "NVIDIA H200",
        "uuid": f"GPU-{str(index) * 8}-0000-0000-0000-000000000000",
        "serial": f"165092301234{index}",
        "bus_id": f"0000:00:{6 + index:02x}.0",
        "minor_number": index,
        "compute_capability": "9.0",
        "vbios_version": "96.00.A5.00.1A",
        "inforom_version": "G520.0282.02.02",
        "gsp_firmware_version": DRIVER,
        "memory": Memory(
            total_bytes=150754820096,
            used_bytes=0,
            free_bytes=150109880320,
            reserved_bytes=644939776,
        ),
        "bar1_total_bytes": 274877906944,
        "processes": (),
        "temperature_celsius": 37,
        "memory_temperature_celsius": 45,
        "fan_percent": NOT_SUPPORTED,
        "temperature_margin_celsius": 50,
        "slowdown_margin_celsius": -2,
        "thresholds": ThermalThresholds(
            shutdown_celsius=95, slowdown_celsius=89, memory_max_celsius=95, gpu_max_celsius=87
        ),
        "power_watts": 82.2,
        "power_limit_enforced_watts": 700.0,
        "power_limit_default_watts": 700.0,
        "clock_sm_mhz": 345,
        "clock_memory_mhz": 3201,
        "clock_sm_max_mhz": 1980,
        "clock_memory_max_mhz": 3201,
        "application_clock_sm_mhz": 1980,
        "application_clock_sm_default_mhz": 1980,
        "performance_state": 0,
        "utilization_percent": 0,
        "clocks_event_reasons": 1,
        "hardware_thermal_slowdown_ns": 0,
        "power_brake_slowdown_ns": 0,
        "software_thermal_slowdown_ns": 0,
        "ecc_is_on": True,
        "ecc_is_on_after_reboot": True,
        "ecc_default": True,
        "corrected_ecc_volatile": 0,
        "uncorrected_ecc_volatile": 0,
        "corrected_ecc_aggregate": 0,
        "uncorrected_ecc_aggregate": 0,
        "sram_threshold_exceeded": False,
        "sram_uncorrected_aggregate": 0,
        "remapped_rows": RemappedRows(
            correctable=0, uncorrectable=0, is_pending=False, has_failed=False
        ),
        "remap_histogram": RemapHistogram(maximum=3072, high=0, partial=0, low=0, none=0),
        "retired_pages": NOT_SUPPORTED,
        "recovery_action": 0,
        "has_unrepairable_memory": False,
        "repair_is_pending": False,
        "pcie_generation": 5,
        "pcie_generation_max": 5,
        "pcie_width": 16,
        "pcie_width_max": 16,
        "pcie_replays": 0,
        "nvlinks": tuple(nvlink(n, remote_bus_id=f"0000:00:{7 - index:02x}.0") for n in range(18)),
        "fabric": Fabric(state=0),
        "c2c_is_on": False,
        "persistence": True,
        "display_active": False,
        "virtualization": "passthrough",
        "vgpu_license": NOT_SUPPORTED,
        "compute_mode": 0,
        "mig_is_on": False,
        "mig_is_on_after_reset": False,
        "mig_devices": (),
        "numa_node": NOT_SUPPORTED,
        "cpu_affinity": "0-31",
        "numa_affinity": "0",
        "inforom_is_valid": True,
    }
    return Gpu(index=index, **{**healthy, **changes})


def nvlink(index: int, **changes: Any) -> NvLink:
    """A link that is up, with the tens of CRC data errors that healthy H200s show."""
    healthy: dict[str, Any] = {
        "is_up": True,
        "version": 6,
        "remote_kind": "gpu",
        "remote_bus_id": NOT_SUPPORTED,
        "crc_flit_errors": 0,
        "crc_data_errors": 11 + index,
        "replay_errors": 0,
        "recovery_errors": 0,
    }
    return NvLink(index=index, **{**healthy, **changes})


def library(soname: str, path: str, version: str, **changes: Any) -> Library:
    """A library that a wheel brings and torch's RPATH finds."""
    found: dict[str, Any] = {
        "needed_by": f"{SITE}/torch/lib/libtorch_cuda.so",
        "path": path,
        "real_path": path,
        "version": version,
        "origin": "wheel",
        "found_via": f"DT_RPATH of {SITE}/torch/lib/libtorch_cuda.so",
        "directory": path.rpartition("/")[0],
        "wheel_path": path,
        "wheel_version": version,
        "system_path": None,
        "system_version": None,
    }
    return Library(soname=soname, **{**found, **changes})


_CU13 = f"{SITE}/nvidia/cu13/lib"
_CUDNN = f"{SITE}/nvidia/cudnn/lib"
CUDNN_PART_NAMES = (
    "adv",
    "cnn",
    "engines_precompiled",
    "engines_runtime_compiled",
    "graph",
    "heuristic",
    "ops",
)
CUDNN_PARTS = tuple(f"libcudnn_{part}.so.9" for part in CUDNN_PART_NAMES)

HEALTHY = Snapshot(
    gpucheck="0.1.0",
    host=Host(
        system="Linux",
        distribution="Ubuntu 24.04.3 LTS",
        kernel_release="6.8.0-50-generic",
        machine="x86_64",
        name="host-1",
        is_wsl=False,
        tegra=None,
        container=None,
        hypervisor="kvm",
        is_root=False,
        groups=("users", "video"),
        shm_bytes=128 << 30,
        locked_memory_limit_bytes=None,
        memory_bytes=256 << 30,
        cpus_usable=32,
        cpus_present=32,
        rdma_devices=(),
        switch_managers=(),
        iommu="off",
        secure_boot=False,
        lockdown="none",
        signatures_enforced=False,
        is_laptop=False,
        pci_gpus=tuple(
            PciGpu(
                bus_id=bus_id,
                device_id="0x2335",
                driver="nvidia",
                numa_node=None,
                slot_max_width=16,
                acs_redirecting_bridges=(),
                unassigned_bars=(),
                power_state="D0",
                aer=PciPort(bus_id=bus_id, aer_correctable=0, aer_nonfatal=0, aer_fatal=0),
                bridges=(),
            )
            for bus_id in BUS_IDS
        ),
        nvswitches=0,
    ),
    environment=Environment(
        variables=(
            Variable(name="CUDA_HOME", value="/usr/local/cuda"),
            Variable(name="PATH", value="/opt/venv/bin:/usr/local/cuda/bin:/usr/bin:/bin"),
        ),
        shell="bash",
        cuda_home=HomeVariable(
            value="/usr/local/cuda",
            resolved="/usr/local/cuda-13.0",
            has_nvcc=True,
            has_cudart=True,
            toolkit_version="13.0",
        ),
        cuda_path=None,
        cuda_root=None,
        path=(
            path_entry("/opt/venv/bin"),
            path_entry(
                "/usr/local/cuda/bin",
                resolved="/usr/local/cuda-13.0/bin",
                toolkit="/usr/local/cuda-13.0",
                toolkit_version="13.0",
                has_nvcc=True,
            ),
            path_entry("/usr/bin"),
            path_entry("/bin", resolved="/usr/bin"),
        ),
        ld_library_path=None,
        ld_preload=None,
    ),
    startup_files=StartupFiles(files=()),
    driver=Driver(
        module_version=DRIVER,
        module_kind="open",
        loaded_modules=("nvidia", "nvidia_uvm"),
        excluded_gpus=(),
        proc_gpus=BUS_IDS,
        module_file="/lib/modules/6.8.0-50-generic/updates/dkms/nvidia.ko.zst",
        module_file_version=DRIVER,
        module_is_signed=True,
        module_file_kind="open",
        module_file_kernel="6.8.0-50-generic",
        module_blocks=(),
        prime_profile=None,
        passthrough_option=None,
        firmware_versions=(DRIVER,),
        uvm_disables_hmm=False,
        dkms_version=DRIVER,
        dkms_kernels=("6.8.0-50-generic",),
        dkms_failure=None,
        has_kernel_headers=True,
        libraries=tuple(
            DriverLibrary(
                soname=soname,
                path=f"/usr/lib/x86_64-linux-gnu/{soname}",
                real_path=f"/usr/lib/x86_64-linux-gnu/{soname.removesuffix('.1')}.{DRIVER}",
                version=DRIVER,
                is_stub=False,
                found_via="ld.so.cache",
                is_mounted=False,
                is_selected=True,
            )
            for soname in ("libcuda.so.1", "libnvidia-ml.so.1")
        ),
        device_nodes=tuple(
            DeviceNode(path=path, exists=True, mode="crw-rw-rw-", group="root", can_open=True)
            for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1")
        ),
        persistenced_running=True,
        mps_is_running=False,
        fabric_manager=None,
        peermem=False,
        peer_memory_clients=None,
        has_nvlsm=False,
        dma_buf=True,
        cuda_init=CudaInit(
            library="/usr/lib/x86_64-linux-gnu/libcuda.so.1",
            code=0,
            driver_version="13.0",
            device_count=2,
        ),
    ),
    toolkits=Toolkits(
        installed=(CUDA_13,),
        dangling=(),
        default="/usr/local/cuda-13.0",
        first_nvcc="/usr/local/cuda/bin/nvcc",
        first_nvcc_home="/usr/local/cuda-13.0",
        host_compiler=HostCompiler(path="/usr/bin/g++", kind="gcc", version="13.3.0"),
    ),
    libraries=Libraries(
        resolved=(
            library("libcudart.so.13", f"{_CU13}/libcudart.so.13", "13.0.96"),
            library("libcublas.so.13", f"{_CU13}/libcublas.so.13", "13.1.0.3"),
            library("libcublasLt.so.13", f"{_CU13}/libcublasLt.so.13", "13.1.0.3"),
            library("libnccl.so.2", f"{SITE}/nvidia/nccl/lib/libnccl.so.2", "2.28.9"),
            library(
                "libcudnn.so.9",
                f"{_CUDNN}/libcudnn.so.9",
                "9.19.0",
                system_path="/lib/x86_64-linux-gnu/libcudnn.so.9",
                system_version="9.14.0",
            ),
        ),
        not_found=(),
        cxx=CxxLibrary(
            path="/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
            real_path="/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.33",
            found_via="ld.so.cache",
            directory="/usr/lib/x86_64-linux-gnu",
            newest="GLIBCXX_3.4.33",
        ),
        ld_so_conf=(
            LoaderFolder(
                directory="/usr/local/cuda-13.0/targets/x86_64-linux/lib",
                file="/etc/ld.so.conf.d/000-cuda.conf",
                has_cudart=True,
            ),
        ),
        mapped=None,
    ),
    cudnn=Cudnn(
        installs=(
            CudnnInstall(
                directory=_CUDNN,
                soname="libcudnn.so.9",
                version="9.19.0",
                cuda_major=13,
                origin="wheel",
                sublibraries=CUDNN_PARTS,
                header=f"{SITE}/nvidia/cudnn/include/cudnn_version.h",
                header_version="9.19.0",
            ),
            CudnnInstall(
                directory="/usr/lib/x86_64-linux-gnu",
                soname="libcudnn.so.9",
                version="9.14.0",
                cuda_major=13,
                origin="system",
                sublibraries=CUDNN_PARTS,
                header="/usr/include/x86_64-linux-gnu/cudnn_version.h",
                header_version="9.14.0",
            ),
        ),
        torch_needs="libcudnn.so.9",
        for_torch=library(
            "libcudnn.so.9",
            f"{_CUDNN}/libcudnn.so.9",
            "9.19.0",
            system_path="/lib/x86_64-linux-gnu/libcudnn.so.9",
            system_version="9.14.0",
        ),
        cuda_major_for_torch=13,
        selected_for_builds="/lib/x86_64-linux-gnu/libcudnn.so.9",
        sublibraries_for_torch=tuple(
            library(soname, f"{_CUDNN}/{soname}", "9.19.0") for soname in CUDNN_PARTS
        ),
        opened=CudnnOpened(path=f"{_CUDNN}/libcudnn.so.9", version="9.19.0"),
    ),
    pytorch=PyTorch(
        python=Python(
            path="/opt/venv/bin/python3",
            version="3.12.3",
            chosen_by="VIRTUAL_ENV",
            prefix="/opt/venv",
            sys_path=(SITE,),
            externally_managed=None,
            has_pip=True,
            is_virtual=True,
            uses_uv=False,
            is_writable=True,
            conda_tool=None,
            project=None,
        ),
        torch=Torch(
            version="2.11.0+cu130",
            location=f"{SITE}/torch",
            build="cuda",
            cuda="13.0",
            cudnn="9.19.0.56",
            nccl="2.28.9",
            architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
            is_outside_environment=None,
        ),
        elsewhere=(),
        distributions=tuple(
            Distribution(name=name, version=version, location=SITE, installer="pip", requires=needs)
            for name, version, needs in (
                ("torch", "2.11.0", ("nvidia-cudnn-cu13==9.19.0.56", "nvidia-nccl-cu13==2.28.9")),
                ("torchvision", "0.26.0", ()),
                ("triton", "3.6.0", ()),
                ("nvidia-cudnn-cu13", "9.19.0.56", ()),
                ("nvidia-nccl-cu13", "2.28.9", ()),
            )
        ),
        damaged=(),
        mixed_wheels=(),
    ),
    packages=Packages(gpu_packages=(), frameworks=(), clashes=()),
    nvml=Nvml(
        library="/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        error=None,
        driver_version=DRIVER,
        cuda_version="13.0",
        count=2,
        confidential_computing=ConfidentialComputing(is_on=False, gpus_are_ready=True),
        gpus=(gpu(0), gpu(1)),
        pairs=(GpuPair(a=0, b=1, topology="NV18", p2p_read="OK", p2p_write="OK", p2p_nvlink="OK"),),
    ),
    kernel_log=KernelLog(
        source="/dev/kmsg",
        xids=(),
        sxids=(),
        aer_ports=(),
        adapter_failures=(),
        adapter_reasons=(),
        module_said=(f"loading NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}",),
        address_failures=(),
        power_failures=(),
        module_refused=None,
        oom_kills=(),
        iommu_faults=(),
        hung_tasks=(),
    ),
)


def machine(base: Snapshot = HEALTHY, /, **sections: Any) -> Snapshot:
    """Return *base* with some fields changed: `machine(driver={"module_version": None})`."""
    changes: dict[str, Any] = {}
    for name, fields in sections.items():
        if isinstance(fields, Mapping):
            changes[name] = msgspec.structs.replace(getattr(base, name), **fields)
        else:
            changes[name] = fields
    return msgspec.structs.replace(base, **changes)


def with_variables(base: Snapshot = HEALTHY, /, **variables: str | None) -> Snapshot:
    """Return *base* with environment variables set, or unset where the value is None."""
    kept = {v.name: v.value for v in base.environment.variables} | variables  # type: ignore[union-attr]
    pairs = tuple(Variable(name=n, value=v) for n, v in kept.items() if v is not None)
    return machine(base, environment={"variables": pairs})


def symptoms(rule: Rule, snapshot: Snapshot) -> list[Symptom]:
    """What *rule* finds."""
    return [answer for answer in rule(snapshot) if isinstance(answer, Symptom)]


def advice(symptom: Symptom) -> str:
    """What its remedy and the other ways to the same end say."""
    remedy = symptom.remedy
    return " ".join([remedy.text, *(each.text for each in remedy.alternatives)])


def commands(symptom: Symptom) -> tuple[str, ...]:
    """The commands of its remedy, in order."""
    return tuple(step.text for step in symptom.remedy.steps)


def not_checked(rule: Rule, snapshot: Snapshot) -> list[NotChecked]:
    """What *rule* could not tell."""
    return [answer for answer in rule(snapshot) if isinstance(answer, NotChecked)]


def passes(rule: Rule, snapshot: Snapshot) -> bool:
    """Whether *rule* looked, and found nothing."""
    return not list(rule(snapshot))


def is_applicable(rule: Rule, snapshot: Snapshot) -> bool:
    """Whether *rule* has a question for this machine."""
    return not any(isinstance(answer, NotApplicable) for answer in rule(snapshot))

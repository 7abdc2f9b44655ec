"""Machines of all kinds that people have: what is healthy stays quiet, what is broken is explained.

Each is named after its kind. A broken one names the code that must come first, all codes that may
be roots, and words that its fix must hold: commands are for this very machine.

It is long because it is a list: a case for each kind.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built.machine import (
    BUS_IDS,
    CUDNN_PARTS,
    DRIVER,
    KERNEL,
    MULTIARCH,
    PYTHON,
    SITE,
    TOOLKIT,
    BuiltMachine,
)
from fakes.nvml import Error, FakeGpu, System, a100_pcie, geforce_laptop, h200, mig

pytestmark = pytest.mark.namespaces

Make = Callable[[BuiltMachine], Any]
HEALTHY: dict[str, Make] = {}
BROKEN: dict[str, tuple[str, frozenset[str], str, Make]] = {}

UBUNTU = "Ubuntu 24.04.1 LTS"
RHEL = "Red Hat Enterprise Linux 9.4 (Plow)"
FEDORA = "Fedora Linux 41 (Workstation Edition)"
BOTH = ("libcuda", "libnvidia-ml")


def healthy(make: Make) -> Make:
    HEALTHY[make.__name__] = make
    return make


def broken(first: str, *also: str, fix: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        BROKEN[make.__name__] = (first, frozenset({first, *also}), fix, make)
        return make

    return keep


# ------------------------------------------------------------------------------------ building


def distribution(machine: BuiltMachine, name: str) -> None:
    machine.write("/etc/os-release", f'PRETTY_NAME="{name}"\n')


def library(machine: BuiltMachine, name: str, path: str) -> None:
    """Put another copy of a driver library at *path*."""
    built = machine.layer / f"{MULTIARCH}/{name}.so.{DRIVER}".lstrip("/")
    machine.write(path, built.read_bytes(), mode=0o755)


def driver(machine: BuiltMachine, version: str, cuda: int) -> None:
    """Have a driver of another *version* in place of the built one."""
    machine.kernel_module(version)
    for name in BOTH:
        library(machine, name, f"{MULTIARCH}/{name}.so.{version}")
        machine.remove(f"{MULTIARCH}/{name}.so.{DRIVER}")
        machine.link(f"{MULTIARCH}/{name}.so.1", f"{name}.so.{version}")
    machine.nvml_options["system"] = System(driver=version, nvml=f"12.{version}", cuda=cuda)
    machine.environment["FAKE_VERSION"] = str(cuda)


def one_card(machine: BuiltMachine, card: FakeGpu, device: str, kind: str = "Open Kernel") -> None:
    """Have one graphics card that drives the screen, in place of the H200s."""
    system = machine.nvml_options.get("system")
    machine.gpus = [card]
    machine.pci()
    machine.pci_device("0000:01:00.0", kind="0x030000", device=device)
    machine.kernel_module(system.driver if system else DRIVER, kind, gpus=("0000:01:00.0",))
    machine.device("nvidia1", there=False)
    machine.environment["FAKE_COUNT"] = "1"


def geforce(name: str, compute_capability: str, device: str) -> FakeGpu:
    return geforce_laptop(
        name=f"NVIDIA GeForce {name}",
        compute_capability=compute_capability,
        pci=f"0000:01:00.0 {device}10de 0x00000000",
        pcie_width=16,
        pcie_width_max=16,
        power_limit_milliwatts=450000,
        power_default_milliwatts=450000,
    )


def without_toolkit(machine: BuiltMachine) -> None:
    for path in (TOOLKIT, "/usr/local/cuda", "/etc/ld.so.conf.d/000-cuda.conf"):
        machine.remove(path)
    for stem in ("libcudnn", *(f"libcudnn_{part}" for part in CUDNN_PARTS)):
        machine.remove(f"{MULTIARCH}/{stem}.so.9")
        machine.remove(f"{MULTIARCH}/{stem}.so.9.14.0")
    machine.remove(f"/usr/include/{os.uname().machine}-linux-gnu/cudnn_version.h")
    machine.environment.pop("CUDA_HOME", None)
    machine.environment["PATH"] = "/opt/venv/bin:/usr/bin:/bin"


def driver_from(machine: BuiltMachine, folder: str, gpus: int = 2) -> None:
    """Have the driver's libraries in *folder* alone, as a container's or another system's."""
    without_toolkit(machine)
    machine.without_driver()
    machine.kernel_module()
    machine.pci(*BUS_IDS)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{minor}" for minor in range(gpus))):
        machine.device(name)
    machine.gpus = machine.gpus[:gpus]
    machine.environment["FAKE_COUNT"] = str(gpus)
    for name in BOTH:
        library(machine, name, f"{folder}/{name}.so.{DRIVER}")
        machine.link(f"{folder}/{name}.so.1", f"{name}.so.{DRIVER}")


def pod(machine: BuiltMachine) -> None:
    machine.proc("1/environ", "KUBERNETES_SERVICE_HOST=10.0.0.1\0")
    machine.folder("/var/run/secrets/kubernetes.io/serviceaccount")


def not_loaded(machine: BuiltMachine) -> None:
    machine.kernel_module(None)
    machine.pci(*BUS_IDS, driver=None)
    machine.devices.clear()
    machine.nvml_options["init_error"] = 9
    machine.environment["FAKE_CODE"] = "999"


def secure_boot(machine: BuiltMachine, line: str) -> None:
    not_loaded(machine)
    efi = machine.place / "sys/firmware/efi/efivars"
    efi.mkdir(parents=True)
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    (efi / name).write_bytes(b"\x06\x00\x00\x00\x01")
    machine.write(f"/usr/lib/modules/{KERNEL}/updates/dkms/nvidia.ko", b"\x7fELF")
    machine.kernel_log(line)


def compat(machine: BuiltMachine, version: str) -> None:
    """Have a CUDA compatibility libcuda on LD_LIBRARY_PATH."""
    folder = f"{TOOLKIT}/compat"
    library(machine, "libcuda", f"{folder}/libcuda.so.{version}")
    machine.link(f"{folder}/libcuda.so.1", f"libcuda.so.{version}")
    machine.environment["LD_LIBRARY_PATH"] = folder


def wsl(machine: BuiltMachine) -> None:
    machine.proc("version", "Linux version 5.15.153.1-microsoft-standard-WSL2 (built@host) #1\n")
    distribution(machine, UBUNTU)
    without_toolkit(machine)
    machine.without_driver()
    machine.pci()
    library(machine, "libcuda", "/usr/lib/wsl/lib/libcuda.so.1.1")
    machine.link("/usr/lib/wsl/lib/libcuda.so.1", "libcuda.so.1.1")
    library(machine, "libnvidia-ml", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
    machine.write("/etc/ld.so.conf.d/ld.wsl.conf", "/usr/lib/wsl/lib\n")
    machine.device("dxg")
    machine.gpus = [geforce("RTX 4090", "8 9", "0x2684")]
    machine.environment["FAKE_COUNT"] = "1"


def two_drivers(machine: BuiltMachine) -> None:
    """The .run installer's libraries beside the package's."""
    for name in BOTH:
        library(machine, name, f"/usr/lib64/{name}.so.550.54.14")
        machine.link(f"/usr/lib64/{name}.so.1", f"{name}.so.550.54.14")


#: the wheels of CUDA 12's torch: a folder for each library
CUDA_12 = (
    ("cublas", ("libcublas.so.12", "libcublasLt.so.12")),
    ("cuda_runtime", ("libcudart.so.12",)),
    ("cuda_nvrtc", ("libnvrtc.so.12",)),
    ("cuda_cupti", ("libcupti.so.12",)),
    ("cufft", ("libcufft.so.11",)),
    ("curand", ("libcurand.so.10",)),
    ("cusolver", ("libcusolver.so.11",)),
    ("cusparse", ("libcusparse.so.12",)),
    ("nvjitlink", ("libnvJitLink.so.12",)),
    ("nccl", ("libnccl.so.2",)),
    ("nvtx", ("libnvToolsExt.so.1",)),
)
CUDNN_8_PARTS = ("adv_infer", "adv_train", "cnn_infer", "cnn_train", "ops_infer", "ops_train")


def torch_for_cuda_12(
    machine: BuiltMachine,
    version: str = "2.5.0",
    cuda: str = "12.4",
    *,
    cudnn: str = "9.1.0.70",
    companions: tuple[str, str] = ("0.20.0", "3.1.0"),
    architectures: str = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90",
) -> None:
    """Have a torch of 2023 to 2024, with RPATHs to one folder for each library."""
    machine.without_torch()
    tag = f"cu{cuda.replace('.', '')}"
    major = cudnn.partition(".")[0]
    needs = {
        "libcublas.so.12": ("libcublasLt.so.12",),
        "libcusparse.so.12": ("libnvJitLink.so.12",),
        "libcusolver.so.11": ("libcublas.so.12", "libcusparse.so.12"),
    }
    wheels = {}
    for folder, sonames in CUDA_12:
        files = [f"nvidia/{folder}/lib/{soname}" for soname in sonames]
        for file, soname in zip(files, sonames, strict=True):
            machine.elf(
                f"{SITE}/{file}",
                needed=needs.get(soname, ()),
                rpath="$ORIGIN/../../nvjitlink/lib:$ORIGIN/../../cublas/lib:$ORIGIN/../../cusparse/lib",
            )
        name = f"nvidia-{folder.replace('_', '-')}-cu12"
        wheels[name] = f"{cuda}.127"
        machine.wheel(SITE, name, wheels[name], files)
    parts = CUDNN_PARTS if major == "9" else CUDNN_8_PARTS
    machine.cudnn(
        f"{SITE}/nvidia/cudnn/lib",
        cudnn.rpartition(".")[0],
        versioned=False,
        parts=parts,
        cuda=12010,
    )
    wheels["nvidia-cudnn-cu12"] = cudnn
    stems = ("libcudnn", *(f"libcudnn_{part}" for part in parts))
    files = [f"nvidia/cudnn/lib/{stem}.so.{major}" for stem in stems]
    machine.wheel(SITE, "nvidia-cudnn-cu12", cudnn, files)
    folders = (*(folder for folder, _ in CUDA_12), "cudnn")
    rpath = ":".join([*(f"$ORIGIN/../../nvidia/{folder}/lib" for folder in folders), "$ORIGIN"])
    needs_all = tuple(name for _, brought in CUDA_12 for name in brought if "nvJit" not in name)
    lib = f"{SITE}/torch/lib"
    for name, needed in (
        ("libtorch_global_deps.so", needs_all),
        ("libc10.so", ()),
        ("libtorch_cpu.so", ("libc10.so",)),
        ("libtorch_cuda.so", (*needs_all, f"libcudnn.so.{major}", "libtorch_cpu.so")),
    ):
        machine.elf(f"{lib}/{name}", needed=needed, rpath=rpath)
    machine.elf(
        f"{lib}/libtorch_python.so",
        needed=("libtorch_cuda.so",),
        rpath=rpath,
        strings=f"\0{architectures}\0".encode(),
    )
    machine.elf(f"{SITE}/torch/_C.so", needed=("libtorch_python.so",), rpath="$ORIGIN/lib")
    machine.write(f"{SITE}/torch/__init__.py")
    machine.write(
        f"{SITE}/torch/version.py",
        f"__version__ = '{version}+{tag}'\ncuda = '{cuda}'\nhip = None\n",
    )
    vision, triton = companions
    wheels["triton"] = triton
    requires = "".join(f"Requires-Dist: {name}=={pin}\n" for name, pin in wheels.items())
    torch = ["torch/version.py", "torch/lib/libtorch_cuda.so"]
    machine.wheel(SITE, "torch", f"{version}+{tag}", torch, requires=requires)
    for name, pin in (("torchvision", f"{vision}+{tag}"), ("triton", triton)):
        machine.write(f"{SITE}/{name}/__init__.py")
        machine.wheel(SITE, name, pin, [f"{name}/__init__.py"])


CONDA = "/opt/conda/envs/ml"
CONDA_SITE = f"{CONDA}/lib/{PYTHON}/site-packages"
#: SONAME, and the version in the file's name, of what conda-forge's CUDA packages bring
CONDA_LIBRARIES = (
    ("libcublas.so.12", "12.6.4.1"),
    ("libcublasLt.so.12", "12.6.4.1"),
    ("libcudart.so.12", "12.6.77"),
    ("libcufft.so.11", "11.3.0.4"),
    ("libcusparse.so.12", "12.5.4.2"),
    ("libnccl.so.2", "2.23.4"),
)


def conda(machine: BuiltMachine, cuda: str | None = "12.6") -> None:
    """Have an active conda environment with conda's own torch and CUDA libraries."""
    without_toolkit(machine)
    machine.without_torch()
    base = Path(sys.executable).resolve()
    machine.link(f"{CONDA}/bin/python", str(base))
    version = ".".join(map(str, sys.version_info[:3]))
    # A whole Python is not built here: this file gives the link the environment's prefix.
    machine.write(f"{CONDA}/pyvenv.cfg", f"home = {base.parent}\nversion = {version}\n")
    sonames = [soname for soname, _ in CONDA_LIBRARIES]
    for soname, number in CONDA_LIBRARIES:
        file = f"{soname.partition('.so')[0]}.so.{number}"
        machine.elf(f"{CONDA}/lib/{file}", soname=soname, rpath="$ORIGIN")
        machine.link(f"{CONDA}/lib/{soname}", file)
    machine.cudnn(f"{CONDA}/lib", "9.5.1", versioned=True, parts=CUDNN_PARTS, cuda=12060)
    rpath = "$ORIGIN:$ORIGIN/../../../.."
    for name, needed in (
        ("libc10.so", ()),
        ("libtorch_cpu.so", ("libc10.so",)),
        ("libtorch_cuda.so", (*sonames, "libcudnn.so.9", "libtorch_cpu.so")),
    ):
        machine.elf(f"{CONDA_SITE}/torch/lib/{name}", needed=needed, rpath=rpath)
    machine.elf(
        f"{CONDA_SITE}/torch/lib/libtorch_python.so",
        needed=("libtorch_cuda.so",),
        rpath=rpath,
        strings=b"\0sm_75 sm_80 sm_86 sm_90\0",
    )
    machine.elf(f"{CONDA_SITE}/torch/_C.so", needed=("libtorch_python.so",), rpath="$ORIGIN/lib")
    machine.write(f"{CONDA_SITE}/torch/__init__.py")
    machine.write(
        f"{CONDA_SITE}/torch/version.py", f"__version__ = '2.5.1'\ncuda = {cuda!r}\nhip = None\n"
    )
    machine.wheel(CONDA_SITE, "torch", "2.5.1", ["torch/version.py"])
    machine.write(f"{CONDA_SITE}/torch-2.5.1.dist-info/INSTALLER", "conda\n")
    package = {"name": "pytorch", "version": "2.5.1", "build": "cuda126_py311_0", "files": []}
    machine.write(f"{CONDA}/conda-meta/pytorch-2.5.1-cuda126_py311_0.json", json.dumps(package))
    del machine.environment["VIRTUAL_ENV"]
    machine.environment |= {"CONDA_PREFIX": CONDA, "PATH": f"{CONDA}/bin:/usr/bin:/bin"}


# -------------------------------------------------------------------------------------- healthy


@healthy
def conda_with_its_own_torch_and_cuda(machine: BuiltMachine) -> None:
    conda(machine)


@healthy
def a_torch_that_bundles_its_libraries(machine: BuiltMachine) -> None:
    without_toolkit(machine)
    machine.without_torch()
    lib = f"{SITE}/torch/lib"
    runtime = "libcudart-d0da41ae.so.11.0"
    for name in (runtime, "libcublas.so.11", "libcublasLt.so.11", "libnvrtc-672ee683.so.11.2"):
        machine.elf(f"{lib}/{name}", rpath="$ORIGIN")
    machine.cudnn(lib, "8.7.0", versioned=False, parts=CUDNN_8_PARTS, cuda=11080)
    needed = ("libtorch_cpu.so", runtime, "libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8")
    machine.elf(f"{lib}/libtorch_cpu.so", rpath="$ORIGIN")
    machine.elf(f"{lib}/libtorch_cuda.so", needed=needed, rpath="$ORIGIN")
    machine.elf(
        f"{lib}/libtorch_python.so",
        needed=("libtorch_cuda.so",),
        rpath="$ORIGIN",
        strings=b"\0sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_37 sm_90\0",
    )
    machine.elf(f"{SITE}/torch/_C.so", needed=("libtorch_python.so",), rpath="$ORIGIN/lib")
    machine.write(f"{SITE}/torch/__init__.py")
    version = "__version__ = '2.1.0+cu118'\ncuda = '11.8'\nhip = None\n"
    machine.write(f"{SITE}/torch/version.py", version)
    machine.wheel(SITE, "torch", "2.1.0+cu118", ["torch/version.py", "torch/lib/libcudnn.so.8"])


@healthy
def a_desktop_whose_card_drives_the_screen(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    one_card(machine, geforce("RTX 4090", "8 9", "0x2684"), "0x2684")
    without_toolkit(machine)


@healthy
def wsl_2(machine: BuiltMachine) -> None:
    wsl(machine)


@healthy
def a_pod_with_one_gpu_of_its_nodes_two(machine: BuiltMachine) -> None:
    pod(machine)
    driver_from(machine, "/usr/local/nvidia/lib64", gpus=1)
    machine.environment["LD_LIBRARY_PATH"] = "/usr/local/nvidia/lib64"


@healthy
def a_container_by_cdi_which_sets_void(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "void"


@healthy
def apptainer_with_nv(machine: BuiltMachine) -> None:
    driver_from(machine, "/.singularity.d/libs")
    machine.environment["LD_LIBRARY_PATH"] = "/.singularity.d/libs"


@healthy
def nixos(machine: BuiltMachine) -> None:
    distribution(machine, "NixOS 24.11 (Vicuna)")
    driver_from(machine, "/run/opengl-driver/lib")
    machine.environment["LD_LIBRARY_PATH"] = "/run/opengl-driver/lib"


@healthy
def a_jetson(machine: BuiltMachine) -> None:
    machine.without_driver()
    machine.pci()
    without_toolkit(machine)
    machine.write("/etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n")
    library(machine, "libcuda", "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1.1")
    machine.link("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1", "libcuda.so.1.1")
    machine.write("/etc/ld.so.conf.d/tegra.conf", "/usr/lib/aarch64-linux-gnu/nvidia\n")
    machine.environment |= {"FAKE_COUNT": "1", "FAKE_VERSION": "12060"}
    torch_for_cuda_12(machine, architectures="sm_87")


@healthy
def a_driver_of_cuda_12_0_under_a_torch_of_12_4(machine: BuiltMachine) -> None:
    driver(machine, "525.147.05", 12000)
    machine.gpus = [a100_pcie(gsp="525.147.05"), a100_pcie(gsp="525.147.05")]
    for bus_id in BUS_IDS:
        machine.pci_device(bus_id, device="0x20b5")
    without_toolkit(machine)
    torch_for_cuda_12(machine)


@healthy
def a_torch_with_cudnn_8(machine: BuiltMachine) -> None:
    without_toolkit(machine)
    torch_for_cuda_12(machine, "2.3.0", "12.1", cudnn="8.9.2.26", companions=("0.18.0", "2.3.0"))


@healthy
def cuda_compat_on_a_data_centre_gpu(machine: BuiltMachine) -> None:
    driver(machine, "535.161.08", 12020)
    machine.gpus = [h200(gsp="535.161.08"), h200(gsp="535.161.08")]
    compat(machine, DRIVER)
    machine.environment["FAKE_VERSION"] = "13000"


@healthy
def two_gpus_cut_by_mig(machine: BuiltMachine) -> None:
    machine.gpus = [mig(), mig()]


@healthy
def a_slurm_job_with_one_gpu(machine: BuiltMachine) -> None:
    machine.environment |= {"CUDA_VISIBLE_DEVICES": "1", "SLURM_JOB_ID": "12", "FAKE_COUNT": "1"}


@healthy
def a_virtual_gpu(machine: BuiltMachine) -> None:
    machine.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor\n")
    refused = Error(3)
    machine.gpus = [
        a100_pcie(
            name="GRID A100-20C",
            ecc_mode=refused,
            pcie_replays=refused,
            temperature=refused,
            power_milliwatts=refused,
        )
    ]
    machine.pci(BUS_IDS[0])
    machine.kernel_module(kind="", gpus=BUS_IDS[:1])
    machine.device("nvidia1", there=False)
    machine.environment["FAKE_COUNT"] = "1"


@healthy
def an_old_card_for_the_screen_that_nouveau_drives(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.pci(BUS_IDS[0])
    machine.pci_device("0000:09:00.0", kind="0x030000", device="0x128b", driver="nouveau")
    machine.kernel_module(gpus=BUS_IDS[:1])
    machine.device("nvidia1", there=False)
    machine.environment["FAKE_COUNT"] = "1"


# --------------------------------------------------------------------------------------- broken


@broken("DRV002", fix="dnf install nvidia-open")
def no_driver_on_rhel(machine: BuiltMachine) -> None:
    distribution(machine, RHEL)
    machine.without_driver()


@broken("DRV002", fix="ubuntu-drivers install")
def no_driver_on_mint_where_nouveau_took_over(machine: BuiltMachine) -> None:
    distribution(machine, "Linux Mint 22")
    machine.without_driver()
    machine.pci(*BUS_IDS, driver="nouveau")


@broken("DRV003", fix=f"apt install linux-headers-{KERNEL}")
def a_new_kernel_without_headers_on_ubuntu(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    not_loaded(machine)
    machine.write(f"/var/lib/dkms/nvidia/{DRIVER}/6.8.0-45-generic/x86_64/module/nvidia.ko.zst")


@broken("DRV003", fix=f"dnf install kernel-devel-{KERNEL}")
def a_new_kernel_without_headers_on_rhel(machine: BuiltMachine) -> None:
    distribution(machine, RHEL)
    not_loaded(machine)
    machine.write(f"/var/lib/dkms/nvidia/{DRIVER}/5.14.0-427.el9/x86_64/module/nvidia.ko.xz")


@broken("DRV003", fix="akmods --force")
def a_new_kernel_without_a_module_on_fedora(machine: BuiltMachine) -> None:
    distribution(machine, FEDORA)
    not_loaded(machine)


@broken("DRV005", fix="mokutil --import /var/lib/shim-signed/mok/MOK.der")
def secure_boot_on_ubuntu(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    secure_boot(machine, "Loading of module with unavailable key is rejected")


@broken("DRV005", fix="mokutil --import /var/lib/dkms/mok.pub")
def secure_boot_on_rhel(machine: BuiltMachine) -> None:
    distribution(machine, RHEL)
    secure_boot(machine, "Loading of unsigned module is rejected")


@broken("DRV005", fix="mokutil --import /etc/pki/akmods/certs/public_key.der")
def secure_boot_on_fedora(machine: BuiltMachine) -> None:
    distribution(machine, FEDORA)
    secure_boot(machine, "Loading of unsigned module is rejected")


@broken("DRV006", fix="reboot")
def a_driver_updated_without_a_restart(machine: BuiltMachine) -> None:
    machine.kernel_module("570.86.15")
    machine.nvml_options["init_error"] = 18
    machine.environment["FAKE_CODE"] = "803"


@broken("DRV006", fix="dpkg -S /usr/lib64/libcuda.so.550.54.14")
def the_run_installers_libraries_win_over_the_packages(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    two_drivers(machine)
    machine.write("/etc/ld.so.conf.d/000-a.conf", "/usr/lib64\n")
    machine.nvml_options["init_error"] = 18
    machine.environment["FAKE_CODE"] = "803"


@broken("DRV011", fix="dpkg -S /usr/lib64/libcuda.so.550.54.14")
def the_run_installers_libraries_lie_beside_the_packages(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    two_drivers(machine)


@broken("DRV010", fix=f"dnf install nvidia-fabric-manager-{DRIVER}")
def no_fabric_manager_on_rhel(machine: BuiltMachine) -> None:
    distribution(machine, RHEL)
    for number in range(4):
        bus_id = f"0000:0{number + 1}:00.0"
        machine.pci_device(bus_id, kind="0x068000", device="0x22a3", driver="nvidia-nvswitch")
    machine.gpus = [h200(fabric="1 0 0 0"), h200(fabric="1 0 0 0")]
    machine.environment["FAKE_CODE"] = "802"


@broken("DRV012", fix="apt install nvidia-driver-580-open")
def blackwell_with_the_closed_module_on_ubuntu(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    one_card(machine, geforce("RTX 5090", "12 0", "0x2b85"), "0x2b85", kind="")
    machine.gpus = []
    machine.environment |= {"FAKE_CODE": "100", "FAKE_COUNT": "0"}
    machine.kernel_log("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x22:0x56:884)")


@broken("DRV012", fix="dnf module switch-to nvidia-driver:open-dkms")
def blackwell_with_the_closed_module_on_rhel(machine: BuiltMachine) -> None:
    blackwell_with_the_closed_module_on_ubuntu(machine)
    distribution(machine, RHEL)


@broken("TOR005", fix="/cu1")
def a_torch_of_2024_on_blackwell(machine: BuiltMachine) -> None:
    one_card(machine, geforce("RTX 5090", "12 0", "0x2b85"), "0x2b85")
    without_toolkit(machine)
    torch_for_cuda_12(machine)


@broken("TOR005", "CUD008", fix="/cu126")
def a_torch_of_cuda_13_on_volta(machine: BuiltMachine) -> None:
    volta = h200(name="Tesla V100-SXM2-32GB", compute_capability="7 0")
    machine.gpus = [volta, volta]


@broken("ENV016", fix="unset LD_LIBRARY_PATH")
def cuda_compat_on_a_geforce(machine: BuiltMachine) -> None:
    driver(machine, "535.161.08", 12020)
    one_card(machine, geforce("RTX 4090", "8 9", "0x2684"), "0x2684")
    compat(machine, DRIVER)
    machine.environment |= {"FAKE_CODE": "804", "FAKE_VERSION": "13000"}


@broken("ENV016", fix="unset LD_LIBRARY_PATH")
def cuda_compat_that_is_older_than_the_driver(machine: BuiltMachine) -> None:
    compat(machine, "535.161.08")
    machine.environment |= {"FAKE_CODE": "803", "FAKE_VERSION": "12020"}


@broken("HST005", fix="apt-get purge")
def a_linux_driver_inside_wsl(machine: BuiltMachine) -> None:
    wsl(machine)
    machine.write("/etc/ld.so.conf.d/000-a.conf", f"{MULTIARCH}\n")
    library(machine, "libcuda", f"{MULTIARCH}/libcuda.so.550.54.14")
    machine.link(f"{MULTIARCH}/libcuda.so.1", "libcuda.so.550.54.14")
    machine.environment["FAKE_CODE"] = "100"


@broken("HST005", fix="wsl.exe --update")
def wsl_without_windows_driver(machine: BuiltMachine) -> None:
    wsl(machine)
    machine.remove("/usr/lib/wsl")
    machine.device("dxg", there=False)


@broken("HST004", fix="nvidia.com/gpu: 1")
def a_pod_that_asked_for_no_gpu(machine: BuiltMachine) -> None:
    pod(machine)
    machine.without_driver()
    machine.kernel_module()
    machine.pci(*BUS_IDS)


@broken("DRV009", fix="/usr/local/nvidia/lib64${LD_LIBRARY_PATH:+")
def a_pod_whose_image_lost_its_library_path(machine: BuiltMachine) -> None:
    pod(machine)
    driver_from(machine, "/usr/local/nvidia/lib64")


@broken("DRV009", fix="/run/opengl-driver/lib${LD_LIBRARY_PATH:+")
def nixos_with_a_foreign_python(machine: BuiltMachine) -> None:
    distribution(machine, "NixOS 24.11 (Vicuna)")
    driver_from(machine, "/run/opengl-driver/lib")


@broken("DRV016", fix="Create the container again")
def a_container_that_lost_its_devices_to_a_daemon_reload(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    machine.nvml_options["init_error"] = 999
    machine.environment["FAKE_CODE"] = "304"


@broken("TOR002", fix="JetPack")
def a_cpu_torch_on_a_jetson(machine: BuiltMachine) -> None:
    a_jetson(machine)
    for path in sorted((machine.root / SITE.lstrip("/")).iterdir()):
        machine.remove(f"{SITE}/{path.name}")
    machine.write(
        f"{SITE}/torch/version.py", "__version__ = '2.9.0+cpu'\ncuda = None\nhip = None\n"
    )
    machine.write(f"{SITE}/torch/__init__.py")
    machine.wheel(SITE, "torch", "2.9.0+cpu", ["torch/version.py"])


@broken("TOR002", fix=f"conda install -p {CONDA}")
def a_cpu_torch_of_conda(machine: BuiltMachine) -> None:
    conda(machine, cuda=None)


@broken("DRV012", fix="apt install nvidia-driver-580")
def volta_under_a_driver_that_dropped_it(machine: BuiltMachine) -> None:
    distribution(machine, UBUNTU)
    driver(machine, "590.48.01", 13010)
    machine.pci()
    machine.pci_device(BUS_IDS[0], device="0x1db5")
    machine.kernel_module("590.48.01", gpus=BUS_IDS[:1])
    machine.device("nvidia1", there=False)
    machine.gpus = []
    machine.environment |= {"FAKE_CODE": "100", "FAKE_COUNT": "0"}


@broken("TOR004", fix="/cu118")
def a_driver_of_cuda_11_under_a_torch_of_12(machine: BuiltMachine) -> None:
    driver(machine, "470.256.02", 11040)
    one_card(machine, geforce("RTX 3090", "8 6", "0x2204"), "0x2204", kind="")
    without_toolkit(machine)
    torch_for_cuda_12(machine)


@broken("DRV006", fix="from the image")
def an_image_that_brings_its_own_driver(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    the_run_installers_libraries_win_over_the_packages(machine)


# ---------------------------------------------------------------------------------------- tests


def serious(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f["code"], f["subject"], f["saw"])
        for f in report["findings"]
        if f["severity"] != "info" and f["explained_by"] is None
    ]


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_it(name: str, machine: BuiltMachine):
    HEALTHY[name](machine)

    report = machine.doctor()

    assert not serious(report)
    assert report["verdict"] == "healthy"
    assert len(report["passed"]) > 35


@pytest.mark.parametrize("name", BROKEN)
def test_its_cause_comes_first_with_a_fix_for_this_very_machine(name: str, machine: BuiltMachine):
    first, roots, fix, make = BROKEN[name]
    make(machine)

    report = machine.doctor()

    found = serious(report)
    assert found, report["not_checked"]
    root = report["findings"][0]
    assert root["code"] == first, found
    assert {code for code, *_ in found} <= roots, found
    assert fix in "\n".join((root["fix"], *root["commands"]))

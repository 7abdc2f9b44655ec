"""Builds machines for the tests: whole file systems, entered in a private mount namespace.

    machine = BuiltMachine(tmp_path, layer)      a server with two H200s, healthy
    machine.remove("/dev/nvidia1")               one thing broken
    report = machine.doctor()                    the installed command, run there as a user runs it

Paths are the machine's own. `write`, `link`, `remove`, `elf`, `environment`, `devices`, `proc`,
`sys` and `nvml` are what there is to break.

It is long because a whole machine is built: its root, driver, torch and devices.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elf_files import elf
from fakes import cuda
from fakes.nvml import FakeGpu, FakeNvml, h200

from machines import BUS_IDS
from machines import CUDNN_PART_NAMES as CUDNN_PARTS

DRIVER = "580.159.04"
KERNEL = os.uname().release
MULTIARCH = f"/usr/lib/{os.uname().machine}-linux-gnu"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"/opt/venv/lib/{PYTHON}/site-packages"
TOOLKIT = "/usr/local/cuda-13.0"
TARGETS = f"{TOOLKIT}/targets/x86_64-linux/lib"

#: distribution, version, folder below nvidia/, and the SONAMEs that it brings
WHEELS = (
    ("nvidia-cublas", "13.1.0.3", "cu13", ("libcublas.so.13", "libcublasLt.so.13")),
    ("nvidia-cuda-runtime", "13.0.96", "cu13", ("libcudart.so.13",)),
    ("nvidia-cuda-nvrtc", "13.0.88", "cu13", ("libnvrtc.so.13",)),
    ("nvidia-cuda-cupti", "13.0.85", "cu13", ("libcupti.so.13",)),
    ("nvidia-cufft", "12.0.0.61", "cu13", ("libcufft.so.12",)),
    ("nvidia-curand", "10.4.0.35", "cu13", ("libcurand.so.10",)),
    ("nvidia-cusolver", "12.0.4.66", "cu13", ("libcusolver.so.12",)),
    ("nvidia-cusparse", "12.6.3.3", "cu13", ("libcusparse.so.12",)),
    ("nvidia-nvjitlink", "13.0.88", "cu13", ("libnvJitLink.so.13",)),
    ("nvidia-cufile", "1.15.1.6", "cu13", ("libcufile.so.0",)),
    ("nvidia-cusparselt-cu13", "0.8.0", "cusparselt", ("libcusparseLt.so.0",)),
    ("nvidia-nccl-cu13", "2.28.9", "nccl", ("libnccl.so.2",)),
    ("nvidia-nvshmem-cu13", "3.4.5", "nvshmem", ("libnvshmem_host.so.3",)),
)
#: what depends on what among NVIDIA's libraries; these carry RUNPATH $ORIGIN
NEEDS = {
    "libcublas.so.13": ("libcublasLt.so.13",),
    "libcusolver.so.12": ("libcublas.so.13", "libcublasLt.so.13", "libcusparse.so.12"),
    "libcusparse.so.12": ("libnvJitLink.so.13",),
}
TORCH_RPATH = ":".join(
    [f"$ORIGIN/../../nvidia/{part}/lib" for part in ("cudnn", "nvshmem", "nccl", "cusparselt")]
    + ["$ORIGIN/../../nvidia/cu13/lib", "$ORIGIN"]
)
DEVICE_CGROUPS = Path("/sys/fs/cgroup/devices")  # version 1's
DENIED_DEVICE = (1, 5)  # what stands in the place of a device that the cgroup refuses: /dev/zero
GPP_13 = "g++ (Debian 13.3.0-6) 13.3.0\nCopyright (C) 2023 Free Software Foundation, Inc."
ARCHITECTURES = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"


class Tree:
    """A folder that stands for a file system's root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, path: str) -> Path:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            place.unlink()
        return place

    def write(self, path: str, content: str | bytes = "", mode: int = 0o644) -> None:
        place = self.at(path)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(mode)

    def link(self, path: str, target: str) -> None:
        self.at(path).symlink_to(target)

    def folder(self, path: str, mode: int = 0o755) -> None:
        place = self.root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(mode)

    def elf(self, path: str, **options: Any) -> None:
        """Write a shared object whose SONAME is the file's name, unless another is given."""
        self.write(path, elf(**{"soname": path.rpartition("/")[2], **options}), mode=0o755)

    def compiled(self, path: str, source: str, *options: str) -> None:
        """Write what gcc makes of C *source*."""
        place = self.at(path)
        command = ["gcc", "-w", "-x", "c", "-", "-o", str(place), *options]
        subprocess.run(command, input=source, text=True, check=True)

    def program(self, path: str, output: str) -> None:
        """Write a program that prints *output*, whatever it is asked."""
        self.compiled(path, f"int puts(const char *); int main() {{ puts({json.dumps(output)}); }}")

    def wheel(self, site: str, name: str, version: str, files: Sequence[str], **more: str) -> None:
        """Write the dist-info of a wheel whose *files* (below *site*) are there already."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        requires = more.get("requires", "")
        self.write(
            f"{site}/{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}\n",
        )
        self.write(f"{site}/{info}/INSTALLER", "pip\n")
        rows = [
            f"{file},sha256=0,{(self.root / site.lstrip('/') / file).stat().st_size}"
            for file in files
        ]
        self.write(f"{site}/{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")

    def toolkit(self, home: str, version: str, *, max_gcc: int = 15) -> None:
        """Write a CUDA toolkit: nvcc, cudart, headers, version.json."""
        major, minor = version.split(".")[:2]
        release = f"{major}.{minor}"
        self.program(
            f"{home}/bin/nvcc",
            f"nvcc: NVIDIA (R) Cuda compiler driver\n"
            f"Cuda compilation tools, release {release}, V{version}",
        )
        self.write(f"{home}/version.json", json.dumps({"cuda": {"version": version}}))
        self.write(
            f"{home}/targets/x86_64-linux/include/cuda_runtime_api.h",
            f"#define CUDART_VERSION {int(major) * 1000 + int(minor) * 10}\n",
        )
        self.link(f"{home}/include", "targets/x86_64-linux/include")
        self.link(f"{home}/lib64", "targets/x86_64-linux/lib")
        self.write(
            f"{home}/targets/x86_64-linux/include/crt/host_config.h",
            f"#if __GNUC__ > {max_gcc}\n#error -- unsupported GNU version!\n#endif\n",
        )
        library = f"{home}/targets/x86_64-linux/lib"
        self.elf(f"{library}/libcudart.so.{version}", soname=f"libcudart.so.{major}")
        self.link(f"{library}/libcudart.so.{major}", f"libcudart.so.{version}")
        self.link(f"{library}/libcudart.so", f"libcudart.so.{major}")
        self.elf(f"{library}/stubs/libcuda.so", soname="libcuda.so.1")

    def cudnn(
        self, folder: str, version: str, *, versioned: bool, parts: Sequence[str], cuda: int = 13000
    ) -> None:
        """Write cuDNN's libraries, as files with the full version and links, or as wheels do."""
        soname = f"libcudnn.so.{version.split('.', maxsplit=1)[0]}"
        name = f"libcudnn.so.{version}" if versioned else soname
        number = sum(
            int(n) * weight
            for n, weight in zip(version.split(".")[:3], (10000, 100, 1), strict=True)
        )
        self.compiled(
            f"{folder}/{name}",
            f"unsigned long cudnnGetVersion(void) {{ return {number}; }}"
            f"unsigned long cudnnGetCudartVersion(void) {{ return {cuda}; }}",
            *("-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{soname}"),
            *("-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN"),
        )
        if versioned:
            self.link(f"{folder}/{soname}", name)
        for part in parts:
            stem = f"libcudnn_{part}"
            soname = f"{stem}.so.{version.split('.', maxsplit=1)[0]}"
            name = f"{stem}.so.{version}" if versioned else soname
            self.elf(f"{folder}/{name}", soname=soname, runpath="$ORIGIN")
            if versioned:
                self.link(f"{folder}/{soname}", name)

    def cudnn_header(self, path: str, version: str) -> None:
        major, minor, patch = version.split(".")[:3]
        self.write(
            path,
            f"#define CUDNN_MAJOR {major}\n#define CUDNN_MINOR {minor}\n"
            f"#define CUDNN_PATCHLEVEL {patch}\n",
        )


def build_layer(root: Path) -> None:
    """Write what every built machine has: driver libraries, toolkit, cuDNN, Python and torch."""
    tree = Tree(root)
    _driver_libraries(tree)
    tree.toolkit(TOOLKIT, "13.0.88")
    tree.link("/usr/local/cuda", "/etc/alternatives/cuda")
    tree.link("/etc/alternatives/cuda", TOOLKIT)
    tree.write("/etc/ld.so.conf.d/000-cuda.conf", f"{TARGETS}\n")
    tree.cudnn(MULTIARCH, "9.14.0", versioned=True, parts=CUDNN_PARTS)
    tree.cudnn_header(f"/usr/include/{os.uname().machine}-linux-gnu/cudnn_version.h", "9.14.0")
    _virtual_environment(tree)
    _torch(tree)
    tree.write("/home/user/.bashrc", "# nothing special\n")
    tree.program("/usr/bin/g++", GPP_13)
    tree.link("/usr/bin/gcc", "g++")


def _driver_libraries(tree: Tree) -> None:
    tree.folder(MULTIARCH)
    cuda.build(tree.at(f"{MULTIARCH}/libcuda.so.{DRIVER}"))
    tree.link(f"{MULTIARCH}/libcuda.so.1", f"libcuda.so.{DRIVER}")
    tree.link(f"{MULTIARCH}/libcuda.so", "libcuda.so.1")
    fake = tree.root.parent / "nvml"
    fake.mkdir()
    built = (FakeNvml(fake).library_directory / "libnvidia-ml.so.1").resolve()
    shutil.copy(built, tree.at(f"{MULTIARCH}/libnvidia-ml.so.{DRIVER}"))
    tree.link(f"{MULTIARCH}/libnvidia-ml.so.1", f"libnvidia-ml.so.{DRIVER}")


def _virtual_environment(tree: Tree) -> None:
    base = Path(os.path.realpath(sys.executable))
    tree.link("/opt/venv/bin/python3", str(base))
    tree.link("/opt/venv/bin/python", "python3")
    version = ".".join(map(str, sys.version_info[:3]))
    tree.write(
        "/opt/venv/pyvenv.cfg",
        f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {version}\n",
    )
    tree.folder(SITE)


def _torch(tree: Tree) -> None:
    for name, version, folder, sonames in WHEELS:
        files = [f"nvidia/{folder}/lib/{soname}" for soname in sonames]
        for file, soname in zip(files, sonames, strict=True):
            tree.elf(f"{SITE}/{file}", needed=NEEDS.get(soname, ()), runpath="$ORIGIN")
        tree.wheel(SITE, name, version, files)
    tree.cudnn(f"{SITE}/nvidia/cudnn/lib", "9.19.0", versioned=False, parts=CUDNN_PARTS)
    tree.cudnn_header(f"{SITE}/nvidia/cudnn/include/cudnn_version.h", "9.19.0")
    cudnn = ["nvidia/cudnn/lib/libcudnn.so.9", "nvidia/cudnn/include/cudnn_version.h"]
    cudnn += [f"nvidia/cudnn/lib/libcudnn_{part}.so.9" for part in CUDNN_PARTS]
    tree.wheel(SITE, "nvidia-cudnn-cu13", "9.19.0.56", cudnn)
    named = [soname for *_, brought in WHEELS for soname in brought if "nvJit" not in soname]
    library = f"{SITE}/torch/lib"
    tree.elf(
        f"{library}/libtorch_global_deps.so",
        needed=[s for s in named if "nvshmem" not in s],
        rpath=TORCH_RPATH,
    )
    tree.elf(f"{library}/libc10.so", rpath="$ORIGIN")
    tree.elf(
        f"{library}/libc10_cuda.so", needed=("libc10.so", "libcudart.so.13"), rpath=TORCH_RPATH
    )
    tree.elf(f"{library}/libtorch_cpu.so", needed=("libc10.so",), rpath=TORCH_RPATH)
    tree.elf(
        f"{library}/libtorch_cuda.so",
        needed=(*named, "libcudnn.so.9", "libc10_cuda.so", "libtorch_cpu.so"),
        rpath=TORCH_RPATH,
    )
    tree.elf(
        f"{library}/libtorch_python.so",
        needed=("libtorch_cuda.so",),
        rpath=TORCH_RPATH,
        strings=f"\0{ARCHITECTURES}\0".encode(),
    )
    extension = f"_C.cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu.so"
    tree.elf(f"{SITE}/torch/{extension}", needed=("libtorch_python.so",), rpath="$ORIGIN/lib")
    tree.write(f"{SITE}/torch/__init__.py", "raise ImportError('no real torch stands here')\n")
    tree.write(
        f"{SITE}/torch/version.py",
        "__version__ = '2.11.0+cu130'\ndebug = False\ncuda = '13.0'\ngit_version = '0'\n"
        "hip = None\nxpu = None\n",
    )
    needed = "".join(
        f"Requires-Dist: {name}=={version}; platform_system == 'Linux'\n"
        for name, version in (
            *((name, version) for name, version, *_ in WHEELS),
            ("nvidia-cudnn-cu13", "9.19.0.56"),
            ("triton", "3.6.0"),
        )
    )
    files = ["torch/version.py", "torch/lib/libtorch_cuda.so"]
    tree.wheel(SITE, "torch", "2.11.0+cu130", files, requires=needed)
    for name, version in (("torchvision", "0.26.0"), ("triton", "3.6.0")):
        tree.write(f"{SITE}/{name}/__init__.py")
        tree.wheel(SITE, name, version, [f"{name}/__init__.py"])


@dataclass
class BuiltMachine(Tree):
    """A machine for one test. It begins as a healthy server with two H200s."""

    place: Path
    layer: Path
    environment: dict[str, str] = field(default_factory=dict)
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    shm_bytes: int = 8 << 30
    uid: int = 0
    groups: tuple[int, ...] = ()
    read_only: bool = False
    cwd: str = "/home/user"
    gpus: list[FakeGpu] = field(default_factory=lambda: [h200(), h200()])
    nvml_options: dict[str, Any] = field(default_factory=dict)
    denied: tuple[str, ...] = ()  # devices that a real device cgroup refuses
    mounted: list[str] = field(default_factory=list)  # files that a container's runtime mounts

    def __post_init__(self) -> None:
        super().__init__(self.place / "own")
        for name in ("own", "root", "work", "driver", "proc", "sys", "dev"):
            (self.place / name).mkdir(parents=True)
        for path in sorted(Path("/usr/local").glob("cuda*")):
            if not os.path.lexists(self.layer / str(path).lstrip("/")):
                self.remove(str(path))
        for name in ("/.dockerenv", "/run/.containerenv", "/opt/cuda"):
            if os.path.lexists(name):
                self.remove(name)
        self.environment = {
            "PATH": "/opt/venv/bin:/usr/local/cuda/bin:/usr/bin:/bin",
            "HOME": "/home/user",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "VIRTUAL_ENV": "/opt/venv",
            "CUDA_HOME": "/usr/local/cuda",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.kernel_module()
        self.pci(*BUS_IDS)
        for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidia1"):
            self.device(name)
        self.proc("cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1 iommu=pt\n")
        self.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 avx2\n")
        self.proc("1/cgroup", "0::/init.scope\n")
        self.proc("1/environ", "")
        self.proc("version", f"Linux version {KERNEL} (built@host) (gcc 13) #1 SMP\n")
        self.kernel_log()

    # ------------------------------------------------------------------------- what to change

    def at(self, path: str) -> Path:
        """Return the place of *path*; a folder that was removed comes back empty."""
        place = self.root
        for part in path.strip("/").split("/")[:-1]:
            place /= part
            if place.exists() and stat.S_ISCHR(place.lstat().st_mode):
                place.unlink()
                place.mkdir()
                os.setxattr(place, "trusted.overlay.opaque", b"y")
        return super().at(path)

    def ordinary_user(self, uid: int = 1234) -> None:
        """Run what follows as a user who is not root, and who can reach gpucheck's own Python."""
        self.uid = uid
        self.groups = (uid,)
        for start in (sys.executable, os.path.realpath(sys.executable), __file__, str(self.place)):
            for folder in Path(start).parents:
                if folder != Path("/") and folder.stat().st_mode & 0o005 != 0o005:
                    self.folder(str(folder), mode=0o755)

    def remove(self, path: str) -> None:
        """Hide *path* of the layers below: a whiteout, as overlay file systems write it."""
        place = self.at(path)
        if place.is_dir():
            shutil.rmtree(place)
        os.mknod(place, stat.S_IFCHR, 0)

    def proc(self, path: str, text: str) -> None:
        place = self.place / "proc" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", errors="surrogateescape")

    def sys(self, path: str, text: str) -> None:
        place = self.place / "sys" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def device(
        self, name: str, *, mode: int = 0o666, there: bool = True, openable: bool = True
    ) -> None:
        self.devices.pop(name, None)
        if there:
            self.devices[name] = {"mode": mode, "openable": openable}

    def kernel_module(
        self,
        version: str | None = DRIVER,
        kind: str = "Open Kernel",
        gpus: Sequence[str] = BUS_IDS,
    ) -> None:
        """Load the kernel module in *version* for *gpus*; None unloads it."""
        driver = self.place / "driver"
        for place in (driver / "nvidia", self.place / "sys/module/nvidia"):
            shutil.rmtree(place, ignore_errors=True)
        self.proc("modules", "ext4 1 0 - Live 0x0\n")
        if version is None:
            return
        self.proc("modules", "nvidia_uvm 1 0 - Live 0x0 (O)\nnvidia 1 1 - Live 0x0 (O)\n")
        self.sys("module/nvidia/version", f"{version}\n")
        self.sys("module/nvidia_uvm/refcnt", "0\n")
        (driver / "nvidia/gpus").mkdir(parents=True)
        kind = f"UNIX {kind} Module" if kind else "UNIX x86_64 Kernel Module"
        (driver / "nvidia/version").write_text(
            f"NVRM version: NVIDIA {kind} for x86_64  {version}  Release Build  (built@host)\n"
            "GCC version:  gcc version 13.3.0\n"
        )
        self.parameters()
        for minor, bus_id in enumerate(gpus):
            information = driver / "nvidia/gpus" / bus_id / "information"
            information.parent.mkdir(parents=True)
            information.write_text(
                f"Model: \t\t NVIDIA H200\nBus Location: \t {bus_id}\nDevice Minor: \t {minor}\n"
            )

    def parameters(self, excluded: str = "") -> None:
        text = f'ModifyDeviceFiles: 1\nGpuBlacklist: ""\nExcludedGpus: "{excluded}"\n'
        (self.place / "driver/nvidia/params").write_text(text)

    def pci(self, *bus_ids: str, driver: str | None = "nvidia", kind: str = "0x030200") -> None:
        """Put GPUs, and nothing else, on the PCI bus."""
        devices = self.place / "sys/bus/pci/devices"
        shutil.rmtree(devices, ignore_errors=True)
        devices.mkdir(parents=True)
        for bus_id in bus_ids:
            self.pci_device(bus_id, driver=driver, kind=kind)

    def pci_device(
        self,
        bus_id: str,
        *,
        driver: str | None = "nvidia",
        kind: str = "0x030200",
        device: str = "0x2335",
    ) -> None:
        at = f"bus/pci/devices/{bus_id}"
        shutil.rmtree(self.place / "sys" / at, ignore_errors=True)
        for name, text in (
            ("vendor", "0x10de"),
            ("device", device),
            ("class", kind),
            ("numa_node", "-1"),
            ("current_link_width", "16"),
            ("max_link_width", "16"),
            ("max_link_speed", "32.0 GT/s PCIe"),
        ):
            self.sys(f"{at}/{name}", f"{text}\n")
        if driver is not None:
            (self.place / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
            (self.place / "sys" / at / "driver").symlink_to(f"../../drivers/{driver}")

    def kernel_log(self, *lines: str) -> None:
        text = "".join(f"6,{n},{n * 1000000},-;{line}\n" for n, line in enumerate(lines, 1))
        (self.place / "dev/kmsg").write_text(text or "6,1,1000,-;Linux version\n")

    def without_gpus(self) -> None:
        """Take out every GPU, and with it what the driver would make."""
        self.pci()
        self.kernel_module(None)
        self.devices.clear()

    def without_driver(self) -> None:
        """Take away the module, the device files and the libraries."""
        self.kernel_module(None)
        self.pci(*BUS_IDS, driver=None)
        self.devices.clear()
        for name in ("libcuda", "libnvidia-ml"):
            for ending in (".so", ".so.1", f".so.{DRIVER}"):
                if (self.layer / f"{MULTIARCH}/{name}{ending}".lstrip("/")).is_symlink() or (
                    self.layer / f"{MULTIARCH}/{name}{ending}".lstrip("/")
                ).exists():
                    self.remove(f"{MULTIARCH}/{name}{ending}")

    def without_torch(self) -> None:
        """Take torch and its wheels out of the virtual environment."""
        for path in sorted((self.layer / SITE.lstrip("/")).iterdir()):
            self.remove(f"{SITE}/{path.name}")

    # ------------------------------------------------------------------------------ what to run

    def run(
        self, *arguments: str, timeout: float = 60.0, refresh_cache: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `gpucheck ARGUMENTS` there."""
        reported = Path(tempfile.mkdtemp(dir=self.place))
        reported.chmod(0o755)
        fake = FakeNvml(reported, self.gpus, installed=False, **self.nvml_options)
        command = [sys.executable, "-m", "gpucheck", *arguments]
        if refresh_cache:
            command = ["/bin/sh", "-c", '/sbin/ldconfig 2>/dev/null; exec "$@"', "sh", *command]
        return self.execute(command, {"FAKE_NVML": str(fake.reported)}, timeout)

    def execute(
        self, command: list[str], variables: dict[str, str], timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        cgroup = self._device_cgroup()
        order = {
            "place": str(self.place),
            "layer": str(self.layer),
            "devices": self.devices,
            "mounted": self.mounted,
            "denied": list(self.denied),
            "device_cgroup": cgroup,
            "shm_bytes": self.shm_bytes,
            "uid": self.uid,
            "groups": list(self.groups),
            "read_only": self.read_only,
            "cwd": self.cwd,
            "command": command,
            "environment": {**self.environment, **variables},
        }
        try:
            return subprocess.run(
                ["unshare", "-m", sys.executable, Path(__file__).with_name("enter.py")],
                input=json.dumps(order),
                capture_output=True,
                text=True,
                timeout=timeout,
                errors="surrogateescape",
            )
        finally:
            if cgroup:
                Path(cgroup).rmdir()

    def _device_cgroup(self) -> str:
        """Make a device cgroup that refuses what stands for the denied devices."""
        if not self.denied:
            return ""
        group = DEVICE_CGROUPS / f"gpucheck-{os.getpid()}"
        group.mkdir()
        (group / "devices.deny").write_text("c {}:{} rwm".format(*DENIED_DEVICE))
        return str(group)

    def doctor(self, *arguments: str, timeout: float = 60.0) -> dict[str, Any]:
        """Return the doctor's report, as its JSON says it."""
        ended = self.run("doctor", "--json", "--identify", *arguments, timeout=timeout)
        assert ended.returncode in (0, 1), ended.stderr
        assert not ended.stderr, ended.stderr
        report: dict[str, Any] = json.loads(ended.stdout)
        return report

"""The facts of one machine: frozen, typed, JSON in and out.

A fact is in one of four states, and every rule has to tell them apart:

- a value: somebody looked and saw it;
- `None`: somebody looked and it is not there (a variable that is unset, a link that dangles);
- `Unknown(why)`: nobody could tell, and `why` says why;
- `NotSupported()`: this hardware or driver has no such thing (only where `Reading` says so).

Every field of every section starts as `NOT_EXAMINED`, so a probe that never ran, a snapshot from
an older gpucheck, and an empty file all read as "unknown", and never as "healthy".

One file, though a long one: whoever looks for a fact finds all of them in one place.
"""

import errno
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, overload

import msgspec

SCHEMA = "gpucheck.snapshot/1"


class Fact(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=str.lower
):
    """Base of everything in a snapshot: frozen, keyword-only, defaults left out of the JSON."""


#: Why a question has no answer: it was left out on purpose, it may not be read, or nothing came.
Silence = Literal["by design", "no permission", "no answer"]


class Unknown(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="unknown"):
    """We could not tell. *why* is a sentence fragment for people: "permission denied"."""

    why: str
    kind: Silence = "no answer"  # which kind of reason


class NotSupported(msgspec.Struct, frozen=True, tag_field="type", tag="not supported"):
    """This hardware, or its driver, has no such thing: neither a pass nor a fault."""


#: Nobody looked: an older gpucheck collected it, or this part was not asked for.
NOT_EXAMINED = Unknown("not examined", "by design")
NOT_SUPPORTED = NotSupported()


def unread(what: object, error: OSError) -> Unknown:
    """Return the fact that *what* could not be read, and whether that was for want of a right."""
    is_forbidden = error.errno in (errno.EACCES, errno.EPERM)
    why = error.strerror or str(error)
    return Unknown(
        f"{what}: {why}" if what else why, "no permission" if is_forbidden else "no answer"
    )


T = TypeVar("T")
Known = Union[T, Unknown]  # noqa: UP007 - a generic alias needs Union before Python 3.14
Maybe = Union[T, None, Unknown]  # noqa: UP007
Reading = Union[T, Unknown, NotSupported]  # noqa: UP007


@overload
def value(fact: "Unknown | NotSupported | None") -> None: ...
@overload
def value(fact: "T | Unknown | NotSupported | None") -> "T | None": ...
def value(fact: object) -> object:
    """Return *fact* where it is known and there, else None."""
    return None if isinstance(fact, (Unknown, NotSupported)) else fact


# ---------------------------------------------------------------------------------------- host


class PciPort(Fact, frozen=True, kw_only=True):
    """The PCI Express errors that a device counted since it was found (AER); None: no counter."""

    bus_id: str  # "0000:00:01.0"
    aer_correctable: Maybe[int] = NOT_EXAMINED  # errors that the link corrected by itself
    aer_nonfatal: Maybe[int] = NOT_EXAMINED  # a transfer was lost
    aer_fatal: Maybe[int] = NOT_EXAMINED  # the link was lost


class PciGpu(Fact, frozen=True, kw_only=True):
    """An NVIDIA GPU as the PCI bus shows it (class 0x0300 or 0x0302, vendor 0x10de)."""

    bus_id: str  # "0000:00:06.0"
    device_id: str = ""  # "0x2335"
    driver: Maybe[str] = None  # the kernel driver bound to it: "nvidia", "nouveau", "vfio-pci"
    numa_node: Maybe[int] = NOT_EXAMINED  # None: the platform does not say (-1)
    slot_max_width: Maybe[int] = NOT_EXAMINED  # lanes of that port
    #: bridges above it whose ACS request redirect is on, nearest first
    acs_redirecting_bridges: Known[tuple[str, ...]] = NOT_EXAMINED
    unassigned_bars: Known[tuple[int, ...]] = NOT_EXAMINED  # of BAR 0 and 1: those without address
    power_state: Maybe[str] = NOT_EXAMINED  # "D0", "D3cold"
    aer: Known[PciPort] = NOT_EXAMINED  # its own counters
    bridges: Known[tuple[PciPort, ...]] = NOT_EXAMINED  # above it, nearest first


class RdmaPort(Fact, frozen=True, kw_only=True):
    """A port of an RDMA adapter."""

    number: int
    state: Maybe[str] = NOT_EXAMINED  # "ACTIVE", "DOWN", "INIT"
    rate: Maybe[str] = NOT_EXAMINED  # "400 Gb/sec (4X NDR)"
    link_layer: Maybe[str] = NOT_EXAMINED  # "InfiniBand", "Ethernet"


class RdmaDevice(Fact, frozen=True, kw_only=True):
    """An RDMA adapter as the kernel shows it in /sys/class/infiniband."""

    name: str  # "mlx5_0"
    firmware: Maybe[str] = NOT_EXAMINED  # "28.39.3004"
    board: Maybe[str] = NOT_EXAMINED  # board_id: "MT_0000000838"
    ports: Known[tuple[RdmaPort, ...]] = NOT_EXAMINED


class Platform(Fact, frozen=True, kw_only=True):
    """What a machine is built of, as its firmware and kernel say; None: they do not."""

    vendor: Maybe[str] = NOT_EXAMINED  # "Supermicro"
    product: Maybe[str] = NOT_EXAMINED  # "SYS-821GE-TNHR"
    board: Maybe[str] = NOT_EXAMINED
    bios_version: Maybe[str] = NOT_EXAMINED
    cpu_model: Maybe[str] = NOT_EXAMINED
    microcode: Maybe[str] = NOT_EXAMINED  # "0x2b000603"
    cpu_governor: Maybe[str] = NOT_EXAMINED  # None: the kernel does not set the CPUs' clocks
    transparent_hugepages: Maybe[str] = NOT_EXAMINED  # "always", "madvise", "never"
    numa_nodes: Maybe[int] = NOT_EXAMINED


class Host(Fact, frozen=True, kw_only=True):
    """The operating system, and what surrounds it."""

    system: Known[str] = NOT_EXAMINED  # "Linux", "Darwin", "Windows"
    distribution: Maybe[str] = NOT_EXAMINED  # PRETTY_NAME of os-release
    kernel_release: Known[str] = NOT_EXAMINED  # uname -r
    machine: Known[str] = NOT_EXAMINED  # uname -m: "x86_64", "aarch64"
    name: Maybe[str] = NOT_EXAMINED  # host name; a token unless --identify
    is_wsl: Known[bool] = NOT_EXAMINED  # this is WSL 2
    tegra: Maybe[str] = NOT_EXAMINED  # the model of a Jetson or other Tegra, else None
    container: Maybe[str] = NOT_EXAMINED  # "docker", "podman", "kubernetes", "apptainer", ...
    hypervisor: Maybe[str] = NOT_EXAMINED  # None: bare metal
    is_root: Known[bool] = NOT_EXAMINED  # this process runs as root
    groups: Known[tuple[str, ...]] = NOT_EXAMINED  # of this process
    has_sudo: Known[bool] = NOT_EXAMINED  # sudo is here, and a group of this user may use it
    programs: Known[tuple[str, ...]] = NOT_EXAMINED  # of those that remedies name: what is here
    other_users: Known[int] = NOT_EXAMINED  # people, besides this one, who have processes
    shm_bytes: Maybe[int] = NOT_EXAMINED  # size of /dev/shm; None: not mounted
    locked_memory_limit_bytes: Maybe[int] = NOT_EXAMINED  # None: unlimited
    memory_bytes: Known[int] = NOT_EXAMINED
    cpus_usable: Known[int] = NOT_EXAMINED  # affinity and cgroup quota, rounded up
    cpus_present: Known[int] = NOT_EXAMINED  # online, whoever may use them
    rdma_devices: Known[tuple[str, ...]] = NOT_EXAMINED  # /sys/class/infiniband
    rdma: Known[tuple[RdmaDevice, ...]] = NOT_EXAMINED  # the same, with firmware and ports
    #: those of them that are no network, but manage NVSwitches (VPD "SW_MNG")
    switch_managers: Known[tuple[str, ...]] = NOT_EXAMINED
    #: how the kernel translates devices' addresses
    iommu: Known[Literal["off", "passthrough", "translating"]] = NOT_EXAMINED
    secure_boot: Maybe[bool] = NOT_EXAMINED  # None: no EFI
    lockdown: Maybe[str] = NOT_EXAMINED  # "none", "integrity", "confidentiality"; None: no such LSM
    signatures_enforced: Known[bool] = NOT_EXAMINED  # module.sig_enforce
    is_laptop: Known[bool] = NOT_EXAMINED  # by the firmware's chassis type
    pci_gpus: Known[tuple[PciGpu, ...]] = NOT_EXAMINED
    platform: Platform = Platform()
    nvswitches: Known[int] = NOT_EXAMINED  # NVIDIA bridges (class 0x0680) on the bus


# --------------------------------------------------------------------------------- environment


class PathEntry(Fact, frozen=True, kw_only=True):
    """One element of PATH or LD_LIBRARY_PATH, in order; `text` is as written, "" if empty."""

    text: str
    resolved: Maybe[str] = NOT_EXAMINED  # None: does not exist
    is_world_writable: Known[bool] = NOT_EXAMINED  # the directory or a parent others may swap
    toolkit: Maybe[str] = NOT_EXAMINED  # resolved home of the CUDA toolkit it is part of
    toolkit_version: Maybe[str] = NOT_EXAMINED  # "13.0"
    has_nvcc: Known[bool] = NOT_EXAMINED  # an nvcc lies in it
    stubs: tuple[str, ...] = ()  # link-time stubs in it: "libcuda.so", "libnvidia-ml.so"
    compat_libcuda: Maybe[str] = None  # driver version of a forward-compatibility libcuda in it
    #: where it does not exist: the directories that a wrong separator, or none, joined into it
    joined: tuple[str, ...] = ()


class HomeVariable(Fact, frozen=True, kw_only=True):
    """CUDA_HOME, CUDA_PATH or CUDA_ROOT."""

    value: str  # as set
    resolved: Maybe[str] = NOT_EXAMINED  # links followed; None: nothing there
    has_nvcc: Known[bool] = NOT_EXAMINED  # bin/nvcc is there
    has_cudart: Known[bool] = NOT_EXAMINED  # a libcudart.so is there
    toolkit_version: Maybe[str] = NOT_EXAMINED  # "13.0"


class PreloadEntry(Fact, frozen=True, kw_only=True):
    """One element of LD_PRELOAD."""

    text: str  # as written
    resolved: Maybe[str] = NOT_EXAMINED  # None: does not exist


class Variable(Fact, frozen=True, kw_only=True):
    """An environment variable that is set."""

    name: str
    value: str


class VariableSource(Fact, frozen=True, kw_only=True):
    """Who sets an environment variable, where that is no shell start-up file."""

    variable: str  # its name
    kind: Literal["conda script", "conda state", "module", "container"]
    path: str = ""  # the script, conda-meta/state, or the modulefile
    line: int | None = None  # from 1, in that file
    module: str = ""  # the loaded module's name: "cuda/12.4"


class SelectedFile(Fact, frozen=True, kw_only=True):
    """A file or folder that a variable makes a program use."""

    variable: str  # its name
    value: str  # the path as the variable gives it, or what the program makes of the value
    exists: Known[bool] = NOT_EXAMINED  # the path is there


class Environment(Fact, frozen=True, kw_only=True):
    """The environment variables on the probe's list, and where they lead."""

    variables: Known[tuple[Variable, ...]] = NOT_EXAMINED  # only those that are set
    sources: Known[tuple[VariableSource, ...]] = NOT_EXAMINED
    selected_files: Known[tuple[SelectedFile, ...]] = NOT_EXAMINED
    session: Maybe[Literal["sudo", "cron", "systemd"]] = NOT_EXAMINED  # None: a shell's own
    shell: Maybe[str] = NOT_EXAMINED  # "bash", "zsh", ...: the login or calling shell
    cuda_home: Maybe[HomeVariable] = NOT_EXAMINED  # None: unset
    cuda_path: Maybe[HomeVariable] = NOT_EXAMINED
    cuda_root: Maybe[HomeVariable] = NOT_EXAMINED
    path: Maybe[tuple[PathEntry, ...]] = NOT_EXAMINED  # None: unset
    ld_library_path: Maybe[tuple[PathEntry, ...]] = NOT_EXAMINED  # None: unset or wholly empty
    ld_preload: Maybe[tuple[PreloadEntry, ...]] = NOT_EXAMINED

    def variable(self, name: str) -> "Maybe[str]":
        """Return the value of the variable *name*, None where it is unset."""
        if isinstance(self.variables, Unknown):
            return self.variables
        for variable in self.variables:
            if variable.name == name:
                return variable.value
        return None


#: `StartupSetting.mangled` of a line as Windows writes it: the shell takes its end for the value's.
CARRIAGE_RETURN = "it ends in a carriage return, as Windows writes it, which goes into the value"


class StartupSetting(Fact, frozen=True, kw_only=True):
    """A line of a start-up file that sets CUDA_HOME, PATH or LD_LIBRARY_PATH, or tries to."""

    line: int  # from 1
    variable: str  # its name
    text: str  # the line as written
    value: Maybe[str] = NOT_EXAMINED  # what it gives in the shell, as far as plain reading tells
    mangled: Maybe[str] = None  # what is wrong with the syntax, in a few words
    appends_to_itself: bool = False  # CUDA_HOME=$CUDA_HOME:...
    unguarded: bool = False  # ...:$LD_LIBRARY_PATH without ${LD_LIBRARY_PATH:+...}
    after_early_exit: bool = False  # behind the line that ends the file for non-interactive shells
    is_conditional: bool = False  # inside an if, a function, behind &&: it may never run


class OwnBlock(Fact, frozen=True, kw_only=True):
    """The block that `gpucheck env install` wrote into a start-up file."""

    line: int  # of its first line, from 1
    last_line: int  # from 1
    cuda_home: Maybe[str] = None  # the toolkit that it names; None: it cannot be read
    exists: Known[bool] = NOT_EXAMINED  # whether that toolkit is there


class VariableLine(Fact, frozen=True, kw_only=True):
    """A line of a start-up file that sets another listed variable."""

    variable: str  # its name
    line: int  # from 1


class StartupFile(Fact, frozen=True, kw_only=True):
    """A shell start-up file that exists."""

    path: str  # as the shell opens it
    settings: Known[tuple[StartupSetting, ...]] = NOT_EXAMINED
    sources: tuple[str, ...] = ()  # files that it reads in turn
    early_exit_line: Maybe[int] = None  # from 1; None: non-interactive shells read it to its end
    block: OwnBlock | None = None
    others: tuple[VariableLine, ...] = ()  # lines that set further variables on the list


class StartupFiles(Fact, frozen=True, kw_only=True):
    """The shell start-up files of this user and of the system."""

    files: Known[tuple[StartupFile, ...]] = NOT_EXAMINED
    #: under sudo: those of the user who called it; None: not under sudo
    invoking_user: Maybe[tuple[StartupFile, ...]] = NOT_EXAMINED


# -------------------------------------------------------------------------------------- driver


class DriverLibrary(Fact, frozen=True, kw_only=True):
    """A copy of libcuda.so.1 or libnvidia-ml.so.1 that somebody may load."""

    soname: str  # "libcuda.so.1"
    path: str  # where it was found
    real_path: str = ""  # links followed
    version: Maybe[str] = NOT_EXAMINED  # "580.159.04"
    is_stub: Known[bool] = NOT_EXAMINED  # made for linking, and cannot run
    is_compat: bool = False  # from a cuda-compat package, whatever name it goes by here
    is_mounted: Known[bool] = NOT_EXAMINED  # a mount of its own: brought into this container
    package: Maybe[str] = NOT_EXAMINED  # that owns the file (dpkg); asked only for strays
    found_via: str = ""  # "LD_LIBRARY_PATH", "ld.so.cache", "default directory", "WSL"
    is_selected: bool = False  # the loader takes this one


class DeviceNode(Fact, frozen=True, kw_only=True):
    """A device file that the driver needs."""

    path: str
    exists: bool = False
    mode: Maybe[str] = None  # "crw-rw----"
    group: Maybe[str] = None  # that owns it
    can_open: Maybe[bool] = None  # by this user, for reading and writing; None where it is missing
    error: Maybe[str] = None  # the system's message where it cannot be opened
    bus_id: str = ""  # of the GPU, for /dev/nvidiaN; "": the driver does not say
    #: the file's permissions would allow it: what refuses is the device cgroup
    is_denied_by_cgroup: bool = False


class CudaInit(Fact, frozen=True, kw_only=True):
    """What `cuInit(0)` answered, in a child process that opened libcuda.so.1."""

    library: Maybe[str] = None  # the path that was mapped; None: libcuda.so.1 did not load
    load_error: Maybe[str] = None  # the loader's message
    code: Maybe[int] = None  # CUresult; 0 is success
    driver_version: Maybe[str] = None  # cuDriverGetVersion: "13.0"
    device_count: Maybe[int] = None  # cuDeviceGetCount
    error: Maybe[str] = None  # a call that hung or crashed: "no answer in 5 s to cuInit"


class FabricManager(Fact, frozen=True, kw_only=True):
    """nvidia-fabricmanager (or nvlsm's service), which NVSwitch systems need."""

    is_running: Known[bool] = NOT_EXAMINED
    version: Maybe[str] = NOT_EXAMINED  # of its package or program


class ModuleBlock(Fact, frozen=True, kw_only=True):
    """A line that keeps nvidia.ko from being loaded."""

    path: str  # "/usr/lib/modprobe.d/blacklist-nvidia.conf", "/proc/cmdline"
    text: str  # "blacklist nvidia"
    is_total: bool = False  # modprobe by name is refused too; a blacklist stops the automatic load


class DkmsFailure(Fact, frozen=True, kw_only=True):
    """A build of the driver's module for the running kernel that DKMS did not finish."""

    log: str  # path of make.log
    error: str  # its first line that says "error"
    kernel_compiler: Maybe[str] = NOT_EXAMINED  # that the kernel was built with: "gcc-12 12.3.0"
    compiler: Maybe[str] = NOT_EXAMINED  # that the build used: "cc 11.4.0"


class Driver(Fact, frozen=True, kw_only=True):
    """The kernel modules, the user-mode libraries and the device nodes."""

    module_version: Maybe[str] = NOT_EXAMINED  # of the loaded nvidia.ko; None: not loaded
    module_kind: Maybe[Literal["open", "closed"]] = NOT_EXAMINED  # None: not loaded
    loaded_modules: Known[tuple[str, ...]] = NOT_EXAMINED  # those that GPUs and their links need
    excluded_gpus: Known[tuple[str, ...]] = NOT_EXAMINED  # bus ids or UUIDs, by module parameter
    proc_gpus: Known[tuple[str, ...]] = NOT_EXAMINED  # bus ids under /proc/driver/nvidia/gpus
    module_file: Maybe[str] = NOT_EXAMINED  # nvidia.ko for the running kernel; None: none built
    module_file_version: Maybe[str] = NOT_EXAMINED  # of that file
    module_is_signed: Maybe[bool] = NOT_EXAMINED  # that file bears a signature
    module_file_kind: Maybe[Literal["open", "closed"]] = NOT_EXAMINED  # by its license
    module_file_kernel: Maybe[str] = NOT_EXAMINED  # the kernel it was built for, by its vermagic
    module_blocks: Known[tuple[ModuleBlock, ...]] = NOT_EXAMINED
    prime_profile: Maybe[str] = NOT_EXAMINED  # /etc/prime-discrete: "on", "off"; None: no file
    passthrough_option: Maybe[str] = NOT_EXAMINED  # what gives GPUs to vfio-pci or pci-stub
    firmware_versions: Known[tuple[str, ...]] = NOT_EXAMINED  # of GSP, in /lib/firmware/nvidia
    uvm_disables_hmm: Maybe[bool] = NOT_EXAMINED  # None: nvidia_uvm is not loaded
    dkms_version: Maybe[str] = NOT_EXAMINED  # driver version in the DKMS tree; None: no tree
    dkms_kernels: Known[tuple[str, ...]] = NOT_EXAMINED  # kernels that DKMS has a build for
    dkms_failure: Maybe[DkmsFailure] = NOT_EXAMINED  # None: no failed build for this kernel
    has_kernel_headers: Known[bool] = NOT_EXAMINED  # for the running kernel, to build modules
    libraries: Known[tuple[DriverLibrary, ...]] = NOT_EXAMINED
    device_nodes: Known[tuple[DeviceNode, ...]] = NOT_EXAMINED
    persistenced_running: Known[bool] = NOT_EXAMINED  # the daemon nvidia-persistenced
    mps_is_running: Known[bool] = NOT_EXAMINED  # a daemon of the Multi-Process Service
    fabric_manager: Maybe[FabricManager] = NOT_EXAMINED  # None: not installed
    has_nvlsm: Known[bool] = NOT_EXAMINED  # NVLink 5 switches' subnet manager is installed
    peermem: Known[bool] = NOT_EXAMINED  # nvidia_peermem is loaded
    #: names in /sys/kernel/mm/memory_peers; None: this kernel has no such interface
    peer_memory_clients: Maybe[tuple[str, ...]] = NOT_EXAMINED
    dma_buf: Known[bool] = NOT_EXAMINED  # kernel and open module can share GPU memory as dma-buf
    cuda_init: Maybe[CudaInit] = NOT_EXAMINED  # None: --quick left it out


# ------------------------------------------------------------------------------------ toolkits


class Toolkit(Fact, frozen=True, kw_only=True):
    """A CUDA toolkit on disk. `home` has its links followed; `names` are the ways it is reached."""

    home: str  # its directory, links followed
    names: tuple[str, ...] = ()  # "/usr/local/cuda", "/usr/local/cuda-13"
    version: Maybe[str] = NOT_EXAMINED  # "13.0", from the best source below
    version_json: Maybe[str] = NOT_EXAMINED  # "13.0.2"
    nvcc: Maybe[str] = NOT_EXAMINED  # path; None: this one has no compiler
    nvcc_version: Maybe[str] = NOT_EXAMINED  # "13.0.88", as nvcc itself says
    nvcc_error: Maybe[str] = None  # why nvcc would not run
    nvcc_architectures: Maybe[tuple[str, ...]] = NOT_EXAMINED  # "sm_75", ...: what it compiles for
    max_gcc: Maybe[int] = NOT_EXAMINED  # from its crt/host_config.h; None: sets no limit
    max_clang: Maybe[int] = NOT_EXAMINED  # the same for clang
    has_cudart: Known[bool] = NOT_EXAMINED  # it has the CUDA runtime's library
    library_directory: Maybe[str] = NOT_EXAMINED  # where its libcudart.so lies
    compat_directory: Maybe[str] = NOT_EXAMINED  # its forward-compatibility libcuda's folder
    compat_version: Maybe[str] = NOT_EXAMINED  # the driver version of that libcuda
    #: where it came from, by its place
    origin: Literal["local", "distribution", "conda", "pip", "module", "hpc_sdk", "other"] = "other"


class HostCompiler(Fact, frozen=True, kw_only=True):
    """The compiler that nvcc would call on the host side."""

    path: str
    kind: Literal["gcc", "clang", "other"] = "other"  # by what it says of itself
    version: Maybe[str] = NOT_EXAMINED
    chosen_by: str = "PATH"  # "NVCC_CCBIN", "CUDAHOSTCXX", "CXX", "CC", "PATH"
    others: tuple[str, ...] = ()  # of the same kind on PATH, with their major: "/usr/bin/g++-12"


class Toolkits(Fact, frozen=True, kw_only=True):
    """All CUDA toolkits, and what a build would use."""

    installed: Known[tuple[Toolkit, ...]] = NOT_EXAMINED
    dangling: Known[tuple[str, ...]] = NOT_EXAMINED  # links such as /usr/local/cuda to nothing
    default: Maybe[str] = NOT_EXAMINED  # home that /usr/local/cuda leads to
    first_nvcc: Maybe[str] = NOT_EXAMINED  # first nvcc on PATH, as found
    first_nvcc_home: Maybe[str] = NOT_EXAMINED  # the resolved home it belongs to
    host_compiler: Maybe[HostCompiler] = NOT_EXAMINED


# --------------------------------------------------------------------------- libraries and cuDNN


Origin = Literal["wheel", "torch", "system", "toolkit", "conda", "LD_LIBRARY_PATH", "other"]


class Library(Fact, frozen=True, kw_only=True):
    """One SONAME that torch's libraries need, and the file that the loader would give."""

    soname: str  # "libcudnn.so.9"
    needed_by: str = ""  # path of the object that asks for it first
    path: Maybe[str] = NOT_EXAMINED  # None: not found anywhere
    real_path: Maybe[str] = NOT_EXAMINED  # links followed
    version: Maybe[str] = NOT_EXAMINED
    origin: Origin = "other"  # who brought the file, by its place
    found_via: str = ""  # "DT_RPATH of …", "LD_LIBRARY_PATH", "DT_RUNPATH of …", "ld.so.cache",
    # "default directory", "LD_PRELOAD", "preloaded by torch"
    directory: str = ""  # the search-path entry, as written, that gave it
    wheel_path: Maybe[str] = None  # the copy that a wheel brings for torch
    wheel_version: Maybe[str] = None  # of that copy
    package: Maybe[str] = None  # of the system's, that owns a part of cuDNN that is not torch's own
    system_path: Maybe[str] = None  # what a program without torch's paths would get
    system_version: Maybe[str] = None  # of that file


class MappedLibrary(Fact, frozen=True, kw_only=True):
    """A CUDA library that /proc/self/maps showed after torch was put to work."""

    soname: str
    path: str


class LoaderFolder(Fact, frozen=True, kw_only=True):
    """A folder that feeds ld.so.cache, and the configuration file that names it."""

    directory: str  # links followed
    file: str  # "/etc/ld.so.conf.d/000-cuda.conf"
    has_cudart: bool = False  # a CUDA runtime lies in it


class CxxLibrary(Fact, frozen=True, kw_only=True):
    """The C++ library, libstdc++.so.6, that torch's process gets."""

    path: str
    real_path: str = ""  # links followed
    found_via: str = ""  # as for Library
    directory: str = ""  # the search-path entry, as written, that gave it
    newest: str = ""  # of what it defines, of the kind that is missing: "GLIBCXX_3.4.30"
    missing: tuple[str, ...] = ()  # versions that torch's libraries need and it lacks, oldest first
    needed_by: str = ""  # a file that needs the first of them
    newer: tuple[str, ...] = ()  # copies here that have what is missing


class Libraries(Fact, frozen=True, kw_only=True):
    """Which shared libraries would be loaded for torch, by the dynamic loader's own order."""

    resolved: Maybe[tuple[Library, ...]] = NOT_EXAMINED  # None: no torch to resolve for
    not_found: Known[tuple[str, ...]] = NOT_EXAMINED  # SONAMEs of any kind that nothing gives
    cxx: Maybe[CxxLibrary] = NOT_EXAMINED  # None: nothing asks for one
    ld_so_conf: Known[tuple[LoaderFolder, ...]] = NOT_EXAMINED
    mapped: Maybe[tuple[MappedLibrary, ...]] = None  # None: --deep was not asked for


class CudnnInstall(Fact, frozen=True, kw_only=True):
    """One set of cuDNN files in one directory."""

    directory: str
    soname: str = ""  # "libcudnn.so.9"
    version: Maybe[str] = NOT_EXAMINED  # "9.19.0"
    cuda_major: Maybe[int] = NOT_EXAMINED  # the CUDA it was built for
    origin: Origin = "other"  # who brought the files, by their place
    sublibraries: tuple[str, ...] = ()  # SONAMEs next to it
    header: Maybe[str] = NOT_EXAMINED  # path of the cudnn_version.h that goes with it
    header_version: Maybe[str] = NOT_EXAMINED  # that this header states


class CudnnOpened(Fact, frozen=True, kw_only=True):
    """What opening a libcudnn in a child, and calling cudnnGetVersion, gave."""

    path: str
    version: Maybe[str] = None  # cudnnGetVersion, dotted
    cuda: Maybe[str] = None  # the CUDA it was built with, by cudnnGetCudartVersion: "13.1"
    error: Maybe[str] = None  # the loader's message


class Cudnn(Fact, frozen=True, kw_only=True):
    """Every cuDNN on the machine, and the one that torch would get."""

    installs: Known[tuple[CudnnInstall, ...]] = NOT_EXAMINED
    torch_needs: Maybe[str] = NOT_EXAMINED  # "libcudnn.so.9"; None: linked in, or no torch
    for_torch: Maybe[Library] = NOT_EXAMINED  # with its best known version; None: none would load
    cuda_major_for_torch: Maybe[int] = NOT_EXAMINED  # the CUDA that this one was built for
    selected_for_builds: Maybe[str] = NOT_EXAMINED  # path a C++ build and the plain loader get
    sublibraries_for_torch: Maybe[tuple[Library, ...]] = NOT_EXAMINED
    opened: Maybe[CudnnOpened] = NOT_EXAMINED  # the one for torch, else for builds


# ------------------------------------------------------------------------------------- pytorch


class Distribution(Fact, frozen=True, kw_only=True):
    """An installed Python distribution."""

    name: str  # normalized: "torch", "nvidia-cudnn-cu13"
    version: str
    location: str = ""  # the site-packages folder
    installer: Maybe[str] = None  # "pip", "conda", "uv"
    requires: tuple[str, ...] = ()  # what it asks for of torch, triton and nvidia-*
    cuda_major: Maybe[int] = None  # of the CUDA runtime that its own libraries are linked to


class DamagedFile(Fact, frozen=True, kw_only=True):
    """A file of a wheel's RECORD that is not as recorded."""

    distribution: str  # that its RECORD belongs to
    path: str
    problem: str  # "missing", "12 bytes instead of 34"


class PythonProject(Fact, frozen=True, kw_only=True):
    """The project that an environment is made from: its file decides what is installed."""

    tool: Literal["uv", "poetry", "pixi", "pipenv"]  # that keeps the environment
    folder: str  # in which the tool is to be called
    file: str  # "/home/ada/app/pyproject.toml": where its dependencies are written


class Python(Fact, frozen=True, kw_only=True):
    """The Python whose torch is examined, and who installs packages into it."""

    path: str
    version: Maybe[str] = NOT_EXAMINED
    chosen_by: str = ""  # "--python", "VIRTUAL_ENV", "CONDA_PREFIX", "gpucheck's own", "PATH"
    prefix: str = ""  # sys.prefix
    sys_path: tuple[str, ...] = ()  # where it looks for modules
    externally_managed: Maybe[str] = NOT_EXAMINED  # the file that keeps pip out (PEP 668)
    has_pip: Known[bool] = NOT_EXAMINED  # `python -m pip` would work
    is_virtual: Known[bool] = NOT_EXAMINED  # a virtual environment, whose pip leaves others alone
    uses_uv: Known[bool] = NOT_EXAMINED  # uv made this environment, or filled it
    is_writable: Known[bool] = NOT_EXAMINED  # this user may install into it
    conda_tool: Maybe[str] = NOT_EXAMINED  # "conda", "mamba", …; None: no conda environment
    project: Maybe[PythonProject] = NOT_EXAMINED


class Torch(Fact, frozen=True, kw_only=True):
    """The torch that `import torch` would give, read without importing it."""

    version: Known[str] = NOT_EXAMINED  # "2.11.0+cu130"
    location: str = ""  # …/site-packages/torch
    build: Known[Literal["cuda", "cpu", "rocm", "xpu"]] = NOT_EXAMINED  # for which kind of device
    cuda: Maybe[str] = NOT_EXAMINED  # "13.0"
    cudnn: Maybe[str] = NOT_EXAMINED  # version it was built with or requires: "9.19.0.56"
    nccl: Maybe[str] = NOT_EXAMINED  # the NCCL that it was built with
    architectures: Known[tuple[str, ...]] = NOT_EXAMINED  # "sm_90", "compute_120"
    is_outside_environment: Maybe[str] = NOT_EXAMINED  # why: "user site", "PYTHONPATH", "a folder…"


class PyTorch(Fact, frozen=True, kw_only=True):
    """The Python that was asked for, its torch, and what is installed with it."""

    python: Maybe[Python] = NOT_EXAMINED
    torch: Maybe[Torch] = NOT_EXAMINED  # None: this Python has none
    elsewhere: Known[tuple[str, ...]] = NOT_EXAMINED  # other Pythons here that have a torch
    #: torch*, triton, nvidia-*, and whatever requires one of these
    distributions: Known[tuple[Distribution, ...]] = NOT_EXAMINED
    damaged: Known[tuple[DamagedFile, ...]] = NOT_EXAMINED
    mixed_wheels: Known[tuple[str, ...]] = NOT_EXAMINED  # directories two wheels' files share


# ------------------------------------------------------------------------------------ packages


class PackageLibrary(Fact, frozen=True, kw_only=True):
    """A CUDA library that a package needs or opens by name, and the file that it would get."""

    soname: str
    needed_by: str = ""  # path of the file that asks for it
    is_opened: bool = False  # by name, while it runs; else it is linked to it
    is_on_demand: bool = False  # only a program that asks for the GPU loads what needs it
    path: Maybe[str] = NOT_EXAMINED  # None: nothing on its search path
    version: Maybe[str] = NOT_EXAMINED
    found_via: str = ""  # as for Library
    directory: str = ""  # the search-path entry, as written, that gave it
    wheel_path: Maybe[str] = None  # the copy that a wheel brings
    wheel_version: Maybe[str] = None  # of the copy that a wheel brings
    elsewhere: tuple[str, ...] = ()  # copies in this environment, off its search path
    is_loaded_by_torch: bool = False  # … that it gets where torch is imported before it
    other_majors: tuple[str, ...] = ()  # the same library under another number, at hand


class TorchMismatch(Fact, frozen=True, kw_only=True):
    """A file that does not fit the torch that is here."""

    file: str  # the extension's path
    library: str = ""  # a library of torch's that this torch does not have: "libc10_cuda.so"
    symbols: tuple[str, ...] = ()  # the first that no library of torch's defines, as mangled
    count: int = 0  # of all such symbols
    has_other_abi: bool = False  # torch defines them with the other C++ ABI's strings


class GpuPackage(Fact, frozen=True, kw_only=True):
    """A distribution with compiled files that need CUDA's libraries or torch's."""

    name: str
    version: str
    location: str = ""  # the directory that it is installed in
    files: int = 0  # compiled ones
    uses_torch: bool = False  # it is resolved in the process as it is after `import torch`
    libraries: tuple[PackageLibrary, ...] = ()
    mismatches: tuple[TorchMismatch, ...] = ()


class FileClash(Fact, frozen=True, kw_only=True):
    """Compiled files that two distributions' RECORDs list, with different contents."""

    folder: str  # the top folder that they share
    distributions: tuple[str, ...]  # "onnxruntime-gpu 1.23.2"
    files: int  # how many they share
    present: Maybe[str] = NOT_EXAMINED  # whose files are there, by size; None: some of each


class Framework(Fact, frozen=True, kw_only=True):
    """A framework other than torch that computes on GPUs, as its own files describe it."""

    name: str  # as people call it: "jax"
    version: str
    distribution: str  # whose files know CUDA: "jax-cuda12-plugin"
    is_gpu_build: Known[bool] = NOT_EXAMINED  # it was built with CUDA
    cuda: Maybe[str] = NOT_EXAMINED  # it was built for: "12", "12.5.1"; None: for none
    cudnn: Maybe[str] = NOT_EXAMINED  # the cuDNN that it was built with
    requires: tuple[
        str, ...
    ] = ()  # of NVIDIA's wheels, where it takes them: "nvidia-cudnn-cu12>=9.8"


class Packages(Fact, frozen=True, kw_only=True):
    """The GPU packages of the Python that was asked for, read without importing them."""

    gpu_packages: Known[tuple[GpuPackage, ...]] = NOT_EXAMINED
    frameworks: Known[tuple[Framework, ...]] = NOT_EXAMINED
    clashes: Known[tuple[FileClash, ...]] = NOT_EXAMINED


# ---------------------------------------------------------------------------------------- NVML


class NvmlError(Fact, frozen=True, kw_only=True):
    """A call of NVML that failed as a whole: loading, initializing, counting."""

    call: str  # "nvmlInitWithFlags", "open"
    code: Maybe[int] = None  # nvmlReturn_t; None: the library did not load
    message: str = ""  # NVML's own words


class Memory(Fact, frozen=True, kw_only=True):
    """Framebuffer memory in bytes, by the v2 query: `used` is without `reserved`."""

    total_bytes: int
    used_bytes: int
    free_bytes: int
    reserved_bytes: Reading[int] = NOT_EXAMINED


class RemappedRows(Fact, frozen=True, kw_only=True):
    """HBM rows remapped to spares since manufacture (Ampere and newer)."""

    correctable: int  # rows remapped after corrected errors
    uncorrectable: int  # rows remapped after uncorrected errors
    is_pending: bool  # one more waits for a reset of the GPU
    has_failed: bool  # a row could not be remapped


class RemapHistogram(Fact, frozen=True, kw_only=True):
    """How many memory banks have how many spare rows left."""

    maximum: int  # banks with all spare rows left
    high: int  # banks with most of them left
    partial: int  # banks with some of them left
    low: int  # banks with few of them left
    none: int  # banks with none left


class RetiredPages(Fact, frozen=True, kw_only=True):
    """Pages retired for ECC errors (before Ampere)."""

    single_bit: int  # pages retired for repeated corrected errors
    double_bit: int  # pages retired for uncorrected errors
    is_pending: bool  # one more waits for a reboot


class NvLink(Fact, frozen=True, kw_only=True):
    """One NVLink of a GPU."""

    index: int  # the link's number, from 0
    is_up: Reading[bool] = NOT_EXAMINED
    version: Reading[int] = NOT_EXAMINED  # of the protocol, as NVML numbers it
    remote_bus_id: Reading[str] = NOT_EXAMINED  # of the device at the other end
    #: what is at the other end
    remote_kind: Reading[Literal["gpu", "switch", "cpu", "other"]] = NOT_EXAMINED
    crc_flit_errors: Reading[int] = NOT_EXAMINED  # since the counter was reset, as the next ones
    crc_data_errors: Reading[int] = NOT_EXAMINED
    replay_errors: Reading[int] = NOT_EXAMINED
    recovery_errors: Reading[int] = NOT_EXAMINED


class Fabric(Fact, frozen=True, kw_only=True):
    """The GPU's place in an NVSwitch fabric (nvmlDeviceGetGpuFabricInfoV)."""

    state: int  # 0 not supported, 1 not started, 2 in progress, 3 completed
    status: int = 0  # nvmlReturn_t of the registration, meaningful when completed
    health: Reading[int] = NOT_SUPPORTED  # the health mask, where the driver gives one
    health_summary: Reading[int] = NOT_SUPPORTED  # 1 healthy, 2 unhealthy, 3 limited capacity


class GpuProcess(Fact, frozen=True, kw_only=True):
    """A process that holds memory of a GPU."""

    pid: int
    name: Maybe[str] = NOT_EXAMINED  # None: no such process is visible here
    used_bytes: Reading[int] = NOT_EXAMINED
    kind: Literal["compute", "graphics", "mps"] = "compute"  # of work
    is_zombie: bool = False  # it has ended, and its parent has not noticed


class ThermalThresholds(Fact, frozen=True, kw_only=True):
    """Temperature limits in degrees Celsius."""

    shutdown_celsius: Reading[int] = NOT_EXAMINED
    slowdown_celsius: Reading[int] = NOT_EXAMINED
    memory_max_celsius: Reading[int] = NOT_EXAMINED
    gpu_max_celsius: Reading[int] = NOT_EXAMINED


class VgpuLicense(Fact, frozen=True, kw_only=True):
    """The license of a virtual GPU, by nvmlDeviceGetGridLicensableFeatures."""

    is_needed: bool = False  # this GPU has features that a license opens
    is_licensed: bool = False  # a license is held
    product: str = ""  # "NVIDIA RTX Virtual Workstation"


class GpuSample(Fact, frozen=True, kw_only=True):
    """The counters of a GPU read a second time, so that rates can be judged."""

    after_seconds: float  # since the first reading
    under_load: bool = False  # --deep was working the GPU between and during the readings
    clocks_event_reasons: Reading[int] = NOT_EXAMINED  # NVML's bit mask
    corrected_ecc_volatile: Reading[int] = NOT_EXAMINED
    pcie_replays: Reading[int] = NOT_EXAMINED
    pcie_generation: Reading[int] = NOT_EXAMINED
    performance_state: Reading[int] = NOT_EXAMINED
    clock_sm_mhz: Reading[int] = NOT_EXAMINED
    utilization_percent: Reading[int] = NOT_EXAMINED
    hardware_thermal_slowdown_ns: Reading[int] = NOT_EXAMINED
    power_brake_slowdown_ns: Reading[int] = NOT_EXAMINED
    software_thermal_slowdown_ns: Reading[int] = NOT_EXAMINED
    nvlink_crc_errors: Reading[int] = NOT_EXAMINED  # flit and data, summed over the links
    nvlink_replay_errors: Reading[int] = NOT_EXAMINED
    nvlink_recovery_errors: Reading[int] = NOT_EXAMINED
    memory: Reading[Memory] = NOT_EXAMINED
    processes: Reading[tuple[GpuProcess, ...]] = NOT_EXAMINED


class Gpu(Fact, frozen=True, kw_only=True):
    """One GPU as NVML describes it. `index` is NVML's (that of nvidia-smi)."""

    index: int  # NVML's
    #: "ok"; "lost": NVML says GPU_IS_LOST; "hung": a query did not come back; "crashed": NVML died
    state: Literal["ok", "lost", "hung", "crashed", "failed"] = "ok"
    error: Maybe[str] = None  # for a state other than ok: the query, and what it did
    # identity
    name: Reading[str] = NOT_EXAMINED
    uuid: Reading[str] = NOT_EXAMINED
    serial: Reading[str] = NOT_EXAMINED
    bus_id: Reading[str] = NOT_EXAMINED  # "0000:00:06.0"
    minor_number: Reading[int] = NOT_EXAMINED  # N of /dev/nvidiaN
    compute_capability: Reading[str] = NOT_EXAMINED  # "9.0"
    vbios_version: Reading[str] = NOT_EXAMINED
    inforom_version: Reading[str] = NOT_EXAMINED
    inforom_is_valid: Reading[bool] = NOT_EXAMINED  # 70 ms a GPU: not always read
    gsp_firmware_version: Reading[str] = NOT_EXAMINED
    # memory
    memory: Reading[Memory] = NOT_EXAMINED
    bar1_total_bytes: Reading[int] = NOT_EXAMINED
    processes: Reading[tuple[GpuProcess, ...]] = NOT_EXAMINED
    # heat, power, clocks
    temperature_celsius: Reading[int] = NOT_EXAMINED
    memory_temperature_celsius: Reading[int] = NOT_EXAMINED
    fan_percent: Reading[int] = NOT_EXAMINED  # of the fastest that it may turn
    # "T.Limit": degrees left to the highest temperature it is meant to work at
    temperature_margin_celsius: Reading[int] = NOT_EXAMINED
    slowdown_margin_celsius: Reading[int] = NOT_EXAMINED  # where it slows down by itself: -2
    thresholds: Reading[ThermalThresholds] = NOT_EXAMINED
    power_watts: Reading[float] = NOT_EXAMINED
    power_limit_enforced_watts: Reading[float] = NOT_EXAMINED
    power_limit_default_watts: Reading[float] = NOT_EXAMINED
    clock_sm_mhz: Reading[int] = NOT_EXAMINED
    clock_memory_mhz: Reading[int] = NOT_EXAMINED
    clock_sm_max_mhz: Reading[int] = NOT_EXAMINED
    clock_memory_max_mhz: Reading[int] = NOT_EXAMINED
    application_clock_sm_mhz: Reading[int] = NOT_EXAMINED  # as set by `nvidia-smi -ac`
    application_clock_sm_default_mhz: Reading[int] = NOT_EXAMINED
    performance_state: Reading[int] = NOT_EXAMINED  # 0 is P0
    utilization_percent: Reading[int] = NOT_EXAMINED
    clocks_event_reasons: Reading[int] = NOT_EXAMINED  # the mask
    hardware_thermal_slowdown_ns: Reading[int] = NOT_EXAMINED
    power_brake_slowdown_ns: Reading[int] = NOT_EXAMINED
    software_thermal_slowdown_ns: Reading[int] = NOT_EXAMINED
    # memory errors
    ecc_is_on: Reading[bool] = NOT_EXAMINED
    ecc_is_on_after_reboot: Reading[bool] = NOT_EXAMINED
    ecc_default: Reading[bool] = NOT_EXAMINED  # whether it is on by default
    corrected_ecc_volatile: Reading[int] = NOT_EXAMINED  # memory errors since the driver was loaded
    uncorrected_ecc_volatile: Reading[int] = NOT_EXAMINED  # the same
    corrected_ecc_aggregate: Reading[int] = NOT_EXAMINED  # memory errors over the board's life
    uncorrected_ecc_aggregate: Reading[int] = NOT_EXAMINED  # the same
    sram_threshold_exceeded: Reading[bool] = NOT_EXAMINED
    sram_uncorrected_aggregate: Reading[int] = NOT_EXAMINED
    remapped_rows: Reading[RemappedRows] = NOT_EXAMINED
    remap_histogram: Reading[RemapHistogram] = NOT_EXAMINED
    retired_pages: Reading[RetiredPages] = NOT_EXAMINED
    #: what the driver asks for: 0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset
    recovery_action: Reading[int] = NOT_EXAMINED
    has_unrepairable_memory: Reading[bool] = NOT_EXAMINED
    repair_is_pending: Reading[bool] = NOT_EXAMINED  # of a memory channel or a TPC
    # links
    pcie_generation: Reading[int] = NOT_EXAMINED  # of the link, now
    pcie_generation_max: Reading[int] = NOT_EXAMINED  # GPU and slot together
    pcie_width: Reading[int] = NOT_EXAMINED  # lanes, now
    pcie_width_max: Reading[int] = NOT_EXAMINED
    pcie_replays: Reading[int] = NOT_EXAMINED  # transfers repeated
    nvlinks: Reading[tuple[NvLink, ...]] = NOT_EXAMINED
    fabric: Reading[Fabric] = NOT_EXAMINED
    c2c_is_on: Reading[bool] = NOT_EXAMINED  # the chip-to-chip link to a Grace CPU
    # settings
    persistence: Reading[bool] = NOT_EXAMINED  # persistence mode is on
    display_active: Reading[bool] = NOT_EXAMINED  # a display is drawn by it
    #: how this system got the GPU; the last two are what a hypervisor's own system sees
    virtualization: Reading[Literal["none", "passthrough", "vgpu", "host vgpu", "host vsga"]] = (
        NOT_EXAMINED
    )
    vgpu_license: Reading[VgpuLicense] = NOT_EXAMINED
    compute_mode: Reading[int] = NOT_EXAMINED  # 0 default, 2 prohibited, 3 exclusive process
    mig_is_on: Reading[bool] = NOT_EXAMINED
    mig_is_on_after_reset: Reading[bool] = NOT_EXAMINED  # the mode that waits
    mig_devices: Reading[tuple[str, ...]] = NOT_EXAMINED  # UUIDs of the usable MIG devices
    numa_node: Reading[int] = NOT_EXAMINED  # of the GPU's own memory, on Grace systems
    cpu_affinity: Reading[str] = NOT_EXAMINED  # "0-31"
    numa_affinity: Reading[str] = NOT_EXAMINED  # the host's nearest NUMA nodes: "0", "0-1"
    later_sample: GpuSample | None = None  # None: only one reading was taken

    @property
    def subject(self) -> str:
        """How findings name this GPU: "gpu 3"."""
        return f"gpu {self.index}"


class GpuPair(Fact, frozen=True, kw_only=True):
    """What NVML says of the way between two GPUs, `a` < `b`, by NVML index."""

    a: int  # NVML's index of the one
    b: int  # NVML's index of the other
    topology: Reading[str] = NOT_EXAMINED  # nvidia-smi's words: "NV18", "PIX", "PXB", "PHB", ...
    p2p_read: Reading[str] = NOT_EXAMINED  # "OK", "CNS", "GNS", "TNS", "DR", "NS", "U"
    p2p_write: Reading[str] = NOT_EXAMINED
    p2p_nvlink: Reading[str] = NOT_EXAMINED


class ConfidentialComputing(Fact, frozen=True, kw_only=True):
    """Whether the GPUs keep their memory from the host, and whether they may start for that."""

    is_on: bool
    gpus_are_ready: Reading[bool] = NOT_EXAMINED  # set by the guest, after it attested the GPUs


class Nvml(Fact, frozen=True, kw_only=True):
    """NVML, and all GPUs by it."""

    library: Maybe[str] = NOT_EXAMINED  # path of the libnvidia-ml.so.1 that was loaded
    error: Maybe[NvmlError] = NOT_EXAMINED  # None: NVML works
    driver_version: Known[str] = NOT_EXAMINED  # "580.159.04"
    cuda_version: Known[str] = NOT_EXAMINED  # the newest CUDA this driver runs: "13.0"
    count: Known[int] = NOT_EXAMINED  # of GPUs
    confidential_computing: Reading[ConfidentialComputing] = NOT_EXAMINED
    gpus: Known[tuple[Gpu, ...]] = NOT_EXAMINED
    pairs: Known[tuple[GpuPair, ...]] = NOT_EXAMINED


# ---------------------------------------------------------------------------------- kernel log


class Xid(Fact, frozen=True, kw_only=True):
    """The Xid errors of one GPU and number since boot, counted together."""

    bus_id: str
    number: int  # of the Xid
    count: int  # of lines
    first_seconds: Maybe[float] = NOT_EXAMINED  # since boot
    last_seconds: Maybe[float] = NOT_EXAMINED
    text: str = ""  # the newest line's own text
    units: tuple[str, ...] = ()  # GPCs/TPCs/SMs or engines that the lines name, sorted
    processes: tuple[str, ...] = ()  # names that the lines give, sorted


class SXid(Fact, frozen=True, kw_only=True):
    """The errors of one NVSwitch and SXid number since boot, counted together."""

    bus_id: str
    number: int  # of the SXid
    is_fatal: Maybe[bool] = None  # None: no line said so
    count: int = 0  # of lines
    text: str = ""  # the newest line's own text


class KernelLine(Fact, frozen=True, kw_only=True):
    """A line of the kernel log, without its time, and what it is about."""

    text: str
    bus_id: str = ""  # the device that it names; "": none
    process: str = ""  # the process that it names
    count: int = 1  # how often the log has such a line


class KernelLog(Fact, frozen=True, kw_only=True):
    """What the kernel said of NVIDIA devices since this boot."""

    source: Maybe[str] = NOT_EXAMINED  # "/dev/kmsg", "dmesg", "journal"
    xids: Known[tuple[Xid, ...]] = NOT_EXAMINED
    sxids: Known[tuple[SXid, ...]] = NOT_EXAMINED
    aer_ports: Known[tuple[PciPort, ...]] = NOT_EXAMINED  # PCI Express errors by the log's lines
    adapter_failures: Known[tuple[str, ...]] = NOT_EXAMINED  # bus ids of "RmInitAdapter failed"
    adapter_reasons: Known[tuple[KernelLine, ...]] = NOT_EXAMINED  # the line before each of them
    #: what nvidia.ko said since it was last loaded, one sentence each
    module_said: Known[tuple[str, ...]] = NOT_EXAMINED
    address_failures: Known[tuple[KernelLine, ...]] = NOT_EXAMINED  # a GPU without address space
    power_failures: Known[tuple[KernelLine, ...]] = NOT_EXAMINED  # a GPU that stays in D3cold
    module_refused: Maybe[str] = NOT_EXAMINED  # the line that refused nvidia.ko
    oom_kills: Known[tuple[KernelLine, ...]] = NOT_EXAMINED  # processes killed for lack of memory
    iommu_faults: Known[tuple[KernelLine, ...]] = NOT_EXAMINED
    hung_tasks: Known[tuple[KernelLine, ...]] = NOT_EXAMINED


# ----------------------------------------------------------------------------------- workloads


class GpuWork(Fact, frozen=True, kw_only=True):
    """What --deep had one GPU do. A value of None means right; a string says what went wrong."""

    index: int  # CUDA's own, under PCI_BUS_ID order
    bus_id: Maybe[str] = NOT_EXAMINED
    kernel: Maybe[str] = NOT_EXAMINED  # an elementwise kernel
    matrix_product: Maybe[str] = NOT_EXAMINED
    convolution: Maybe[str] = NOT_EXAMINED


class PeerCopy(Fact, frozen=True, kw_only=True):
    """A copy from GPU `source` to GPU `target`, compared bit by bit; under DDP they are ranks."""

    source: int
    target: int
    error: Maybe[str] = NOT_EXAMINED  # None: came back the same
    gpus: tuple[int, ...] = ()  # NVML's indexes of those of the two that are in this machine


class Deep(Fact, frozen=True, kw_only=True):
    """What happened when torch was imported in a child and put to work."""

    import_error: Maybe[str] = NOT_EXAMINED  # the real last line; None: it imports
    is_available: Known[bool] = NOT_EXAMINED  # torch.cuda.is_available()
    warning: Maybe[str] = NOT_EXAMINED  # torch's own text
    device_count: Known[int] = NOT_EXAMINED  # torch.cuda.device_count()
    torch_cuda: Maybe[str] = NOT_EXAMINED  # torch.version.cuda
    cudnn: Maybe[str] = NOT_EXAMINED  # torch.backends.cudnn.version(), dotted
    architectures: Known[tuple[str, ...]] = NOT_EXAMINED  # that torch has kernels for: "sm_90"
    gpus: Known[tuple[GpuWork, ...]] = NOT_EXAMINED
    copies: Known[tuple[PeerCopy, ...]] = NOT_EXAMINED


class Replica(Fact, frozen=True, kw_only=True):
    """One copy of the model in the smoke training: DataParallel's n-th, or the rank of DDP."""

    position: int  # from 0
    gpu: Maybe[int] = NOT_EXAMINED  # NVML's index, else CUDA's number; None: on the CPU
    host: Maybe[str] = None  # under DDP
    images: Known[int] = NOT_EXAMINED  # training images that it was given
    share: Known[float] = NOT_EXAMINED  # of all training images, 0 to 1
    #: largest difference between its outputs and those of the first GPU working alone
    output_difference: Known[float] = NOT_EXAMINED


class WatchedGpu(Fact, frozen=True, kw_only=True):
    """What NVML saw of one GPU before and during the smoke training."""

    index: int  # NVML's
    samples: int = 0  # readings taken while the model trained
    memory_used_before_bytes: Reading[int] = NOT_EXAMINED
    memory_used_maximum_bytes: Reading[int] = NOT_EXAMINED
    utilization_maximum_percent: Reading[int] = NOT_EXAMINED
    temperature_maximum_celsius: Reading[int] = NOT_EXAMINED
    power_maximum_watts: Reading[float] = NOT_EXAMINED
    clocks_event_reasons: Reading[int] = NOT_EXAMINED  # mask of those seen twice or more
    corrected_ecc_added: Reading[int] = NOT_EXAMINED
    uncorrected_ecc_added: Reading[int] = NOT_EXAMINED


class TrainingGpu(Fact, frozen=True, kw_only=True):
    """One GPU that the smoke training was to use."""

    index: int  # NVML's; where NVML does not show it, CUDA's number
    name: Maybe[str] = NOT_EXAMINED
    uuid: Maybe[str] = NOT_EXAMINED
    bus_id: Maybe[str] = NOT_EXAMINED
    total_bytes: Known[int] = NOT_EXAMINED
    free_bytes: Known[int] = NOT_EXAMINED  # before the training
    watched: Known[WatchedGpu] = NOT_EXAMINED


class SoloRun(Fact, frozen=True, kw_only=True):
    """The first epoch on one GPU alone (or on the CPU), to find out which one computes wrongly."""

    where: str  # "gpu 1", "cpu"
    losses: tuple[float, ...] = ()  # finite ones, one per logged batch
    error: Maybe[str] = None  # why it did not end


class DataFault(Fact, frozen=True, kw_only=True):
    """A data set file that cannot be used."""

    path: str
    problem: str  # what it is instead
    expected: str  # what it should be


class NotFinite(Fact, frozen=True, kw_only=True):
    """The first loss or weight that was seen not to be a finite number."""

    step: int  # batch, from 1, over all epochs
    what: str  # "the loss", "the parameter 1.weight after the step"


class TrainingFailure(Fact, frozen=True, kw_only=True):
    """Why the smoke training did not come to its end."""

    #: "hang": silent past the deadline; "crash": ended by a signal; "exit": ended by itself, too
    #: early; "lost": a rank on another host is heard no more; "blocked": the machine was found
    #: unfit beforehand, or somebody stopped it
    kind: Literal["hang", "crash", "exit", "out of memory", "error", "lost", "blocked"]
    phase: str = ""  # "import", "CUDA start", "data", "copies", "training", "parity"
    step: Maybe[int] = None  # the last batch that was begun, from 1, over all epochs
    after_seconds: Maybe[float] = None  # of silence
    gpus: tuple[int, ...] = ()  # under suspicion
    rank: Maybe[int] = None  # of the process, under DDP
    host: Maybe[str] = None  # of the process, under DDP
    signal: Maybe[str] = None  # "SIGSEGV"
    message: Maybe[str] = None  # the error's own last line
    stack: tuple[str, ...] = ()  # innermost last
    last_lines: tuple[str, ...] = ()  # of what the child wrote to stderr


class Training(Fact, frozen=True, kw_only=True):
    """What happened when `gpucheck smoke` trained a small network on MNIST."""

    strategy: Literal["dp", "ddp"] = "dp"  # DataParallel or DistributedDataParallel
    device: Literal["cuda", "cpu"] = "cuda"
    epochs: int = 1
    batch_size: int = 256
    learning_rate: float = 0.01
    seed: int = 0
    log_interval: int = 25  # batches from one recorded loss to the next
    gpus_wanted: str = ""  # as asked for: "4", "all", "0,1,0,1"
    replicas_wanted: Known[int] = NOT_EXAMINED  # how many were asked for
    torch: Known[str] = NOT_EXAMINED  # version
    cuda_unavailable: Maybe[str] = NOT_EXAMINED  # why torch has no CUDA; None: it has
    gpus_visible: Known[int] = NOT_EXAMINED  # to torch
    gpus_missing: Known[tuple[int, ...]] = NOT_EXAMINED  # CUDA's numbers: asked for, not there
    gpus: Known[tuple[TrainingGpu, ...]] = NOT_EXAMINED
    replicas: Known[tuple[Replica, ...]] = NOT_EXAMINED
    data: Maybe[Literal["mnist", "synthetic"]] = NOT_EXAMINED
    data_directory: Maybe[str] = NOT_EXAMINED
    data_fault: Maybe[DataFault] = NOT_EXAMINED  # None: the data is as expected
    copies: Known[tuple[PeerCopy, ...]] = NOT_EXAMINED
    losses: Known[tuple[float, ...]] = NOT_EXAMINED  # one per logged batch, finite ones
    not_finite: Maybe[NotFinite] = NOT_EXAMINED  # None: all losses and weights were finite
    accuracy: Known[float] = NOT_EXAMINED  # on the test images, 0 to 1
    reference_losses: Known[tuple[float, ...]] = NOT_EXAMINED  # one GPU alone, first epoch
    reference_accuracy: Known[float] = NOT_EXAMINED  # after the first epoch
    first_epoch_accuracy: Known[float] = NOT_EXAMINED  # to compare with the reference
    solo: Maybe[tuple[SoloRun, ...]] = None  # None: the two curves agreed, or were not compared
    images_per_second: Known[float] = NOT_EXAMINED
    reference_images_per_second: Known[float] = NOT_EXAMINED
    new_xids: Known[tuple[Xid, ...]] = NOT_EXAMINED  # logged by the kernel during the run
    failure: Maybe[TrainingFailure] = NOT_EXAMINED  # None: it came to its end
    phases_ms: Mapping[str, float] = {}  # by phase


class Figure(Fact, frozen=True, kw_only=True):
    """One thing that `gpucheck bench` measured, and how the GPU was meanwhile."""

    #: "fp32", "tf32", "fp16", "bf16", "fp8", "int8": matrix products; "memory"; "h2d", "d2h";
    #: "h2d together", "d2h together"; "peer"; "all-reduce"
    measure: str
    gpus: tuple[int, ...]  # NVML's indexes: one; source and target; or all that took part
    size: int  # order of the matrices, or bytes
    value: Known[float] = NOT_EXAMINED  # median: 10^12 operations or 10^9 bytes a second
    low: Maybe[float] = None  # 5th and 95th percentile over batches
    high: Maybe[float] = None
    burst: Maybe[float] = None  # of the first batches, before the power limit is met
    repeated: Maybe[float] = None  # measured once more, alone, because the first was low
    wrong: Maybe[str] = None  # contents that came back different
    clock_sm_mhz: Reading[float] = NOT_EXAMINED  # median of what NVML saw meanwhile
    clock_sm_maximum_mhz: Reading[float] = NOT_EXAMINED
    power_watts: Reading[float] = NOT_EXAMINED
    temperature_celsius: Reading[float] = NOT_EXAMINED  # highest
    clocks_event_reasons: Reading[int] = NOT_EXAMINED  # mask of those seen twice or more
    pcie_generation: Reading[int] = NOT_EXAMINED  # in force meanwhile
    pcie_width: Reading[int] = NOT_EXAMINED  # the same for its lanes

    @property
    def best(self) -> float | None:
        """The value; where it was measured twice, the better one: chance only ever slows down."""
        if isinstance(self.value, Unknown):
            return None
        again = value(self.repeated)
        return self.value if again is None else max(self.value, again)


class BenchGpu(Fact, frozen=True, kw_only=True):
    """One GPU that `gpucheck bench` measured."""

    index: int  # NVML's; where NVML does not show it, CUDA's number
    name: str = ""
    uuid: Maybe[str] = NOT_EXAMINED  # as NVML says it
    bus_id: Maybe[str] = NOT_EXAMINED
    compute_capability: Maybe[str] = NOT_EXAMINED
    multiprocessors: Maybe[int] = NOT_EXAMINED
    memory_bus_bits: Maybe[int] = NOT_EXAMINED
    cpus: Maybe[str] = NOT_EXAMINED  # of its NUMA node, on which host memory was pinned


class Bench(Fact, frozen=True, kw_only=True):
    """What `gpucheck bench` measured."""

    device: Literal["cuda", "cpu"] = "cuda"
    method: int = 1  # figures of different methods are never compared
    torch: Known[str] = NOT_EXAMINED
    cuda: Maybe[str] = NOT_EXAMINED
    gpus: Known[tuple[BenchGpu, ...]] = NOT_EXAMINED
    figures: Known[tuple[Figure, ...]] = NOT_EXAMINED
    nvls: Known[bool] = NOT_EXAMINED  # NCCL reduced in the NVSwitches
    baseline: Maybe[tuple[Figure, ...]] = None  # medians of this machine's earlier runs
    elapsed_seconds: float = 0.0


class WrongWord(Fact, frozen=True, kw_only=True):
    """64 bits that came out different, in hex."""

    place: str  # "row 5, column 77"
    expected: str
    found: str


class BurnFault(Fact, frozen=True, kw_only=True):
    """Something that came out wrong during a burn, and what was found out about it."""

    phase: str
    kind: str  # "bf16" …: a product; "memory", "h2d", "d2h", "peer", "all-reduce"
    size: str = ""  # "8192 x 8192 x 65536"
    gpus: tuple[int, ...] = ()  # NVML's indexes: one; or source and target
    seconds: float = 0.0  # since the burn began
    count: int = 0  # words that differ; 0: a second look found them right
    words: tuple[WrongWord, ...] = ()  # the first of them
    bits: tuple[int, ...] = ()  # that differ in these words
    second_look: Maybe[bool] = NOT_EXAMINED  # the same was read again
    inputs: Maybe[str] = None  # what in the factors had changed; None: they were intact
    reference: Maybe[str] = None  # what in the reference had changed; None: nothing
    repeated: Maybe[int] = NOT_EXAMINED  # how often the same was wrong again
    repeats: Maybe[int] = NOT_EXAMINED  # of how many repetitions


class BurnWork(Fact, frozen=True, kw_only=True):
    """Work of one kind that was done, every result of it compared."""

    phase: str
    kind: str
    size: str = ""
    count: int = 0
    amount: float = 0.0  # operations, or bytes that were written or read
    seconds: float = 0.0  # that it took
    first_rate: Maybe[float] = None  # 10^12 a second in the first minute; None: too short to say
    last_rate: Maybe[float] = None


class BurnPoint(Fact, frozen=True, kw_only=True):
    """How a GPU was in some seconds of a burn."""

    seconds: float  # since the burn began, at their end
    temperature_celsius: Maybe[float] = None  # highest
    power_watts: Maybe[float] = None  # mean
    clock_sm_mhz: Maybe[float] = None  # median
    clocks_event_reasons: Maybe[int] = None  # mask of those seen twice or more
    pcie_width: Maybe[int] = None
    pcie_generation: Maybe[int] = None
    teraflops: Maybe[float] = None  # of bf16 products, where there were any
    wrong: int = 0  # results until then


class BurnCounters(Fact, frozen=True, kw_only=True):
    """By how much a GPU's counters grew during a burn."""

    corrected_ecc: Reading[int] = NOT_EXAMINED
    uncorrected_ecc: Reading[int] = NOT_EXAMINED
    remapped_rows: Reading[int] = NOT_EXAMINED
    remap_failures: Reading[int] = NOT_EXAMINED
    remaps_pending: Reading[int] = NOT_EXAMINED
    pcie_replays: Reading[int] = NOT_EXAMINED
    nvlink_errors: Reading[int] = NOT_EXAMINED  # replays and recoveries of all links
    thermal_slowdown_seconds: Reading[float] = NOT_EXAMINED  # by the hardware
    power_brake_seconds: Reading[float] = NOT_EXAMINED


class BurnGpu(Fact, frozen=True, kw_only=True):
    """One GPU that was burned in."""

    index: int  # NVML's; where NVML does not show it, CUDA's number
    name: str = ""
    uuid: Maybe[str] = NOT_EXAMINED
    bus_id: Maybe[str] = NOT_EXAMINED
    free_bytes: Maybe[int] = NOT_EXAMINED  # before
    memory_bytes: Maybe[int] = NOT_EXAMINED  # under test
    work: tuple[BurnWork, ...] = ()
    stopped: Maybe[str] = None  # why it did not come to the end; None: it did
    loaded_seconds: float = 0.0  # in which it had work
    faults_left_out: int = 0  # wrong results of which no details were kept
    counters: Known[BurnCounters] = NOT_EXAMINED
    points: tuple[BurnPoint, ...] = ()


class BurnInterruption(Fact, frozen=True, kw_only=True):
    """The burn was killed, or the machine restarted, and it went on later."""

    seconds: float  # since the burn began
    phase: str
    is_reboot: Maybe[bool] = NOT_EXAMINED


class Burn(Fact, frozen=True, kw_only=True):
    """What `gpucheck burn` did and found."""

    device: Literal["cuda", "cpu"] = "cuda"
    torch: Known[str] = NOT_EXAMINED
    cuda: Maybe[str] = NOT_EXAMINED
    phases: tuple[str, ...] = ()
    planned_seconds: float = 0.0
    elapsed_seconds: float = 0.0  # under load; what lies between two parts is not counted
    turns: int = 0  # how often the phases went round
    gpus: Known[tuple[BurnGpu, ...]] = NOT_EXAMINED
    work: tuple[BurnWork, ...] = ()  # between GPUs
    stopped_between: Maybe[str] = None  # why what goes between GPUs stopped; None: it did not
    proof: Maybe[str] = NOT_EXAMINED  # why the reference is not proven; None: it is
    faults: tuple[BurnFault, ...] = ()
    faults_left_out: int = 0  # of which no details were kept
    alarms: int = 0  # bits that were flipped on purpose
    alarms_found: int = 0
    interruptions: tuple[BurnInterruption, ...] = ()
    stopped: Maybe[str] = NOT_EXAMINED  # why it ended early; None: it came to its end
    errors: tuple[str, ...] = ()  # phases that could not be carried out, and why
    new_xids: Known[tuple[Xid, ...]] = NOT_EXAMINED


class Accepted(Fact, frozen=True, kw_only=True):
    """A rule or a family whose findings the machine's owner knows of and accepts."""

    code: str  # of the rule or family
    reason: str  # as the file gives it
    file: str = ""  # that says so


class SiteFact(Fact, frozen=True, kw_only=True):
    """What a site's own probe found under a name of its choice."""

    name: str
    value: Maybe[bool | int | float | str] = NOT_EXAMINED
    is_public: bool = False  # a text that may leave the machine


class SiteFailure(Fact, frozen=True, kw_only=True):
    """A site's own module or probe that gave nothing."""

    source: str
    why: str


class Site(Fact, frozen=True, kw_only=True):
    """What a site's own probes found; a machine without any has the defaults."""

    facts: Known[tuple[SiteFact, ...]] = NOT_EXAMINED
    failures: Known[tuple[SiteFailure, ...]] = NOT_EXAMINED

    def fact(self, name: str) -> "Maybe[bool | int | float | str]":
        """Return what a probe found under *name*; where none did, that is not known."""
        if isinstance(self.facts, Unknown):
            return self.facts
        for fact in self.facts:
            if fact.name == name:
                return fact.value
        return Unknown(f"no probe of the site gave {name}")


class IgnoreList(Fact, frozen=True, kw_only=True):
    """What the files `gpucheck.toml` accept."""

    accepted: Known[tuple[Accepted, ...]] = NOT_EXAMINED


class Snapshot(Fact, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """All that is known of one machine at one moment."""

    gpucheck: str = ""  # the version that collected it
    taken_at: str = ""  # when it began to look, ISO 8601 in UTC
    pytorch: PyTorch = PyTorch()
    host: Host = Host()
    environment: Environment = Environment()
    startup_files: StartupFiles = StartupFiles()
    driver: Driver = Driver()
    toolkits: Toolkits = Toolkits()
    libraries: Libraries = Libraries()
    cudnn: Cudnn = Cudnn()
    packages: Packages = Packages()
    nvml: Nvml = Nvml()
    kernel_log: KernelLog = KernelLog()
    deep: Deep | None = None  # None: --deep was not asked for
    training: Training | None = None  # None: no smoke training was run
    bench: Bench | None = None  # None: gpucheck bench was not run
    burn: Burn | None = None  # None: gpucheck burn was not run
    expected_gpus: int | None = None  # --expect-gpus
    ignore_list: IgnoreList = IgnoreList()
    site: Site = Site()
    elapsed_ms: Mapping[str, float] = {}  # by part of the examination


Section = TypeVar("Section", bound=Fact)


def unknown_section(section: type[Section], why: str) -> Section:
    """Return a *section* none of whose facts is known, each for the reason *why*."""
    facts = {
        field.name: unknown_section(type(field.default), why)
        if isinstance(field.default, Fact)
        else Unknown(why)
        for field in msgspec.structs.fields(section)
    }
    return section(**facts)


def replace(section: Section, **changes: Any) -> Section:  # noqa: ANN401 - any field's type
    """Return *section* with the given fields changed."""
    return msgspec.structs.replace(section, **changes)

"""Says in one line per section what was found on the machine, wrong or right."""

from collections import Counter
from collections.abc import Callable, Mapping

from gpucheck import derived
from gpucheck.snapshot import (
    CudaInit,
    Deep,
    FabricManager,
    HomeVariable,
    HostCompiler,
    NotSupported,
    Python,
    Snapshot,
    Toolkit,
    Torch,
    Unknown,
    value,
)

GIB = 1 << 30


def host(machine: Snapshot) -> str:
    """The system, what it runs on, and its size."""
    facts = machine.host
    parts = [_text(facts.distribution) or _text(facts.system) or "unknown system"]
    if kernel := _text(facts.kernel_release):
        parts.append(f"kernel {kernel}")
    if kind := _text(facts.machine):
        parts.append(kind)
    if facts.is_wsl is True:
        parts.append("WSL 2")
    if tegra := _text(facts.tegra):
        parts.append(tegra)
    if container := _text(facts.container):
        parts.append(f"in a container ({container})")
    if hypervisor := _text(facts.hypervisor):
        parts.append("virtual" if hypervisor == "unnamed" else f"virtual ({hypervisor})")
    elif facts.hypervisor is None:
        parts.append("bare metal")
    if isinstance(facts.cpus_usable, int):
        parts.append(f"{facts.cpus_usable} CPUs")
    if isinstance(facts.memory_bytes, int):
        parts.append(f"{facts.memory_bytes / GIB:.0f} GiB")
    return ", ".join(parts)


def driver(machine: Snapshot) -> str:
    """Version, kind of module, and the newest CUDA that it runs."""
    version = derived.driver_version(machine)
    if version is None and isinstance(machine.host.tegra, str):
        version = "part of the Jetson's own system"
    if version is None:
        if machine.host.is_wsl is True and derived.is_driven(machine):
            return "by Windows, of unknown version"
        reason = _why(machine.driver.module_version)
        return f"unknown: {reason}" if reason else "no NVIDIA driver is loaded or installed"
    parts = [version]
    kind = machine.driver.module_kind
    if isinstance(kind, str):
        parts.append(f"{kind} module")
    elif machine.host.is_wsl is True:
        parts.append("by Windows")
    elif machine.driver.module_version is None and not isinstance(machine.host.tegra, str):
        parts.append("no module is loaded")
    if cuda := derived.newest_cuda(machine):
        parts.append(f"CUDA {cuda}")
    match machine.driver.cuda_init:
        case CudaInit(code=0):
            parts.append("cuInit works")
        case None:
            parts.append("cuInit not tried (--quick)")
    if isinstance(machine.nvml.gpus, tuple):
        persistence = {gpu.persistence for gpu in machine.nvml.gpus}
        if persistence in ({True}, {False}):
            parts.append(f"persistence {'on' if True in persistence else 'off'}")
    match machine.driver.fabric_manager:
        case FabricManager(is_running=True, version=str(version)):
            parts.append(f"fabric manager {version}")
    return ", ".join(parts)


def gpus(machine: Snapshot) -> str:
    """How many of which kind."""
    seen = machine.nvml.gpus
    buses = machine.host.pci_gpus
    if isinstance(seen, tuple) and seen:
        names = Counter(_text(gpu.name) or "GPU of unknown name" for gpu in seen)
        return ", ".join(f"{count} × {name}" for name, count in names.items())
    if isinstance(machine.host.tegra, str):
        return "built into the Jetson's chip"
    if isinstance(buses, tuple) and buses:
        return f"{len(buses)} on the PCI bus; NVML shows none"
    if isinstance(buses, tuple) or isinstance(seen, tuple):
        return "none"
    return f"unknown: {seen.why}"


def cuda(machine: Snapshot) -> str:
    """The toolkits, the one that builds would use first, and the host compiler."""
    installed = machine.toolkits.installed
    if isinstance(installed, Unknown):
        return f"unknown: {installed.why}"
    if not installed:
        return "no toolkit (PyTorch's wheels need none)"
    first = default_toolkit(machine)
    ordered = sorted(installed, key=lambda toolkit: toolkit is not first)
    parts = [f"{_text(kit.version) or 'unknown version'} in {kit.home}" for kit in ordered]
    match machine.toolkits.host_compiler:
        case HostCompiler(kind=kind, version=version):
            limit = _compiler_limit(first, kind)
            parts.append(f"{kind} {_text(version) or ''}".strip() + limit)
    return ", ".join(parts)


def _compiler_limit(toolkit: Toolkit | None, kind: str) -> str:
    """Say how new a host compiler the toolkit's nvcc takes, in brackets."""
    if toolkit is None:
        return ""
    newest = {"gcc": toolkit.max_gcc, "clang": toolkit.max_clang}.get(kind)
    return f" (nvcc takes up to {newest})" if isinstance(newest, int) else ""


def cudnn(machine: Snapshot) -> str:
    """The one that torch loads, and the system's."""
    parts = []
    if version := cudnn_for_torch(machine):
        parts.append(f"{version} is what torch loads ({_cudnn_origin(machine)})")
    elif machine.cudnn.torch_needs is None:
        match machine.pytorch.torch:
            case Torch(build="cuda"):
                parts.append("linked into torch")
    selected_for_builds = machine.cudnn.selected_for_builds
    torchs = value(machine.cudnn.for_torch)
    if isinstance(selected_for_builds, str) and (
        torchs is None or selected_for_builds != torchs.path
    ):
        version = value(derived.cudnn_version(machine, selected_for_builds))
        parts.append(f"{version or selected_for_builds} is the system's")
    if parts:
        return "; ".join(parts)
    installs = machine.cudnn.installs
    if isinstance(installs, Unknown):
        return f"unknown: {installs.why}"
    if not installs:
        return "none installed"
    return ", ".join(f"{_text(one.version) or '?'} in {one.directory}" for one in installs)


def libraries(machine: Snapshot) -> str:
    """Where torch's CUDA libraries would come from."""
    resolved = machine.libraries.resolved
    if resolved is None:
        return "no torch to load any for"
    if isinstance(resolved, Unknown):
        return f"unknown: {resolved.why}"
    if not resolved:
        return "this torch needs no CUDA library"
    origins = Counter("nowhere" if library.path is None else library.origin for library in resolved)
    text = f"{len(resolved)} for torch"
    if origins:
        text += ": " + ", ".join(f"{count} from {_from(where)}" for where, count in origins.items())
    for library in resolved:
        if library.soname.startswith("libnccl.so") and isinstance(library.version, str):
            text += f"; NCCL {library.version}"
    mapped = machine.libraries.mapped
    if isinstance(mapped, tuple):
        paths = {one.soname: {one.path} for one in mapped}
        reported = [one for one in resolved if one.soname in paths]
        right = [one for one in reported if {one.path, one.real_path} & paths[one.soname]]
        text += f"; {len(right)} of {len(reported)} confirmed as loaded"
    return text


def environment(machine: Snapshot) -> str:
    """The variables that steer CUDA."""
    facts = machine.environment
    if isinstance(facts.variables, Unknown):
        return f"unknown: {facts.variables.why}"
    parts = []
    match facts.cuda_home:
        case HomeVariable(value=value):
            parts.append(f"CUDA_HOME={value}")
        case None:
            parts.append("CUDA_HOME is unset")
    match facts.ld_library_path:
        case tuple(entries):
            parts.append("LD_LIBRARY_PATH=" + ":".join(entry.text for entry in entries))
        case None:
            parts.append("LD_LIBRARY_PATH is unset")
    visible = facts.variable("CUDA_VISIBLE_DEVICES")
    if isinstance(visible, str):
        parts.append(f"CUDA_VISIBLE_DEVICES={visible}")
    return ", ".join(parts)


_CHOICES = {
    "VIRTUAL_ENV": "the active environment",
    "CONDA_PREFIX": "the active conda environment",
    "gpucheck's own": "gpucheck's own Python",
    "PATH": "first on PATH",
}


def pytorch(machine: Snapshot) -> str:
    """torch, its CUDA, and the Python it was looked for in."""
    facts = machine.pytorch
    where = ""
    match facts.python:
        case Python(path=path, chosen_by=chosen_by):
            where = f" in {path}" + (
                f" ({_CHOICES.get(chosen_by, chosen_by)})" if chosen_by else ""
            )
        case None:
            where = ": there is no Python to look in"
        case Unknown(why=why):
            where = f": {why}"
    match facts.torch:
        case Torch() as torch:
            version = _text(torch.version) or "unknown version"
            built = f" for CUDA {torch.cuda}" if isinstance(torch.cuda, str) else ""
            if not built and isinstance(torch.build, str):
                built = f" ({torch.build} build)"
            return f"torch {version}{built}{where}{_deep(machine)}"
        case None:
            return f"no torch{where}"
    return f"unknown{where}" if where else f"unknown: {_why(facts.torch)}"


def frameworks(machine: Snapshot) -> str:
    """torch, and the other frameworks of its Python, each with the CUDA that it is built for."""
    others = [
        f"{each.name} {each.version}"
        + (f" for CUDA {each.cuda}" if isinstance(each.cuda, str) else "")
        + (" (CPU build)" if each.is_gpu_build is False else "")
        for each in derived.frameworks(machine)
    ]
    return "; ".join([pytorch(machine), *others])


def _deep(machine: Snapshot) -> str:
    match machine.deep:
        case Deep(import_error=None, gpus=tuple(worked)) if worked:
            return f"; imported and worked on {len(worked)} of its GPUs"
    return ""


def multi_gpu(machine: Snapshot) -> str:
    """How the GPUs reach each other."""
    pairs = machine.nvml.pairs
    count = machine.nvml.count
    buses = machine.host.pci_gpus
    if count == 0 and buses:
        return "unknown: NVML shows no GPU"
    if isinstance(machine.host.tegra, str) and not buses:
        return "one GPU"
    if isinstance(count, int) and count < 2:
        return "one GPU" if count else "no GPU"
    if isinstance(pairs, Unknown):
        if isinstance(buses, tuple) and len(buses) < 2:
            return "one GPU" if buses else "no GPU"
        return f"unknown: {pairs.why}"
    if not pairs:
        return "one GPU"
    ways = Counter(_word(pair.topology) for pair in pairs)
    every = "the pair" if len(pairs) == 1 else f"each of {len(pairs)} pairs"
    if len(ways) == 1:
        text = f"{next(iter(ways))} between {every}"
    else:
        text = ", ".join(
            f"{count} {'pair' if count == 1 else 'pairs'} by {way}"
            for way, count in ways.most_common()
        )
    direct = sum(1 for pair in pairs if pair.p2p_read == "OK" and pair.p2p_write == "OK")
    if direct == len(pairs):
        return f"{text}, peer-to-peer supported"
    if any(isinstance(pair.p2p_read, Unknown) for pair in pairs):
        return f"{text}, peer-to-peer unknown"
    return f"{text}, peer-to-peer supported in {direct} of {len(pairs)}"


def training(machine: Snapshot) -> str:
    """What the smoke training did, in one line."""
    from gpucheck.render.training import line

    return line(machine)


def performance(machine: Snapshot) -> str:
    """What the bench measured, in one line."""
    from gpucheck.render.performance import line

    return line(machine)


def burn(machine: Snapshot) -> str:
    """What the burn did, in one line."""
    from gpucheck.render.burn import line

    return line(machine)


def site(machine: Snapshot) -> str:
    """What the site's own probes found; "" where it has none."""
    facts = value(machine.site.facts) or ()
    return ", ".join(f"{fact.name} {_shown(fact.value)}" for fact in facts)


def _shown(fact: object) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return "unknown" if isinstance(fact, Unknown) else "none" if fact is None else f"{fact}"


_SUMMARIES: Mapping[str, Callable[[Snapshot], str]] = {
    "Host": host,
    "Driver": driver,
    "GPUs": gpus,
    "CUDA": cuda,
    "cuDNN": cudnn,
    "Libraries": libraries,
    "Environment": environment,
    "Frameworks": frameworks,
    "Multi-GPU": multi_gpu,
    "Training": training,
    "Performance": performance,
    "Burn-in": burn,
    "Site": site,
}


def of_section(name: str, machine: Snapshot) -> str:
    """Return the line of a section of the report; "" where it has nothing to say."""
    look = _SUMMARIES.get(name)
    return "" if look is None else look(machine)


# ------------------------------------------------------------- single facts, also for the JSON


def default_toolkit(machine: Snapshot) -> Toolkit | None:
    """The toolkit that builds would use."""
    return value(derived.toolkit_for_builds(machine))


def cudnn_for_torch(machine: Snapshot) -> str | None:
    """The version of the cuDNN that torch would load."""
    torchs = value(machine.cudnn.for_torch)
    return value(torchs.version) if torchs is not None else None


def _cudnn_origin(machine: Snapshot) -> str:
    torchs = value(machine.cudnn.for_torch)
    if torchs is None:
        return ""
    return "its wheel" if torchs.origin == "wheel" else _from(torchs.origin)


def _from(origin: str) -> str:
    return {
        "wheel": "wheels",
        "torch": "torch itself",
        "system": "the system",
        "toolkit": "a toolkit",
        "other": "elsewhere",
    }.get(origin, origin)


def _word(fact: object) -> str:
    if isinstance(fact, NotSupported):
        return "nothing"
    return fact if isinstance(fact, str) else "an unknown way"


def _text(fact: object) -> str | None:
    return fact if isinstance(fact, str) else None


def _why(fact: object) -> str | None:
    return fact.why if isinstance(fact, Unknown) else None

"""Machines whose environment or start-up files are broken, for the tests of the family ENV."""

from gpucheck.probes import startup_files as reader
from gpucheck.rules import RULES
from gpucheck.snapshot import HomeVariable, PreloadEntry, Toolkits, Unknown, Variable
from machines import HEALTHY, machine, path_entry, with_variables
from seen_facts import seen

ENV = tuple(rule for rule in RULES if rule.family == "ENV")
UNREAD = Unknown("permission denied")
HOME_12 = HomeVariable(
    value="/usr/local/cuda-12.4",
    resolved="/usr/local/cuda-12.4",
    has_nvcc=True,
    has_cudart=True,
    toolkit_version="12.4",
)
HOME_13 = HEALTHY.environment.cuda_home
BIN_12 = path_entry(
    "/usr/local/cuda-12.4/bin",
    toolkit="/usr/local/cuda-12.4",
    toolkit_version="12.4",
    has_nvcc=True,
)
BIN_13 = seen(HEALTHY.environment.path)[1]
LIB_12 = path_entry(
    "/usr/local/cuda-12.4/lib64", toolkit="/usr/local/cuda-12.4", toolkit_version="12.4"
)
LIB_13 = path_entry("/usr/local/cuda/lib64", toolkit="/usr/local/cuda-13.0", toolkit_version="13.0")
#: No GPU, no toolkit, no variable of CUDA's, but all else that a rule of this family may dislike.
ELSEWHERE = machine(
    host={"pci_gpus": ()},
    toolkits=Toolkits(
        installed=(), dangling=(), default=None, first_nvcc=None, first_nvcc_home=None
    ),
    nvml={"count": 0, "gpus": (), "pairs": ()},
    environment={
        "variables": (
            Variable(name="PATH", value="bin:/tmp"),
            Variable(name="LD_DEBUG", value="1"),
        ),
        "cuda_home": None,
        "path": (
            path_entry("bin"),
            path_entry("/tmp", is_world_writable=True),
            path_entry("/opt/cuda/bin", resolved=None),
        ),
        "ld_library_path": (path_entry(""), path_entry("/gone", resolved=None)),
        "ld_preload": (PreloadEntry(text="/gone.so", resolved=None),),
    },
    startup_files={
        "files": (reader.parse("export LD_LIBRARY_PATH=/x:$LD_LIBRARY_PATH\n", "/root/.bashrc"),)
    },
)


def environment(**fields):
    return machine(environment=fields)


def home(value, **changes):
    fields = {
        "resolved": value,
        "has_nvcc": True,
        "has_cudart": True,
        "toolkit_version": "13.0",
        **changes,
    }
    return environment(cuda_home=HomeVariable(value=value, **fields))


def missing_home(value):
    return home(value, resolved=None, has_nvcc=False, has_cudart=False, toolkit_version=None)


def library_path(*entries):
    return environment(ld_library_path=entries)


def startup(text, path="/home/u/.bashrc", base=HEALTHY, **others):
    files = [reader.parse(text, path, "sh", "/home/u")]
    files += [reader.parse(other, name, "sh", "/home/u") for name, other in others.items()]
    return machine(base, startup_files={"files": tuple(files)})


def several(base=HEALTHY, **texts):
    files = tuple(
        reader.parse(text, f"/home/u/.{name}", "sh", "/home/u") for name, text in texts.items()
    )
    return machine(base, startup_files={"files": files})


def asked(base=HEALTHY, **variables):
    return machine(with_variables(base, **variables), host={"container": "docker"})

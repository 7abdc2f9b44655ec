"""Rules about what is installed with torch in its environment: TOR006, TOR010, TOR011."""

from collections.abc import Iterator

from gpucheck.conditions import has_torch
from gpucheck.knowledge import torch_cuda
from gpucheck.remedies import python_packages, variables
from gpucheck.remedies.torch_builds import is_torch
from gpucheck.requirements import satisfies
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import Distribution, Python, Snapshot, Torch, Unknown, value
from gpucheck.versions import version_tuple


@rule(
    "TOR006",
    Severity.ERROR,
    "torchvision or torchaudio does not match torch",
    caused_by=("TOR002", "TOR004", "TOR005", "TOR010"),
    when=has_torch,
)
def mismatched_companions(machine: Snapshot) -> Answers:
    """torchvision and torchaudio call into one torch's machine code: with another, they break.

    It shows as "operator torchvision::nms does not exist", as an undefined symbol, or as "compiled
    with different CUDA versions". Each release is made for one release of torch, and a build for
    CUDA does not fit a CPU-only torch, nor one CUDA major another; torchaudio refuses another minor
    too in its releases up to 2.11. triton is torch's own compiler, and torch.compile needs the
    version that torch asks for.

    It comes from installing one of them later, from another index. Install them together, with
    one command and one index.
    """
    torch = yield from known(machine.pytorch.torch)
    distributions = yield from known(machine.pytorch.distributions)
    if torch is None or distributions is None:
        return
    version = yield from known(torch.version)
    if version is None:
        return
    first: dict[str, Distribution] = {}
    for distribution in distributions:
        first.setdefault(distribution.name, distribution)
    companions = [first[name] for name in ("torchvision", "torchaudio") if name in first]
    triton, needed = first.get("triton"), _needed_triton(first.get("torch"))
    if not companions and (needed is None or triton is None):
        yield NotApplicable(why="torch stands alone")
        return
    for companion in companions:
        fault = _does_not_fit(companion, torch, version, machine)
        if isinstance(fault, Unknown):
            yield NotChecked.because(fault, companion.name)
        elif fault is not None:
            yield Symptom(
                subject=companion.name,
                saw=fault,
                remedy=_of_vendors(companion)
                if not _is_released(version)
                else python_packages.match_companions(machine),
            )
    if triton is not None and needed is not None and not satisfies(triton.version, needed):
        yield Symptom(
            subject="triton",
            saw=f"triton {triton.version} is installed; torch {version} requires triton{needed}",
            remedy=python_packages.install(
                machine, [f"triton{needed}"], text="Install the triton that torch asks for."
            ),
        )


def _is_released(version: str) -> bool:
    return torch_cuda.release_of(version) is not None


def _of_vendors(companion: Distribution) -> Remedy:
    return Remedy(
        f"This torch is no release of PyTorch's own: build {companion.name} from source against "
        "it, or work in a plain image with torch and its companions from PyTorch's wheels."
    )


def _needed_triton(torch: Distribution | None) -> str | None:
    for need in torch.requires if torch is not None else ():
        if need.startswith("triton") and not need[6:7].isalpha() and need[6:7] != "-":
            return need.removeprefix("triton")
    return None


def _does_not_fit(
    companion: Distribution, torch: Torch, version: str, machine: Snapshot
) -> str | Unknown | None:
    """Say why a torchvision or torchaudio does not fit this torch; None where it does."""
    name = f"{companion.name} {companion.version}"
    needs = [need.removeprefix("torch") for need in companion.requires if is_torch(need)]
    # The wheel's own word; a release that allows later torches (torchvision 0.29.1) says so.
    for need in needs:
        if not satisfies(version, need):
            return f"{name} requires torch{need}; torch is {version}"
    release = None if needs else _made_for(companion)
    if release is not None and _is_released(version) and release != version.partition("+")[0]:
        return f"{name} is made for torch {release}; torch is {version}"
    other = _other_cuda(companion, torch, version, machine)
    if other is not None or needs or companion.name == "torchaudio":
        return other  # from 2.9 on torchaudio's wheels ask for no release of torch
    if release is None:
        return Unknown(f"the table does not know which torch {name} belongs to")
    return None if _is_released(version) else Unknown(f"the table does not know torch {version}")


def _made_for(companion: Distribution) -> str | None:
    is_audio = companion.name == "torchaudio"
    find = torch_cuda.release_with_torchaudio if is_audio else torch_cuda.release_with_torchvision
    release = find(companion.version)
    return None if release is None else release.torch


def _other_cuda(
    companion: Distribution, torch: Torch, version: str, machine: Snapshot
) -> str | None:
    """Say how the CUDA of a companion differs from torch's; None where both fit."""
    name = f"{companion.name} {companion.version}"
    cuda = _cuda_of(companion, machine)
    if cuda is None:
        return None
    if torch.build == "cpu" and cuda != "cpu":
        return f"{name} is built for CUDA {cuda}; torch {version} is a CPU-only build"
    if torch.build != "cuda" or not isinstance(torch.cuda, str):
        return None
    if cuda == "cpu":
        # torchaudio's CPU build looks for no CUDA, and works on the CPU with any torch.
        is_vision = companion.name == "torchvision"
        built = f"torch {version} is built for CUDA {torch.cuda}"
        return f"{name} is a CPU-only build; {built}" if is_vision else None
    length = 2 if torch_cuda.refuses_other_minor(companion.name, companion.version) else 1
    have, want = version_tuple(cuda)[:length], version_tuple(torch.cuda)[:length]
    if have == want[: len(have)]:
        return None
    return f"{name} is built for CUDA {cuda}, torch {version} for CUDA {torch.cuda}"


def _cuda_of(companion: Distribution, machine: Snapshot) -> str | None:
    """Return what a companion was built for: "13.0", "13" or "cpu"; None: nothing tells.

    Its local version says it; else the default index's build of its release; else its libraries.
    """
    local = companion.version.partition("+")[2]
    if local.startswith("cpu"):
        return "cpu"
    named = torch_cuda.cuda_of_variant(local)
    if named is not None:
        return named
    linked = value(companion.cuda_major)
    release = _release_of(companion)
    is_wheel = companion.installer in {"pip", "uv"} and machine.host.machine == "x86_64"
    if release is not None and is_wheel and not local:
        default = torch_cuda.cuda_of_variant(release.default_variant)
        if default is not None and linked in (None, version_tuple(default)[0]):
            return default
    return None if linked is None else str(linked)


def _release_of(companion: Distribution) -> torch_cuda.Release | None:
    """Return the torch release on the default index with this very companion."""
    for row in torch_cuda.table().release:
        own = (
            row.torchvision
            if companion.name == "torchvision"
            else torch_cuda.torchaudio_for(row.torch)
        )
        if own == companion.version:
            return row
    return None


# ------------------------------------------------------------------------------- whose torch it is


@rule(
    "TOR010",
    Severity.WARNING,
    "The torch that is imported is not this environment's",
    when=has_torch,
)
def outside_environment(machine: Snapshot) -> Answers:
    """Another torch than the environment's own is imported, whatever you install there.

    Python takes the first torch on its path: the current directory comes first in an interactive
    session and with -m, then PYTHONPATH, then the user's site folder (~/.local), and only then the
    environment. Upgrading torch in the environment then changes nothing.

    Leave the folder, unset PYTHONPATH, or uninstall the copy in the user's site folder.
    """
    torch = yield from known(machine.pytorch.torch)
    if torch is None:
        return
    why = yield from known(torch.is_outside_environment)
    if why is None:
        return
    yield Symptom(subject=torch.location, saw=why, remedy=_own_torch_first(machine, torch, why))


def _own_torch_first(machine: Snapshot, torch: Torch, why: str) -> Remedy:
    if "current directory" in why:
        return Remedy("Start Python from another folder, or rename that one.")
    if "PYTHONPATH" in why:
        site = torch.location.removesuffix("/torch")
        written = value(machine.environment.variable("PYTHONPATH")) or ""
        kept = [each for each in written.split(":") if each and each.rstrip("/") != site]
        return variables.set_list(machine, "PYTHONPATH", kept, removed=site)
    ignore = variables.set_variable(
        machine, "PYTHONNOUSERSITE", "1", "Let Python leave out the user's site folder"
    )
    removal = _remove_user_copy(machine)
    text = f"Uninstall the copy in {torch.location}, and keep the environment's own."
    if not removal:
        # pip refuses to uninstall what lies outside of the virtual environment that it runs in.
        text += " Use the pip of the Python that installed it, not this environment's."
        return Remedy(ignore.text, ignore.steps, (Remedy(text),))
    return Remedy(text, removal, (ignore,))


def _remove_user_copy(machine: Snapshot) -> tuple[Command, ...]:
    python = value(machine.pytorch.python)
    if python is None or value(python.is_virtual) is not False:
        return ()
    return (command("{python} -m pip uninstall -y torch", python=python.path, lasts="permanent"),)


@rule("TOR011", Severity.WARNING, "conda and pip both installed torch here", when=has_torch)
def conda_and_pip(machine: Snapshot) -> Answers:
    """The two packages' files overwrite one another, and each tool believes its own is there.

    An update of either leaves a mixture that may not import, or that uses the other's libraries.
    Remove one of them, and install the other again, which brings back the files that went with it.
    """
    distributions = yield from known(machine.pytorch.distributions)
    python = value(machine.pytorch.python)
    if distributions is None or python is None:
        return
    copies = [each for each in distributions if each.name == "torch"]
    conda = next((each for each in copies if each.installer == "conda"), None)
    for other in copies if conda is not None and python.prefix else ():
        if other.installer != "conda" and other.location.startswith(python.prefix):
            yield Symptom(
                subject=python.prefix,
                saw=f"conda installed torch {conda.version}, and {other.installer or 'pip'} "  # type: ignore[union-attr]
                f"{other.version}, both in {python.prefix}",
                remedy=Remedy(
                    "Keep one of the two, and install it again once the other is gone.",
                    alternatives=tuple(_keep_one(machine, python)),
                ),
            )
            return


def _keep_one(machine: Snapshot, python: Python) -> Iterator[Remedy]:
    tool = value(python.conda_tool) or "conda"
    if tool != "pixi":  # pixi's project says which packages conda brings
        remove = "{tool} remove -p {prefix} --force pytorch"
        yield Remedy(
            "Keep pip's.",
            (
                command(remove, tool=tool, prefix=python.prefix, lasts="permanent"),
                *python_packages.reinstall_torch(machine).steps,
            ),
        )
    yield Remedy(
        "Keep conda's.",
        (
            *python_packages.uninstall(machine, ["torch"]),
            *python_packages.conda_install(python, ["pytorch"], again=True),
        ),
    )

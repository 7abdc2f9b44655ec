"""Builds the commands that install, replace and remove packages in the examined Python."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from gpucheck import derived
from gpucheck.knowledge import torch_cuda
from gpucheck.remedies.torch_builds import Build, companions, fitting, followers, pinned
from gpucheck.rule import Command, Remedy, command
from gpucheck.snapshot import Distribution, Python, PythonProject, Snapshot, value
from gpucheck.wording import listed

#: What a name or a version may be made of, before it stands in a command.
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(\[[A-Za-z0-9,._-]{1,99}\])?"
    r"((==|>=|<=|~=|!=|<|>)[0-9A-Za-z.+!_*-]{1,99},?){0,4}"
)
_CONDA_NAMES = {"torch": "pytorch-gpu", "torchvision": "torchvision", "torchaudio": "torchaudio"}

Manager = Literal["pip", "uv", "conda", "pixi", "new environment", "project", ""]


def manager(machine: Snapshot, package: str = "torch") -> Manager:
    """Return who has to install *package* into the examined Python; "": no Python is known."""
    python = _python(machine)
    if python is None:
        return ""
    installers = {each.installer for each in _copies(machine, package)}
    tool = value(python.conda_tool)
    if tool and installers == {"conda"}:
        return "pixi" if tool == "pixi" else "conda"
    if value(python.project) is not None:
        return "project"
    if value(python.uses_uv):
        return "uv"
    return "pip" if value(python.externally_managed) is None else "new environment"


def install(
    machine: Snapshot,
    requirements: Sequence[str],
    *,
    text: str,
    index: str = "",
    again: bool = False,
    verify: Command | None = None,
) -> Remedy:
    """Return how to install *requirements* ("torch==2.8.0+cu126") into the examined Python.

    *again* writes the same versions again, without what they depend on: the files are damaged.
    Requirements that no package could have give no command.
    """
    python = _python(machine)
    if python is None or not requirements or not all(map(_REQUIREMENT.fullmatch, requirements)):
        return Remedy(text)
    project = value(python.project)
    match manager(machine, _name(requirements[0])):
        case "conda" | "pixi":
            return Remedy(text, _conda_install(python, requirements), verify=verify)
        case "project" if project is not None and not again and _is_direct(requirements):
            return _in_project(machine, project, requirements, text, index, verify)
        case "new environment":
            return _in_new_environment(python, requirements, text, index)
        case _:
            steps = _pip_install(python, requirements, index, again=again)
            return Remedy(text, steps, verify=verify)


def wheels(
    machine: Snapshot, requirements: Sequence[str], *, text: str, again: bool = False
) -> Remedy:
    """Return how to bring back wheels that torch depends on: no project asks for them by name."""
    python = _python(machine)
    project = value(python.project) if python is not None else None
    names = [_name(each) for each in requirements]
    if project is None or project.tool != "uv" or not all(map(_REQUIREMENT.fullmatch, names)):
        return install(machine, requirements, text=text, again=again, verify=check(machine))
    packages = [word for name in names for word in ("--reinstall-package", name)]
    sync = "uv sync --project {folder} {packages}"
    step = command(sync, folder=project.folder, packages=packages, lasts="permanent")
    return Remedy(f"{text} {project.file} says which.", (step,), verify=check(machine))


def uninstall(machine: Snapshot, names: Sequence[str]) -> tuple[Command, ...]:
    """Return the command that removes the distributions *names* from the examined Python."""
    python = _python(machine)
    if python is None or not names or not all(map(_REQUIREMENT.fullmatch, names)):
        return ()
    root = value(python.is_writable) is False
    if value(python.uses_uv):
        uv = "uv pip uninstall --python {python} {names}"
        return (command(uv, python=python.path, names=names, root=root, lasts="permanent"),)
    pip = "{python} -m pip uninstall -y {names}"
    return (
        *_ensured_pip(python, root=root),
        command(pip, python=python.path, names=names, root=root, lasts="permanent"),
    )


def check(machine: Snapshot) -> Command | None:
    """Return the command that shows whether the packages of this Python fit together."""
    python = _python(machine)
    if python is None:
        return None
    if value(python.uses_uv):
        return command("uv pip check --python {python}", python=python.path)
    return command("{python} -m pip check", python=python.path)


# ---------------------------------------------------------------------------------- torch itself


def replace_torch(machine: Snapshot, *, lead: str = "") -> Remedy:
    """Return how to put the torch into this Python that its driver and its GPUs can use.

    One answer serves every rule that finds fault with the torch here. *lead* comes before it.
    """
    if isinstance(machine.host.tegra, str):
        return Remedy(
            f"{lead}Install the torch that NVIDIA builds for this Jetson's JetPack release."
        )
    build = fitting(machine)
    if build is None:
        return Remedy(
            f"{lead}Install a torch that is built for CUDA and for this GPU, by the selector on "
            "pytorch.org."
        )
    if build.is_vendors:
        return Remedy(
            f"{lead}This torch is its vendor's own build, which the wheels of PyTorch's index do "
            "not replace: take a release of the container image that is made for this driver and "
            "GPU, or work in an image without torch and install torch "
            f"{build.release} for CUDA {build.cuda} there."
        )
    text = f"{lead}Install {build.text(machine)}."
    new_driver = build.needs_driver(machine)
    if new_driver:
        text += f" It needs driver {new_driver} or newer."
    return install(
        machine,
        build.requirements(machine),
        text=text + _must_follow(machine, build),
        index=build.index_url,
        verify=verify_torch(machine),
    )


def match_companions(machine: Snapshot) -> Remedy:
    """Return how to bring torchvision and torchaudio to the torch that belongs here.

    Where the torch itself has to go, they come with it; else they follow the one that is here.
    """
    torch = value(machine.pytorch.torch)
    build = fitting(machine)
    version = value(torch.version) if torch is not None else None
    if torch is None or version is None:
        return Remedy("Install torch and its companions together, from one index.")
    public = version.partition("+")[0]
    stays = build is not None and (build.release, build.cuda) == (public, value(torch.cuda))
    if derived.has_gpu(machine) is not False and not stays:
        return replace_torch(machine)
    variant = f"cu{cuda.replace('.', '')}" if (cuda := value(torch.cuda)) else "cpu"
    return install(
        machine,
        [pinned(name, public, variant) for name in companions(machine)],
        text=f"Install the companions that are made for torch {version}.",
        index=f"{torch_cuda.INDEX}/{variant}",
        verify=check(machine),
    )


def reinstall_torch(machine: Snapshot, *, with_dependencies: bool = False) -> Remedy:
    """Return how to write the files of the torch that is here again, at the version that it has.

    *with_dependencies* brings back the wheels that it asks for too, where they are gone.
    """
    torch = value(machine.pytorch.torch)
    copies = [each.version for each in _copies(machine, "torch") if each.installer != "conda"]
    version = value(torch.version) if torch is not None else None
    if version is None or not copies:
        return Remedy("Install torch again.")
    local = copies[0].partition("+")[2]
    return install(
        machine,
        [f"torch=={copies[0]}"],
        text=f"Install torch {version} again"
        + (", with the libraries that it asks for." if with_dependencies else ": its files again."),
        index=f"{torch_cuda.INDEX}/{local}" if local.startswith(("cu", "cpu")) else "",
        again=not with_dependencies,
        verify=verify_torch(machine),
    )


def wanted_wheels(machine: Snapshot, *prefixes: str, again: bool = False, text: str = "") -> Remedy:
    """Return how to install the wheels of these names at the versions that torch asks for.

    A torch that asks for none (conda's, a vendor's) gives the text alone.
    """
    wanted = [
        each
        for each in derived.torch_requirements(machine)
        if each.startswith(prefixes) and "==" in each and "*" not in each
    ]
    said = text or f"Install {listed([_name(each) for each in wanted])} as torch asks for it."
    if not wanted:
        return Remedy(text or "Install torch again with the libraries that it asks for.")
    return wheels(machine, wanted, text=said, again=again)


def verify_torch(machine: Snapshot) -> Command | None:
    """Return the command that shows whether torch works on the GPUs."""
    python = _python(machine)
    if python is None or manager(machine) == "new environment":
        return None
    return command("gpucheck doctor --deep --python {python}", python=python.path)


def _must_follow(machine: Snapshot, build: Build) -> str:
    """Say which other packages were made for the torch that goes."""
    pinned, compiled = followers(machine, build)
    text = ""
    if pinned:
        pins = [f"{each.name} {each.version} requires torch{need}" for each, need in pinned]
        text += f" {listed(pins)}: install the release made for torch {build.release} with it."
    names = [each.name for each in compiled]
    if names:
        text += f" {listed(names)} must be built for the same torch and CUDA: reinstall after it."
    return text


# ------------------------------------------------------------------------------------- each tool


_UV = "uv pip install --python {python}"
_PIP = "{python} -m pip install"


def _pip_install(
    python: Python, requirements: Sequence[str], index: str, *, again: bool = False
) -> tuple[Command, ...]:
    root = value(python.is_writable) is False
    uses_uv = value(python.uses_uv) is True
    program = _UV if uses_uv else _PIP
    if again:
        program += " --reinstall --no-deps" if uses_uv else " --force-reinstall --no-deps"
    step = command(
        program + (" {requirements} --index-url {index}" if index else " {requirements}"),
        python=python.path,
        requirements=requirements,
        index=index,
        root=root,
        lasts="permanent",
    )
    return (*(() if uses_uv else _ensured_pip(python, root=root)), step)


def _ensured_pip(python: Python, *, root: bool) -> tuple[Command, ...]:
    if value(python.has_pip) is not False:
        return ()
    return (command("{python} -m ensurepip", python=python.path, root=root, lasts="permanent"),)


def _in_new_environment(
    python: Python, requirements: Sequence[str], text: str, index: str
) -> Remedy:
    """Leave the distribution's Python to the distribution (PEP 668)."""
    template = "~/torch-env/bin/python -m pip install {requirements}"
    if index:
        template = "~/torch-env/bin/python -m pip install {requirements} --index-url {index}"
    return Remedy(
        f"{text} {python.path} is managed by the distribution "
        f"({value(python.externally_managed)}), which keeps pip out of it: use a virtual "
        "environment. Debian and Ubuntu have venv in the package python3-venv.",
        (
            command("{python} -m venv ~/torch-env", python=python.path, lasts="permanent"),
            command(template, requirements=requirements, index=index, lasts="permanent"),
        ),
        verify=command("gpucheck doctor --deep --python ~/torch-env/bin/python"),
    )


def _conda_install(python: Python, requirements: Sequence[str]) -> tuple[Command, ...]:
    """Ask conda-forge for the same packages; `cuda-version` is its word for the CUDA they have.

    Source: https://conda-forge.org/docs/user/tipsandtricks/#installing-cuda-enabled-packages
    """
    packages: list[str] = []
    for requirement in requirements:
        name, _, version = requirement.partition("==")
        public, _, local = version.partition("+")
        packages.append(_CONDA_NAMES.get(name, name) + (f"={public}" if public else ""))
        digits = local.removeprefix("cu")
        limit = f"cuda-version<={digits[:-1]}.{digits[-1:]}"
        if local.startswith("cu") and digits.isdigit() and limit not in packages:
            packages.append(limit)
    return conda_install(python, packages)


def conda_install(
    python: Python, packages: Sequence[str], *, again: bool = False
) -> tuple[Command, ...]:
    """Return the command by which conda's tool of this environment installs its own packages."""
    tool = value(python.conda_tool) or "conda"
    if tool == "pixi":
        project = value(python.project)
        where = project.file if project is not None else "pixi.toml"
        template = "pixi add --manifest-path {file} {packages}"
        if again:
            template = "pixi reinstall --manifest-path {file} {packages}"
        return (command(template, file=where, packages=packages, lasts="permanent"),)
    template = "{tool} install -p {prefix} -c conda-forge {packages}"
    if again:
        template = "{tool} install -p {prefix} --force-reinstall {packages}"
    step = command(
        template,
        tool=tool,
        prefix=python.prefix,
        packages=packages,
        root=value(python.is_writable) is False,
        lasts="permanent",
    )
    return (step,)


def _in_project(
    machine: Snapshot,
    project: PythonProject,
    requirements: Sequence[str],
    text: str,
    index: str,
    verify: Command | None,
) -> Remedy:
    """Change the project's file by its own tool; what pip installs is undone by its next sync.

    Sources: https://docs.astral.sh/uv/guides/integration/pytorch/,
    https://python-poetry.org/docs/repositories/, https://pipenv.pypa.io/en/latest/indexes.html
    """
    python = _python(machine)
    if python is None:
        return Remedy(text)
    label = f"pytorch-{index.rpartition('/')[2]}"
    names = [_name(each) for each in requirements]
    text += f" This environment belongs to the project of {project.file}: change it there."
    public = [each.partition("+")[0] for each in requirements]
    if project.tool == "uv" and index:
        sources = "; ".join(f'{name} = {{ index = "{label}" }}' for name in names)
        text += (
            f" Write under [tool.uv.sources]: {sources}; and under [[tool.uv.index]]: "
            f'name = "{label}", url = "{index}", explicit = true. Then lock and sync.'
        )
    if project.tool == "pixi" and index:
        pins = (each.partition("==") for each in public)
        lines = "; ".join(
            f'{name} = {{ version = "{f"=={pin}" if pin else "*"}", index = "{index}" }}'
            for name, _, pin in pins
        )
        text += f" Write under [pypi-dependencies]: {lines}. Then install."
    steps = _project_steps(project, public, index, label)
    trial = Remedy(
        "Try it first in the environment alone; the project's next sync undoes it.",
        _pip_install(python, requirements, index),
    )
    return Remedy(text, steps, alternatives=(trial,), verify=verify)


def _project_steps(
    project: PythonProject, public: Sequence[str], index: str, label: str
) -> tuple[Command, ...]:
    folder, file = project.folder, project.file
    match project.tool:
        case "uv" if index:
            upgrades = [word for each in public for word in ("--upgrade-package", each)]
            lock = "uv lock {upgrades} --project {folder}"
            return (
                command(lock, folder=folder, upgrades=upgrades, lasts="permanent"),
                command("uv sync --project {folder}", folder=folder, lasts="permanent"),
            )
        case "uv":
            add = "uv add --project {folder} {public}"
            return (command(add, folder=folder, public=public, lasts="permanent"),)
        case "poetry" if index:
            source = "poetry -C {folder} source add --priority explicit {label} {index}"
            add = "poetry -C {folder} add --source {label} {public}"
            return (
                command(source, folder=folder, label=label, index=index, lasts="permanent"),
                command(add, folder=folder, label=label, public=public, lasts="permanent"),
            )
        case "poetry":
            add = "poetry -C {folder} add {public}"
            return (command(add, folder=folder, public=public, lasts="permanent"),)
        case "pipenv":
            add = "PIPENV_PIPFILE={file} pipenv install {public}"
            if index:
                add = "PIPENV_PIPFILE={file} pipenv install {public} --index {index}"
            step = command(
                add, file=file, public=public, index=index, lasts="permanent", needs="pipenv"
            )
            return (step,)
        case _ if index:
            return (command("pixi install --manifest-path {file}", file=file, lasts="permanent"),)
        case _:
            add = "pixi add --pypi --manifest-path {file} {public}"
            return (command(add, file=file, public=public, lasts="permanent"),)


# ------------------------------------------------------------------------------------ asked often


def _is_direct(requirements: Sequence[str]) -> bool:
    """Tell whether a project would name these itself; NVIDIA's wheels come with torch."""
    return not all(each.startswith(("nvidia-", "triton")) for each in requirements)


def _python(machine: Snapshot) -> Python | None:
    return value(machine.pytorch.python)


def _copies(machine: Snapshot, package: str) -> Iterable[Distribution]:
    distributions = value(machine.pytorch.distributions) or ()
    return (each for each in distributions if each.name == package)


def _name(requirement: str) -> str:
    return re.split(r"[\[=<>~!]", requirement, maxsplit=1)[0]

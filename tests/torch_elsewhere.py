"""Makes Python environments that have torch, or a stand-in for it, and nothing of gpucheck's."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

#: As much of torch as a program imports before it asks for CUDA, which this one lacks.
STAND_IN = {
    "torch/__init__.py": """
from types import SimpleNamespace
__version__ = "2.0.0+cpu"
version = SimpleNamespace(cuda=None)
class Tensor: pass
class device:
    def __init__(self, type, index=None): self.type, self.index = type, index
def _no_cuda(): raise AssertionError("Torch not compiled with CUDA enabled")
cuda = SimpleNamespace(
    is_available=lambda: False, device_count=lambda: 0, init=_no_cuda, get_arch_list=lambda: []
)
backends = SimpleNamespace(cudnn=SimpleNamespace(version=lambda: None))
_C = SimpleNamespace()
int32 = float32 = None
def integers(*_, **__): raise RuntimeError("a stand-in")
class Generator:
    def manual_seed(self, seed): return self
class _Numbers:
    def int(self): return self
def randint(*_, **__): return _Numbers()
""",
    "torch/nn/__init__.py": """
class Module: pass
class Sequential(Module): pass
class Parameter: pass
""",
    "torch/nn/functional.py": "",
    "torch/distributed.py": "",
}


def venv_with_the_stand_in(folder: Path, python: str) -> str:
    """Return the Python of a new environment of *python* that has the stand-in."""
    made = _venv(folder, python)
    [site] = folder.glob("lib/python3.*/site-packages")
    for name, text in STAND_IN.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    return made


def venv_with_torch(folder: Path) -> str:
    """Return the Python of a new environment that has this one's torch and what torch needs."""
    made = _venv(folder, sys._base_executable)  # type: ignore[attr-defined]
    [site] = folder.glob("lib/python3.*/site-packages")
    for name in _needs("torch"):
        for file in metadata.distribution(name).files or ():
            top = site / file.parts[0]
            if not top.is_symlink() and file.parts[0] not in ("..", "__pycache__"):
                top.symlink_to(str(metadata.distribution(name).locate_file(file.parts[0])))
    return made


def _venv(folder: Path, python: str) -> str:
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def _needs(name: str, seen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return *name* and all distributions that it needs here."""
    if name in seen:
        return seen
    try:
        requirements = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return seen  # for another system
    seen = (*seen, name)
    for requirement in requirements:
        if "extra ==" not in requirement:
            seen = _needs(re.split(r"[ ;<>=!~(\[]", requirement, maxsplit=1)[0], seen)
    return seen

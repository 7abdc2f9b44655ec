"""Examines real wheels, as the package index has them: `python tools/real_environments.py FOLDER`.

Throw-away environments are filled with pip below FOLDER, without a GPU: some 20 GB for all of them,
or those that --only names. Each is examined on a machine of the tests, with a fake driver and two
GPUs, and takes a row of a table: its verdict, and what was found. It needs root, gcc and Linux, as
the tests on built machines do. FOLDER is left to be looked at; delete it afterwards.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent.parent
sys.path[:0] = [str(HERE), str(HERE / "tests")]

from built.machine import BuiltMachine, build_layer  # noqa: E402
from built.test_kinds import without_toolkit  # noqa: E402


@dataclass(frozen=True)
class Environment:
    """What is installed, step by step, and whether with what it asks for."""

    steps: tuple[tuple[str, ...], ...]
    is_whole: bool = False


ENVIRONMENTS = {
    "torch-cpu": Environment((("torch==2.13.0", "torchvision", "torchaudio"),)),
    "bitsandbytes": Environment((("bitsandbytes", "torch==2.13.0"),)),
    "ctranslate2": Environment((("ctranslate2",),)),
    "onnxruntime-then-gpu": Environment((("onnxruntime",), ("onnxruntime-gpu",))),
    "onnxruntime-gpu-then-cpu": Environment((("onnxruntime-gpu",), ("onnxruntime",))),
    "onnxruntime-gpu": Environment((("onnxruntime-gpu",),)),
    "numba-cuda": Environment((("numba", "numba-cuda"),), is_whole=True),
    "two-cupys": Environment((("cupy-cuda12x", "cupy-cuda13x"),)),
    "cupy": Environment((("cupy-cuda12x",),)),
    "cupy-with-libraries": Environment((("cupy-cuda12x[ctk]",),), is_whole=True),
    "tensorflow": Environment((("tensorflow",),)),
    "tensorflow-with-libraries": Environment((("tensorflow[and-cuda]",),), is_whole=True),
    "jax-cuda12": Environment((("jax[cuda12]",),), is_whole=True),
    "jax-cuda13": Environment((("jax[cuda13]",),), is_whole=True),
    "jax-cpu": Environment((("jax",),), is_whole=True),
}


def install(folder: Path, environment: Environment) -> Path:
    """Fill an environment, unless it is there already, and return its Python."""
    python = folder / "bin/python"
    if (folder / "done").exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-cache-dir"]
    for step in environment.steps:
        options = () if environment.is_whole else ("--no-deps",)
        subprocess.run([*pip, *options, *step], check=True)
    (folder / "done").touch()
    return python


def examine(python: Path, layer: Path) -> tuple[str, list[str]]:
    """Return the verdict on a machine with this Python, and its roots, each as a line."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        machine = BuiltMachine(place=Path(place) / "machine", layer=layer)
        without_toolkit(machine)
        machine.environment.pop("VIRTUAL_ENV")
        report = machine.doctor("--python", str(python), timeout=120)
    roots = [one for one in report["findings"] if one["explained_by"] is None]
    return report["verdict"], [f"{f['severity']} {f['code']} {f['saw']}" for f in roots]


def main() -> None:
    """Install and examine the environments that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(ENVIRONMENTS), metavar="NAME")
    asked = parser.parse_args()
    asked.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        layer = Path(base, "layer/root")
        layer.parent.mkdir()
        build_layer(layer)
        for name in asked.only or ENVIRONMENTS:
            folder = (asked.folder / name).resolve()
            verdict, roots = examine(install(folder, ENVIRONMENTS[name]), layer)
            print(f"{name:26} {verdict:9}", *(f"  {root[:300]}" for root in roots), sep="\n")


if __name__ == "__main__":
    main()

"""Finds the GPU frameworks other than torch in a Python, and which CUDA each was built for."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpucheck.knowledge import packages as table
from gpucheck.probes.distributions import parse_requirements
from gpucheck.probes.files import read_text
from gpucheck.probes.package_files import Installed
from gpucheck.snapshot import Framework, Known, Maybe, Unknown


@dataclass(frozen=True, slots=True)
class _Seen:
    by_name: Mapping[str, Installed]
    needed: Callable[[str], Sequence[str]]  # CUDA libraries that a distribution's files ask for


def probe(
    distributions: Sequence[Installed], needed: Callable[[str], Sequence[str]]
) -> tuple[Framework, ...]:
    """Return the frameworks among *distributions*, the first on the path of each name.

    *needed* gives the names of the CUDA libraries that the files of a distribution ask for.
    """
    by_name: dict[str, Installed] = {}
    for each in distributions:
        by_name.setdefault(each.name, each)
    return tuple(found for look in _LOOKS for found in look(_Seen(by_name, needed)))


def _jax(seen: _Seen) -> Iterator[Framework]:
    """jax gets CUDA by a plugin; before 0.4.26 jaxlib itself was built for it ("+cuda12…")."""
    jax = seen.by_name.get("jax") or seen.by_name.get("jaxlib")
    if jax is None:
        return
    for major in ("13", "12"):
        names = (f"jax-cuda{major}-plugin", f"jax-cuda{major}-pjrt")
        plugin = next((seen.by_name[name] for name in names if name in seen.by_name), None)
        if plugin is None and os.path.isdir(f"{jax.site}/jax_plugins/xla_cuda{major}"):  # noqa: PTH112
            plugin = seen.by_name.get("jaxlib") or jax  # conda's jaxlib brings the plugin itself
        if plugin is not None:
            yield _framework("jax", jax, plugin, True, major, "9")
            return
    jaxlib = seen.by_name.get("jaxlib")
    built = re.search(r"\+cuda(\d\d)(?:\.cudnn(\d))?", jaxlib.version if jaxlib else "")
    if jaxlib is not None and built is not None:
        yield _framework("jax", jax, jaxlib, True, built[1], built[2])
    elif not any(name.startswith(("jax-rocm", "jax-metal", "libtpu")) for name in seen.by_name):
        yield _framework("jax", jax, jaxlib or jax, False, None, None)


_BUILD_INFO = re.compile(r"\('(\w+)', (?:'([^']*)'|(True|False))\)")


def build_info(text: str) -> dict[str, str]:
    """Read TensorFlow's build_info.py: {"cuda_version": "12.5.1", "is_cuda_build": "True"}."""
    return {found[1]: found[2] or found[3] or "" for found in _BUILD_INFO.finditer(text)}


def _tensorflow(seen: _Seen) -> Iterator[Framework]:
    names = ("tensorflow", "tensorflow-gpu", "tf-nightly", "tensorflow-cpu", "tf-nightly-cpu")
    found = next((seen.by_name[name] for name in names if name in seen.by_name), None)
    if found is None:
        return
    file = f"{found.site}/tensorflow/python/platform/build_info.py"
    text = read_text(file)
    if not isinstance(text, str):
        why = text if isinstance(text, Unknown) else Unknown(f"{file} is not there")
        yield Framework(
            name="TensorFlow", version=found.version, distribution=found.name,
            is_gpu_build=why, cuda=why, cudnn=why,
        )  # fmt: skip
        return
    reported = build_info(text)
    is_gpu = reported.get("is_cuda_build") == "True"
    cuda = reported.get("cuda_version") or Unknown(f"{file} does not say")
    yield _framework(
        "TensorFlow", found, found, is_gpu, cuda if is_gpu else None,
        reported.get("cudnn_version") if is_gpu else None,
    )  # fmt: skip


def _cupy(seen: _Seen) -> Iterator[Framework]:
    for name, found in sorted(seen.by_name.items()):
        wheel = re.fullmatch(r"cupy-cuda(\d\d)\dx?|cupy-cuda(\d\d)x", name)
        if wheel is not None:
            yield _framework("CuPy", found, found, True, wheel[1] or wheel[2], None)
        elif name == "cupy":
            yield _framework("CuPy", found, found, True, _cuda_of(seen.needed, name), None)


def _numba(seen: _Seen) -> Iterator[Framework]:
    """numba compiles for CPUs; for GPUs there is numba-cuda, once a part of numba itself."""
    numba, target = seen.by_name.get("numba"), seen.by_name.get("numba-cuda")
    if numba is not None and target is not None:
        why = Unknown("numba-cuda works with the CUDA that it finds")
        yield _framework("Numba", numba, target, True, why, None)


def _onnxruntime(seen: _Seen) -> Iterator[Framework]:
    gpu = seen.by_name.get("onnxruntime-gpu")
    found = gpu or seen.by_name.get("onnxruntime")
    if found is not None:
        cuda = None if gpu is None else _cuda_of(seen.needed, found.name)
        yield _framework("ONNX Runtime", found, found, gpu is not None, cuda, None)


_PADDLE = re.compile(r"^(\w+)\s*=\s*'([^']*)'", re.MULTILINE)


def _paddle(seen: _Seen) -> Iterator[Framework]:
    gpu = seen.by_name.get("paddlepaddle-gpu")
    found = gpu or seen.by_name.get("paddlepaddle")
    if found is None:
        return
    text = read_text(f"{found.site}/paddle/version/__init__.py")
    said = dict(_PADDLE.findall(text)) if isinstance(text, str) else {}
    cuda: Maybe[str] = said.get("cuda_version") or Unknown("paddle/version does not say")
    if cuda == "False" or (gpu is None and isinstance(cuda, Unknown)):
        cuda = None
    cudnn = said.get("cudnn_version", "")
    yield _framework(
        "Paddle", found, found, cuda is not None, cuda, None if cudnn in ("", "False") else cudnn
    )


_LOOKS: tuple[Callable[[_Seen], Iterator[Framework]], ...] = (
    _jax,
    _tensorflow,
    _cupy,
    _numba,
    _onnxruntime,
    _paddle,
)


def _framework(
    name: str,
    named: Installed,
    built: Installed,
    is_gpu_build: Known[bool],
    cuda: Maybe[str],
    cudnn: Maybe[str],
) -> Framework:
    return Framework(
        name=name,
        version=named.version,
        distribution=built.name,
        is_gpu_build=is_gpu_build,
        cuda=cuda,
        cudnn=cudnn,
        requires=_requires(built) if is_gpu_build is True else (),
    )


#: The extras under which a framework asks for NVIDIA's wheels.
_EXTRAS = ("with-cuda", "and-cuda", "ctk", "cuda", "cudnn")


def _requires(package: Installed) -> tuple[str, ...]:
    text = read_text(f"{package.described}/METADATA", 256 << 10)
    needs = parse_requirements(text if isinstance(text, str) else "", "", extras=_EXTRAS)
    return tuple(
        each.name + each.specifier
        for each in needs
        if each.name.startswith("nvidia-") and each.specifier
    )


def _cuda_of(needed: Callable[[str], Sequence[str]], distribution: str) -> Known[str]:
    major = table.cuda_major_of(needed(distribution))
    if major is None:
        return Unknown(f"the files of {distribution} need no CUDA library whose number says it")
    return str(major)

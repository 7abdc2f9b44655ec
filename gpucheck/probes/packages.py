"""Looks at the GPU packages of a Python: what they are built for, and which libraries they get."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gpucheck.probes import frameworks, loader
from gpucheck.probes.ld_so import Process
from gpucheck.probes.package_files import (
    CUDA_LIBRARY,
    CompiledFile,
    Installed,
    Site,
    cache_directory,
    read_site,
)
from gpucheck.probes.package_resolver import Surroundings, resolve
from gpucheck.probes.readable import readable
from gpucheck.snapshot import (
    FileClash,
    GpuPackage,
    Packages,
    Python,
    PyTorch,
    Unknown,
    unknown_section,
)

#: What other sections speak of: torch itself, its compiler, and the wheels that bring CUDA.
_TORCH_ITSELF = frozenset({"torch", "triton", "pytorch-triton"})
_HASH_LIMIT_BYTES = 16 << 20


def probe(
    pytorch: PyTorch,
    variables: Mapping[str, str],
    root: Path = Path("/"),
    cache: Path | None = None,
) -> Packages:
    """Return the facts of the packages in the Python of *pytorch*, from files alone.

    *cache* is the folder for what was read of them; None leaves it to the platform.
    """
    python = pytorch.python
    if not isinstance(python, Python):
        why = python.why if isinstance(python, Unknown) else "no Python was found"
        return unknown_section(Packages, why)
    place = cache if cache is not None else cache_directory()
    sites = [read_site(path, place) for path in _folders(python.sys_path)]
    try:
        return _facts(pytorch, python, sites, variables, root)
    finally:
        for site in sites:
            site.save()


def _facts(
    pytorch: PyTorch,
    python: Python,
    sites: Sequence[Site],
    variables: Mapping[str, str],
    root: Path,
) -> Packages:
    chosen = _first_of_each(sites)
    found = frameworks.probe(
        [package for _, package in chosen],
        lambda wanted: [
            name
            for site, package in chosen
            if package.name == wanted
            for name in _needs(site, package)
        ],
    )
    clashes = tuple(clash for site in sites for clash in file_clashes(site))
    fresh = loader.start(pytorch, variables, root)
    if not isinstance(fresh, Process):
        return Packages(gpu_packages=fresh, frameworks=found, clashes=clashes)
    around = Surroundings(
        pytorch=pytorch,
        variables=variables,
        root=root,
        sites=sites,
        sys_path=python.sys_path,
        prefix=python.prefix,
        fresh=fresh,
        frameworks=found,
    )
    try:
        return Packages(
            gpu_packages=tuple(_gpu_packages(around, chosen)), frameworks=found, clashes=clashes
        )
    finally:
        around.close()


def _folders(sys_path: Iterable[str]) -> list[str]:
    return [path for path in dict.fromkeys(sys_path) if Path(path).is_dir()]


def _first_of_each(sites: Sequence[Site]) -> list[tuple[Site, Installed]]:
    """Return the distributions that an import finds: of each name the first on the path."""
    chosen: dict[str, tuple[Site, Installed]] = {}
    for site in sites:
        for package in site.distributions:
            chosen.setdefault(package.name, (site, package))
    return list(chosen.values())


def _needs(site: Site, package: Installed) -> Iterator[str]:
    for file in package.files:
        notes = site.notes(file.path)
        if notes is not None and notes.asks:
            yield from (name for name in notes.needed if CUDA_LIBRARY.match(name))


def _gpu_packages(
    around: Surroundings, chosen: Sequence[tuple[Site, Installed]]
) -> Iterator[GpuPackage]:
    for site, package in chosen:
        if package.name in _TORCH_ITSELF or _brings_cuda(package):
            continue
        found = resolve(around, site, package)
        if found is not None:
            yield found


def _brings_cuda(package: Installed) -> bool:
    """Whether this is a wheel that only brings NVIDIA's libraries to others."""
    return package.name.startswith("nvidia-") and all(
        file.path.startswith("nvidia/") and "/lib/" in file.path for file in package.files
    )


# -------------------------------------------------------------------------------------- clashes


def file_clashes(site: Site) -> Iterator[FileClash]:
    """Yield the sets of distributions in one folder whose RECORDs claim the same shared objects."""
    counts = Counter(file.path for package in site.distributions for file in package.files)
    shared = {path for path, count in counts.items() if count > 1}
    owners: dict[str, list[tuple[Installed, CompiledFile]]] = {}
    for package in site.distributions if shared else ():
        for file in package.files:
            if file.path in shared:
                owners.setdefault(file.path, []).append((package, file))
    clashes: dict[tuple[str, tuple[str, ...]], list[list[tuple[Installed, CompiledFile]]]] = {}
    for path, claims in owners.items():
        if len({(file.sum, file.size) for _, file in claims}) < 2:
            continue
        if not all(file.sum for _, file in claims) or _is_of_wheels(claims):
            continue
        names = tuple(f"{package.name} {package.version}" for package, _ in claims)
        clashes.setdefault((path.partition("/")[0], names), []).append(claims)
    for (folder, names), files in clashes.items():
        present = {_present(site, claims) for claims in files} - {""}
        yield FileClash(
            folder=readable(f"{site.path}/{folder}"),
            distributions=names,
            files=len(files),
            present=present.pop() if len(present) == 1 else None,
        )


def _is_of_wheels(claims: Iterable[tuple[Installed, CompiledFile]]) -> bool:
    """NVIDIA's library wheels for two CUDA majors: LIB002 speaks of those."""
    return all(package.name.startswith("nvidia-") for package, _ in claims)


def _present(site: Site, claims: Sequence[tuple[Installed, CompiledFile]]) -> str | None:
    """Return whose file is there; "" where it is not known, None where it is nobody's."""
    path = f"{site.path}/{claims[0][1].path}"
    try:
        size = os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return ""
    fitting = [(package, file) for package, file in claims if file.size == size]
    if len(fitting) > 1 and size <= _HASH_LIMIT_BYTES:
        real = _sum(path)
        fitting = [(package, file) for package, file in fitting if file.sum == real]
    if len(fitting) == 1:
        return f"{fitting[0][0].name} {fitting[0][0].version}"
    return "" if fitting else None


def _sum(path: str) -> str:
    import base64

    try:
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return ""
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

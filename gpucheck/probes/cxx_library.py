"""Says which libstdc++ torch's process gets, and whether it has what torch's libraries need."""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH207

import glob
import os
from collections.abc import Iterable, Iterator

from gpucheck.probes.elf_versions import defined_versions, needed_versions
from gpucheck.probes.ld_so import Process
from gpucheck.probes.readable import readable
from gpucheck.snapshot import CxxLibrary, Unknown
from gpucheck.versions import version_tuple

SONAME = "libstdc++.so.6"
_KINDS = ("GLIBCXX_", "CXXABI_")


def look(process: Process, prefix: str) -> CxxLibrary | Unknown | None:
    """Return the libstdc++ among the objects of *process*; None where nothing asks for one.

    *prefix* is the Python's: a conda environment may have a newer copy in its lib.
    """
    askers = [thing for thing in process.objects if SONAME in thing.elf.needed]
    loaded = process.loaded(SONAME)
    if not askers or loaded is None:
        return None
    defined = defined_versions(loaded.path)
    if not defined:
        return Unknown(readable(f"{loaded.path} does not tell its versions"))
    missing: dict[str, str] = {}  # version → the first that needs it
    for asker in askers:
        needs = needed_versions(asker.path).get(SONAME, frozenset())
        for version in sorted(needs - defined):
            if version.startswith(_KINDS):
                missing.setdefault(version, asker.path)
    return CxxLibrary(
        path=readable(loaded.path),
        real_path=readable(os.path.realpath(loaded.path)),
        found_via=readable(loaded.found_via),
        directory=readable(loaded.directory),
        newest=_newest(defined, missing),
        missing=tuple(sorted(missing, key=lambda each: version_tuple(each.rpartition("_")[2]))),
        needed_by=readable(next(iter(missing.values()), "")),
        newer=tuple(_newer(process, prefix, loaded.path, frozenset(missing))) if missing else (),
    )


def _newest(defined: frozenset[str], missing: Iterable[str]) -> str:
    """Return the newest version of the kind that is missing."""
    kinds = [kind for kind in _KINDS if any(each.startswith(kind) for each in missing)]
    kind = (*kinds, *_KINDS)[0]
    numbered = [each for each in defined if each.removeprefix(kind)[:1].isdigit()]
    return max(numbered, key=lambda each: version_tuple(each.rpartition("_")[2]), default="")


def _newer(process: Process, prefix: str, taken: str, missing: frozenset[str]) -> Iterator[str]:
    """Yield the copies at hand that have what is missing."""
    plain = process.find_plainly(SONAME)
    candidates = [plain[0]] if isinstance(plain, tuple) else []
    candidates += sorted(glob.glob(f"{glob.escape(prefix)}/lib/libstdc++.so.6*"), reverse=True)
    candidates += [f"{each}/{SONAME}" for each in process.loader.system_directories]
    seen = {os.path.realpath(taken)}
    for path in candidates:
        real = os.path.realpath(path)
        if real not in seen and missing <= (defined_versions(path) or frozenset()):
            yield readable(path)
        seen.add(real)

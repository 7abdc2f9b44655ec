"""Tells whether an installed version meets what another distribution requires."""

import functools

from gpucheck.versions import version_tuple


@functools.lru_cache(maxsize=1024)
def satisfies(version: str, specifier: str) -> bool:
    """Tell whether *version* meets a specifier; one that cannot be read is met."""
    if not specifier or specifier == f"=={version.partition('+')[0]}":
        return True  # nearly always: `packaging` costs its import only where they differ
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


def is_same_version(one: str, other: str) -> bool:
    """Compare two versions as far as both go: a wheel's fourth number counts builds."""
    left, right = version_tuple(one), version_tuple(other)
    length = min(len(left), len(right), 4)
    return length > 0 and left[:length] == right[:length]

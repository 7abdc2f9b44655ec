"""Finds every rule of this package: whoever adds a rule adds it to a file here, and that is all."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages

from gpucheck.rule import Rule


def _find() -> Iterator[Rule]:
    """Yield each rule once: from the module that defines it, also in a sub-package."""
    for info in walk_packages(__path__, f"{__name__}."):
        module = import_module(info.name)
        for thing in vars(module).values():
            if isinstance(thing, Rule) and thing.module == info.name:
                yield thing


RULES: tuple[Rule, ...] = tuple(sorted(_find(), key=lambda rule: rule.code))

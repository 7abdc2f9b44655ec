"""Finds every rule of this package: whoever adds a rule adds it to a file here, and that is all."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from gpucheck.rule import Rule


def _find() -> Iterator[Rule]:
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        yield from (thing for thing in vars(module).values() if isinstance(thing, Rule))


RULES: tuple[Rule, ...] = tuple(sorted(_find(), key=lambda rule: rule.code))

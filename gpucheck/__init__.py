"""Says what is wrong with an NVIDIA GPU machine, how we know, and how to fix it.

    import gpucheck

    report = gpucheck.examine(gpucheck.collect())
    if report.verdict == "broken":
        print(gpucheck.render(report))

Names are imported when they are first used: `import gpucheck` costs nothing.
"""

import sys

__version__ = "0.1.0"
TYPE_CHECKING = False  # type checkers take it for true; importing typing would take 5 ms
ModuleType = type(sys)

if TYPE_CHECKING:
    from gpucheck.api import CollectionError, collect, examine, load, render
    from gpucheck.report import Finding, Report
    from gpucheck.rules import RULES
    from gpucheck.scope import Scope
    from gpucheck.snapshot import Snapshot
    from gpucheck.usage_error import UsageError

__all__ = (
    "RULES",
    "CollectionError",
    "Finding",
    "Report",
    "Scope",
    "Snapshot",
    "UsageError",
    "collect",
    "examine",
    "load",
    "render",
)

_HOMES = {
    "RULES": "gpucheck.rules",
    "CollectionError": "gpucheck.api",
    "Finding": "gpucheck.report",
    "Report": "gpucheck.report",
    "Scope": "gpucheck.scope",
    "Snapshot": "gpucheck.snapshot",
    "UsageError": "gpucheck.usage_error",
    "collect": "gpucheck.api",
    "examine": "gpucheck.api",
    "load": "gpucheck.api",
    "render": "gpucheck.api",
}


class _Package(ModuleType):  # type: ignore[misc,valid-type] # the same class by another way
    """This package: its functions `collect` and `render` keep their names from its submodules."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'gpucheck' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets a submodule as an attribute of its package when it is first imported.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package

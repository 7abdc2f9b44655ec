"""Runs `payload/__main__.py` with code slipped into one of its modules.

    python patched_program.py MODULE PATCH …/payload/__main__.py PROGRAM [ARGUMENT]

The code in the file PATCH runs in the module's own names, right after the module's last line.
"""

import importlib.abc
import importlib.util
import runpy
import sys
from pathlib import Path


class AfterImport(importlib.abc.MetaPathFinder):
    """Finds one module as everybody does, and runs the patch behind it."""

    def __init__(self, name, patch):
        self.name = name
        self.patch = patch

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_both(module):
            execute(module)
            with Path(self.patch).open() as file:
                exec(compile(file.read(), self.patch, "exec"), module.__dict__)

        spec.loader.exec_module = execute_both  # type: ignore[method-assign]
        return spec


def main():
    module, patch, *rest = sys.argv[1:]
    sys.argv = rest
    sys.path[0] = str(Path(rest[0]).parent)  # as if Python had been called with the program
    sys.meta_path.insert(0, AfterImport("gpucheck_payload." + module, patch))
    runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    main()

"""Runs one program of this folder in whatever Python runs this file.

    python …/gpucheck/payload/__main__.py [--path=FOLDER …] PROGRAM [ARGUMENT]

The folder becomes the package `gpucheck_payload`, so that its files import each other relatively
and no name of theirs is importable bare: a `deep.py` or `plan.py` of the user's stays the user's.
`sys.path` is then what a script of the user's sees, less the script's own folder. Each
`--path=FOLDER` is appended to it: gpucheck's own Python runs with -I -S and finds pynvml there.

Python 3.6 understands this file, so that an older Python than we need gets an answer.
"""

import sys


def register(folder: str) -> None:
    """Make *folder* the package `gpucheck_payload`; `importlib.util` would cost 2 ms."""
    package = type(sys)("gpucheck_payload")
    package.__path__ = [folder]
    sys.modules[package.__name__] = package


def main() -> None:
    """Take Python's entry for this folder off the path, and run the program that was named."""
    folder = __file__.rpartition("/")[0]
    if sys.path[:1] == [folder]:  # with -I, or under PYTHONSAFEPATH, Python did not put it there
        del sys.path[0]
    register(folder)
    arguments = sys.argv[1:]
    while arguments and arguments[0].startswith("--path="):
        sys.path.append(arguments.pop(0)[len("--path=") :])
    program = arguments.pop(0)
    if sys.version_info < (3, 8) and program != "describe_python":
        sys.exit("Python 3.8 or newer is needed; this is " + sys.version.split()[0])
    module = __import__("gpucheck_payload." + program, fromlist=["main"])
    module.main(*arguments)


if __name__ == "__main__":
    main()

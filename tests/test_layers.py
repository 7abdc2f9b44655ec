"""Data moves one way: a module imports only what stands before it in the flow."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gpucheck"

#: The flow, earliest first. The longest name that fits a module says where it stands.
LAYERS = (
    ("gpucheck.payload",),
    (
        "gpucheck",
        "gpucheck.usage_error",
        "gpucheck.versions",
        "gpucheck.requirements",
        "gpucheck.wording",
        "gpucheck.snapshot",
        "gpucheck.held_memory",
        "gpucheck.pending",
        "gpucheck.poverty",
        "gpucheck.site_probe",
    ),
    ("gpucheck.knowledge",),
    ("gpucheck.probes", "gpucheck.scope"),
    ("gpucheck.workloads",),
    ("gpucheck.collect",),
    ("gpucheck.forked_collector",),
    ("gpucheck.derived", "gpucheck.training_evidence"),
    ("gpucheck.startup_lines",),
    ("gpucheck.rule", "gpucheck.families"),
    ("gpucheck.bench_evidence", "gpucheck.burn_evidence"),
    ("gpucheck.conditions", "gpucheck.remedies"),
    ("gpucheck.rules", "gpucheck.site_rules"),
    ("gpucheck.report", "gpucheck.explain"),
    ("gpucheck.privacy",),
    ("gpucheck.render", "gpucheck.console"),
    ("gpucheck.snapshot_file", "gpucheck.warm_up"),
    ("gpucheck.api",),
    ("gpucheck.shellenv",),
    ("gpucheck.fleet",),
    ("gpucheck.cli_help",),
    ("gpucheck.smoke", "gpucheck.bench", "gpucheck.burn", "gpucheck.env_cli"),
    ("gpucheck.cli",),
    ("gpucheck.__main__",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["gpucheck", *path.relative_to(PACKAGE).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def height(module: str) -> int:
    while module not in HEIGHT:
        module = module.rpartition(".")[0]
    return HEIGHT[module]


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each module of ours that *path* imports, and whether it does so when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for child in ast.walk(tree):
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            inner = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [name if name in MODULES else child.module for name in inner]
        for name in names:
            if name.split(".")[0] == "gpucheck":
                yield name, child in tree.body


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_before_it(module: str):
    later = {
        name
        for name, at_load in imported(MODULES[module])
        # The package itself offers names from all of it, and imports none before it is asked.
        if height(name) > height(module) and (at_load or module != "gpucheck")
    }

    assert not later, f"{module} imports {', '.join(sorted(later))}"


def test_no_module_imports_itself_over_others():
    edges = {
        module: {name for name, at_load in imported(path) if at_load and name != module}
        for module, path in MODULES.items()
    }

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"{' → '.join((*way, module))} is a circle"
        for name in edges.get(module, ()):
            if not module.startswith(f"{name}."):
                walk(name, (*way, module))

    for module in MODULES:
        walk(module, ())


def test_no_room_is_a_lumber_room():
    names = {path.stem for path in PACKAGE.rglob("*.py")}

    assert not names & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_in_one_sentence_what_it_does(module: str):
    text = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())

    assert first.endswith((".", "`")), module

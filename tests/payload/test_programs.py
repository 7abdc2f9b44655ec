"""What runs elsewhere depends on nothing of ours, and reports only what the types describe."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from interpreters import VERSIONS, interpreters

from gpucheck.probes import messages
from gpucheck.probes.child import Ended, payload_command, run

FOLDER = Path(messages.__file__).parents[1] / "payload"
FILES = sorted(FOLDER.glob("*.py"))
STANDARD = set(sys.stdlib_module_names)
ELSEWHERE = {"torch", "torchvision", "pynvml", "ray"}
PROGRAMS = sorted(
    path.stem
    for path in FILES
    if path.stem != "__main__"
    and any(
        isinstance(node, ast.FunctionDef) and node.name == "main"
        for node in ast.parse(path.read_text()).body
    )
)
#: No program waits for another's word or needs a GPU to say that it has none.
ARGUMENTS = {"open_cudnn": ("/nowhere/libcudnn.so.9",), "pair": ("{}",)}


def imports(path: Path) -> Iterator[str]:
    """Yield what *path* imports; a sibling as ".name"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f".{name}" for name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_program_imports_the_standard_library_torch_pynvml_and_its_siblings(path: Path):
    siblings = {f".{file.stem}" for file in FILES}

    assert set(imports(path)) <= STANDARD | ELSEWHERE | siblings


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_program_is_python_3_8(path: Path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("name", ["__main__", "channel", "describe_python"])
def test_what_greets_an_old_python_is_python_3_6(name: str):
    ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def emitted() -> Iterator[tuple[str, str, set[str], bool]]:
    """Yield for each `emit("kind", …)`: where, the kind, the fields, and whether there are more."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name not in ("emit", "_emit", "quietly") or not node.args:
                continue
            if not isinstance(node.args[0], ast.Constant):
                continue  # passed on
            fields = {keyword.arg for keyword in node.keywords if keyword.arg}
            is_open = any(keyword.arg is None for keyword in node.keywords)
            yield f"{path.name}:{node.lineno}", str(node.args[0].value), fields, is_open


def test_whatever_a_program_emits_is_a_message_that_we_decode():
    known = {kind.__struct_config__.tag: kind for kind in messages.types()}
    seen = set()
    for where, kind, fields, is_open in emitted():
        assert kind in known, f"{where}: no message is called {kind!r}"
        described = {each.name: each for each in msgspec.structs.fields(known[kind])}
        required = {each.name for each in described.values() if each.required} - {"at"}
        assert fields <= set(described), f"{where}: {kind} has no {fields - set(described)}"
        assert is_open or required <= fields, f"{where}: {kind} needs {required - fields}"
        seen.add(kind)

    assert set(known) - seen == set(), "nobody emits these"


def messages_of(ended: Ended) -> list[messages.Message]:
    assert b"Traceback" not in ended.stderr, ended.stderr.decode()
    return messages.decode_all(ended.stdout)


def start(python: str, program: str, *, isolated: bool) -> list[messages.Message]:
    command = payload_command(
        python, program, *ARGUMENTS.get(program, ()), isolated=isolated, pynvml=isolated
    )
    return messages_of(run(command, deadline_seconds=60))


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_runs_in_a_bare_python(program: str):
    assert start(sys.executable, program, isolated=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_runs_under_every_python_that_is_here(program: str, version: str):
    if version not in interpreters():
        pytest.skip(f"no other Python {version} on this machine")

    assert start(interpreters()[version], program, isolated=False)


def test_an_older_python_gets_an_answer():
    older = [
        path
        for name in ("3.6", "3.7")
        for path in sorted(Path.home().glob(f".pyenv/versions/{name}.*/bin/python3"))
    ]
    if not older:
        pytest.skip("no Python 3.6 or 3.7 on this machine")
    for python in older:
        [answer] = start(str(python), "describe_python", isolated=False)
        asked = subprocess.run(
            payload_command(str(python), "cuda_init"), capture_output=True, text=True
        )

        assert isinstance(answer, messages.PythonAnswer)
        assert "Python 3.8 or newer is needed; this is 3." in asked.stderr


def test_a_message_that_is_not_as_described_is_an_error_and_a_foreign_line_is_nothing():
    good = b'gpucheck:{"type": "answered", "at": 1.0, "call": "cuInit", "value": 0}'

    assert messages.decode(good) == messages.Answered(at=1.0, call="cuInit", value=0)
    assert messages.decode(b"NCCL INFO something") is None
    for bad in (good.replace(b"value", b"valeu"), good.replace(b"answered", b"anwsered")):
        with pytest.raises(messages.MessageError):
            messages.decode(bad)


def test_a_line_that_was_cut_off_when_the_child_was_ended_is_no_message():
    assert messages.decode_all(b'gpucheck:{"type": "done", "at": 1.0}\ngpucheck:{"ty') == [
        messages.Done(at=1.0)
    ]


def test_the_users_own_modules_are_found_and_ours_are_not(tmp_path: Path):
    """`import deep` or `import channel` in torch's own code must give the user's, never ours."""
    (tmp_path / "channel.py").write_text("mine = True")
    code = "import json, sys; import channel as theirs; assert theirs.mine"
    from interpreters import patched_python

    python = patched_python(tmp_path / "bin", "describe_python", f"{code}; assert channel.emit\n")
    ended = run(
        payload_command(python, "describe_python"),
        deadline_seconds=60,
        environment={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )

    [answer] = messages_of(ended)
    assert isinstance(answer, messages.PythonAnswer)
    assert str(FOLDER) not in answer.path
    assert answer.path[0] == str(tmp_path)


def test_a_file_name_that_is_not_utf_8_survives(tmp_path: Path):
    odd = tmp_path / "f\udcffolder"
    odd.mkdir()
    ended = run(
        payload_command(sys.executable, "describe_python"),
        deadline_seconds=60,
        environment={"PYTHONPATH": str(odd), "PATH": "/usr/bin:/bin"},
    )

    [answer] = messages_of(ended)
    assert isinstance(answer, messages.PythonAnswer)
    assert str(odd) in answer.path


def test_a_strangers_python_leaves_no_bytecode_among_our_files(tmp_path: Path):
    if not interpreters():
        pytest.skip("no other Python on this machine")
    ours = tmp_path / "gpucheck"
    shutil.copytree(
        FOLDER.parent, ours, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
    )
    program = (
        "from gpucheck.probes.pytorch import probe; import sys; "
        "print(probe(sys.argv[1], {'PATH': '/usr/bin:/bin'}).python.version)"
    )
    python = interpreters()[max(interpreters())]

    ended = subprocess.run(
        [sys.executable, "-B", "-c", program, python],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )

    assert ended.stdout.startswith("3."), ended.stderr
    assert not list(ours.rglob("__pycache__"))

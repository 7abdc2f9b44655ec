"""Reading wheels' metadata: what it says, and what hostile or broken metadata cannot do."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes import distributions

ANY_TEXT = st.text() | st.binary().map(lambda b: b.decode("utf-8", "replace"))


def requirements(line: str) -> list[tuple[str, str]]:
    found = distributions.parse_requirements(f"Requires-Dist: {line}\n", "3.12.3")
    return [(each.name, each.specifier) for each in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch (==2.11.0)", [("torch", "==2.11.0")]),
        ("torch==2.6.0", [("torch", "==2.6.0")]),
        ("torch >= 2.1 , < 3", [("torch", ">=2.1,<3")]),
        ("NVIDIA_cudnn.cu13[x, y] ==9.1", [("nvidia-cudnn-cu13", "==9.1")]),
        ('torch; python_version < "3.0"', []),
        ("torch @ https://example.org/torch.whl", []),
        ("[torch", []),
        ("torch[a", []),
    ],
)
def test_a_requirement_is_read_as_pip_reads_it(line, expected):
    assert requirements(line) == expected


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("nvidia_cudnn_cu13-9.19.0.56.dist-info", ("nvidia-cudnn-cu13", "9.19.0.56")),
        ("torch-2.11.0+cu130.dist-info", ("torch", "2.11.0+cu130")),
        ("torch-2.1.0-py3.10.egg-info", ("torch", "2.1.0")),
        ("torch.egg-info", None),
        ("torch", None),
    ],
)
def test_name_and_version_stand_in_the_folders_name(folder, expected):
    assert distributions.split_name(folder) == expected


def test_what_requires_torch_is_listed_too(tmp_path):
    for name, needs in (("xformers", "torch==2.6.0"), ("numpy", "other"), ("lightning", "fsspec")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nRequires-Dist: {needs}\n\nrequires torch")

    [found] = distributions.wheels([str(tmp_path)], "3.12.3")

    assert found.distribution.name == "xformers"
    assert found.distribution.requires == ("torch==2.6.0",)


@pytest.mark.parametrize(
    "line",
    [
        "a" + " " * 400_000 + "@b",
        "torch; " + "(" * 200_000,
        "torch; " + "(" * 1_900,
        "torch[" + " ," * 200_000,
        "a-" * 200_000,
        "torch; extra == 'a' and " * 100_000,
    ],
)
def test_hostile_requirements_take_no_time(line):
    started = time.monotonic()

    requirements(line)

    assert time.monotonic() - started < 2


@given(ANY_TEXT)
def test_no_text_breaks_a_parser(text):
    for metadata in (text, f"Requires-Dist: {text}", f"Requires-Dist: torch; {text}"):
        list(distributions.parse_requirements(metadata, "3.12.3"))
        list(distributions.parse_requirements(metadata, text))
    list(distributions.parse_record(text))
    distributions.split_name(text)
    distributions.normalise(text)


@given(st.lists(st.sampled_from(['"', ",", "\n", "a.so", "1", "sha256=x", "é", "\0"])))
def test_no_record_breaks_us(parts):
    for path, size in distributions.parse_record("".join(parts)):
        assert path
        assert size >= 0

"""Reading the architectures out of torch's library, whole and broken."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes.architectures import compiled_architectures, read_only_data

FLAGS = "sm_75 sm_80 sm_90 compute_120"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    source = tmp_path / "flags.c"
    padding = "x" * 3000
    source.write_text(
        f'const char *before(void) {{ return "{padding * 700}"; }}\n'
        f'const char *flags(void) {{ return "{FLAGS}"; }}\n'
        'const char *other(void) { return "asm_75 and sm_75 sm_80 sm_86 sm_87 sm_89!"; }\n'
    )
    path = tmp_path / "libtorch_python.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
    return path


def test_the_list_is_found_behind_megabytes_of_other_data(library):
    assert compiled_architectures(library) == tuple(FLAGS.split())


def test_a_library_that_is_cut_short_while_it_is_read_is_no_crash(library):
    os.truncate(library, library.stat().st_size // 2)

    assert compiled_architectures(library) is None


def test_a_folder_or_nothing_in_its_place_gives_none(tmp_path):
    assert compiled_architectures(tmp_path) is None
    assert compiled_architectures(tmp_path / "missing.so") is None


@given(content=st.binary(max_size=400))
def test_no_file_breaks_the_search_for_read_only_data(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("elf") / "x.so"
    for start in (b"", b"\x7fELF\x02\x01"):
        path.write_bytes(start + content)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            read_only_data(descriptor)
        finally:
            os.close(descriptor)

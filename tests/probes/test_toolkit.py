"""The probe of CUDA toolkits, on trees of real files with real children."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes import cxx_compiler, toolkit, toolkit_files
from gpucheck.snapshot import HostCompiler, Toolkit, Toolkits, Unknown
from seen_facts import seen

NVCC_OUTPUT = """nvcc: NVIDIA (R) Cuda compiler driver
Copyright (c) 2005-2025 NVIDIA Corporation
Built on Wed_Aug_20_01:58:59_PM_PDT_2025
Cuda compilation tools, release {short}, V{full}
Build cuda_13.0.r13.0/compiler.36424714_0
"""


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def nvcc(path: Path, full: str) -> Path:
    short = ".".join(full.split(".")[:2])
    return script(path, f"cat <<'end'\n{NVCC_OUTPUT.format(short=short, full=full)}end")


def install(root: Path, home: str, full: str = "13.0.88") -> Path:
    """A toolkit as NVIDIA's packages lay it out."""
    folder = root / home.lstrip("/")
    nvcc(folder / "bin/nvcc", full)
    libraries = folder / "targets/x86_64-linux/lib"
    libraries.mkdir(parents=True)
    (libraries / f"libcudart.so.{full}").touch()
    (folder / "lib64").symlink_to("targets/x86_64-linux/lib")
    (folder / "version.json").write_text(json.dumps({"cuda": {"version": full}}))
    return folder


def only(found: Toolkits) -> Toolkit:
    assert isinstance(found.installed, tuple)
    [one] = found.installed
    return one


def test_a_toolkit_is_found_under_all_its_names(tmp_path):
    install(tmp_path, "/usr/local/cuda-13.0")
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    (tmp_path / "etc/alternatives/cuda").symlink_to("/usr/local/cuda-13.0")
    (tmp_path / "usr/local/cuda").symlink_to("/etc/alternatives/cuda")

    found = toolkit.probe({}, tmp_path)

    assert found.default == "/usr/local/cuda-13.0"
    assert found.dangling == ()
    one = only(found)
    assert one.home == "/usr/local/cuda-13.0"
    assert one.names == ("/usr/local/cuda", "/usr/local/cuda-13.0")
    assert one.version == "13.0"
    assert one.nvcc_version == "13.0.88"
    assert one.nvcc_error is None
    assert one.has_cudart is True
    assert one.library_directory == "/usr/local/cuda-13.0/targets/x86_64-linux/lib"
    assert one.origin == "local"


def test_a_missing_version_json_is_no_trouble(tmp_path):
    (install(tmp_path, "/usr/local/cuda-13.0") / "version.json").unlink()

    one = only(toolkit.probe({}, tmp_path))

    assert one.version_json is None
    assert one.version == "13.0"


def test_the_header_tells_the_version_where_nothing_is_run(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-12.4", "12.4.131")
    (folder / "version.json").unlink()
    (folder / "include").mkdir()
    (folder / "include/cuda_runtime_api.h").write_text("#define CUDART_VERSION  12040\n")

    one = only(toolkit.probe({}, tmp_path, run_nvcc=False))

    assert one.version == "12.4"
    assert isinstance(one.nvcc_version, Unknown)


def test_a_link_to_nothing_dangles(tmp_path):
    (tmp_path / "usr/local").mkdir(parents=True)
    (tmp_path / "usr/local/cuda").symlink_to("/usr/local/cuda-12.4")

    found = toolkit.probe({}, tmp_path)

    assert found.dangling == ("/usr/local/cuda",)
    assert found.default is None
    assert found.installed == ()


def test_links_in_a_circle_dangle(tmp_path):
    (tmp_path / "usr/local").mkdir(parents=True)
    (tmp_path / "usr/local/cuda").symlink_to("cuda-13")
    (tmp_path / "usr/local/cuda-13").symlink_to("cuda")

    assert toolkit.probe({}, tmp_path).dangling == ("/usr/local/cuda", "/usr/local/cuda-13")


def test_a_folder_that_only_has_the_name_is_no_toolkit(tmp_path):
    (tmp_path / "usr/local/cuda-12.4/doc").mkdir(parents=True)

    assert toolkit.probe({}, tmp_path).installed == ()


def test_runtime_libraries_alone_are_a_toolkit_without_a_compiler(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-12.4", "12.4.127")
    (folder / "bin/nvcc").unlink()

    one = only(toolkit.probe({}, tmp_path))

    assert one.nvcc is None
    assert one.nvcc_architectures is None
    assert one.version == "12.4"


@pytest.mark.parametrize(
    ("home", "variables", "origin"),
    [
        ("/opt/cuda", {}, "local"),
        ("/usr/lib/nvidia-cuda-toolkit", {}, "distribution"),
        ("/opt/nvidia/hpc_sdk/Linux_x86_64/24.5/cuda/12.4", {}, "hpc_sdk"),
        ("/home/me/miniforge3/envs/x", {"CONDA_PREFIX": "/home/me/miniforge3/envs/x"}, "conda"),
        ("/sw/CUDA/12.4.0", {"EBROOTCUDA": "/sw/CUDA/12.4.0"}, "module"),
        ("/sw/CUDA/12.4.0", {"CUDA_HOME": "/sw/CUDA/12.4.0/"}, "other"),
        ("/v/site-packages/nvidia/cu13", {"CUDA_PATH": "/v/site-packages/nvidia/cu13"}, "pip"),
    ],
)
def test_each_place_is_looked_into(tmp_path, home, variables, origin):
    install(tmp_path, home, "12.4.131")

    one = only(toolkit.probe(variables, tmp_path))

    assert one.home == home
    assert one.origin == origin


def test_the_first_nvcc_is_followed_through_a_wrapper_script(tmp_path):
    install(tmp_path, "/sw/cuda-12.8", "12.8.93")
    script(tmp_path / "usr/local/bin/nvcc", 'exec /sw/cuda-12.8/bin/nvcc "$@"')

    found = toolkit.probe({"PATH": "/usr/bin:/usr/local/bin"}, tmp_path)

    assert found.first_nvcc == "/usr/local/bin/nvcc"
    assert found.first_nvcc_home == "/sw/cuda-12.8"
    assert only(found).version == "12.8"


def test_a_compiler_cache_in_front_is_seen_through(tmp_path):
    install(tmp_path, "/usr/local/cuda-12.8", "12.8.93")
    script(tmp_path / "usr/bin/ccache", "exit 1")
    (tmp_path / "usr/lib/ccache").mkdir(parents=True)
    (tmp_path / "usr/lib/ccache/nvcc").symlink_to("/usr/bin/ccache")

    found = toolkit.probe({"PATH": "/usr/lib/ccache:/usr/local/cuda-12.8/bin"}, tmp_path)

    assert found.first_nvcc == "/usr/lib/ccache/nvcc"
    assert found.first_nvcc_home == "/usr/local/cuda-12.8"


def test_a_script_that_hides_its_toolkit_is_not_guessed_at(tmp_path):
    script(tmp_path / "usr/local/bin/nvcc", 'exec "$CUDA_HOME/bin/nvcc" "$@"')

    found = toolkit.probe({"PATH": "/usr/local/bin"}, tmp_path)

    assert isinstance(found.first_nvcc_home, Unknown)


def test_relative_and_empty_elements_of_path_are_not_searched(tmp_path, monkeypatch):
    nvcc(tmp_path / "nvcc", "13.0.88")
    monkeypatch.chdir(tmp_path)

    assert toolkit.probe({"PATH": ":.:"}, tmp_path).first_nvcc is None


def test_an_nvcc_that_crashes_is_a_fact(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    script(folder / "bin/nvcc", "kill -SEGV $$")

    one = only(toolkit.probe({}, tmp_path))

    assert one.nvcc_version is None
    assert one.nvcc_error == "crashed with SIGSEGV"
    assert one.version == "13.0"


def test_an_nvcc_that_fails_is_a_fact_with_its_last_words(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    script(folder / "bin/nvcc", "echo 'libfoo.so: cannot open shared object file' >&2; exit 127")

    one = only(toolkit.probe({}, tmp_path))

    assert one.nvcc_error == "exit status 127: libfoo.so: cannot open shared object file"


def test_an_nvcc_that_may_not_be_executed_is_a_fact(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    (folder / "bin/nvcc").chmod(stat.S_IRUSR)

    one = only(toolkit.probe({}, tmp_path))

    assert one.nvcc_error is not None
    assert "Permission denied" in seen(one.nvcc_error)


def test_an_nvcc_that_hangs_is_unknown_and_holds_nobody_up(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    script(folder / "bin/nvcc", "sleep 60")

    one = only(toolkit.probe({}, tmp_path, deadline_seconds=0.2))

    assert one.nvcc_version == Unknown("nvcc --version: no answer in 0.2 s")
    assert one.nvcc_error is None


def test_an_nvcc_that_floods_is_a_fact(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    script(folder / "bin/nvcc", "yes")

    one = only(toolkit.probe({}, tmp_path))

    assert one.nvcc_error is not None
    assert "wrote more than" in seen(one.nvcc_error)


def test_a_release_that_the_table_does_not_know_is_asked_what_it_compiles_for(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-99.0", "99.0.1")
    script(
        folder / "bin/nvcc",
        "case $1 in --list-gpu-code) echo sm_200; echo sm_210a;;"
        " *) echo 'Cuda compilation tools, release 99.0, V99.0.1';; esac",
    )

    assert only(toolkit.probe({}, tmp_path)).nvcc_architectures == ("sm_200", "sm_210a")
    assert isinstance(only(toolkit.probe({}, tmp_path, run_nvcc=False)).nvcc_architectures, Unknown)


def test_the_compat_libraries_of_a_toolkit_are_found(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    (folder / "compat").mkdir()
    (folder / "compat/libcuda.so.580.65.06").touch()
    (folder / "compat/libcuda.so").symlink_to("libcuda.so.580.65.06")

    one = only(toolkit.probe({}, tmp_path))

    assert one.compat_directory == "/usr/local/cuda-13.0/compat"
    assert one.compat_version == "580.65.06"


def test_a_version_file_that_is_a_pipe_holds_nobody_up(tmp_path):
    folder = install(tmp_path, "/usr/local/cuda-13.0")
    (folder / "version.json").unlink()
    os.mkfifo(folder / "version.json")

    assert only(toolkit.probe({}, tmp_path)).version_json is None


# ---------------------------------------------------------------------------- the host compiler


def gcc(path: Path, version: str = "13.3.0") -> Path:
    return script(
        path,
        f"echo 'g++ (Ubuntu 13.3.0-6ubuntu2~24.04.1) {version}'\n"
        "echo 'Copyright (C) 2023 Free Software Foundation, Inc.'",
    )


def test_the_host_compiler_is_the_first_on_path(tmp_path):
    install(tmp_path, "/usr/local/cuda-13.0")
    gcc(tmp_path / "usr/bin/g++")

    found = toolkit.probe({"PATH": "/usr/bin"}, tmp_path)

    assert found.host_compiler == HostCompiler(
        path="/usr/bin/g++", kind="gcc", version="13.3.0", chosen_by="PATH"
    )


@pytest.mark.parametrize("variable", ["NVCC_CCBIN", "CUDAHOSTCXX", "CXX", "CC"])
def test_a_variable_chooses_the_host_compiler(tmp_path, variable):
    install(tmp_path, "/usr/local/cuda-13.0")
    gcc(tmp_path / "usr/bin/g++")
    gcc(tmp_path / "opt/gcc/bin/g++", "12.1.0")

    found = toolkit.probe({"PATH": "/usr/bin", variable: "/opt/gcc/bin/g++"}, tmp_path)

    assert isinstance(found.host_compiler, HostCompiler)
    assert found.host_compiler.version == "12.1.0"
    assert found.host_compiler.chosen_by == variable


@pytest.mark.parametrize(
    "variables",
    [
        {"NVCC_CCBIN": "/opt/gcc/bin"},  # a folder
        {"CXX": "ccache g++-12 -O2"},
        {"NVCC_PREPEND_FLAGS": "-O3 -ccbin=/opt/gcc/bin/g++-12"},
    ],
)
def test_folders_wrappers_and_flags_are_understood(tmp_path, variables):
    install(tmp_path, "/usr/local/cuda-13.0")
    gcc(tmp_path / "opt/gcc/bin/g++", "12.1.0")
    gcc(tmp_path / "opt/gcc/bin/g++-12", "12.1.0")

    found = toolkit.probe({"PATH": "/usr/bin:/opt/gcc/bin", **variables}, tmp_path)

    assert isinstance(found.host_compiler, HostCompiler)
    assert found.host_compiler.version == "12.1.0"


def test_without_running_it_the_name_of_the_file_tells_the_major(tmp_path):
    script(tmp_path / "usr/bin/x86_64-linux-gnu-g++-13", "exit 1")
    (tmp_path / "usr/bin/g++").symlink_to("x86_64-linux-gnu-g++-13")

    found = toolkit.probe({"PATH": "/usr/bin"}, tmp_path, run_nvcc=False)

    assert found.host_compiler == HostCompiler(
        path="/usr/bin/g++", kind="gcc", version="13", chosen_by="PATH"
    )


def test_no_compiler_at_all_is_a_fact(tmp_path):
    assert toolkit.probe({"PATH": "/usr/bin"}, tmp_path).host_compiler is None


# ------------------------------------------------------------------------------------- parsers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("clang version 18.1.3 (1ubuntu1)\nTarget: x86_64", ("clang", "18.1.3")),
        ("Ubuntu clang version 14.0.0-1ubuntu1.1\n", ("clang", "14.0.0")),
        ("g++ (GCC) 11.4.1 2023 (Red Hat 11.4.1-3)\nFree Software Foundation", ("gcc", "11.4.1")),
        ("gcc (GCC) 15.3.0\nFree Software Foundation", ("gcc", "15.3.0")),
        ("nvc++ 24.5-1 64-bit target", ("other", None)),
        ("", ("other", None)),
    ],
)
def test_compilers_tell_their_version(text, answer):
    assert cxx_compiler.parse_compiler_version(text) == answer


def test_the_conditions_of_the_header_set_the_limits():
    text = """
#if (__GRCO_CLANG_COMPILER__ == 1) && ((__clang_major__ < 16) || (__clang_major__ > 20))
#if __GNUC__ > 15
#error -- unsupported GNU version! gcc versions later than 15 are not supported!
#if (__clang_major__ >= 21) || (__clang_major__ < 3)
"""

    assert toolkit.parse_host_config(text) == (15, 20)


def test_a_header_without_conditions_sets_no_limit():
    assert toolkit.parse_host_config("#pragma once\n") == (None, None)


@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "replace")))
def test_no_text_breaks_a_parser(text):
    for parse in (
        toolkit_files.parse_version_json,
        toolkit_files.parse_version_txt,
        toolkit_files.parse_cudart_version,
        toolkit.parse_nvcc_version,
        toolkit.parse_host_config,
        toolkit.parse_gpu_codes,
        cxx_compiler.parse_compiler_version,
        toolkit_files.nvcc_in_script,
        cxx_compiler.ccbin_in_flags,
        cxx_compiler.compiler_by_name,
    ):
        parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["cuda", "version", ""]), inner)
    ),
)


@given(JSON)
def test_no_json_breaks_the_reading_of_version_json(value):
    answer = toolkit_files.parse_version_json(json.dumps(value))

    assert isinstance(answer, str | Unknown)


@given(st.tuples(st.integers(10, 99), st.integers(0, 9), st.integers(0, 999)))
def test_every_version_is_read_back(parts):
    full = ".".join(map(str, parts))
    short = f"{parts[0]}.{parts[1]}"

    assert toolkit_files.parse_version_json(json.dumps({"cuda": {"version": full}})) == full
    assert toolkit.parse_nvcc_version(NVCC_OUTPUT.format(short=short, full=full)) == full
    assert toolkit_files.parse_version_txt(f"CUDA Version {full}\n") == full

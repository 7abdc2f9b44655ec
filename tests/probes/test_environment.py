import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucheck.probes import calling_shell, environment
from gpucheck.snapshot import Unknown
from seen_facts import seen


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A CUDA 13.0 toolkit, reached by a link as well."""
    home = tmp_path / "cuda-13.0"
    (home / "bin").mkdir(parents=True)
    (home / "bin/nvcc").touch(mode=0o755)
    libraries = home / "targets/x86_64-linux/lib"
    (libraries / "stubs").mkdir(parents=True)
    (libraries / "libcudart.so.13.0.96").touch()
    (libraries / "stubs/libcuda.so").touch()
    (libraries / "stubs/libcublas.so").touch()
    (home / "lib64").symlink_to("targets/x86_64-linux/lib")
    (home / "version.json").write_text(json.dumps({"cuda": {"version": "13.0.2"}}))
    (tmp_path / "cuda").symlink_to("cuda-13.0")
    return home


def test_only_the_variables_on_the_list_are_read():
    found = environment.probe({"CUDA_HOME": "/x", "MY_TOKEN": "secret", "HOME": "/home/me"})

    assert [variable.name for variable in seen(found.variables)] == ["CUDA_HOME"]


def test_the_list_holds_each_variable_once():
    assert len(environment.VARIABLES) == len(set(environment.VARIABLES)) > 60


def test_an_empty_environment_is_told_as_unset():
    found = environment.probe({})

    assert found.variables == ()
    assert found.cuda_home is None
    assert found.path is None
    assert found.ld_library_path is None
    assert found.ld_preload is None


def test_a_home_is_told_with_what_is_in_it(toolkit):
    found = seen(environment.probe({"CUDA_HOME": f"{toolkit.parent}/cuda"}).cuda_home)

    assert found.value == f"{toolkit.parent}/cuda"
    assert found.resolved == str(toolkit)
    assert found.has_nvcc is True
    assert found.has_cudart is True
    assert found.toolkit_version == "13.0"


def test_a_home_that_dangles_is_none(tmp_path):
    (tmp_path / "cuda").symlink_to("gone")

    found = seen(environment.probe({"CUDA_HOME": f"{tmp_path}/cuda"}).cuda_home)

    assert found.resolved is None
    assert found.has_nvcc is False


def test_an_empty_home_is_as_good_as_unset():
    assert environment.probe({"CUDA_HOME": ""}).cuda_home is None


def test_a_home_in_a_loop_of_links_is_unknown(tmp_path):
    (tmp_path / "cuda").symlink_to("cuda")

    found = seen(environment.probe({"CUDA_HOME": f"{tmp_path}/cuda"}).cuda_home)

    assert isinstance(found.resolved, Unknown)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("version.txt", "CUDA Version 10.2.89\n"),
        ("include/cuda_runtime_api.h", "#define CUDART_VERSION  10020\n"),
        ("targets/sbsa-linux/include/cuda_runtime_api.h", "#define CUDART_VERSION 10020\n"),
        ("lib/libcudart.so.10.2.89", ""),
    ],
)
def test_a_version_is_found_in_what_there_is(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)

    found = seen(environment.probe({"CUDA_HOME": str(tmp_path)}).cuda_home)

    assert found.toolkit_version == "10.2"


def test_path_entries_are_told_in_order_with_their_toolkit(toolkit):
    path = f"{toolkit.parent}/cuda/bin:/nowhere::/usr/bin"

    cuda, gone, empty, usr = seen(environment.probe({"PATH": path}).path)

    assert cuda.toolkit == str(toolkit)
    assert cuda.toolkit_version == "13.0"
    assert cuda.has_nvcc is True
    assert gone.resolved is None
    assert empty.text == ""
    assert empty.resolved == os.path.realpath(".")
    assert usr.toolkit is None or usr.has_nvcc


def test_a_wrapper_leads_to_the_toolkit_that_it_calls(toolkit, tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/nvcc").write_text(f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n')

    [entry] = seen(environment.probe({"PATH": f"{tmp_path}/tools"}).path)

    assert entry.toolkit == str(toolkit)


def test_a_wrapper_that_tells_nothing_is_unknown(tmp_path):
    (tmp_path / "nvcc").write_text("#!/bin/sh\nexec ccache nvcc\n")

    [entry] = seen(environment.probe({"PATH": str(tmp_path)}).path)

    assert isinstance(entry.toolkit, Unknown)


def test_library_folders_are_told_with_their_toolkit_and_stubs(toolkit):
    value = f"{toolkit}/lib64;{toolkit}/lib64/stubs:"

    libraries, stubs, empty = seen(environment.probe({"LD_LIBRARY_PATH": value}).ld_library_path)

    assert libraries.toolkit == str(toolkit)
    assert libraries.stubs == ()
    assert stubs.stubs == ("libcuda.so",)
    assert empty.text == ""


def test_a_library_path_that_is_wholly_empty_counts_as_unset():
    assert environment.probe({"LD_LIBRARY_PATH": ""}).ld_library_path is None


def test_a_compat_folder_is_told_with_its_drivers_version(toolkit):
    (toolkit / "compat").mkdir()
    (toolkit / "compat/libcuda.so.580.65.06").touch()
    (toolkit / "compat/libcuda.so.1").symlink_to("libcuda.so.580.65.06")

    [entry] = seen(environment.probe({"LD_LIBRARY_PATH": f"{toolkit}/compat"}).ld_library_path)

    assert entry.compat_libcuda == "580.65.06"
    assert entry.toolkit == str(toolkit)


def test_a_compat_library_without_a_version_in_its_name_is_unknown(tmp_path):
    (tmp_path / "compat").mkdir()
    (tmp_path / "compat/libcuda.so.1").touch()

    [entry] = seen(environment.probe({"LD_LIBRARY_PATH": f"{tmp_path}/compat"}).ld_library_path)

    assert isinstance(entry.compat_libcuda, Unknown)


@pytest.fixture
def ground(tmp_path_factory) -> Path:
    """A folder nobody else may write to or above, for judging rights below it."""
    folder = tmp_path_factory.mktemp("ground")
    if environment.is_world_writable(str(folder)) is not False:
        pytest.skip("the temporary folder itself may be swapped by others")
    return folder


def test_a_folder_that_everybody_may_write_to_is_writable_sticky_or_not(ground):
    (ground / "open").mkdir()
    (ground / "open").chmod(0o777)
    (ground / "sticky").mkdir()
    (ground / "sticky").chmod(0o1777)

    assert environment.is_world_writable(f"{ground}/open") is True
    assert environment.is_world_writable(f"{ground}/sticky") is True


def test_a_folder_below_an_open_one_may_be_swapped_unless_that_is_sticky(ground):
    for name, mode in (("open", 0o777), ("sticky", 0o1777)):
        (ground / name / "mine").mkdir(parents=True)
        (ground / name).chmod(mode)

    assert environment.is_world_writable(f"{ground}/open/mine") is True
    assert environment.is_world_writable(f"{ground}/sticky/mine") is False


def test_a_link_is_as_safe_as_the_place_it_leads_to(ground):
    (ground / "open/mine").mkdir(parents=True)
    (ground / "open").chmod(0o777)
    (ground / "link").symlink_to("open/mine")

    assert environment.is_world_writable(f"{ground}/link") is True


def test_a_folder_that_everybody_may_create_is_writable(ground):
    (ground / "sticky").mkdir()
    (ground / "sticky").chmod(0o1777)

    assert environment.is_world_writable(f"{ground}/sticky/later/lib") is True
    assert environment.is_world_writable(f"{ground}/later/lib") is False


def test_preloaded_files_are_told_with_where_they_are(tmp_path):
    (tmp_path / "liba.so").touch()
    value = f"{tmp_path}/liba.so {tmp_path}/gone.so:libno-such-thing.so:$ORIGIN/x.so"

    here, gone, bare, token = seen(environment.probe({"LD_PRELOAD": value}).ld_preload)

    assert here.resolved == f"{tmp_path}/liba.so"
    assert gone.resolved is None
    assert isinstance(bare.resolved, Unknown)
    assert isinstance(token.resolved, Unknown)


def test_a_bare_name_is_looked_for_in_the_library_path(tmp_path):
    (tmp_path / "liba.so").touch()

    [found] = seen(
        environment.probe({"LD_PRELOAD": "liba.so", "LD_LIBRARY_PATH": str(tmp_path)}).ld_preload
    )

    assert found.resolved == f"{tmp_path}/liba.so"


def test_the_name_of_a_process_may_hold_anything():
    assert calling_shell.parse_stat("12 (a ) (b) S 7 12 12 0") == ("a ) (b", 7)


@pytest.mark.shells
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_the_calling_shell_is_known_through_a_middleman(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = tmp_path / "ask.py"
    script.write_text(
        "from gpucheck.probes import environment\nprint(environment.probe({}).shell)\n"
    )
    command = f"sh -c '{sys.executable} {script}; true'; true"

    shown = subprocess.run(
        [shell, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env=os.environ | {"HOME": str(tmp_path)},  # fish makes folders there
    )

    assert shown.stdout.strip() == shell


@settings(max_examples=60)
@given(st.text(max_size=100), st.text(max_size=100))
def test_any_text_in_any_variable_is_a_fact(one, other):
    found = environment.probe(
        {
            "PATH": one,
            "LD_LIBRARY_PATH": other,
            "LD_PRELOAD": one,
            "CUDA_HOME": other,
            "CUDA_PATH": one,
            "SHELL": other,
        }
    )

    assert len(seen(found.path)) == one.count(":") + 1

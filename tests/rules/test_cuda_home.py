import shlex

import pytest
from env_machines import (
    BIN_12,
    BIN_13,
    ENV,
    HOME_12,
    HOME_13,
    LIB_12,
    UNREAD,
    environment,
    home,
    missing_home,
)

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import cuda_home, search_paths
from gpucheck.snapshot import HomeVariable, StartupFile, StartupSetting
from machines import commands, is_applicable, machine, not_checked, passes, path_entry, symptoms
from seen_facts import seen


def test_an_unset_cuda_home_is_a_remark_where_a_toolkit_is():
    [found] = symptoms(cuda_home.home_is_unset, environment(cuda_home=None))

    assert commands(found) == ("export CUDA_HOME=/usr/local/cuda",)


def test_an_unset_cuda_home_is_fine_without_a_toolkit():
    m = machine(environment={"cuda_home": None}, toolkits={"installed": ()})

    assert not symptoms(cuda_home.home_is_unset, m)
    assert not is_applicable(cuda_home.home_is_unset, m)


def test_a_cuda_home_that_is_not_there_is_an_error():
    [found] = symptoms(cuda_home.home_is_missing, missing_home("/usr/local/cuda-11.8"))

    assert found.saw == "CUDA_HOME is /usr/local/cuda-11.8, and nothing is there"
    assert commands(found) == ("export CUDA_HOME=/usr/local/cuda",)


def test_a_dangling_link_explains_a_missing_cuda_home():
    m = machine(missing_home("/usr/local/cuda"), toolkits={"dangling": ("/usr/local/cuda",)})

    [found] = symptoms(cuda_home.home_is_missing, m)

    assert found.explained_by == ("CUD005",)


def test_a_cuda_home_that_may_not_be_looked_at_is_not_checked():
    m = home("/root/cuda", resolved=UNREAD, has_nvcc=UNREAD, has_cudart=UNREAD)

    assert not_checked(cuda_home.home_is_missing, m)
    assert not_checked(cuda_home.home_is_no_toolkit, m)
    assert not symptoms(cuda_home.home_is_no_toolkit, m)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("/usr/local/cuda:/usr/local/cuda-12", "/usr/local/cuda"),
        (":/usr/local/cuda", "/usr/local/cuda"),
        ("/usr/local/cuda/bin", "/usr/local/cuda"),
        ("/usr/local/cuda/bin/", "/usr/local/cuda"),
        ("/usr/local/cuda/bin/nvcc", "/usr/local/cuda"),
        ("/usr/local/cuda/lib64", "/usr/local/cuda"),
        ('"/usr/local/cuda"', "/usr/local/cuda"),
        ("“/opt/my cuda”", "/opt/my cuda"),
        (" /usr/local/cuda", "/usr/local/cuda"),
        ("cuda-13.0", "/usr/local/cuda"),
        ("~/cuda", "/usr/local/cuda"),
        ("$HOME/cuda", "/usr/local/cuda"),
    ],
)
def test_a_malformed_cuda_home_is_an_error_with_the_right_one_as_its_fix(value, meant):
    [found] = symptoms(cuda_home.home_is_malformed, missing_home(value))

    assert commands(found) == (f"export CUDA_HOME={shlex.quote(meant)}",)


@pytest.mark.parametrize("value", ["/usr/local/cuda/", "/usr/local/cuda", "/opt/my cuda"])
def test_a_slash_at_the_end_of_cuda_home_is_fine(value):
    assert passes(cuda_home.home_is_malformed, home(value))


def test_a_malformed_cuda_home_explains_that_nothing_is_there():
    report = examine(missing_home("/usr/local/cuda:/usr/local/cuda"), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV003"]


def test_a_cuda_home_without_compiler_and_runtime_is_an_error():
    m = home("/usr/local", has_nvcc=False, has_cudart=False, toolkit_version=None)

    [found] = symptoms(cuda_home.home_is_no_toolkit, m)

    assert "/usr/local" in found.saw


@pytest.mark.parametrize("parts", [{"has_nvcc": False}, {"has_cudart": False}])
def test_a_conda_prefix_or_pip_toolkit_is_a_toolkit(parts):
    assert passes(cuda_home.home_is_no_toolkit, home("/opt/conda", **parts))


def test_nvcc_of_another_major_than_cuda_home_is_an_error():
    [found] = symptoms(
        cuda_home.home_is_not_the_compilers, environment(path=(BIN_12, path_entry("/usr/bin")))
    )

    assert found.severity is Severity.ERROR
    assert commands(found) == ('export PATH=/usr/local/cuda/bin:"$PATH"',)


def test_nvcc_of_another_minor_than_cuda_home_is_a_warning():
    other = path_entry(
        "/opt/cuda-13.1/bin", toolkit="/opt/cuda-13.1", toolkit_version="13.1", has_nvcc=True
    )

    [found] = symptoms(cuda_home.home_is_not_the_compilers, environment(path=(other,)))

    assert found.severity is None


def test_two_names_of_one_toolkit_are_one_toolkit():
    other = path_entry(
        "/usr/local/cuda-13.0/bin",
        toolkit="/usr/local/cuda-13.0",
        toolkit_version="13.0",
        has_nvcc=True,
    )

    assert passes(cuda_home.home_is_not_the_compilers, environment(path=(other, BIN_13)))
    assert passes(search_paths.several_compilers, environment(path=(other, BIN_13)))


def test_a_wrapped_nvcc_is_not_checked():
    wrapped = path_entry("/usr/lib/ccache", toolkit=UNREAD, has_nvcc=True)

    assert not_checked(cuda_home.home_is_not_the_compilers, environment(path=(wrapped,)))


def test_three_variables_that_disagree_are_a_warning():
    m = environment(cuda_path=HOME_12)

    [found] = symptoms(cuda_home.homes_disagree, m)

    assert "CUDA_PATH is /usr/local/cuda-12.4" in found.saw
    assert commands(found) == ("unset CUDA_PATH",)


def test_three_variables_that_lead_to_one_place_agree():
    m = environment(cuda_path=HomeVariable(value="/x", resolved=seen(HOME_13).resolved))

    assert passes(cuda_home.homes_disagree, m)


def test_a_compiler_that_is_not_on_path_is_a_warning():
    m = environment(path=(path_entry("/usr/bin"),))

    [found] = symptoms(cuda_home.compiler_is_not_on_path, m)

    assert commands(found) == ('export PATH=/usr/local/cuda/bin:"$PATH"',)


def test_a_cuda_home_that_is_not_there_is_not_missed_on_path():
    m = machine(missing_home("/usr/local/cuda-11"), environment={"path": (path_entry("/usr/bin"),)})

    assert not symptoms(cuda_home.compiler_is_not_on_path, m)


def test_a_path_made_from_a_missing_cuda_home_is_one_complaint():
    m = machine(
        missing_home("/usr/local/cuda-11"),
        environment={
            "path": (
                path_entry("/usr/local/cuda-11/bin", resolved=None),
                path_entry("/usr/bin"),
            ),
            "ld_library_path": (path_entry("/usr/local/cuda-11/lib64", resolved=None),),
        },
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV002"]
    assert {f.code for f in report.findings} == {"ENV002", "ENV008", "ENV011"}


def test_the_wrong_compiler_first_is_one_complaint():
    report = examine(environment(path=(BIN_12, BIN_13), ld_library_path=(LIB_12,)), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV005"]
    assert {f.code for f in report.findings} == {"ENV005", "ENV009", "ENV015"}


def test_a_cuda_home_that_a_start_up_file_sets_wrongly_is_to_be_mended_there_too():
    gone = HomeVariable(value="/opt/gone", resolved=None, has_nvcc=False, has_cudart=False)
    setting = StartupSetting(
        line=7, variable="CUDA_HOME", text="export CUDA_HOME=/opt/gone", value="/opt/gone"
    )
    m = machine(
        environment={"cuda_home": gone},
        startup_files={"files": (StartupFile(path="~/.bashrc", settings=(setting,)),)},
    )

    [symptom] = symptoms(cuda_home.home_is_missing, m)

    assert "~/.bashrc:7" in symptom.remedy.text

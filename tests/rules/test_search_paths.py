import pytest
from env_machines import BIN_12, BIN_13, ENV, LIB_13, environment, library_path

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import search_paths
from machines import commands, machine, passes, path_entry, symptoms


def test_a_cuda_folder_on_path_that_is_gone_is_a_remark():
    gone = path_entry("/usr/local/cuda-11/bin", resolved=None)

    [found] = symptoms(search_paths.path_leads_nowhere, environment(path=(BIN_13, gone)))

    assert found.subject == "/usr/local/cuda-11/bin"


def test_another_folder_on_path_that_is_gone_is_nobodys_business():
    gone = path_entry("/opt/games", resolved=None)

    assert passes(search_paths.path_leads_nowhere, environment(path=(BIN_13, gone)))


def test_several_toolkits_on_path_are_a_remark_that_says_which_wins():
    [found] = symptoms(search_paths.several_compilers, environment(path=(BIN_13, BIN_12)))

    assert "the first is used: /usr/local/cuda/bin (CUDA 13.0)" in found.saw


def test_a_folder_of_ld_library_path_that_is_gone_is_a_remark():
    gone = path_entry("/usr/local/nvidia/lib", resolved=None)

    [found] = symptoms(search_paths.library_path_leads_nowhere, library_path(gone))

    assert found.subject == "/usr/local/nvidia/lib"


@pytest.mark.parametrize("text", ["bin", ".", "~/bin", ""])
def test_a_relative_element_of_path_is_a_warning(text):
    [found] = symptoms(search_paths.relative_element, environment(path=(BIN_13, path_entry(text))))

    assert found.subject == "PATH"
    assert commands(found) == ("export PATH=/usr/local/cuda/bin",)


def test_an_empty_element_of_ld_library_path_is_said_once():
    m = library_path(LIB_13, path_entry(""))

    assert passes(search_paths.relative_element, m)


def test_the_loaders_own_tokens_are_not_relative():
    assert passes(search_paths.relative_element, library_path(path_entry("$ORIGIN/../lib")))


def test_a_folder_that_everybody_may_write_to_is_a_warning_and_an_error_for_root():
    entry = path_entry("/opt/tools", is_world_writable=True)
    user = environment(path=(entry,))

    [found] = symptoms(search_paths.element_is_writable, user)
    [for_root] = symptoms(search_paths.element_is_writable, machine(user, host={"is_root": True}))

    assert found.severity is None
    assert commands(found) == ("chmod o-w /opt/tools",)
    assert for_root.severity is Severity.ERROR


def test_windows_drives_under_wsl_are_not_judged_by_their_mode():
    entry = path_entry("/mnt/c/Windows/System32", is_world_writable=True)

    assert passes(
        search_paths.element_is_writable,
        machine(environment={"path": (entry,)}, host={"is_wsl": True}),
    )


JOINED = path_entry(
    "/a/lib /usr/local/cuda/lib64",
    resolved=None,
    joined=("/a/lib", "/usr/local/cuda/lib64"),
)


def test_a_list_with_the_wrong_separator_is_a_warning_with_the_right_value():
    report = examine(library_path(JOINED, path_entry("/opt/lib")), rules=ENV)

    [finding] = report.findings
    assert finding.code == "ENV032"
    assert finding.remedy.steps[0].text == (
        "export LD_LIBRARY_PATH=/a/lib:/usr/local/cuda/lib64:/opt/lib"
    )


def test_a_folder_with_a_space_in_its_name_is_one_element():
    entry = path_entry("/opt/my lib")

    assert passes(search_paths.wrong_separator, library_path(entry))

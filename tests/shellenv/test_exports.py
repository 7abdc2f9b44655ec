from typing import Any

import msgspec
import pytest

from gpucheck.shellenv.exports import Exports, LibraryPath, choices, choose, exports, listing
from gpucheck.snapshot import Snapshot, Toolkit, Torch, Unknown, replace
from gpucheck.usage_error import NoAnswerError, UsageError
from machines import CUDA_12, CUDA_13, HEALTHY, machine
from seen_facts import seen
from torches import OLD_DRIVER

NO_TORCH = {"torch": None, "elsewhere": ()}
NOT_FOUND_BY_THE_LOADER = {"ld_so_conf": ()}


def toolkit(like: Toolkit = CUDA_13, **changes: Any) -> Toolkit:
    return msgspec.structs.replace(like, **changes)


def with_both(**sections: Any) -> Snapshot:
    return machine(toolkits={"installed": (CUDA_12, CUDA_13)}, **sections)


def test_the_newest_toolkit_that_the_driver_runs_is_the_default():
    assert choose(with_both(pytorch=NO_TORCH)).version == "13.0"
    assert choose(with_both(pytorch=NO_TORCH, **OLD_DRIVER)).version == "12.4"


TORCH_12 = {"torch": Torch(version="2.6.0+cu124", build="cuda", cuda="12.4")}


def test_a_toolkit_of_torchs_cuda_goes_before_a_newer_one():
    assert choose(with_both(pytorch=TORCH_12)).version == "12.4"


def test_where_no_toolkit_fits_torch_one_has_to_be_named():
    only = {"installed": (CUDA_13,)}

    with pytest.raises(UsageError, match=r"no toolkit of CUDA 12 is installed.*--cuda VERSION"):
        exports(machine(toolkits=only, pytorch=TORCH_12))
    named = exports(machine(toolkits=only, pytorch=TORCH_12), cuda="13.0")
    assert "PyTorch here is built for another CUDA major than 13.0." in named.warnings


def test_the_link_is_named_and_not_the_version_unless_a_version_was_asked_for():
    assert exports(with_both()).cuda_home == "/usr/local/cuda"
    assert exports(with_both(), cuda="13.0").cuda_home == "/usr/local/cuda-13.0"
    assert exports(with_both(), cuda="12.4").cuda_home == "/usr/local/cuda-12.4"


def test_a_newer_minor_version_of_the_drivers_major_still_runs():
    newer = toolkit(home="/usr/local/cuda-13.1", version="13.1", version_json="13.1.0")

    assert choose(machine(toolkits={"installed": (CUDA_13, newer)})).version == "13.1"


def test_without_a_driver_the_newest_toolkit_is_the_default():
    assert choose(with_both(driver={"module_version": None, "libraries": ()})).version == "13.0"


def test_a_toolkit_with_a_compiler_goes_before_a_newer_one_without():
    bare = toolkit(home="/usr/local/cuda-13.1", version="13.1", nvcc=None)

    assert choose(machine(toolkits={"installed": (bare, CUDA_13)})).version == "13.0"


def test_a_toolkit_for_everybody_goes_before_that_of_a_conda_environment():
    conda = toolkit(home="/opt/conda", version="13.0", origin="conda", names=())
    here = machine(toolkits={"installed": (conda, toolkit(CUDA_12))}, pytorch=NO_TORCH)

    assert choose(here).version == "12.4"


@pytest.mark.parametrize(
    ("wanted", "home"),
    [
        ("12.4", "/usr/local/cuda-12.4"),
        ("12", "/usr/local/cuda-12.4"),
        ("12.4.1", "/usr/local/cuda-12.4"),
        ("/usr/local/cuda-12.4", "/usr/local/cuda-12.4"),
        ("/usr/local/cuda-12.4/", "/usr/local/cuda-12.4"),
        ("/usr/local/cuda", "/usr/local/cuda-13.0"),
    ],
)
def test_a_toolkit_is_chosen_by_version_or_by_path(wanted: str, home: str):
    assert choose(with_both(), wanted).toolkit.home == home


def test_the_users_own_name_for_a_toolkit_is_kept():
    assert exports(with_both(), cuda="/usr/local/cuda").cuda_home == "/usr/local/cuda"


@pytest.mark.parametrize("wanted", ["11.8", "1", "12.40", "/opt/cuda", "nonsense", ""])
def test_a_toolkit_that_is_not_here_is_refused_with_those_that_are(wanted: str):
    with pytest.raises(UsageError, match=r"12\.4 \(/usr/local/cuda-12\.4\)"):
        choose(with_both(), wanted)


def test_no_toolkit_and_an_unknown_one_are_refused():
    with pytest.raises(UsageError, match="no CUDA toolkit was found"):
        exports(machine(toolkits={"installed": ()}))
    with pytest.raises(NoAnswerError, match="permission denied"):
        exports(machine(toolkits={"installed": Unknown("permission denied")}))


def test_a_path_with_a_colon_is_refused():
    odd = toolkit(home="/opt/cuda:13", names=())

    with pytest.raises(UsageError, match="colon"):
        exports(machine(toolkits={"installed": (odd,)}))


def test_a_semicolon_keeps_a_path_out_of_ld_library_path():
    odd = toolkit(home="/opt/cuda;13", names=(), library_directory="/opt/cuda;13/lib64")
    here = machine(
        toolkits={"installed": (odd,)}, pytorch=NO_TORCH, libraries=NOT_FOUND_BY_THE_LOADER
    )

    assert exports(here).library_directory is None
    with pytest.raises(UsageError, match="semicolon"):
        exports(here, ld_library_path=LibraryPath.ALWAYS)


def needed(mode: LibraryPath = LibraryPath.AUTO, **sections: Any) -> Exports:
    return exports(machine(**sections), ld_library_path=mode)


def test_with_torchs_own_libraries_ld_library_path_stays_out():
    found = needed(libraries=NOT_FOUND_BY_THE_LOADER)

    assert found.library_directory is None
    assert "PyTorch 2.11.0+cu130 brings its own" in found.library_reason


def test_without_torch_and_not_found_otherwise_it_goes_in():
    found = needed(pytorch=NO_TORCH, libraries=NOT_FOUND_BY_THE_LOADER)

    assert found.library_directory == "/usr/local/cuda/targets/x86_64-linux/lib"


def test_a_cpu_build_of_torch_has_nothing_to_hide():
    torch = Torch(version="2.11.0+cpu", build="cpu")

    found = needed(pytorch={"torch": torch, "elsewhere": ()}, libraries=NOT_FOUND_BY_THE_LOADER)

    assert found.library_directory is not None


def test_what_the_loader_finds_anyway_stays_out():
    found = needed(pytorch=NO_TORCH)

    assert found.library_directory is None
    assert "/etc/ld.so.conf" in found.library_reason


def test_a_torch_elsewhere_keeps_it_out_too():
    elsewhere = {"torch": None, "elsewhere": ("/opt/conda/bin/python",)}

    found = needed(pytorch=elsewhere, libraries=NOT_FOUND_BY_THE_LOADER)

    assert "/opt/conda/bin/python" in found.library_reason
    assert found.library_directory is None


@pytest.mark.parametrize(
    "sections",
    [
        {"pytorch": {"torch": Unknown("no answer")}, "libraries": NOT_FOUND_BY_THE_LOADER},
        {"pytorch": NO_TORCH, "libraries": {"ld_so_conf": Unknown("no answer")}},
    ],
)
def test_what_could_not_be_told_keeps_it_out_and_says_so(sections: dict[str, Any]):
    found = needed(**sections)

    assert found.library_directory is None
    assert "could not be determined (no answer)" in found.library_reason


def test_always_and_never_have_their_way():
    assert needed(LibraryPath.ALWAYS).library_directory is not None
    out = needed(LibraryPath.NEVER, pytorch=NO_TORCH, libraries=NOT_FOUND_BY_THE_LOADER)
    assert out.library_directory is None


def test_the_distributions_toolkit_leaves_path_as_it_is():
    home = "/usr/lib/nvidia-cuda-toolkit"  # its headers and libraries are in /usr
    shared = toolkit(CUDA_12, home=home, names=(), origin="distribution")

    found = exports(machine(toolkits={"installed": (shared,)}, pytorch=NO_TORCH))

    assert (found.cuda_home, found.bin_directory, found.library_directory) == ("/usr", None, None)


def test_a_toolkit_that_the_driver_does_not_run_is_doubted():
    found = exports(with_both(**OLD_DRIVER), cuda="13.0")

    assert "driver 550.54.15 does not run programs of CUDA 13.0." in found.warnings


def test_the_list_shows_what_runs_and_what_matches():
    lines = listing(choices(with_both(**OLD_DRIVER))).splitlines()

    assert lines[1].split() == [
        *("*", "13.0", "/usr/local/cuda-13.0", "/usr/local/cuda-13.0/bin/nvcc", "no", "yes"),
    ]
    assert lines[2].split()[-2:] == ["yes", "no"]


def test_a_compatibility_library_runs_a_newer_toolkit_than_the_driver():
    [libcuda, *others] = seen(HEALTHY.driver.libraries)
    compat = replace(libcuda, is_compat=True, version="580.65.06")
    driver = {**OLD_DRIVER["driver"], "libraries": (compat, *others)}

    found = exports(with_both(driver=driver, nvml=OLD_DRIVER["nvml"]), cuda="13.0")

    assert not found.warnings

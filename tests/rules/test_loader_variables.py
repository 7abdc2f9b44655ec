import pytest
from env_machines import ENV, LIB_12, LIB_13, UNREAD, environment, library_path, startup

from gpucheck.report import examine
from gpucheck.rules import loader_variables as rules
from gpucheck.snapshot import CudaInit, DriverLibrary, PreloadEntry
from machines import (
    HEALTHY,
    commands,
    gpu,
    is_applicable,
    machine,
    passes,
    path_entry,
    symptoms,
    with_variables,
)


@pytest.mark.parametrize("texts", [("", "/a"), ("/a", ""), ("/a", "", "/b"), ("", "")])
def test_an_empty_element_of_ld_library_path_is_a_warning(texts):
    m = library_path(*(path_entry(text) for text in texts))

    [found] = symptoms(rules.empty_element, m)

    kept = ":".join(text for text in texts if text)
    assert commands(found) == (
        f"export LD_LIBRARY_PATH={kept}" if kept else "unset LD_LIBRARY_PATH",
    )


def test_an_unset_ld_library_path_has_no_empty_element():
    assert not is_applicable(rules.empty_element, HEALTHY)


def test_the_unguarded_line_explains_the_empty_element():
    m = machine(
        startup("export LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH\n"),
        environment={"ld_library_path": (LIB_13, path_entry(""))},
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV031"]
    assert {f.code for f in report.findings} == {"ENV010", "ENV031"}


def test_stubs_on_ld_library_path_are_an_error():
    stubs = path_entry("/usr/local/cuda/lib64/stubs", stubs=("libcuda.so",))

    [found] = symptoms(rules.stubs_are_on_the_path, library_path(LIB_13, stubs))

    assert commands(found) == ("export LD_LIBRARY_PATH=/usr/local/cuda/lib64",)


def test_stubs_in_library_path_are_fine():
    m = with_variables(LIBRARY_PATH="/usr/local/cuda/lib64/stubs")

    assert not symptoms(rules.stubs_are_on_the_path, m)


def test_a_library_folder_of_another_toolkit_is_a_warning():
    [found] = symptoms(rules.library_path_is_another_toolkits, library_path(LIB_12, LIB_12, LIB_13))

    assert found.subject == "/usr/local/cuda-12.4/lib64"


def test_a_library_folder_of_the_same_toolkit_is_fine():
    assert passes(rules.library_path_is_another_toolkits, library_path(LIB_13))


HOSTS_OWN = DriverLibrary(
    soname="libcuda.so.1",
    path="/usr/lib/x86_64-linux-gnu/libcuda.so.1",
    version="580.159.04",
    is_stub=False,
    found_via="ld.so.cache",
)
ENTRY = path_entry("/usr/local/cuda/compat", compat_libcuda="575.51.03")


def with_compat(version="575.51.03", code=None, via="LD_LIBRARY_PATH", **sections):
    """A machine whose libcuda is that of a compat package."""
    compat = DriverLibrary(
        soname="libcuda.so.1",
        path="/usr/local/cuda/compat/libcuda.so.1",
        version=version,
        is_stub=False,
        is_compat=True,
        is_selected=True,
        found_via=via,
    )
    init = UNREAD if code is None else CudaInit(code=code)
    return machine(
        library_path(ENTRY, LIB_13) if via == "LD_LIBRARY_PATH" else HEALTHY,
        driver={"libraries": (compat, HOSTS_OWN), "cuda_init": init},
        **sections,
    )


GEFORCE = {"gpus": (gpu(0, name="NVIDIA GeForce RTX 4090"),)}


def test_a_compat_library_older_than_the_driver_is_a_warning():
    [found] = symptoms(rules.compat_does_not_fit, with_compat())

    assert "libcuda 575.51.03, older than the driver 580.159.04" in found.saw
    assert commands(found) == ("export LD_LIBRARY_PATH=/usr/local/cuda/lib64",)


def test_a_compat_library_on_a_gaming_gpu_is_a_warning():
    [found] = symptoms(rules.compat_does_not_fit, with_compat("590.44.01", nvml=GEFORCE))

    assert "NVIDIA GeForce RTX 4090" in found.saw


def test_error_804_is_proof_whatever_the_tables_say():
    [found] = symptoms(rules.compat_does_not_fit, with_compat("590.44.01", code=804))

    assert "error 804" in found.saw


def test_a_compat_library_from_the_cache_of_an_image_is_taken_out_of_the_image():
    m = with_compat(code=803, via="ld.so.cache", host={"container": "docker"})

    [found] = symptoms(rules.compat_does_not_fit, m)

    remedy = found.remedy
    assert [step.on for step in remedy.steps] == ["image"]
    assert "cuda-compat" in remedy.steps[0].text
    [ahead] = remedy.alternatives
    assert ahead.steps[0].text == "export LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu"


def test_a_newer_compat_library_on_a_data_centre_gpu_is_fine():
    assert passes(rules.compat_does_not_fit, with_compat("590.44.01"))


@pytest.mark.parametrize("via", ["LD_LIBRARY_PATH", "ld.so.cache"])
def test_a_compat_library_that_was_seen_to_work_is_fine(via):
    assert passes(rules.compat_does_not_fit, with_compat(code=0, via=via))


def test_a_compat_folder_whose_library_is_not_loaded_is_nobodys_business():
    assert not symptoms(rules.compat_does_not_fit, library_path(ENTRY))


def test_a_preloaded_file_that_is_missing_is_a_warning():
    m = environment(ld_preload=(PreloadEntry(text="/opt/gone.so", resolved=None),))

    [found] = symptoms(rules.preload_interferes, m)

    assert commands(found) == ("unset LD_PRELOAD",)


def test_a_preloaded_cuda_library_is_a_warning():
    entries = (
        PreloadEntry(text="/opt/libcudnn.so.9", resolved="/opt/libcudnn.so.9"),
        PreloadEntry(text="/usr/lib/libjemalloc.so.2", resolved="/usr/lib/libjemalloc.so.2"),
    )

    [found] = symptoms(rules.preload_interferes, environment(ld_preload=entries))

    assert commands(found) == ("export LD_PRELOAD=/usr/lib/libjemalloc.so.2",)


def test_a_preloaded_allocator_is_fine():
    entry = PreloadEntry(text="/usr/lib/libjemalloc.so.2", resolved="/usr/lib/libjemalloc.so.2")

    assert passes(rules.preload_interferes, environment(ld_preload=(entry,)))

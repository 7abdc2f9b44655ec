import shlex
import shutil
import subprocess

import pytest

from gpucheck.probes import startup_files as reader
from gpucheck.report import examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import environment as rules
from gpucheck.snapshot import (
    DriverLibrary,
    HomeVariable,
    PreloadEntry,
    StartupFile,
    StartupSetting,
    Toolkits,
    Unknown,
    Variable,
)
from machines import (
    CUDA_12,
    CUDA_13,
    HEALTHY,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    path_entry,
    symptoms,
    with_variables,
)

ENV = tuple(thing for thing in vars(rules).values() if isinstance(thing, Rule))
UNREAD = Unknown("permission denied")
HOME_12 = HomeVariable(
    value="/usr/local/cuda-12.4",
    resolved="/usr/local/cuda-12.4",
    has_nvcc=True,
    has_cudart=True,
    toolkit_version="12.4",
)
HOME_13 = HEALTHY.environment.cuda_home
BIN_12 = path_entry(
    "/usr/local/cuda-12.4/bin",
    toolkit="/usr/local/cuda-12.4",
    toolkit_version="12.4",
    has_nvcc=True,
)
BIN_13 = HEALTHY.environment.path[1]
LIB_12 = path_entry(
    "/usr/local/cuda-12.4/lib64", toolkit="/usr/local/cuda-12.4", toolkit_version="12.4"
)
LIB_13 = path_entry("/usr/local/cuda/lib64", toolkit="/usr/local/cuda-13.0", toolkit_version="13.0")
#: No GPU, no toolkit, no variable of CUDA's, but all else that a rule of this family may dislike.
ELSEWHERE = machine(
    host={"pci_gpus": ()},
    toolkits=Toolkits(
        installed=(), dangling=(), default=None, first_nvcc=None, first_nvcc_home=None
    ),
    nvml={"count": 0, "gpus": (), "pairs": ()},
    environment={
        "variables": (
            Variable(name="PATH", value="bin:/tmp"),
            Variable(name="LD_DEBUG", value="1"),
        ),
        "cuda_home": None,
        "path": (
            path_entry("bin"),
            path_entry("/tmp", is_world_writable=True),
            path_entry("/opt/cuda/bin", resolved=None),
        ),
        "ld_library_path": (path_entry(""), path_entry("/gone", resolved=None)),
        "ld_preload": (PreloadEntry(text="/gone.so", resolved=None),),
    },
    startup_files={
        "files": (reader.parse("export LD_LIBRARY_PATH=/x:$LD_LIBRARY_PATH\n", "/root/.bashrc"),)
    },
)


def environment(**fields):
    return machine(environment=fields)


def home(value, **changes):
    fields = {
        "resolved": value,
        "has_nvcc": True,
        "has_cudart": True,
        "toolkit_version": "13.0",
        **changes,
    }
    return environment(cuda_home=HomeVariable(value=value, **fields))


def missing_home(value):
    return home(value, resolved=None, has_nvcc=False, has_cudart=False, toolkit_version=None)


def library_path(*entries):
    return environment(ld_library_path=entries)


def startup(text, path="/home/u/.bashrc", base=HEALTHY, **others):
    files = [reader.parse(text, path, "sh", "/home/u")]
    files += [reader.parse(other, name, "sh", "/home/u") for name, other in others.items()]
    return machine(base, startup_files={"files": tuple(files)})


def several(base=HEALTHY, **texts):
    files = tuple(
        reader.parse(text, f"/home/u/.{name}", "sh", "/home/u") for name, text in texts.items()
    )
    return machine(base, startup_files={"files": files})


@pytest.mark.parametrize("rule", ENV, ids=lambda rule: rule.code)
def test_a_machine_that_has_nothing_to_do_with_cuda_is_left_alone(rule):
    assert not symptoms(rule, ELSEWHERE)


def test_every_row_of_the_catalogue_is_here():
    codes = {rule.code for rule in ENV}

    assert codes == {f"ENV{n:03}" for n in range(1, 32) if n != 17}


# ENV001 to ENV007: CUDA_HOME


def test_an_unset_cuda_home_is_a_remark_where_a_toolkit_is():
    [found] = symptoms(rules.home_is_unset, environment(cuda_home=None))

    assert found.commands == ("export CUDA_HOME=/usr/local/cuda",)


def test_an_unset_cuda_home_is_fine_without_a_toolkit():
    m = machine(environment={"cuda_home": None}, toolkits={"installed": ()})

    assert not symptoms(rules.home_is_unset, m)
    assert not is_applicable(rules.home_is_unset, m)


def test_a_cuda_home_that_is_not_there_is_an_error():
    [found] = symptoms(rules.home_is_missing, missing_home("/usr/local/cuda-11.8"))

    assert found.saw == "CUDA_HOME is /usr/local/cuda-11.8, and nothing is there."
    assert found.commands == ("export CUDA_HOME=/usr/local/cuda",)


def test_a_dangling_link_explains_a_missing_cuda_home():
    m = machine(missing_home("/usr/local/cuda"), toolkits={"dangling": ("/usr/local/cuda",)})

    [found] = symptoms(rules.home_is_missing, m)

    assert found.explained_by == ("CUD005",)


def test_a_cuda_home_that_may_not_be_looked_at_is_not_checked():
    m = home("/root/cuda", resolved=UNREAD, has_nvcc=UNREAD, has_cudart=UNREAD)

    assert not_checked(rules.home_is_missing, m)
    assert not_checked(rules.home_is_no_toolkit, m)
    assert not symptoms(rules.home_is_no_toolkit, m)


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
    [found] = symptoms(rules.home_is_malformed, missing_home(value))

    assert found.commands == (f"export CUDA_HOME={shlex.quote(meant)}",)


@pytest.mark.parametrize("value", ["/usr/local/cuda/", "/usr/local/cuda", "/opt/my cuda"])
def test_a_slash_at_the_end_of_cuda_home_is_fine(value):
    assert passes(rules.home_is_malformed, home(value))


def test_a_malformed_cuda_home_explains_that_nothing_is_there():
    report = examine(missing_home("/usr/local/cuda:/usr/local/cuda"), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV003"]


def test_a_cuda_home_without_compiler_and_runtime_is_an_error():
    m = home("/usr/local", has_nvcc=False, has_cudart=False, toolkit_version=None)

    [found] = symptoms(rules.home_is_no_toolkit, m)

    assert "/usr/local" in found.saw


@pytest.mark.parametrize("parts", [{"has_nvcc": False}, {"has_cudart": False}])
def test_a_conda_prefix_or_pip_toolkit_is_a_toolkit(parts):
    assert passes(rules.home_is_no_toolkit, home("/opt/conda", **parts))


def test_nvcc_of_another_major_than_cuda_home_is_an_error():
    [found] = symptoms(
        rules.home_is_not_the_compilers, environment(path=(BIN_12, path_entry("/usr/bin")))
    )

    assert found.severity is Severity.ERROR
    assert found.commands == ('export PATH=/usr/local/cuda/bin:"$PATH"',)


def test_nvcc_of_another_minor_than_cuda_home_is_a_warning():
    other = path_entry(
        "/opt/cuda-13.1/bin", toolkit="/opt/cuda-13.1", toolkit_version="13.1", has_nvcc=True
    )

    [found] = symptoms(rules.home_is_not_the_compilers, environment(path=(other,)))

    assert found.severity is None


def test_two_names_of_one_toolkit_are_one_toolkit():
    other = path_entry(
        "/usr/local/cuda-13.0/bin",
        toolkit="/usr/local/cuda-13.0",
        toolkit_version="13.0",
        has_nvcc=True,
    )

    assert passes(rules.home_is_not_the_compilers, environment(path=(other, BIN_13)))
    assert passes(rules.several_compilers, environment(path=(other, BIN_13)))


def test_a_wrapped_nvcc_is_not_checked():
    wrapped = path_entry("/usr/lib/ccache", toolkit=UNREAD, has_nvcc=True)

    assert not_checked(rules.home_is_not_the_compilers, environment(path=(wrapped,)))


def test_three_variables_that_disagree_are_a_warning():
    m = environment(cuda_path=HOME_12)

    [found] = symptoms(rules.homes_disagree, m)

    assert "CUDA_PATH is /usr/local/cuda-12.4" in found.saw
    assert found.commands == ("unset CUDA_PATH",)


def test_three_variables_that_lead_to_one_place_agree():
    m = environment(cuda_path=HomeVariable(value="/x", resolved=HOME_13.resolved))

    assert passes(rules.homes_disagree, m)


def test_a_compiler_that_is_not_on_path_is_a_warning():
    m = environment(path=(path_entry("/usr/bin"),))

    [found] = symptoms(rules.compiler_is_not_on_path, m)

    assert found.commands == ('export PATH=/usr/local/cuda/bin:"$PATH"',)


def test_a_cuda_home_that_is_not_there_is_not_missed_on_path():
    m = machine(missing_home("/usr/local/cuda-11"), environment={"path": (path_entry("/usr/bin"),)})

    assert not symptoms(rules.compiler_is_not_on_path, m)


def test_a_path_made_from_a_missing_cuda_home_is_one_complaint():
    m = machine(
        missing_home("/usr/local/cuda-11"),
        environment={
            "path": (
                path_entry("/usr/local/cuda-11/bin", resolved=None, is_directory=False),
                path_entry("/usr/bin"),
            ),
            "ld_library_path": (
                path_entry("/usr/local/cuda-11/lib64", resolved=None, is_directory=False),
            ),
        },
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV002"]
    assert {f.code for f in report.findings} == {"ENV002", "ENV008", "ENV011"}


# ENV008 to ENV016: path lists


def test_a_cuda_folder_on_path_that_is_gone_is_a_remark():
    gone = path_entry("/usr/local/cuda-11/bin", resolved=None, is_directory=False)

    [found] = symptoms(rules.path_leads_nowhere, environment(path=(BIN_13, gone)))

    assert found.subject == "/usr/local/cuda-11/bin"


def test_another_folder_on_path_that_is_gone_is_nobodys_business():
    gone = path_entry("/opt/games", resolved=None, is_directory=False)

    assert passes(rules.path_leads_nowhere, environment(path=(BIN_13, gone)))


def test_several_toolkits_on_path_are_a_remark_that_says_which_wins():
    [found] = symptoms(rules.several_compilers, environment(path=(BIN_13, BIN_12)))

    assert "the first wins: /usr/local/cuda/bin (CUDA 13.0)" in found.saw


def test_the_wrong_compiler_first_is_one_complaint():
    report = examine(environment(path=(BIN_12, BIN_13), ld_library_path=(LIB_12,)), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV005"]
    assert {f.code for f in report.findings} == {"ENV005", "ENV009", "ENV015"}


@pytest.mark.parametrize("texts", [("", "/a"), ("/a", ""), ("/a", "", "/b"), ("", "")])
def test_an_empty_element_of_ld_library_path_is_a_warning(texts):
    m = library_path(*(path_entry(text) for text in texts))

    [found] = symptoms(rules.empty_element, m)

    kept = ":".join(text for text in texts if text)
    assert found.commands == (
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


def test_a_folder_of_ld_library_path_that_is_gone_is_a_remark():
    gone = path_entry("/usr/local/nvidia/lib", resolved=None)

    [found] = symptoms(rules.library_path_leads_nowhere, library_path(gone))

    assert found.subject == "/usr/local/nvidia/lib"


def test_stubs_on_ld_library_path_are_an_error():
    stubs = path_entry("/usr/local/cuda/lib64/stubs", stubs=("libcuda.so",))

    [found] = symptoms(rules.stubs_are_loaded, library_path(LIB_13, stubs))

    assert found.commands == ("export LD_LIBRARY_PATH=/usr/local/cuda/lib64",)


def test_stubs_in_library_path_are_fine():
    m = with_variables(LIBRARY_PATH="/usr/local/cuda/lib64/stubs")

    assert not symptoms(rules.stubs_are_loaded, m)


@pytest.mark.parametrize("text", ["bin", ".", "~/bin", ""])
def test_a_relative_element_of_path_is_a_warning(text):
    [found] = symptoms(rules.relative_element, environment(path=(BIN_13, path_entry(text))))

    assert found.subject == "PATH"
    assert found.commands == ("export PATH=/usr/local/cuda/bin",)


def test_an_empty_element_of_ld_library_path_is_said_once():
    m = library_path(LIB_13, path_entry(""))

    assert passes(rules.relative_element, m)


def test_the_loaders_own_tokens_are_not_relative():
    assert passes(rules.relative_element, library_path(path_entry("$ORIGIN/../lib")))


def test_a_folder_that_everybody_may_write_to_is_a_warning_and_an_error_for_root():
    entry = path_entry("/opt/tools", is_world_writable=True)
    user = environment(path=(entry,))

    [found] = symptoms(rules.element_is_writable, user)
    [for_root] = symptoms(rules.element_is_writable, machine(user, host={"is_root": True}))

    assert found.severity is None
    assert found.commands == ("chmod o-w /opt/tools",)
    assert for_root.severity is Severity.ERROR


def test_windows_drives_under_wsl_are_not_judged_by_their_mode():
    entry = path_entry("/mnt/c/Windows/System32", is_world_writable=True)

    assert passes(
        rules.element_is_writable,
        machine(environment={"path": (entry,)}, host={"is_wsl": True}),
    )


def test_a_library_folder_of_another_toolkit_is_a_warning():
    [found] = symptoms(rules.library_path_is_another_toolkits, library_path(LIB_12, LIB_12, LIB_13))

    assert found.subject == "/usr/local/cuda-12.4/lib64"


def test_a_library_folder_of_the_same_toolkit_is_fine():
    assert passes(rules.library_path_is_another_toolkits, library_path(LIB_13))


COMPAT = path_entry("/usr/local/cuda/compat", compat_libcuda="575.51.03")
FAILS = {"cuda_init": UNREAD}


def test_a_compat_library_older_than_the_driver_is_a_warning():
    m = machine(library_path(COMPAT), driver=FAILS)

    [found] = symptoms(rules.compat_does_not_fit, m)

    assert "libcuda 575.51.03, older than the driver 580.159.04" in found.saw


def test_a_compat_library_on_a_gaming_gpu_is_a_warning():
    newer = path_entry("/usr/local/cuda/compat", compat_libcuda="590.44.01")
    m = machine(
        library_path(newer), driver=FAILS, nvml={"gpus": (gpu(0, name="NVIDIA GeForce RTX 4090"),)}
    )

    [found] = symptoms(rules.compat_does_not_fit, m)

    assert "NVIDIA GeForce RTX 4090" in found.saw


def test_a_newer_compat_library_on_a_data_centre_gpu_is_fine():
    newer = path_entry("/usr/local/cuda/compat", compat_libcuda="590.44.01")

    assert passes(rules.compat_does_not_fit, machine(library_path(newer), driver=FAILS))


def test_a_compat_library_that_was_seen_to_work_is_fine():
    assert passes(rules.compat_does_not_fit, library_path(COMPAT))


# ENV018 to ENV022: which GPUs are visible


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", "2", "7,0", "GPU-9", "x"])
def test_a_list_that_hides_every_gpu_is_an_error(value):
    m = with_variables(CUDA_VISIBLE_DEVICES=value)

    [found] = symptoms(rules.every_gpu_is_hidden, m)

    assert found.commands == ("unset CUDA_VISIBLE_DEVICES",)


@pytest.mark.parametrize("value", ["0", "1,0", "0,1", "GPU-0", "GPU-11111111-0000", "0,-1", "0, 1"])
def test_a_list_of_gpus_that_are_here_is_fine(value):
    m = with_variables(CUDA_VISIBLE_DEVICES=value)

    for rule in (rules.every_gpu_is_hidden, rules.hidden_from_here_on, rules.named_twice):
        assert passes(rule, m)


def test_an_unset_list_hides_nothing():
    assert not is_applicable(rules.every_gpu_is_hidden, HEALTHY)


def test_all_behind_a_gpu_that_is_not_there_is_ignored():
    m = with_variables(CUDA_VISIBLE_DEVICES="0,2,1")

    [found] = symptoms(rules.hidden_from_here_on, m)

    assert "CUDA sees 0 alone" in found.saw
    assert found.commands == ("export CUDA_VISIBLE_DEVICES=0",)


def test_a_wrong_first_element_is_one_complaint():
    report = examine(with_variables(CUDA_VISIBLE_DEVICES="5"), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV018"]


@pytest.mark.parametrize("value", ["0,GPU-", "0,MIG-1234"])
def test_the_beginning_of_two_uuids_names_neither(value):
    gpus = (gpu(0, mig_devices=()), gpu(1, mig_devices=()))
    m = machine(with_variables(CUDA_VISIBLE_DEVICES=value), nvml={"gpus": gpus})

    assert symptoms(rules.hidden_from_here_on, m)


def test_a_wrong_first_element_is_one_complaint_since_it_hides_every_gpu():
    m = machine(with_variables(CUDA_VISIBLE_DEVICES="GPU-"))

    assert symptoms(rules.every_gpu_is_hidden, m)
    assert not symptoms(rules.hidden_from_here_on, m)


def test_a_mig_device_that_is_here_is_found():
    gpus = (gpu(0, mig_devices=("MIG-aaaa-bbbb",), mig_is_on=True),)
    m = machine(with_variables(CUDA_VISIBLE_DEVICES="MIG-aaaa"), nvml={"gpus": gpus, "count": 1})

    assert passes(rules.every_gpu_is_hidden, m)


def test_an_index_under_mig_is_not_checked():
    gpus = (gpu(0, mig_devices=("MIG-aaaa-bbbb",), mig_is_on=True),)
    m = machine(with_variables(CUDA_VISIBLE_DEVICES="3"), nvml={"gpus": gpus, "count": 1})

    assert not_checked(rules.every_gpu_is_hidden, m)


def test_gpus_that_nvml_does_not_show_are_not_checked():
    m = machine(with_variables(CUDA_VISIBLE_DEVICES="3"), nvml={"gpus": UNREAD})

    assert not_checked(rules.every_gpu_is_hidden, m)


@pytest.mark.parametrize("value", ["0,0", "0,1,0", "0,GPU-00000000", "GPU-1,GPU-11111111", "1,01"])
def test_one_gpu_named_twice_is_an_error(value):
    assert symptoms(rules.named_twice, with_variables(CUDA_VISIBLE_DEVICES=value))


MIXED = machine(nvml={"gpus": (gpu(0), gpu(1, name="NVIDIA L4"))})


def test_gpus_of_two_models_are_counted_otherwise():
    [found] = symptoms(rules.numbers_differ, MIXED)

    assert found.commands == ("export CUDA_DEVICE_ORDER=PCI_BUS_ID",)


def test_gpus_of_two_models_are_fine_in_the_order_of_the_bus():
    assert passes(rules.numbers_differ, with_variables(MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID"))


def test_gpus_of_one_model_need_no_order():
    assert passes(rules.numbers_differ, HEALTHY)


def asked(base=HEALTHY, **variables):
    return machine(with_variables(base, **variables), host={"container": "docker"})


EMPTY = {"device_nodes": (), "libraries": ()}


@pytest.mark.parametrize("value", ["", "void", "none"])
def test_a_container_that_asked_for_no_gpu_is_an_error(value):
    m = machine(asked(NVIDIA_VISIBLE_DEVICES=value), driver=EMPTY, nvml={"count": UNREAD})

    [found] = symptoms(rules.container_asked_for_nothing, m)

    assert found.subject == "NVIDIA_VISIBLE_DEVICES"


def test_a_container_that_got_its_gpus_by_another_way_is_fine():
    assert passes(rules.container_asked_for_nothing, asked(NVIDIA_VISIBLE_DEVICES="void"))


def test_a_container_without_compute_has_no_libcuda():
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES="utility"), driver={"libraries": ()})

    [found] = symptoms(rules.container_asked_for_nothing, m)

    assert found.severity is None
    assert "libcuda" in found.saw


def test_a_container_without_utility_has_no_nvml():
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES="compute"), driver={"libraries": ()})

    [found] = symptoms(rules.container_asked_for_nothing, m)

    assert found.severity is Severity.WARNING


@pytest.mark.parametrize("value", ["", "all", "compute,utility", "graphics, utility,compute"])
def test_a_container_that_asked_for_both_halves_is_fine(value):
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES=value), driver={"libraries": ()})

    assert passes(rules.container_asked_for_nothing, m)


def test_what_a_container_asks_for_does_not_matter_outside_one():
    assert not is_applicable(
        rules.container_asked_for_nothing, with_variables(NVIDIA_VISIBLE_DEVICES="void")
    )


def test_a_missing_request_explains_the_container_without_gpus():
    from gpucheck.rules.host import container_without_gpus

    m = machine(asked(NVIDIA_VISIBLE_DEVICES="void"), driver=EMPTY, nvml={"count": UNREAD})

    report = examine(m, rules=[*ENV, container_without_gpus])

    assert [f.code for f in report.roots] == ["ENV022"]


# ENV023 to ENV025: left-overs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("CUDA_PROFILE", "1"),
        ("COMPUTE_PROFILE", "1"),
        ("CUDA_INJECTION64_PATH", "/opt/tool.so"),
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("CUDA_AUTO_BOOST", "0"),
        ("TORCH_USE_CUDA_DSA", "1"),
        ("TORCH_DISTRIBUTED_DEBUG", "DETAIL"),
    ],
)
def test_a_debugging_variable_that_is_on_is_a_warning(name, value):
    [found] = symptoms(rules.debugging_is_on, with_variables(**{name: value}))

    assert found.subject == name
    assert found.commands == (f"unset {name}",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_LAUNCH_BLOCKING", "0"),
        ("CUDA_LAUNCH_BLOCKING", ""),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("TORCH_DISTRIBUTED_DEBUG", "OFF"),
        ("TORCH_DISTRIBUTED_DEBUG", "INFO"),
    ],
)
def test_a_debugging_variable_at_its_off_value_is_fine(name, value):
    assert passes(rules.debugging_is_on, with_variables(**{name: value}))


@pytest.mark.parametrize("name", ["NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"])
def test_a_fast_path_that_is_off_is_a_warning(name):
    [found] = symptoms(rules.nccl_is_hobbled, with_variables(**{name: "1"}))

    assert found.severity is None


def test_infiniband_that_is_off_matters_where_it_is():
    m = with_variables(NCCL_IB_DISABLE="1")

    assert passes(rules.nccl_is_hobbled, m)
    assert symptoms(rules.nccl_is_hobbled, machine(m, host={"rdma_devices": ("mlx5_0",)}))


def test_nvls_that_is_off_is_a_remark():
    [found] = symptoms(rules.nccl_is_hobbled, with_variables(NCCL_NVLS_ENABLE="0"))

    assert found.severity is Severity.INFO


def test_peers_that_cannot_reach_each_other_lose_nothing():
    from gpucheck.snapshot import GpuPair

    m = machine(
        with_variables(NCCL_P2P_DISABLE="1"), nvml={"pairs": (GpuPair(a=0, b=1, p2p_read="CNS"),)}
    )

    assert passes(rules.nccl_is_hobbled, m)


def test_a_preloaded_file_that_is_missing_is_a_warning():
    m = environment(ld_preload=(PreloadEntry(text="/opt/gone.so", resolved=None),))

    [found] = symptoms(rules.preload_interferes, m)

    assert found.commands == ("unset LD_PRELOAD",)


def test_a_preloaded_cuda_library_is_a_warning():
    entries = (
        PreloadEntry(text="/opt/libcudnn.so.9", resolved="/opt/libcudnn.so.9"),
        PreloadEntry(text="/usr/lib/libjemalloc.so.2", resolved="/usr/lib/libjemalloc.so.2"),
    )

    [found] = symptoms(rules.preload_interferes, environment(ld_preload=entries))

    assert found.commands == ("export LD_PRELOAD=/usr/lib/libjemalloc.so.2",)


def test_a_preloaded_allocator_is_fine():
    entry = PreloadEntry(text="/usr/lib/libjemalloc.so.2", resolved="/usr/lib/libjemalloc.so.2")

    assert passes(rules.preload_interferes, environment(ld_preload=(entry,)))


# ENV026 to ENV031: start-up files

BOTH = machine(toolkits={"installed": (CUDA_13, CUDA_12)})


def test_start_up_files_that_disagree_are_a_warning():
    m = several(
        BOTH,
        bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n",
        profile="# mine\nexport CUDA_HOME=/usr/local/cuda-12.4\n",
    )

    [found] = symptoms(rules.startup_files_disagree, m)

    assert "/home/u/.bashrc:1" in found.saw
    assert "/home/u/.profile:2" in found.saw


def test_start_up_files_that_put_different_toolkits_on_path_disagree():
    m = several(
        BOTH,
        bashrc="export PATH=/usr/local/cuda/bin:$PATH\n",
        profile="export PATH=/usr/local/cuda-12.4/bin:$PATH\n",
    )

    [found] = symptoms(rules.startup_files_disagree, m)

    assert found.subject == "PATH"


def test_a_file_that_reads_the_other_does_not_disagree_with_it():
    m = several(
        BOTH,
        bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n",
        profile=". ~/.bashrc\nexport CUDA_HOME=/usr/local/cuda-12.4\n",
    )

    assert passes(rules.startup_files_disagree, m)


@pytest.mark.parametrize(
    "other",
    [
        "export CUDA_HOME=/usr/local/cuda\n",  # the same by a link
        "if [ -d /x ]; then export CUDA_HOME=/usr/local/cuda-12.4; fi\n",
        "export PATH=/usr/local/cuda-12.4/bin:$PATH\n",  # another variable
    ],
)
def test_start_up_files_that_mean_one_toolkit_agree(other):
    m = several(BOTH, bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n", profile=other)

    assert passes(rules.startup_files_disagree, m)


def test_files_of_different_shells_do_not_disagree():
    m = several(
        BOTH,
        bashrc="export CUDA_HOME=/usr/local/cuda-13.0\n",
        zshrc="export CUDA_HOME=/usr/local/cuda-12.4\n",
    )

    assert passes(rules.startup_files_disagree, m)


def test_a_stock_debian_disagrees_with_nobody():
    m = several(
        bashrc="PATH=/usr/local/sbin:/usr/bin\nexport PATH\n", profile='PATH="$HOME/bin:$PATH"\n'
    )

    for rule in (rules.startup_files_disagree, rules.shell_is_stale):
        assert passes(rule, m)


def test_a_shell_older_than_its_start_up_file_is_a_warning():
    m = startup("export CUDA_HOME=/usr/local/cuda-12.4\n")

    [found] = symptoms(rules.shell_is_stale, m)

    assert found.saw == (
        "/home/u/.bashrc:1 sets CUDA_HOME to /usr/local/cuda-12.4; "
        "in this shell it is /usr/local/cuda."
    )
    assert found.commands == (". /home/u/.bashrc",)


def test_a_stale_shell_is_one_complaint():
    m = startup(
        "export CUDA_HOME=/usr/local/cuda\nexport PATH=$CUDA_HOME/bin:$PATH\n",
        base=environment(cuda_home=None, path=(path_entry("/usr/bin"),)),
    )

    report = examine(m, rules=ENV)

    assert {f.code for f in report.roots} == {"ENV027"}
    assert "ENV001" in {f.code for f in report.findings}


@pytest.mark.parametrize(
    "text",
    [
        "export CUDA_HOME=/usr/local/cuda\n",
        "export CUDA_HOME=/usr/local/cuda/\n",
        "export CUDA_HOME=/opt/old\nexport CUDA_HOME=/usr/local/cuda\n",
        "export PATH=/usr/local/cuda/bin:$PATH\n",
        "export PATH=/usr/local/cuda-13.0/bin:$PATH\n",
        "CUDA_HOME=/opt/other make\n",
        "# export CUDA_HOME=/opt/other\n",
    ],
)
def test_a_shell_that_has_what_its_files_set_is_not_stale(text):
    assert passes(rules.shell_is_stale, startup(text))


@pytest.mark.parametrize(
    "text",
    [
        "export CUDA_HOME=$(dirname $(dirname $(which nvcc)))\n",
        "export CUDA_HOME=$MY_CUDA\n",
        "[ -d /opt/cuda ] && export CUDA_HOME=/opt/cuda\n",
        "use() { export CUDA_HOME=/opt/cuda-$1; }\n",
    ],
)
def test_a_value_that_only_running_would_tell_is_not_checked(text):
    m = startup(text)

    assert not symptoms(rules.shell_is_stale, m)
    assert not_checked(rules.shell_is_stale, m)


def test_a_file_of_another_shell_makes_none_stale():
    assert passes(rules.shell_is_stale, startup("export CUDA_HOME=/opt/x\n", path="/home/u/.zshrc"))


def test_a_loaded_module_outranks_the_start_up_file():
    m = startup(
        "export CUDA_HOME=/usr/local/cuda-12.4\n", base=with_variables(LOADEDMODULES="gcc:cuda/13")
    )

    assert passes(rules.shell_is_stale, m)


def test_nobody_logs_into_a_container():
    m = startup("export CUDA_HOME=/opt/x\n", path="/home/u/.profile", base=asked())

    assert passes(rules.shell_is_stale, m)


@pytest.mark.parametrize(
    "line",
    [
        "exportCUDA_HOME=/usr/local/cuda",
        "export CUDA_HOME = /usr/local/cuda",
        "export CUDA_HOME= /usr/local/cuda",
        "export CUDA_HOME =/usr/local/cuda",
        "export CUDA_HOME=“/usr/local/cuda”",
        "CUDA_HOME = /usr/local/cuda",
        "export $CUDA_HOME=/usr/local/cuda",
        "setenv CUDA_HOME /usr/local/cuda",
        "export PATH=/usr/local/cuda/bin: $PATH",
        "Export CUDA_HOME=/usr/local/cuda",
    ],
)
def test_a_mangled_export_is_an_error_with_its_file_and_line(line):
    [found] = symptoms(rules.export_is_mangled, startup(f"# mine\n{line}\n"))

    assert found.subject == "/home/u/.bashrc:2"
    assert line in found.saw


def test_a_mangled_export_explains_the_missing_variable():
    m = startup(
        "exportCUDA_HOME=/usr/local/cuda\n",
        base=environment(cuda_home=None, path=(path_entry("/usr/bin"),)),
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV028"]


def test_a_home_that_is_appended_to_itself_is_an_error():
    m = startup("export CUDA_HOME=$CUDA_HOME:/usr/local/cuda\n")

    [found] = symptoms(rules.home_is_appended, m)

    assert found.subject == "/home/u/.bashrc:1"


def test_an_appended_home_explains_the_malformed_one():
    m = startup(
        "export CUDA_HOME=$CUDA_HOME:/usr/local/cuda\n", base=missing_home(":/usr/local/cuda")
    )

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV029"]


@pytest.mark.parametrize(
    "line", ["export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}", "export CUDA_HOME=$CUDA_HOME"]
)
def test_a_default_is_no_appending(line):
    assert passes(rules.home_is_appended, startup(f"{line}\n"))


EARLY_EXIT = "case $- in\n    *i*) ;;\n      *) return;;\nesac\n"


def test_exports_behind_the_early_exit_are_a_remark():
    m = startup(f"{EARLY_EXIT}export CUDA_HOME=/usr/local/cuda\n")

    [found] = symptoms(rules.exports_come_too_late, m)

    assert "ends at line 3" in found.saw
    assert "line 5" in found.saw


def test_exports_before_the_early_exit_are_fine():
    m = startup(f"export CUDA_HOME=/usr/local/cuda\n{EARLY_EXIT}")

    assert passes(rules.exports_come_too_late, m)


@pytest.mark.parametrize(
    "line",
    [
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH",
        "export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/usr/local/cuda/lib64",
        'export LD_LIBRARY_PATH="/usr/local/cuda/lib64:${LD_LIBRARY_PATH}"',
        "LD_LIBRARY_PATH+=:/usr/local/cuda/lib64",
        "export LD_LIBRARY_PATH=/x:${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH}:}",
    ],
)
def test_an_unguarded_line_is_a_warning(line):
    [found] = symptoms(rules.append_is_unguarded, startup(f"{line}\n"))

    assert found.subject == "/home/u/.bashrc:1"


@pytest.mark.parametrize(
    "line",
    [
        "export LD_LIBRARY_PATH=/x${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
        "export LD_LIBRARY_PATH=/x${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}",
        'export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH}:}/x"',
        "export LD_LIBRARY_PATH=/x:${LD_LIBRARY_PATH:-/usr/lib}",
        "export LD_LIBRARY_PATH=/x",
        "export LD_LIBRARY_PATH=/a; export LD_LIBRARY_PATH=/b:$LD_LIBRARY_PATH",
        '[ -n "$LD_LIBRARY_PATH" ] && export LD_LIBRARY_PATH=/x:$LD_LIBRARY_PATH',
    ],
)
def test_a_guarded_line_is_fine(line):
    assert passes(rules.append_is_unguarded, startup(f"{line}\n"))


@pytest.mark.skipif(shutil.which("sed") is None, reason="needs sed")
@pytest.mark.parametrize(
    "line",
    [
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH",
        'export LD_LIBRARY_PATH="/usr/local/cuda/lib64:${LD_LIBRARY_PATH}"',
        "exportCUDA_HOME=/usr/local/cuda",
        "export CUDA_HOME = /usr/local/cuda",
        "export CUDA_HOME= /usr/local/cuda",
        "export CUDA_HOME=“/usr/local/cuda”",
    ],
)
def test_the_command_that_is_given_mends_the_line(tmp_path, line):
    path = tmp_path / "a home" / ".bashrc"
    path.parent.mkdir()
    path.write_text(f"# first\n{line}\n")
    read = reader.parse(path.read_text(), str(path), "sh", "/home/u")
    m = machine(startup_files={"files": (read,)})
    report = examine(m, rules=[rules.append_is_unguarded, rules.export_is_mangled])

    [command] = report.findings[0].commands
    subprocess.run(["sh", "-c", command], check=True)

    mended = machine(
        startup_files={"files": (reader.parse(path.read_text(), str(path), "sh", "/home/u"),)}
    )
    assert not examine(mended, rules=[rules.append_is_unguarded, rules.export_is_mangled]).findings


def test_a_start_up_file_that_may_not_be_read_is_not_checked():
    files = (StartupFile(path="/home/u/.bashrc", settings=UNREAD),)
    m = machine(startup_files={"files": files})

    for rule in (rules.export_is_mangled, rules.append_is_unguarded, rules.exports_come_too_late):
        assert not_checked(rule, m)


def test_a_real_driver_outranks_what_the_container_asked_for():
    library = DriverLibrary(soname="libcuda.so.1", path="/usr/lib/libcuda.so.1", is_stub=False)
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES="utility"), driver={"libraries": (library,)})

    assert passes(rules.container_asked_for_nothing, m)


def test_a_mangled_line_about_something_else_explains_nothing():
    m = startup("export LD_LIBRARY_PATH = /x\n", base=missing_home("/usr/local/cuda-11"))

    report = examine(m, rules=ENV)

    assert [f.code for f in report.roots] == ["ENV002", "ENV028"]


def test_a_file_of_the_system_is_changed_as_root():
    m = startup("exportCUDA_HOME=/usr/local/cuda\n", path="/etc/profile.d/cuda.sh")

    [found] = symptoms(rules.export_is_mangled, m)
    [for_root] = symptoms(rules.export_is_mangled, machine(m, host={"is_root": True}))

    assert found.commands[0].startswith("sudo sed -i ")
    assert for_root.commands[0].startswith("sed -i ")
    assert found.fix == "Write it as `export CUDA_HOME=/usr/local/cuda`."


def test_an_index_that_a_lost_gpu_had_is_explained_by_the_loss():
    m = machine(with_variables(CUDA_VISIBLE_DEVICES="0,1"), nvml={"gpus": (gpu(0),), "count": 1})

    [found] = symptoms(rules.hidden_from_here_on, m)

    assert found.explained_by == ("DRV015",)
    assert "only GPU 0 is here" in found.saw


def test_a_cuda_home_that_a_start_up_file_sets_wrongly_is_to_be_mended_there_too():
    gone = HomeVariable(value="/opt/gone", resolved=None, has_nvcc=False, has_cudart=False)
    setting = StartupSetting(
        line=7, variable="CUDA_HOME", text="export CUDA_HOME=/opt/gone", value="/opt/gone"
    )
    m = machine(
        environment={"cuda_home": gone},
        startup_files={"files": (StartupFile(path="~/.bashrc", settings=(setting,)),)},
    )

    [symptom] = symptoms(rules.home_is_missing, m)

    assert "~/.bashrc:7" in symptom.fix

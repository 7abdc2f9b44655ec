"""The rules about what comes of building with a toolkit."""

import machines
from gpucheck.rule import Severity
from gpucheck.rules import toolkit_builds as rules
from gpucheck.snapshot import HostCompiler, Unknown
from machines import (
    CUDA_12,
    CUDA_13,
    advice,
    commands,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)
from seen_facts import seen
from toolkit_machines import home, toolkits
from torches import change

# ------------------------------------------------------------------------------------- CUD003


def test_building_with_another_major_than_torchs_is_a_warning():
    bad = machine(
        toolkits=toolkits(CUDA_12, CUDA_13), environment={"cuda_home": home(CUDA_12.home, "12.4")}
    )

    [found] = symptoms(rules.toolkit_differs_from_torch, bad)

    assert found.saw == (
        "CUDA_HOME leads to /usr/local/cuda-12.4, CUDA 12.4; torch 2.11.0+cu130 is built for "
        "CUDA 13.0"
    )
    assert commands(found) == ("export CUDA_HOME=/usr/local/cuda",)


def test_where_no_toolkit_of_torchs_major_is_here_none_is_offered():
    bad = machine(
        toolkits=toolkits(CUDA_12, default=None), environment={"cuda_home": home(CUDA_12.home)}
    )

    [found] = symptoms(rules.toolkit_differs_from_torch, bad)

    assert commands(found) == ()
    assert "Install a CUDA 13.0 toolkit" in advice(found)


def test_the_first_nvcc_counts_where_cuda_home_is_unset():
    bad = machine(
        toolkits=toolkits(CUDA_12, first_nvcc_home=CUDA_12.home), environment={"cuda_home": None}
    )

    assert symptoms(rules.toolkit_differs_from_torch, bad)


def test_another_minor_is_only_worth_knowing():
    newer = change(CUDA_13, version="13.2")

    [found] = symptoms(rules.toolkit_differs_from_torch, machine(toolkits=toolkits(newer)))

    assert found.severity is Severity.INFO


def test_a_matching_toolkit_is_fine():
    assert passes(rules.toolkit_differs_from_torch, machine())


def test_no_torch_or_a_cpu_build_raises_no_question_of_toolkits():
    cpu = change(seen(machines.HEALTHY.pytorch.torch), build="cpu", cuda=None)

    assert not is_applicable(rules.toolkit_differs_from_torch, machine(pytorch={"torch": None}))
    assert not is_applicable(rules.toolkit_differs_from_torch, machine(pytorch={"torch": cpu}))


def test_no_toolkit_raises_no_question_of_torch():
    none = machine(
        toolkits=toolkits(first_nvcc=None, first_nvcc_home=None, default=None),
        environment={"cuda_home": None, "cuda_path": None},
    )

    assert not is_applicable(rules.toolkit_differs_from_torch, none)


# ------------------------------------------------------------------------------------- CUD004


def compiler(version: str, **changes) -> dict:
    plain = {"path": "/usr/bin/g++", "kind": "gcc", "version": version}
    return {"host_compiler": HostCompiler(**{**plain, **changes})}


def test_a_compiler_newer_than_nvcc_accepts_is_a_warning():
    [found] = symptoms(rules.host_compiler_too_new, machine(toolkits=compiler("16.1.0")))

    assert found.subject == "/usr/bin/g++"
    assert found.saw == (
        "/usr/bin/g++ is gcc 16.1.0 (chosen by PATH); the nvcc of /usr/local/cuda-13.0 accepts "
        "gcc up to 15"
    )
    assert commands(found) == ("apt install g++-15", "export NVCC_CCBIN=g++-15")


def test_an_older_compiler_that_is_here_is_named():
    others = ("/usr/bin/g++-12", "/usr/bin/g++-14", "/usr/bin/g++-16")

    [found] = symptoms(
        rules.host_compiler_too_new, machine(toolkits=compiler("16.1.0", others=others))
    )

    assert commands(found) == ("export NVCC_CCBIN=/usr/bin/g++-14",)


def test_the_variable_that_chose_it_is_the_one_to_change():
    [found] = symptoms(
        rules.host_compiler_too_new, machine(toolkits=compiler("16.1.0", chosen_by="CUDAHOSTCXX"))
    )

    assert commands(found)[-1] == "export CUDAHOSTCXX=g++-15"


def test_the_newest_accepted_compiler_is_fine():
    assert passes(rules.host_compiler_too_new, machine(toolkits=compiler("15.3.0")))


def test_a_variable_that_names_a_fitting_compiler_is_fine():
    chosen = compiler("13.3.0", path="/opt/gcc/bin/g++", chosen_by="CUDAHOSTCXX")

    assert passes(rules.host_compiler_too_new, machine(toolkits=chosen))


def test_clang_has_a_limit_of_its_own():
    new = compiler("21.1.0", path="/usr/bin/clang++", kind="clang")
    old = compiler("20.1.0", path="/usr/bin/clang++", kind="clang")

    assert symptoms(rules.host_compiler_too_new, machine(toolkits=new))
    assert passes(rules.host_compiler_too_new, machine(toolkits=old))


def test_a_header_without_a_limit_accepts_every_compiler():
    free = change(CUDA_13, max_gcc=None)

    assert passes(
        rules.host_compiler_too_new, machine(toolkits={**compiler("99.0"), "installed": (free,)})
    )


def test_another_compiler_is_not_judged():
    assert not_checked(rules.host_compiler_too_new, machine(toolkits=compiler("24", kind="other")))


def test_no_compiler_raises_no_question():
    assert not is_applicable(rules.host_compiler_too_new, machine(toolkits={"host_compiler": None}))


# ------------------------------------------------------------------------------------- CUD008


def gpus(capability: str, name: str):
    return {"gpus": (machines.gpu(0, compute_capability=capability, name=name),)}


def build_with(toolkit):
    return {
        "toolkits": toolkits(toolkit, default=toolkit.home, first_nvcc_home=toolkit.home),
        "environment": {"cuda_home": home(toolkit.home)},
    }


def test_a_gpu_newer_than_the_toolkit_is_a_warning():
    bad = machine(nvml=gpus("10.0", "NVIDIA B200"), **build_with(CUDA_12))

    [found] = symptoms(rules.toolkit_misses_gpu, bad)

    assert found.saw == (
        "/usr/local/cuda-12.4 (CUDA 12.4) compiles for sm_50 to sm_90; NVIDIA B200 is sm_100"
    )
    assert found.remedy.text == "Build with CUDA 12.8 or newer."


def test_a_gpu_that_the_toolkit_dropped_is_a_warning():
    bad = machine(nvml=gpus("7.0", "Tesla V100-SXM2-16GB"))

    [found] = symptoms(rules.toolkit_misses_gpu, bad)

    assert found.remedy.text == "Build with CUDA 9.0 to 12.9."


def test_a_lower_minor_of_the_same_major_serves():
    old = change(CUDA_12, version="11.4", nvcc_architectures=("sm_80", "sm_86"))

    assert passes(
        rules.toolkit_misses_gpu,
        machine(nvml=gpus("8.9", "NVIDIA L40S"), **build_with(old)),
    )


def test_a_toolkit_that_the_table_does_not_know_is_not_judged():
    new = change(CUDA_13, nvcc_architectures=Unknown("the table does not know this release"))

    assert not_checked(rules.toolkit_misses_gpu, machine(toolkits=toolkits(new)))


def test_without_a_gpu_nothing_has_to_be_compiled_for():
    assert not is_applicable(rules.toolkit_misses_gpu, machine(nvml={"gpus": ()}))

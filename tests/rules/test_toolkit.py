"""The rules about CUDA toolkits that are installed."""

import machines
from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import toolkit as rules
from gpucheck.rules import toolkit_builds
from gpucheck.rules.torch_build import driver_too_old
from gpucheck.snapshot import Unknown
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
    with_variables,
)
from toolkit_machines import DISTRIBUTION, home, toolkits
from torches import NO_GPU, OLD_DRIVER, change

# ------------------------------------------------------------------------------------- CUD001


def test_a_machine_that_builds_nothing_does_not_miss_a_toolkit():
    [answer] = not_checked(
        rules.no_toolkit, with_variables(machine(toolkits=toolkits()), CUDA_HOME=None)
    )

    assert answer.kind == "by design"


def test_a_cuda_home_without_any_toolkit_is_worth_knowing():
    [found] = symptoms(rules.no_toolkit, machine(toolkits=toolkits()))

    assert "no toolkit" in found.saw
    assert advice(found) == "If you build CUDA code, install a toolkit of CUDA 13, as torch has."


def test_runtime_libraries_alone_build_nothing():
    runtime = change(CUDA_12, nvcc=None)

    [found] = symptoms(rules.no_toolkit, machine(toolkits=toolkits(runtime)))

    assert found.saw == "only runtime libraries, in /usr/local/cuda-12.4; no nvcc"


def test_a_toolkit_is_a_toolkit():
    assert passes(rules.no_toolkit, machine())


def test_without_a_gpu_no_toolkit_is_missed():
    assert not is_applicable(rules.no_toolkit, machine(toolkits=toolkits(), **NO_GPU))


def test_folders_that_could_not_be_read_are_not_no_toolkit():
    unknown = machine(toolkits={"installed": Unknown("/usr/local: Permission denied")})

    assert not_checked(rules.no_toolkit, unknown)
    assert not symptoms(rules.no_toolkit, unknown)


# ------------------------------------------------------------------------------------- CUD002


def test_a_toolkit_of_a_newer_major_than_the_driver_is_a_warning():
    bad = machine(
        toolkits=toolkits(CUDA_12, CUDA_13),
        environment={"cuda_home": home(CUDA_12.home, "12.4")},
        **OLD_DRIVER,
    )

    [found] = symptoms(rules.toolkit_outruns_driver, bad)

    assert found.severity is None
    assert found.saw == ("/usr/local/cuda-13.0 is CUDA 13.0; driver 550.54.15 runs up to CUDA 12.4")
    assert (
        found.remedy.text == "Install driver 580.65.06 or newer, or build with a CUDA 12 toolkit."
    )


def test_it_is_an_error_where_cuda_home_points_to_it():
    bad = machine(
        toolkits=toolkits(CUDA_13), environment={"cuda_home": home(CUDA_13.home)}, **OLD_DRIVER
    )

    [found] = symptoms(rules.toolkit_outruns_driver, bad)

    assert found.severity is Severity.ERROR


def test_a_driver_too_old_for_toolkit_and_torch_is_one_complaint():
    bad = machine(toolkits=toolkits(CUDA_13), **OLD_DRIVER)

    report = examine(bad, rules=[rules.toolkit_outruns_driver, driver_too_old])

    assert [(f.code, f.explained_by) for f in report.findings] == [
        ("TOR004", None),
        ("CUD002", "TOR004"),
    ]


def test_a_newer_minor_of_the_same_major_is_only_worth_knowing():
    newer = change(CUDA_13, version="13.2")

    [found] = symptoms(rules.toolkit_outruns_driver, machine(toolkits=toolkits(newer)))

    assert found.severity is Severity.INFO
    assert "595.45.04" in advice(found)


def test_an_older_toolkit_is_fine():
    assert passes(rules.toolkit_outruns_driver, machine(toolkits=toolkits(CUDA_12)))


def test_a_compatibility_library_in_use_is_taken_at_its_word():
    libraries = machines.HEALTHY.driver.libraries
    assert isinstance(libraries, tuple)
    compat = change(libraries[0], is_compat=True, version="580.65.06")
    good = machine(
        toolkits=toolkits(CUDA_13),
        driver={**OLD_DRIVER["driver"], "libraries": (compat,)},
        nvml=OLD_DRIVER["nvml"],
    )

    assert passes(rules.toolkit_outruns_driver, good)


def test_without_a_driver_nothing_is_said_of_its_reach():
    none = machine(
        driver={"module_version": None, "libraries": (), "cuda_init": None},
        nvml={"cuda_version": Unknown("no NVML"), "driver_version": Unknown("no NVML")},
    )

    assert not is_applicable(rules.toolkit_outruns_driver, none)


def test_a_toolkit_without_a_version_is_not_judged():
    nameless = change(CUDA_13, version=Unknown("no file of this toolkit says its version"))

    assert not_checked(rules.toolkit_outruns_driver, machine(toolkits=toolkits(nameless)))


# ------------------------------------------------------------------------------------- CUD005


def test_a_dangling_link_is_an_error():
    bad = machine(toolkits={"dangling": ("/usr/local/cuda",)})

    [found] = symptoms(rules.toolkit_broken, bad)

    assert found.saw == "/usr/local/cuda is a link to nothing"
    assert commands(found) == ("ln -sfn /usr/local/cuda-13.0 /usr/local/cuda",)


def test_links_that_dangle_together_are_one_complaint():
    bad = machine(toolkits={"dangling": ("/usr/local/cuda", "/usr/local/cuda-12")})

    [found] = symptoms(rules.toolkit_broken, bad)

    assert found.saw == "/usr/local/cuda, /usr/local/cuda-12 are links to nothing"


def test_an_nvcc_that_does_not_run_is_an_error():
    broken = change(CUDA_13, nvcc_version=None, nvcc_error="exit status 127: libfoo.so is missing")

    [found] = symptoms(rules.toolkit_broken, machine(toolkits=toolkits(broken)))

    assert found.subject == "/usr/local/cuda-13.0"
    assert "exit status 127" in found.saw


def test_two_releases_in_one_folder_are_an_error():
    mixed = change(CUDA_13, version_json="12.8.1")

    [found] = symptoms(rules.toolkit_broken, machine(toolkits=toolkits(mixed)))

    assert "12.8.1" in found.saw
    assert "13.0.88" in found.saw


def test_a_missing_version_json_is_no_fault():
    bare = change(CUDA_13, version_json=None)

    assert passes(rules.toolkit_broken, machine(toolkits=toolkits(bare)))


def test_an_nvcc_that_was_not_run_is_not_checked():
    unasked = change(CUDA_13, nvcc_version=Unknown("--quick runs no compiler"))

    [answer] = not_checked(rules.toolkit_broken, machine(toolkits=toolkits(unasked)))

    assert answer.why == "--quick runs no compiler"


# ------------------------------------------------------------------------------------- CUD006


def test_two_defaults_are_worth_knowing():
    two = machine(
        toolkits=toolkits(CUDA_12, CUDA_13), environment={"cuda_home": home(CUDA_12.home, "12.4")}
    )

    [found] = symptoms(rules.two_defaults, two)

    assert "/usr/local/cuda-12.4" in found.saw
    assert "/usr/local/cuda-13.0" in found.saw


def test_two_names_of_one_toolkit_are_one():
    assert passes(
        rules.two_defaults, machine(environment={"cuda_home": home("/usr/local/cuda-13.0")})
    )


def test_an_unset_cuda_home_raises_no_question():
    assert not is_applicable(rules.two_defaults, machine(environment={"cuda_home": None}))


# ------------------------------------------------------------------------------------- CUD007


def first_is_distributions(*installed):
    return machine(
        toolkits=toolkits(*installed, first_nvcc="/usr/bin/nvcc", first_nvcc_home=DISTRIBUTION.home)
    )


def test_the_distributions_nvcc_before_a_toolkit_is_a_warning():
    [found] = symptoms(rules.distribution_nvcc_first, first_is_distributions(DISTRIBUTION, CUDA_13))

    assert found.subject == "/usr/bin/nvcc"
    assert commands(found) == ('export PATH=/usr/local/cuda-13.0/bin:"$PATH"',)


def test_the_distributions_nvcc_alone_is_fine():
    assert passes(rules.distribution_nvcc_first, first_is_distributions(DISTRIBUTION))


def test_the_distributions_nvcc_behind_a_toolkit_is_fine():
    assert passes(rules.distribution_nvcc_first, machine(toolkits=toolkits(DISTRIBUTION, CUDA_13)))


def test_what_follows_from_the_distributions_nvcc_folds_under_it():
    bad = machine(
        first_is_distributions(DISTRIBUTION, CUDA_13),
        environment={"cuda_home": None, "cuda_path": None},
    )

    report = examine(
        bad, rules=[rules.distribution_nvcc_first, toolkit_builds.toolkit_differs_from_torch]
    )

    assert [(f.code, f.explained_by) for f in report.findings] == [
        ("CUD007", None),
        ("CUD003", "CUD007"),
    ]

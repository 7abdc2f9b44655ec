import pytest
from env_machines import ENV, UNREAD, asked

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import visible_devices
from gpucheck.snapshot import CudaInit, DriverLibrary
from machines import (
    HEALTHY,
    commands,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
    with_variables,
)

LIST_RULES = (
    visible_devices.every_gpu_is_hidden,
    visible_devices.hidden_from_here_on,
    visible_devices.named_twice,
)


def visible(value, base=HEALTHY, counted=None):
    """A machine with that CUDA_VISIBLE_DEVICES; *counted* is what CUDA made of it, if asked."""
    init = None if counted is None else CudaInit(code=0 if counted else 100, device_count=counted)
    return machine(with_variables(base, CUDA_VISIBLE_DEVICES=value), driver={"cuda_init": init})


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles", "2", "7,0", "GPU-9", "x"])
def test_a_list_that_hides_every_gpu_is_an_error(value):
    m = visible(value)

    [found] = symptoms(visible_devices.every_gpu_is_hidden, m)

    assert commands(found) == ("unset CUDA_VISIBLE_DEVICES",)


@pytest.mark.parametrize("value", ["0", "1,0", "0,1", "GPU-0", "GPU-11111111-0000", "0,-1", "0, 1"])
def test_a_list_of_gpus_that_are_here_is_fine(value):
    m = visible(value)

    for rule in (
        visible_devices.every_gpu_is_hidden,
        visible_devices.hidden_from_here_on,
        visible_devices.named_twice,
    ):
        assert passes(rule, m)


def test_an_unset_list_hides_nothing():
    assert not is_applicable(visible_devices.every_gpu_is_hidden, HEALTHY)


def test_all_behind_a_gpu_that_is_not_there_is_ignored():
    m = visible("0,2,1")

    [found] = symptoms(visible_devices.hidden_from_here_on, m)

    assert "CUDA sees 0 alone" in found.saw
    assert commands(found) == ("export CUDA_VISIBLE_DEVICES=0",)


def test_a_wrong_first_element_is_one_complaint():
    report = examine(visible("5"), rules=ENV)

    assert [f.code for f in report.roots] == ["ENV018"]


@pytest.mark.parametrize("value", ["0,GPU-", "0,MIG-1234"])
def test_the_beginning_of_two_uuids_names_neither(value):
    gpus = (gpu(0, mig_devices=()), gpu(1, mig_devices=()))
    m = machine(visible(value), nvml={"gpus": gpus})

    assert symptoms(visible_devices.hidden_from_here_on, m)


def test_a_wrong_first_element_is_one_complaint_since_it_hides_every_gpu():
    m = machine(visible("GPU-"))

    assert symptoms(visible_devices.every_gpu_is_hidden, m)
    assert not symptoms(visible_devices.hidden_from_here_on, m)


def test_a_mig_device_that_is_here_is_found():
    gpus = (gpu(0, mig_devices=("MIG-aaaa-bbbb",), mig_is_on=True),)
    m = machine(visible("MIG-aaaa"), nvml={"gpus": gpus, "count": 1})

    assert passes(visible_devices.every_gpu_is_hidden, m)


def test_an_index_under_mig_is_not_checked():
    gpus = (gpu(0, mig_devices=("MIG-aaaa-bbbb",), mig_is_on=True),)
    m = machine(visible("3"), nvml={"gpus": gpus, "count": 1})

    assert not_checked(visible_devices.every_gpu_is_hidden, m)


def test_gpus_that_nvml_does_not_show_are_not_checked():
    m = machine(visible("3"), nvml={"gpus": UNREAD})

    assert not_checked(visible_devices.every_gpu_is_hidden, m)


@pytest.mark.parametrize("value", ["0,0", "0,1,0", "0,GPU-00000000", "GPU-1,GPU-11111111", "1,01"])
def test_one_gpu_named_twice_is_an_error(value):
    assert symptoms(visible_devices.named_twice, visible(value))


MIXED = machine(nvml={"gpus": (gpu(0), gpu(1, name="NVIDIA L4"))})


def test_gpus_of_two_models_are_counted_otherwise():
    [found] = symptoms(visible_devices.numbers_differ, MIXED)

    assert commands(found) == ("export CUDA_DEVICE_ORDER=PCI_BUS_ID",)


def test_gpus_of_two_models_are_fine_in_the_order_of_the_bus():
    assert passes(
        visible_devices.numbers_differ, with_variables(MIXED, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    )


def test_gpus_of_one_model_need_no_order():
    assert passes(visible_devices.numbers_differ, HEALTHY)


EMPTY = {"device_nodes": (), "libraries": ()}


@pytest.mark.parametrize("value", ["", "void", "none"])
def test_a_container_that_asked_for_no_gpu_is_an_error(value):
    m = machine(asked(NVIDIA_VISIBLE_DEVICES=value), driver=EMPTY, nvml={"count": UNREAD})

    [found] = symptoms(visible_devices.container_asked_for_nothing, m)

    assert found.subject == "NVIDIA_VISIBLE_DEVICES"


def test_a_container_that_got_its_gpus_by_another_way_is_fine():
    assert passes(visible_devices.container_asked_for_nothing, asked(NVIDIA_VISIBLE_DEVICES="void"))


def test_a_container_without_compute_has_no_libcuda():
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES="utility"), driver={"libraries": ()})

    [found] = symptoms(visible_devices.container_asked_for_nothing, m)

    assert found.severity is None
    assert "libcuda" in found.saw


def test_a_container_without_utility_has_no_nvml():
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES="compute"), driver={"libraries": ()})

    [found] = symptoms(visible_devices.container_asked_for_nothing, m)

    assert found.severity is Severity.WARNING


@pytest.mark.parametrize("value", ["", "all", "compute,utility", "graphics, utility,compute"])
def test_a_container_that_asked_for_both_halves_is_fine(value):
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES=value), driver={"libraries": ()})

    assert passes(visible_devices.container_asked_for_nothing, m)


def test_what_a_container_asks_for_does_not_matter_outside_one():
    assert not is_applicable(
        visible_devices.container_asked_for_nothing, with_variables(NVIDIA_VISIBLE_DEVICES="void")
    )


def test_a_missing_request_explains_the_container_without_gpus():
    from gpucheck.rules.host import container_without_gpus

    m = machine(asked(NVIDIA_VISIBLE_DEVICES="void"), driver=EMPTY, nvml={"count": UNREAD})

    report = examine(m, rules=[*ENV, container_without_gpus])

    assert [f.code for f in report.roots] == ["ENV022"]


def test_a_real_driver_outranks_what_the_container_asked_for():
    library = DriverLibrary(soname="libcuda.so.1", path="/usr/lib/libcuda.so.1", is_stub=False)
    m = machine(asked(NVIDIA_DRIVER_CAPABILITIES="utility"), driver={"libraries": (library,)})

    assert passes(visible_devices.container_asked_for_nothing, m)


def test_an_index_that_a_lost_gpu_had_is_explained_by_the_loss():
    m = machine(visible("0,1"), nvml={"gpus": (gpu(0),), "count": 1})

    [found] = symptoms(visible_devices.hidden_from_here_on, m)

    assert "DRV015" in found.explained_by
    assert "only GPU 0 is here" in found.saw


#: What 2 × H100 with driver 580 made of each value: how many GPUs torch counted.
MEASURED = {
    "0x1": 1,
    "1a": 1,
    "-0": 1,
    "+1": 1,
    "1,-1,0": 1,
    "0": 1,
    "1,0": 2,
}


@pytest.mark.parametrize("asks", [True, False], ids=["CUDA asked", "quick"])
@pytest.mark.parametrize("value", MEASURED)
def test_a_list_of_which_cuda_makes_something_hides_nothing(value, asks):
    m = visible(value, counted=MEASURED[value] if asks else None)

    report = examine(m, rules=LIST_RULES)

    assert report.verdict == "healthy"


@pytest.mark.parametrize(("value", "meant"), [("0;1", "0,1"), ("0 1", "0,1"), ("1: 0", "1,0")])
def test_a_wrong_separator_hides_the_gpus_behind_it(value, meant):
    for counted in (1, None):
        report = examine(visible(value, counted=counted), rules=LIST_RULES)

        assert [f.code for f in report.findings] == ["ENV019"]
        assert report.findings[0].remedy.steps[0].text == f"export CUDA_VISIBLE_DEVICES={meant}"
        assert "sees 1 GPU" in report.findings[0].saw


@pytest.mark.parametrize("value", ["all", '"0,1"', "x"])
def test_a_list_of_which_cuda_makes_nothing_hides_all(value):
    report = examine(visible(value, counted=0), rules=LIST_RULES)

    assert [f.code for f in report.findings] == ["ENV018"]


def test_an_empty_element_ends_the_list_as_the_driver_ends_it():
    [found] = symptoms(visible_devices.hidden_from_here_on, visible("0,,1", counted=1))

    assert "CUDA sees 0 alone" in found.saw


@pytest.mark.parametrize("value", ["7", "0,7,1", "0,0"])
def test_what_cuda_counts_outranks_what_we_read(value):
    assert examine(visible(value, counted=2), rules=LIST_RULES).verdict == "healthy"


def test_under_ray_the_fix_is_to_ask_ray_for_a_gpu():
    m = visible("", with_variables(RAY_JOB_ID="01000000"), counted=0)

    [found] = symptoms(visible_devices.every_gpu_is_hidden, m)

    assert "num_gpus=1" in found.remedy.text
    assert not commands(found)


def test_in_a_slurm_job_the_fix_is_to_ask_slurm_for_a_gpu():
    m = visible("NoDevFiles", with_variables(SLURM_JOB_ID="7"), counted=0)

    [found] = symptoms(visible_devices.every_gpu_is_hidden, m)

    assert commands(found) == ("srun --gres=gpu:1 --pty bash -l",)

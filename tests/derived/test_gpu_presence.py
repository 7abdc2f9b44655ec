"""Whether a GPU is here, whose it is, and who shows it."""

from typing import Any

import pytest

from gpucheck import derived
from gpucheck.snapshot import CudaInit, DeviceNode, DriverLibrary, PciGpu, Snapshot, Unknown
from machines import BUS_IDS, HEALTHY, gpu, machine, with_variables
from seen_facts import seen

SILENT = {"count": Unknown("no NVML"), "gpus": Unknown("no NVML")}
NOWHERE: dict[str, Any] = {
    "host": {"pci_gpus": ()},
    "nvml": {"count": 0, "gpus": ()},
    "driver": {"cuda_init": None, "proc_gpus": (), "device_nodes": (), "libraries": ()},
}
ON_THE_BUS = {**NOWHERE, "host": {"pci_gpus": (PciGpu(bus_id=BUS_IDS[0]),)}}
BY_NVML = {**NOWHERE, "nvml": {"count": 1, "gpus": (gpu(),)}}
BY_CUDA = {
    **NOWHERE,
    "driver": {**NOWHERE["driver"], "cuda_init": CudaInit(code=0, device_count=1)},
}
WSL_LIBRARY = DriverLibrary(soname="libcuda.so.1", path="/usr/lib/wsl/lib/libcuda.so.1")


@pytest.mark.parametrize("facts", [ON_THE_BUS, BY_NVML, BY_CUDA], ids=["bus", "NVML", "CUDA"])
def test_a_gpu_is_here_where_anybody_shows_one(facts: dict[str, Any]):
    assert derived.has_gpu(machine(**facts)) is True
    assert derived.is_driven(machine(**facts))


def test_a_tegra_has_its_gpu_on_no_bus():
    jetson = machine(**{**NOWHERE, "host": {"pci_gpus": (), "tegra": "Jetson AGX Orin"}})

    assert derived.has_gpu(jetson) is True
    assert derived.is_driven(jetson)


def test_no_gpu_is_here_where_nobody_shows_one():
    assert derived.has_gpu(machine(**NOWHERE)) is False
    assert not derived.is_driven(machine(**NOWHERE))


def test_a_bus_that_could_not_be_read_leaves_it_open():
    closed = machine(**{**NOWHERE, "host": {"pci_gpus": Unknown("no /sys")}})

    assert derived.has_gpu(closed) == Unknown("no /sys")


def test_in_wsl_the_driver_alone_can_tell():
    silent = {"host": {"pci_gpus": (), "is_wsl": True}, "nvml": SILENT}
    without = machine(**{**NOWHERE, **silent})
    libraries = {**NOWHERE["driver"], "libraries": (WSL_LIBRARY,)}

    assert isinstance(derived.has_gpu(without), Unknown)
    assert not derived.is_driven(without)
    assert derived.is_driven(machine(without, driver=libraries))


def test_gpus_that_virtual_machines_hold_are_not_this_systems_own():
    lent = PciGpu(bus_id="0000:00:08.0", driver="vfio-pci")
    here = machine(host={"pci_gpus": (*seen(HEALTHY.host.pci_gpus), lent)})

    assert [each.bus_id for each in derived.own_gpus(here)] == list(BUS_IDS)
    assert derived.lent_gpus(here) == (lent,)


@pytest.mark.parametrize(
    ("init", "code", "gpus"),
    [
        (CudaInit(code=0, device_count=2), 0, 2),
        (CudaInit(code=0, device_count=0), 0, 0),
        (CudaInit(code=802), 802, None),
        (CudaInit(load_error="no libcuda"), None, None),
        (Unknown("no answer"), None, None),
        (None, None, None),
    ],
)
def test_cuda_shows_gpus_only_where_it_started(init: Any, code: int | None, gpus: int | None):
    asked = machine(driver={"cuda_init": init})

    assert derived.cuda_code(asked) == code
    assert derived.cuda_gpus(asked) == gpus
    assert derived.cuda_works(asked) is bool(gpus)


@pytest.mark.parametrize(
    ("host", "is_virtual"),
    [
        ({"hypervisor": None}, False),
        ({"hypervisor": "kvm"}, True),
        ({"hypervisor": None, "is_wsl": True}, True),
        ({"hypervisor": Unknown("no permission")}, False),
    ],
)
def test_a_guest_does_not_see_its_board(host: dict[str, Any], is_virtual: bool):
    assert derived.is_virtual(machine(host=host)) is is_virtual


def test_a_container_is_one_by_its_name():
    assert derived.is_container(machine(host={"container": "docker"}))
    assert not derived.is_container(machine(host={"container": None}))
    assert not derived.is_container(machine(host={"container": Unknown("no permission")}))


@pytest.mark.parametrize(
    ("path", "is_gpu"),
    [("/dev/nvidia0", True), ("/dev/nvidia12", True), ("/dev/nvidiactl", False), ("/dev/x", False)],
)
def test_a_device_file_of_a_gpu_has_its_number(path: str, is_gpu: bool):
    assert derived.is_gpu_path(path) is is_gpu


def denied(number: int, bus_id: str) -> DeviceNode:
    return DeviceNode(
        path=f"/dev/nvidia{number}", exists=True, is_denied_by_cgroup=True, bus_id=bus_id
    )


def test_the_device_cgroup_hides_gpus_and_nothing_else():
    control = DeviceNode(path="/dev/nvidiactl", exists=True, is_denied_by_cgroup=True)
    nodes = (control, denied(1, BUS_IDS[1]))

    hidden = derived.hidden_gpu_nodes(machine(driver={"device_nodes": nodes}))

    assert [node.path for node in hidden] == ["/dev/nvidia1"]


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, None),
        ({"SLURM_STEP_GPUS": "0,1"}, None),
        ({"SLURM_JOB_ID": "7"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_GPUS": "0,1"}, 2),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_GPUS": "1", "SLURM_JOB_GPUS": "0,1"}, 1),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1,2"}, 3),
    ],
)
def test_a_job_has_the_gpus_that_slurm_names(variables: dict[str, str], number: int | None):
    assert derived.job_gpus(with_variables(**variables)) == number


def one_of_two(**changes: Any) -> Snapshot:
    """Two GPUs on the bus, of which NVML lists the first."""
    return machine(nvml={"count": 1, "gpus": (gpu(0),)}, **changes)


def test_a_gpu_on_the_bus_that_nvml_leaves_out_is_unseen():
    assert [each.bus_id for each in derived.unseen_gpus(one_of_two()) or ()] == [BUS_IDS[1]]
    assert derived.unseen_gpus(HEALTHY) == ()
    assert derived.unseen_gpus(machine(nvml=SILENT)) is None


def test_gpus_that_nobody_expects_are_not_unseen():
    job = with_variables(one_of_two(), SLURM_JOB_ID="7", SLURM_STEP_GPUS="0")

    assert derived.unseen_gpus(one_of_two(driver={"excluded_gpus": (BUS_IDS[1],)})) == ()
    assert derived.unseen_gpus(one_of_two(driver={"device_nodes": (denied(1, BUS_IDS[1]),)})) == ()
    assert derived.unseen_gpus(job) == ()


def test_an_old_card_that_shows_the_screen_is_left_to_nouveau():
    old = PciGpu(bus_id="0000:09:00.0", device_id="0x128b", driver="nouveau")  # a GT 710
    new = PciGpu(bus_id="0000:09:00.0", device_id="0x2335", driver="nouveau")

    assert derived.is_left_to_nouveau(HEALTHY, old)
    assert not derived.is_left_to_nouveau(HEALTHY, new)
    assert not derived.is_left_to_nouveau(machine(driver={"module_version": None}), old)


def test_a_gpus_slot_is_that_of_its_bus_id():
    slot = derived.slot_of(HEALTHY, gpu(1))

    assert slot is not None
    assert slot.bus_id == BUS_IDS[1]
    assert derived.slot_of(HEALTHY, gpu(5)) is None


def test_links_count_as_up_where_they_are_known_to_be():
    links = list(seen(gpu().nvlinks))
    links[0] = type(links[0])(index=0, is_up=False)
    links[1] = type(links[1])(index=1, is_up=Unknown("no answer"))

    assert derived.nvlinks_up(gpu()) == 18
    assert derived.nvlinks_up(gpu(nvlinks=tuple(links))) == 16
    assert derived.nvlinks_up(gpu(nvlinks=Unknown("no answer"))) == 0


def test_the_capabilities_of_the_gpus_are_named_once():
    mixed = (gpu(0), gpu(1), gpu(2, compute_capability="8.0"), gpu(3, compute_capability=None))

    assert derived.compute_capabilities(machine(nvml={"gpus": mixed})) == ("9.0", "8.0")
    assert derived.compute_capabilities(machine(nvml=SILENT)) == ()


def test_gpus_are_counted_by_nvml_else_on_the_bus():
    assert derived.gpu_count(one_of_two()) == 1
    assert derived.gpu_count(machine(nvml=SILENT)) == 2
    assert derived.gpu_count(machine(**NOWHERE)) == 0
    assert isinstance(
        derived.gpu_count(machine(machine(**NOWHERE), host={"tegra": "Orin"})), Unknown
    )


def test_nvml_sees_all_where_it_lists_as_many_as_the_bus():
    assert derived.all_are_seen(HEALTHY)
    assert not derived.all_are_seen(one_of_two())
    assert not derived.all_are_seen(machine(**NOWHERE))

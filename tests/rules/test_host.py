import pytest

from gpucheck.rule import Severity
from gpucheck.rules import host as rules
from gpucheck.snapshot import Deep, GpuPair, PciGpu, PeerCopy, Unknown
from machines import (
    HEALTHY,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
    with_variables,
)
from seen_facts import seen

UNREAD = Unknown("permission denied")
NO_GPU = machine(host={"pci_gpus": ()}, nvml={"count": 0, "gpus": ()})
BARE = machine(host={"hypervisor": None, "iommu": "translating"}, nvml={"pairs": ()})


def container(kind="docker", **sections):
    host = {"container": kind, **sections.pop("host", {})}
    return machine(host=host, **sections)


# HST001


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_a_system_other_than_linux_is_an_error(system):
    [found] = symptoms(rules.not_linux, machine(host={"system": system}))

    assert system in found.saw


def test_wsl_is_linux():
    assert passes(rules.not_linux, machine(host={"is_wsl": True}))


# HST002


def test_dockers_64_mebibytes_of_shared_memory_are_too_small():
    [found] = symptoms(rules.shared_memory_is_small, container(host={"shm_bytes": 64 << 20}))

    assert found.saw == "/dev/shm holds 64 MiB"
    assert "--shm-size=8g" in found.remedy.steps[0].text


def test_a_machine_of_ones_own_can_remount_it():
    [found] = symptoms(rules.shared_memory_is_small, machine(host={"shm_bytes": 64 << 20}))

    [step] = found.remedy.steps
    assert (step.text, step.root, step.lasts) == (
        "mount -o remount,size=50% /dev/shm",
        True,
        "reboot",
    )


def test_no_shared_memory_at_all_is_too_small():
    [found] = symptoms(rules.shared_memory_is_small, machine(host={"shm_bytes": None}))

    assert found.saw == "there is no /dev/shm"


def test_half_a_gibibyte_of_shared_memory_is_enough():
    assert passes(rules.shared_memory_is_small, machine(host={"shm_bytes": 512 << 20}))


def test_shared_memory_matters_only_where_a_gpu_is():
    small = machine(NO_GPU, host={"shm_bytes": 64 << 20})

    assert not is_applicable(rules.shared_memory_is_small, small)


def test_an_unknown_size_of_shared_memory_is_not_checked():
    assert not_checked(rules.shared_memory_is_small, machine(host={"shm_bytes": UNREAD}))


# HST003


def test_a_low_limit_of_locked_memory_is_a_warning_with_infiniband():
    m = machine(host={"locked_memory_limit_bytes": 8 << 20, "rdma_devices": ("mlx5_0",)})

    [found] = symptoms(rules.locked_memory_is_limited, m)

    assert found.saw == "this process may lock 8 MiB; RDMA devices are here: mlx5_0"


def test_a_container_gets_its_limit_at_its_start():
    m = container(host={"locked_memory_limit_bytes": 65536, "rdma_devices": ("mlx5_0",)})

    [found] = symptoms(rules.locked_memory_is_limited, m)

    assert "--ulimit=memlock=-1" in found.remedy.steps[0].text


def test_the_limit_does_not_matter_without_rdma():
    m = machine(host={"locked_memory_limit_bytes": 8 << 20})

    assert not is_applicable(rules.locked_memory_is_limited, m)


@pytest.mark.parametrize("limit", [None, 16 << 30])
def test_no_limit_or_a_large_one_is_fine(limit):
    m = machine(host={"locked_memory_limit_bytes": limit, "rdma_devices": ("mlx5_0",)})

    assert passes(rules.locked_memory_is_limited, m)


# HST004

NO_DRIVER = {"device_nodes": (), "libraries": ()}


def test_a_container_without_its_gpus_is_an_error():
    [found] = symptoms(rules.container_without_gpus, container(driver=NO_DRIVER))

    assert "docker container has no /dev/nvidia*" in found.saw
    assert [step.text for step in found.remedy.steps] == ["docker run --gpus all IMAGE"]


def test_devices_on_the_bus_are_enough_to_know_what_is_missing():
    m = container(driver={**NO_DRIVER, "module_version": None})

    [found] = symptoms(rules.container_without_gpus, m)

    assert found.saw.startswith("the bus shows 2 NVIDIA GPUs")


def test_a_stub_in_the_image_is_no_driver():
    from gpucheck.snapshot import DriverLibrary

    stub = DriverLibrary(soname="libcuda.so.1", path="/usr/local/cuda/lib64/stubs", is_stub=True)
    m = container(driver={"device_nodes": (), "libraries": (stub,)})

    assert symptoms(rules.container_without_gpus, m)


def test_a_container_with_its_gpus_is_fine():
    assert passes(rules.container_without_gpus, container())


def test_a_container_on_a_host_without_gpus_is_fine():
    m = machine(NO_GPU, host={"container": "docker"}, driver={**NO_DRIVER, "module_version": None})

    assert not symptoms(rules.container_without_gpus, m)
    assert not is_applicable(rules.container_without_gpus, m)


def test_outside_a_container_there_is_no_such_question():
    assert not is_applicable(rules.container_without_gpus, machine(driver=NO_DRIVER))


def test_what_apptainer_wants_is_nv():
    [found] = symptoms(rules.container_without_gpus, container("apptainer", driver=NO_DRIVER))

    assert [s.text for s in found.remedy.steps] == ["apptainer exec --nv IMAGE COMMAND"]


def test_unread_devices_are_not_checked():
    m = container(driver={"device_nodes": UNREAD, "libraries": ()})

    assert not_checked(rules.container_without_gpus, m)
    assert not symptoms(rules.container_without_gpus, m)


# HST005


def wsl(*libraries):
    return machine(
        host={"is_wsl": True},
        driver={
            "libraries": tuple(
                type(seen(HEALTHY.driver.libraries)[0])(
                    soname="libcuda.so.1", path=path, is_stub=False, is_selected=number == 0
                )
                for number, path in enumerate(libraries)
            )
        },
    )


def test_wsl_without_windows_library_is_an_error():
    [found] = symptoms(rules.wsl_library_is_shadowed, wsl())

    assert found.saw == "/usr/lib/wsl/lib/libcuda.so.1 is not there"


def test_a_linux_driver_that_wins_over_windows_is_an_error():
    m = wsl("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1")

    [found] = symptoms(rules.wsl_library_is_shadowed, m)

    assert found.subject == "/usr/lib/x86_64-linux-gnu/libcuda.so.1"


def test_wsl_whose_own_library_wins_is_fine():
    m = wsl("/usr/lib/wsl/lib/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1")

    assert passes(rules.wsl_library_is_shadowed, m)


def test_a_linux_machine_has_no_question_of_wsl():
    assert not is_applicable(rules.wsl_library_is_shadowed, HEALTHY)


# HST006


def test_a_translating_iommu_on_bare_metal_is_a_warning():
    [found] = symptoms(rules.iommu_translates, BARE)

    assert found.severity is None
    assert "iommu=pt" in found.remedy.text


def test_a_translating_iommu_is_a_remark_where_nvlink_joins_all():
    pair = GpuPair(a=0, b=1, p2p_nvlink="OK")

    [found] = symptoms(rules.iommu_translates, machine(BARE, nvml={"pairs": (pair,)}))

    assert found.severity is Severity.INFO


@pytest.mark.parametrize("iommu", ["off", "passthrough"])
def test_an_iommu_that_does_not_translate_is_fine(iommu):
    assert passes(rules.iommu_translates, machine(BARE, host={"iommu": iommu}))


def test_a_virtual_machine_is_not_asked_for_its_iommu():
    assert not is_applicable(rules.iommu_translates, machine(BARE, host={"hypervisor": "kvm"}))


def test_one_gpu_has_no_peer():
    one = machine(
        BARE,
        host={"pci_gpus": (PciGpu(bus_id="0000:01:00.0"),)},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert not is_applicable(rules.iommu_translates, one)


def test_copies_that_were_seen_to_work_outrank_the_iommu():
    deep = Deep(copies=(PeerCopy(source=0, target=1, error=None),))

    assert passes(rules.iommu_translates, machine(BARE, deep=deep))


def test_an_unknown_iommu_is_not_checked():
    assert not_checked(rules.iommu_translates, machine(BARE, host={"iommu": UNREAD}))


# HST007


def test_a_container_with_fewer_than_two_cpus_a_gpu_is_a_remark():
    [found] = symptoms(rules.few_cpus, container(host={"cpus_usable": 3}))

    assert found.saw == "2 GPUs, and 3 CPUs to feed them"


def test_two_cpus_a_gpu_are_enough():
    assert passes(rules.few_cpus, container(host={"cpus_usable": 4}))


def test_few_cpus_are_no_question_outside_a_container():
    assert not is_applicable(rules.few_cpus, machine(host={"cpus_usable": 1}))


def test_few_cpus_are_no_question_without_a_gpu():
    m = machine(NO_GPU, host={"container": "docker", "cpus_usable": 1})

    assert not is_applicable(rules.few_cpus, m)


def test_functions_that_manage_nvswitches_are_no_network():
    board = machine(
        host={
            "rdma_devices": ("mlx5_0", "mlx5_1"),
            "switch_managers": ("mlx5_0", "mlx5_1"),
            "locked_memory_limit_bytes": 8 << 20,
        }
    )

    assert not is_applicable(rules.locked_memory_is_limited, board)


def test_a_network_next_to_them_is_one():
    mixed = machine(
        host={
            "rdma_devices": ("mlx5_0", "mlx5_1"),
            "switch_managers": ("mlx5_0",),
            "locked_memory_limit_bytes": 8 << 20,
        }
    )

    [found] = symptoms(rules.locked_memory_is_limited, mixed)

    assert found.saw.endswith("RDMA devices are here: mlx5_1")


def test_what_only_root_may_tell_on_such_a_board_is_not_checked():
    unread = machine(
        host={
            "pci_gpus": (PciGpu(bus_id="0000:06:00.0", device_id="0x2901"),),
            "rdma_devices": ("mlx5_0",),
            "switch_managers": Unknown("only root may", "no permission"),
            "locked_memory_limit_bytes": 8 << 20,
        }
    )

    [answer] = not_checked(rules.locked_memory_is_limited, unread)

    assert answer.kind == "no permission"


def test_in_a_slurm_job_the_limit_is_slurmd_s():
    job = with_variables(
        machine(host={"rdma_devices": ("mlx5_0",), "locked_memory_limit_bytes": 8 << 20}),
        SLURM_JOB_ID="12",
    )

    [found] = symptoms(rules.locked_memory_is_limited, job)

    assert "slurmd" in found.remedy.text
    assert "limits.d" not in found.remedy.steps[0].text


NOTHING_INSIDE = machine(
    host={"container": "kubernetes"}, driver={"device_nodes": (), "libraries": ()}
)


@pytest.mark.parametrize(
    ("asked", "saw", "word"),
    [
        (None, "no driver library", "Request `nvidia.com/gpu: 1`"),
        ("void", "no driver library", "Request `nvidia.com/gpu: 1`"),
        ("all", "NVIDIA_VISIBLE_DEVICES=all asks", "runtimeClassName: nvidia"),
        ("GPU-1111", "the runtime did not act", "device plugin"),
    ],
)
def test_whether_somebody_asked_for_gpus_is_told_by_the_variable(
    asked: str | None, saw: str, word: str
):
    [found] = symptoms(
        rules.container_without_gpus,
        with_variables(NOTHING_INSIDE, NVIDIA_VISIBLE_DEVICES=asked),
    )

    assert saw in found.saw
    assert word in found.remedy.text

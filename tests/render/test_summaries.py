"""Each section says in a line what was found, and calls nothing by a wrong name."""

import msgspec
import pytest

from gpucheck.families import SECTIONS
from gpucheck.render import summaries
from gpucheck.snapshot import (
    CudaInit,
    Deep,
    FabricManager,
    GpuPair,
    GpuWork,
    MappedLibrary,
    Snapshot,
    Unknown,
)
from machines import CUDA_12, CUDA_13, HEALTHY, SITE, gpu, machine, with_variables
from seen_facts import seen

#: Sections that have nothing to say where no workload was run.
OF_WORKLOADS = ("Training", "Performance", "Burn-in", "Fleet", "Site")


def torch(**changes: object) -> dict[str, object]:
    return {"torch": msgspec.structs.replace(seen(HEALTHY.pytorch.torch), **changes)}


def test_the_host_says_what_it_runs_on():
    assert summaries.host(machine(host={"hypervisor": None})).endswith(
        "bare metal, 32 CPUs, 256 GiB"
    )
    assert "in a container (docker)" in summaries.host(machine(host={"container": "docker"}))
    assert "WSL 2" in summaries.host(machine(host={"is_wsl": True}))
    assert summaries.host(Snapshot()) == "unknown system"


def test_the_driver_is_known_by_its_libraries_where_no_module_is_loaded():
    bare = {"module_version": None, "module_kind": None, "cuda_init": None}
    text = summaries.driver(machine(driver=bare, nvml={"driver_version": Unknown("x")}))

    assert text == (
        "580.159.04, no module is loaded, CUDA 13.0, cuInit not tried (--quick), persistence on"
    )


def test_no_driver_is_told_from_a_driver_that_could_not_be_looked_at():
    none = {"module_version": None, "libraries": (), "cuda_init": CudaInit(code=None)}

    assert summaries.driver(machine(driver=none, nvml={"driver_version": Unknown("x")})) == (
        "no NVIDIA driver is loaded or installed"
    )
    assert summaries.driver(Snapshot()) == "unknown: not examined"


def test_a_fabric_manager_that_runs_is_named():
    manager = FabricManager(is_running=True, version="580.159.04")

    assert "fabric manager 580.159.04" in summaries.driver(
        machine(driver={"fabric_manager": manager})
    )


def test_gpus_are_counted_by_name():
    mixed = (gpu(0), gpu(1), gpu(2, name="NVIDIA A100 80GB PCIe"), gpu(3, name=Unknown("x")))

    assert summaries.gpus(machine(nvml={"gpus": mixed})) == (
        "2 × NVIDIA H200, 1 × NVIDIA A100 80GB PCIe, 1 × GPU of unknown name"
    )


def test_gpus_that_nvml_does_not_show_are_told_from_none():
    unknown = {"gpus": Unknown("NVML does not load")}

    assert summaries.gpus(machine(nvml=unknown)) == "2 on the PCI bus; NVML shows none"
    assert summaries.gpus(machine(nvml=unknown, host={"pci_gpus": ()})) == "none"
    assert summaries.gpus(Snapshot()) == "unknown: not examined"


def test_the_toolkit_that_builds_would_use_comes_first():
    two = machine(toolkits={"installed": (CUDA_12, CUDA_13)})

    assert summaries.cuda(two).startswith(
        "13.0 in /usr/local/cuda-13.0, 12.4 in /usr/local/cuda-12.4"
    )
    assert summaries.cuda(machine(toolkits={"installed": ()})).startswith("no toolkit")


def test_cudnn_names_the_one_that_torch_loads_and_the_systems():
    assert (
        summaries.cudnn(HEALTHY) == "9.19.0 is what torch loads (its wheel); 9.14.0 is the system's"
    )


def test_a_torch_without_cuda_has_no_cudnn_linked_in():
    none = {"torch_needs": None, "for_torch": None, "selected_for_builds": None}

    assert summaries.cudnn(machine(cudnn=none)) == "linked into torch"
    bare = machine(cudnn={**none, "installs": ()}, pytorch=torch(build="cpu", cuda=None))
    assert summaries.cudnn(bare) == "none installed"


def test_libraries_are_counted_by_where_they_come_from():
    assert summaries.libraries(HEALTHY) == "5 for torch: 5 from wheels; NCCL 2.28.9"
    assert (
        summaries.libraries(machine(libraries={"resolved": ()}))
        == "this torch needs no CUDA library"
    )
    assert summaries.libraries(machine(libraries={"resolved": None})) == "no torch to load any for"


@pytest.mark.parametrize(
    ("directory", "confirmed"), [(f"{SITE}/nvidia/cu13/lib", 1), ("/usr/local/cuda/lib64", 0)]
)
def test_deep_says_how_many_were_confirmed(directory: str, confirmed: int):
    mapped = MappedLibrary(soname="libcudart.so.13", path=f"{directory}/libcudart.so.13")

    text = summaries.libraries(machine(libraries={"mapped": (mapped,)}))

    assert text.endswith(f"; {confirmed} of 1 confirmed as loaded")


def test_the_variables_that_steer_cuda_are_shown():
    hidden = with_variables(CUDA_VISIBLE_DEVICES="0")

    assert summaries.environment(hidden).endswith(
        "LD_LIBRARY_PATH is unset, CUDA_VISIBLE_DEVICES=0"
    )


def test_pytorch_says_which_python_was_looked_in_and_how_it_was_chosen():
    assert summaries.pytorch(machine(pytorch={"torch": None})) == (
        "no torch in /opt/venv/bin/python3 (the active environment)"
    )
    assert summaries.pytorch(
        machine(pytorch=torch(build="cpu", cuda=None, version="2.13.0+cpu"))
    ) == ("torch 2.13.0+cpu (cpu build) in /opt/venv/bin/python3 (the active environment)")


def test_pytorch_that_was_put_to_work_says_so():
    deep = Deep(import_error=None, gpus=(GpuWork(index=0), GpuWork(index=1)))

    assert summaries.pytorch(machine(deep=deep)).endswith("; imported and worked on 2 of its GPUs")


def test_pairs_that_cannot_copy_directly_are_counted():
    pair = GpuPair(a=0, b=1, topology="SYS", p2p_read="CNS", p2p_write="CNS")

    assert summaries.multi_gpu(machine(nvml={"pairs": (pair,)})) == (
        "SYS between the pair, peer-to-peer supported in 0 of 1"
    )
    assert summaries.multi_gpu(machine(nvml={"count": 1})) == "one GPU"
    assert summaries.multi_gpu(machine(nvml={"count": 0})) == "unknown: NVML shows no GPU"
    assert summaries.multi_gpu(machine(nvml={"count": 0}, host={"pci_gpus": ()})) == "no GPU"


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in OF_WORKLOADS])
def test_every_section_has_a_line_for_a_machine_of_which_nothing_is_known(section: str):
    line = summaries.of_section(section, Snapshot())

    assert line
    assert "\n" not in line

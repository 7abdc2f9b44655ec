from typing import Any

import pytest
from driver_machines import (
    BLIND,
    UNREAD,
    card,
    cuda,
    found_in,
    missing,
    node,
    nodes,
    only,
)

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import driver_gpus as rules
from gpucheck.rules.driver_for_gpu import wrong_driver_for_gpu
from gpucheck.snapshot import (
    KernelLine,
    Snapshot,
    Unknown,
    Xid,
)
from machines import (
    BUS_IDS,
    commands,
    gpu,
    machine,
    not_checked,
    passes,
    symptoms,
    with_variables,
)

# --------------------------------------------------------------------------------------- DRV015


def test_a_gpu_on_the_bus_that_nvml_lacks_is_named_by_its_bus_id():
    symptom = only(rules.gpus_missing, machine(nvml={"count": 1, "gpus": (gpu(0),)}))

    assert symptom.subject == BUS_IDS[1]
    assert "is not among the 1 GPU that NVML lists" in symptom.saw


@pytest.mark.parametrize(
    "changes",
    [
        {"host": {"pci_gpus": (card(BUS_IDS[0]), card(driver="vfio-pci"))}},
        {"driver": {"excluded_gpus": (BUS_IDS[1],)}},
        {"driver": {"excluded_gpus": ("GPU-11111111-0000-0000-0000-000000000000",)}},
    ],
)
def test_gpus_that_are_kept_away_on_purpose_are_not_missing(changes: dict[str, Any]):
    assert passes(rules.gpus_missing, machine(nvml={"count": 1, "gpus": (gpu(0),)}, **changes))


def test_as_many_gpus_as_on_the_bus_are_all_gpus_whatever_their_bus_ids():
    renamed = (gpu(0, bus_id="0001:00:00.0"), gpu(1, bus_id="0002:00:00.0"))

    assert passes(rules.gpus_missing, machine(nvml={"gpus": renamed}))
    assert passes(wrong_driver_for_gpu, machine(nvml={"gpus": renamed}))


def test_gpus_that_a_container_was_not_given_are_hidden_and_not_missing():
    inside = machine(
        host={"container": "docker"},
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.gpus_missing, inside)


def test_a_gpu_that_a_container_was_given_and_nvml_lacks_is_missing():
    inside = machine(host={"container": "docker"}, nvml={"count": 1, "gpus": (gpu(0),)})

    assert "/dev/nvidia0 and /dev/nvidia1" in only(rules.gpus_missing, inside).saw


def test_a_lost_gpu_that_nvml_still_counts_is_not_missing():
    lost = gpu(1, state="lost", bus_id=Unknown("GPU is lost"))

    assert passes(rules.gpus_missing, machine(nvml={"gpus": (gpu(0), lost)}))


def test_a_failed_adapter_explains_the_gpu_that_is_missing():
    broken = machine(
        nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"adapter_failures": (BUS_IDS[1],)}
    )

    assert found_in(broken) == {"DRV017": None, "DRV015": "DRV017"}


def test_another_gpu_s_failure_does_not_explain_the_one_that_is_missing():
    broken = machine(
        nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"adapter_failures": (BUS_IDS[0],)}
    )

    assert found_in(broken) == {"DRV015": None, "DRV017": None}


def test_a_gpu_that_fell_off_the_bus_is_the_cause_of_its_absence_and_no_other_s():
    off = Xid(bus_id=BUS_IDS[1], number=79, count=1)
    gone = machine(nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"xids": (off,)})
    other = machine(nvml={"count": 1, "gpus": (gpu(1),)}, kernel_log={"xids": (off,)})

    assert "GPU001" in only(rules.gpus_missing, gone).explained_by
    assert "GPU001" not in only(rules.gpus_missing, other).explained_by


def test_without_nvml_the_count_is_not_checked():
    assert not_checked(rules.gpus_missing, machine(nvml=BLIND))


# --------------------------------------------------------------------------------------- DRV017


def test_an_adapter_that_failed_and_works_now_is_a_warning_that_says_so():
    symptom = only(rules.adapter_failed, machine(kernel_log={"adapter_failures": (BUS_IDS[0],)}))

    assert symptom.subject == BUS_IDS[0]
    assert symptom.saw.endswith("NVML sees that GPU now")
    assert symptom.severity is Severity.WARNING


def test_a_log_that_may_not_be_read_is_not_checked():
    assert not_checked(rules.adapter_failed, machine(kernel_log={"adapter_failures": UNREAD}))


# --------------------------------------------------------------------------------------- HST008


def without_room(hypervisor: str | None, **changes: Any) -> Snapshot:
    second = card(unassigned_bars=(0, 1), **changes)
    return machine(
        host={"hypervisor": hypervisor, "pci_gpus": (card(BUS_IDS[0], unassigned_bars=()), second)},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )


@pytest.mark.parametrize(
    ("hypervisor", "word"),
    [
        (None, "Above 4G decoding"),
        ("vmware", "pciPassthru.64bitMMIOSizeGB"),
        ("kvm", "X-PciMmio64Mb"),
        ("hyperv", "HighMemoryMappedIoSpace"),
    ],
)
def test_a_gpu_without_addresses_gets_them_where_they_are_given_out(
    hypervisor: str | None, word: str
):
    broken = without_room(hypervisor)

    symptom = only(rules.no_address, broken)

    assert symptom.saw == f"BAR 0 and BAR 1 of {BUS_IDS[1]} start at address 0"
    assert word in symptom.remedy.text
    assert "HST008" in only(rules.gpus_missing, broken).explained_by


def test_a_gpu_that_works_has_addresses_enough():
    assert passes(
        rules.no_address,
        machine(host={"pci_gpus": tuple(card(bus, unassigned_bars=(0,)) for bus in BUS_IDS)}),
    )


def test_the_log_alone_counts_where_the_bus_does_not_show_it():
    line = KernelLine(bus_id=BUS_IDS[1], text="BAR0 is 0M @ 0x0 (PCI:0000:00:07)")
    broken = machine(
        host={"pci_gpus": (card(BUS_IDS[0]), card(unassigned_bars=UNREAD))},
        nvml={"count": 1, "gpus": (gpu(0),)},
        kernel_log={"address_failures": (line,)},
    )

    assert "BAR0 is 0M" in only(rules.no_address, broken).saw


def test_what_the_kernel_could_not_assign_at_first_and_did_later_is_no_fault():
    line = KernelLine(bus_id=BUS_IDS[1], text="BAR 1: can't assign; no space")
    later = machine(
        host={"pci_gpus": tuple(card(bus, unassigned_bars=()) for bus in BUS_IDS)},
        nvml={"count": 1, "gpus": (gpu(0),)},
        kernel_log={"address_failures": (line,)},
    )

    assert passes(rules.no_address, later)


# --------------------------------------------------------------------- DRV015 and the device cgroup


def job(denied: int, **variables: str) -> Snapshot:
    """Eight GPUs, of which the device cgroup denies some; NVML shows the others."""
    bus_ids = [f"0000:0{n}:00.0" for n in range(8)]
    shown = 8 - denied
    eight = machine(
        host={"pci_gpus": tuple(card(bus) for bus in bus_ids)},
        driver={
            "device_nodes": tuple(
                node(
                    f"/dev/nvidia{n}",
                    bus_id=bus,
                    can_open=n < shown,
                    is_denied_by_cgroup=n >= shown,
                )
                for n, bus in enumerate(bus_ids)
            ),
            "cuda_init": cuda(0, device_count=shown) if shown else cuda(100),
        },
        nvml={
            "count": shown,
            "gpus": tuple(gpu(n, bus_id=bus_ids[n]) for n in range(shown)),
        },
    )
    return with_variables(eight, **variables)


def test_gpus_that_the_device_cgroup_hides_are_not_missing_and_one_note_says_so():
    two_of_eight = job(6, SLURM_JOB_ID="12")

    report = examine(two_of_eight, select=("DRV", "HST"))

    assert [(f.code, f.severity) for f in report.findings] == [("HST009", Severity.INFO)]
    assert report.findings[0].saw.startswith(
        "this process may open 2 of 8 GPUs (Slurm job 12); the device cgroup refuses /dev/nvidia2"
    )


def test_a_gpu_that_failed_in_a_job_is_missing_all_the_same():
    failed = job(5)
    failed = machine(failed, nvml={"count": 2, "gpus": failed.nvml.gpus[:2]})  # type: ignore[index]

    assert only(rules.gpus_missing, failed).subject == "0000:02:00.0"


def test_a_job_without_any_gpu_has_one_cause():
    none = job(8, SLURM_JOB_ID="12")

    report = examine(none, select=("DRV", "HST"))

    assert report.roots[0].code == "HST009"
    assert report.roots[0].severity is Severity.ERROR
    assert {f.code for f in report.roots} == {"HST009"}


def test_slurm_s_own_word_is_enough_where_the_cgroup_is_not_seen():
    given = machine(
        host={"pci_gpus": tuple(card(f"0000:0{n}:00.0") for n in range(8))},
        nvml={"count": 2},
    )
    inside = with_variables(given, SLURM_JOB_ID="12", SLURM_JOB_GPUS="0,1")

    assert passes(rules.gpus_missing, inside)
    assert symptoms(rules.gpus_missing, given)


def test_a_gpu_that_is_powered_down_is_a_matter_of_power_management():
    asleep = machine(
        host={
            "hypervisor": None,
            "is_laptop": True,
            "pci_gpus": (card(BUS_IDS[0]), card(power_state="D3cold")),
        },
        driver={"loaded_modules": ("bbswitch", "nvidia")},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    symptom = only(rules.gpus_missing, asleep)

    assert "is powered down (D3cold)" in symptom.saw
    assert symptom.remedy.text.startswith("Remove bbswitch, which is loaded")


# ---------------------------------------------------------------------------- DRV017 and DRV022


def failed_start(line: str, **changes: Any) -> Snapshot:
    return machine(
        **{
            "nvml": {"count": 1, "gpus": (gpu(0),)},
            "kernel_log": {
                "adapter_failures": (BUS_IDS[1],),
                "adapter_reasons": (KernelLine(bus_id=BUS_IDS[1], text=line),),
            },
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("unexpected WPR2 already up, cannot proceed", "Power the machine off fully"),
        ("failed to wait for GFW boot complete: 0x55", "Power the machine off fully"),
        ("Unable to change power state from D3cold to D0", "pcie_port_pm=off"),
        ("something that no table knows failed", "power cables"),
    ],
)
def test_the_line_before_the_failure_is_quoted_and_chooses_the_advice(line: str, word: str):
    broken = failed_start(line, host={"hypervisor": None})

    symptom = only(rules.adapter_failed, broken)

    assert f'before it: "{line}"' in symptom.saw
    assert word in symptom.remedy.text


@pytest.mark.parametrize("place", [{"hypervisor": "kvm"}, {"container": "docker"}])
def test_nobody_is_sent_to_cables_that_are_not_here(place: dict[str, str]):
    broken = failed_start("failed to wait for GFW boot complete", host=place)

    assert "cable" not in only(rules.adapter_failed, broken).remedy.text


LOAD_FAILED = "nvidia 0000:00:07.0: Direct firmware load for nvidia/580.159.04/gsp_x.bin failed"


def test_missing_firmware_is_the_root_of_the_failed_start():
    broken = failed_start(LOAD_FAILED, driver={"firmware_versions": ("550.67",)})

    symptom = only(rules.firmware_missing, broken)

    assert symptom.saw == (
        "/lib/firmware/nvidia/580.159.04 has no GSP firmware; there is that of 550.67"
    )
    assert commands(symptom)[0] == "apt install --reinstall nvidia-firmware-580-580.159.04"
    assert found_in(broken) == {"DRV022": None, "DRV017": "DRV022", "DRV015": "DRV022"}


def test_firmware_that_is_there_is_not_missing():
    assert passes(rules.firmware_missing, failed_start(LOAD_FAILED))


def test_a_failed_start_for_another_reason_is_not_the_firmware_s():
    other = failed_start("unexpected WPR2 already up", driver={"firmware_versions": ()})

    assert passes(rules.firmware_missing, other)


def test_missing_gpus_of_one_cause_are_one_finding():
    none = machine(nvml={"count": 0, "gpus": ()})

    assert only(rules.gpus_missing, none).saw == (
        f"{BUS_IDS[0]} (0x2335) and {BUS_IDS[1]} (0x2335) are on the bus, and NVML lists no GPU"
    )


def test_a_gpu_that_failed_is_not_folded_under_those_that_the_cgroup_hides():
    failed = job(5)
    failed = machine(failed, nvml={"count": 2, "gpus": failed.nvml.gpus[:2]})  # type: ignore[index]

    report = examine(failed, select=("DRV015", "HST009"))

    assert {f.code: f.explained_by for f in report.findings} == {"DRV015": None, "HST009": None}

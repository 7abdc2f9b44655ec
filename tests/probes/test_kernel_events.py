from gpucheck.probes.kernel_log import interesting, parse
from gpucheck.snapshot import KernelLine, PciPort
from seen_facts import seen


def test_sxids_are_counted_by_switch_and_number_and_say_whether_one_is_fatal():
    log = parse(
        [
            "[1.0] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress",
            "[1.1] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Severity 0 Engine instance 32",
            "[2.0] nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 33 egress",
            "[3.0] nvidia-nvswitch1: SXid (PCI:0000:c3:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        ]
    )

    harmless, fatal = seen(log.sxids)

    assert (harmless.bus_id, harmless.number, harmless.count) == ("0000:c1:00.0", 12028, 2)
    assert harmless.is_fatal is False
    assert (fatal.number, fatal.is_fatal, fatal.text) == (
        20034,
        True,
        "Fatal, Link 30 LTSSM Fault Up",
    )
    assert log.xids == ()


def test_pci_express_errors_are_counted_for_the_port_that_reports_them():
    lines = [
        (
            "[1.0] pcieport 0000:00:01.0: AER: Multiple Correctable error message received from "
            "0000:00:01.0"
        ),
        (
            "[1.0] pcieport 0000:00:01.0: PCIe Bus Error: severity=Correctable, "
            "type=Data Link Layer, (Transmitter ID)"
        ),
        "[1.0] pcieport 0000:00:01.0:   device [8086:1901] error status/mask=00001000/00002000",
    ] * 120
    lines += [
        "[9.0] pcieport 0000:40:01.0: AER: Uncorrected (Fatal) error received: 0000:41:00.0",
        "[9.0] nvidia 0000:41:00.0: AER: PCIe Bus Error: severity=Uncorrected (Fatal), type=TL",
        "[9.5] pcieport 0000:40:01.0: PCIe Bus Error: severity=Uncorrected (Non-Fatal), type=TL",
    ]

    assert parse(lines).aer_ports == (
        PciPort(bus_id="0000:00:01.0", aer_correctable=120, aer_nonfatal=0, aer_fatal=0),
        PciPort(bus_id="0000:41:00.0", aer_correctable=0, aer_nonfatal=0, aer_fatal=1),
        PciPort(bus_id="0000:40:01.0", aer_correctable=0, aer_nonfatal=1, aer_fatal=0),
    )


def test_a_gpu_without_address_space_is_named():
    log = parse(
        [
            (
                "6,1,5,-;NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\\x0a"
                "NVRM: BAR0 is 0M @ 0x0 (PCI:0000:17:00)"
            ),
            "[1.0] pci 0000:31:00.0: BAR 1 [mem size 0x4000 64bit pref]: can't assign; no space",
            "[1.0] pci 0000:00:1c.0: BAR 13 [io size 0x1000]: can't assign; no space",
            "[1.0] pci 0000:31:00.0: BAR 6: no space for [mem size 0x00080000 pref]",
        ]
    )

    assert [line.bus_id for line in seen(log.address_failures)] == ["0000:17:00.0", "0000:31:00.0"]


def test_a_gpu_that_stays_in_d3cold_is_named():
    [line] = seen(
        parse(
            [
                (
                    "[1.0] pci 0000:01:00.0: Unable to change power state from D3cold to D0, "
                    "device inaccessible"
                )
            ]
        ).power_failures
    )

    assert line.bus_id == "0000:01:00.0"


def test_kills_for_lack_of_memory_iommu_faults_and_hung_tasks_are_kept_with_their_line():
    log = parse(
        [
            "[1.0] Out of memory: Killed process 4321 (python3) total-vm:9kB, anon-rss:8kB",
            "[2.0] DMAR: [DMA Read NO_PASID] Request device [17:00.0] fault addr 0xff",
            "[2.5] nvidia 0000:31:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000e address=",
            "[3.0] INFO: task nv_queue:77 blocked for more than 120 seconds.",
            "[4.0] INFO: task jbd2/sda1-8:12 blocked for more than 120 seconds.",
            "[5.0] INFO: task python3:99 blocked for more than 120 seconds.",
            "[5.1]  os_acquire_rwlock_read+0x31/0x40 [nvidia]",
        ]
    )

    assert log.oom_kills == (
        KernelLine(
            text="Out of memory: Killed process 4321 (python3) total-vm:9kB, anon-rss:8kB",
            process="python3",
        ),
    )
    assert [line.bus_id for line in seen(log.iommu_faults)] == ["0000:17:00.0", "0000:31:00.0"]
    assert [line.process for line in seen(log.hung_tasks)] == ["nv_queue", "python3"]


def test_a_quiet_log_has_none_of_these():
    log = parse(
        [
            "[1.0] pcieport 0000:00:01.0: AER: enabled with IRQ 122",
            "[1.0] DMAR: IOMMU enabled",
            "[1.0] nvidia 0000:01:00.0: enabling device (0000 -> 0003)",
            "[1.0] NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04",
        ]
    )

    assert log.aer_ports == log.address_failures == log.power_failures == ()
    assert log.oom_kills == log.iommu_faults == log.hung_tasks == log.sxids == ()


def test_the_search_for_lines_gives_what_line_by_line_reading_gives():
    text = b"a\nNVRM: one NVRM Xid\nb\nx nvidia\n\nXid at the end"

    assert list(interesting(text)) == [b"NVRM: one NVRM Xid", b"x nvidia", b"Xid at the end"]

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes.kernel_log import normal_bus_id, parse, probe
from gpucheck.snapshot import Unknown
from seen_facts import seen

FALLEN = (
    "[  100.5] NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python3, GPU has fallen off the bus."
)


def kmsg(root: Path, text: str) -> Path:
    (root / "dev").mkdir()
    (root / "dev/kmsg").write_text(text)
    return root


def script(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "show-log"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return (str(path),)


def test_an_xid_says_gpu_number_time_text_and_process():
    [xid] = seen(parse([FALLEN]).xids)

    assert (xid.bus_id, xid.number, xid.count) == ("0000:3b:00.0", 79, 1)
    assert (xid.first_seconds, xid.last_seconds) == (100.5, 100.5)
    assert xid.text == "pid=1234, name=python3, GPU has fallen off the bus."
    assert xid.processes == ("python3",)


def test_the_same_xid_of_one_gpu_is_counted_together():
    lines = [
        "[   10.0] NVRM: Xid (PCI:0000:3b:00): 13, pid=1, name=a, old",
        "[   20.0] NVRM: Xid (PCI:0000:3b:00): 13, pid=2, name=b, new",
        "[   30.0] NVRM: Xid (PCI:0000:5e:00): 13, pid=2, name=b, other GPU",
        "[   40.0] NVRM: Xid (PCI:0000:3b:00): 31, pid=2, name=b, other number",
    ]

    first, other_gpu, other_number = seen(parse(lines).xids)

    assert (first.count, first.first_seconds, first.last_seconds) == (2, 10.0, 20.0)
    assert first.text == "pid=2, name=b, new"
    assert first.processes == ("a", "b")
    assert other_gpu.bus_id == "0000:5e:00.0"
    assert other_number.number == 31


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("6,1234,98765432,-;NVRM: Xid (PCI:0000:3b:00): 79, gone", 98.765432),
        ("4,1,5,-,caller=T12;NVRM: Xid (PCI:0000:3b:00): 79, gone", 0.000005),
        ("<4>[   98.765432] NVRM: Xid (PCI:0000:3b:00): 79, gone", 98.765432),
        ("[   98.765432] node1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, gone", 98.765432),
        (
            "Apr 16 15:29:33 n1 kernel: [   98.765432] NVRM: Xid (PCI:0000:3b:00): 79, gone",
            98.765432,
        ),
    ],
)
def test_every_source_of_the_log_gives_the_seconds_since_boot(line: str, seconds: float):
    [xid] = seen(parse([line]).xids)

    assert xid.first_seconds == seconds
    assert xid.text == "gone"


@pytest.mark.parametrize(
    "line",
    [
        "Nov 23 01:02:03 node1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, gone",
        "[Mon Nov 23 01:02:03 2026] NVRM: Xid (PCI:0000:3b:00): 79, gone",
        "NVRM: Xid (0000:3b:00): 79, gone",
    ],
)
def test_a_line_without_seconds_counts_and_its_time_is_unknown(line: str):
    [xid] = seen(parse([line]).xids)

    assert (xid.bus_id, xid.number) == ("0000:3b:00.0", 79)
    assert isinstance(xid.first_seconds, Unknown)


def test_an_xid_without_text_is_an_xid():
    [xid] = seen(parse(["[1.0] NVRM: Xid (PCI:0000:3b:00): 45"]).xids)

    assert (xid.number, xid.text) == (45, "")


def test_an_nvswitch_error_is_no_xid():
    log = parse(["[1.0] nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32"])

    assert log.xids == ()


def test_a_process_without_a_name_is_named_by_its_number_and_an_unknown_one_not_at_all():
    lines = [
        "[1.0] NVRM: Xid (PCI:0000:3b:00): 31, pid=77, Ch 00000010, intr 00000000",
        "[2.0] NVRM: Xid (PCI:0000:3b:00): 31, pid='<unknown>', name=<unknown>, Ch 00000010",
    ]

    [xid] = seen(parse(lines).xids)

    assert xid.processes == ("process 77",)


def test_the_parts_of_the_gpu_that_lines_name_are_collected():
    lines = [
        "[1.0] NVRM: Xid (PCI:0000:3b:00): 13, SM Warp Exception on (GPC 1, TPC 2, SM 0): Range",
        "[2.0] NVRM: Xid (PCI:0000:3b:00): 13, Graphics Exception: ESR 0x514730=0x201000e",
        "[3.0] NVRM: Xid (PCI:0000:3b:00): 31, MMU Fault: ENGINE GRAPHICS GPC2 GPCCLIENT_T1_0",
        "[4.0] NVRM: Xid (PCI:0000:3b:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 09 (0x4 0x6)",
    ]

    units = [xid.units for xid in seen(parse(lines).xids)]

    assert units == [("GPC 1 TPC 2 SM 0",), ("GRAPHICS GPC2 GPCCLIENT_T1_0",), ("link 9",)]


def test_the_driver_s_own_verdict_is_kept_word_for_word():
    said = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"

    [xid] = seen(parse([f"[9.5] NVRM: Xid (PCI:0000:3b:00): 154, {said}"]).xids)

    assert xid.text == said


@pytest.mark.parametrize(
    "line",
    [
        "[8.0] NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x26:0x56:1474)",
        "[8.0] NVRM: GPU 00000000:01:00.0: rm_init_adapter failed, device minor number 0",
    ],
)
def test_an_adapter_that_failed_to_initialise_is_named(line: str):
    assert parse([line, line]).adapter_failures == ("0000:01:00.0",)


def test_an_old_driver_names_the_adapter_by_its_device_file():
    lines = [
        "[8.0] NVRM: RmInitAdapter failed! (0x26:0xffff:1133)",
        "[8.1] NVRM: rm_init_adapter failed for device bearing minor number 3",
    ]

    assert parse(lines).adapter_failures == ("/dev/nvidia3",)


@pytest.mark.parametrize(
    "message",
    [
        "Loading of unsigned module is rejected",
        "Loading of module with unavailable key is rejected",
        "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
        "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service",
    ],
)
def test_a_refused_signature_is_found(message: str):
    assert parse([f"[    3.25] {message}"]).module_refused == message


@pytest.mark.parametrize(
    "message",
    [
        "nvidia: module verification failed: signature and/or key missing - tainting kernel",
        "nvidia: loading out-of-tree module taints kernel.",
        "modprobe: ERROR: could not insert 'vboxdrv': Key was rejected by service",
        "Lockdown: swapper: hibernation is restricted; see man kernel_lockdown.7",
    ],
)
def test_a_mere_taint_and_another_module_s_refusal_are_no_refusal(message: str):
    assert parse([f"[    3.25] {message}"]).module_refused is None


def test_control_characters_of_the_log_stay_data():
    [xid] = seen(parse(["[1.0] NVRM: Xid (PCI:0000:3b:00): 31, pid=1, name=\x1b[31mevil, x"]).xids)

    assert xid.processes == ("\x1b[31mevil",)


def test_a_flood_of_lines_gives_one_small_fact():
    lines = (f"[{n}.0] NVRM: Xid (PCI:0000:3b:00): 31, pid={n}, name=p{n}, x" for n in range(20000))

    [xid] = seen(parse(lines).xids)

    assert xid.count == 20000
    assert len(xid.processes) <= 64


@pytest.mark.parametrize(
    "text", ["0000:3b:00", "00000000:3B:00.0", "0000:3B:00.0", "00000000:3b:00"]
)
def test_a_bus_id_is_written_as_sysfs_writes_it(text: str):
    assert normal_bus_id(text) == "0000:3b:00.0"


def test_a_domain_of_more_than_four_digits_is_kept():
    assert normal_bus_id("00010000:3b:00") == "10000:3b:00.0"
    assert normal_bus_id("10000:3b:00") == "10000:3b:00.0"


@given(st.lists(st.text()))
def test_no_line_makes_the_parser_raise(lines: list[str]):
    parse(lines)


@given(
    st.from_regex(
        r"(\[ *[0-9.]{1,20}\]|[0-9]{1,30},[0-9]+,[0-9]{1,30},-;)? ?"
        r"NVRM: (S?Xid|GPU|RmInitAdapter failed)"
        r" \(?(PCI:)?[0-9a-fA-F:.]{1,20}\)?: [0-9]{1,30}, (pid=.{0,20}, name=.{0,20})?"
        r"(GPC [0-9]{1,30}, TPC [0-9]+|[Ll]ink -?[0-9]{1,30}|ENGINE .*)?",
    )
)
def test_no_line_that_looks_like_an_xid_makes_the_parser_raise(line: str):
    parse([line, line])


def test_the_ring_buffer_is_read_first(tmp_path: Path):
    root = kmsg(tmp_path, "6,1,2000000,-;NVRM: Xid (PCI:0000:3b:00): 79, gone\n SUBSYSTEM=pci\n")

    log = probe(root)

    assert log.source == "/dev/kmsg"
    assert [xid.number for xid in seen(log.xids)] == [79]


def test_where_the_ring_buffer_may_not_be_read_another_source_is_asked(tmp_path: Path):
    command = script(tmp_path, f"echo '{FALLEN}'")

    log = probe(tmp_path, commands=[("dmesg", command)])

    assert log.source == "dmesg"
    assert [xid.number for xid in seen(log.xids)] == [79]


@pytest.mark.parametrize(
    "text",
    [
        "echo 'dmesg: read kernel buffer failed: Operation not permitted' >&2; exit 1",
        "echo '-- No entries --'",
        "kill -SEGV $$",
        "sleep 60",
        "cat /dev/zero",
    ],
)
def test_a_log_that_nobody_may_read_is_unknown_and_says_what_would_let_it(
    tmp_path: Path, text: str
):
    command = script(tmp_path, text)

    log = probe(tmp_path, deadline_seconds=1.0, commands=[("dmesg", command)])

    assert isinstance(log.xids, Unknown)
    assert isinstance(log.adapter_failures, Unknown)
    assert "as root" in log.xids.why


def test_a_fifo_in_place_of_the_ring_buffer_does_not_hang(tmp_path: Path):
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev/kmsg")

    log = probe(tmp_path, commands=[])

    assert log.xids == ()

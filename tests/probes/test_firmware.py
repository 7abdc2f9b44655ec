"""Board, BIOS, CPU and RDMA adapters are read from a tree of files, and nothing that names one."""

from pathlib import Path

import msgspec

from gpucheck.probes import firmware
from gpucheck.snapshot import Platform, RdmaDevice, RdmaPort, Unknown

CPUINFO = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480C
microcode\t: 0x2b000603
cpu MHz\t\t: 2000.0

processor\t: 1
model name\t: another
microcode\t: 0x1
"""


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_a_server_says_what_it_is_built_of(tmp_path: Path):
    dmi = "sys__class__dmi__id__"
    write(
        tmp_path,
        **{f"{dmi}sys_vendor": "Supermicro", f"{dmi}product_name": "SYS-821GE-TNHR"},
        **{f"{dmi}board_name": "To Be Filled By O.E.M.", f"{dmi}bios_version": "2.1 "},
        **{f"{dmi}product_serial": "S1234567", f"{dmi}product_uuid": "aaaa-bbbb"},
        proc__cpuinfo=CPUINFO,
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="performance",
        sys__kernel__mm__transparent_hugepage__enabled="always [madvise] never",
        sys__devices__system__node__node0__cpulist="0-55",
        sys__devices__system__node__node1__cpulist="56-111",
        sys__devices__system__node__online="0-1",
    )

    found = firmware.platform(tmp_path)

    assert found == Platform(
        vendor="Supermicro",
        product="SYS-821GE-TNHR",
        board=None,
        bios_version="2.1",
        cpu_model="Intel(R) Xeon(R) Platinum 8480C",
        microcode="0x2b000603",
        cpu_governor="performance",
        transparent_hugepages="madvise",
        numa_nodes=2,
    )
    assert b"S1234567" not in msgspec.json.encode(found)
    assert b"aaaa" not in msgspec.json.encode(found)


def test_an_adapter_has_firmware_board_and_ports(tmp_path: Path):
    adapter = "sys__class__infiniband__mlx5_0__"
    write(
        tmp_path,
        **{f"{adapter}fw_ver": "28.39.3004", f"{adapter}board_id": "MT_0000000838"},
        **{
            f"{adapter}ports__1__state": "4: ACTIVE",
            f"{adapter}ports__1__link_layer": "InfiniBand",
        },
        **{f"{adapter}ports__1__rate": "400 Gb/sec (4X NDR)"},
    )

    assert firmware.rdma(tmp_path) == (
        RdmaDevice(
            name="mlx5_0",
            firmware="28.39.3004",
            board="MT_0000000838",
            ports=(
                RdmaPort(
                    number=1, state="ACTIVE", rate="400 Gb/sec (4X NDR)", link_layer="InfiniBand"
                ),
            ),
        ),
    )


def test_what_is_not_there_is_none_and_no_fault(tmp_path: Path):
    (tmp_path / "sys").mkdir()

    assert set(msgspec.structs.astuple(firmware.platform(tmp_path))) == {None}
    assert firmware.rdma(tmp_path) == ()
    assert isinstance(firmware.rdma(tmp_path / "nowhere"), Unknown)


def test_text_without_a_choice_is_unknown(tmp_path: Path):
    write(tmp_path, sys__kernel__mm__transparent_hugepage__enabled="garbage")

    assert isinstance(firmware.platform(tmp_path).transparent_hugepages, Unknown)

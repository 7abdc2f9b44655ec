"""Ways between GPUs, masks and names of NVML are written as Linux writes them."""

from pathlib import Path

import pytest

from gpucheck.payload import nvml_queries
from gpucheck.payload.nvml_queries import bus_id
from gpucheck.probes.nvml_links import pcie_level
from gpucheck.probes.nvml_readings import ranges


def test_bus_ids_are_written_as_linux_writes_them():
    assert bus_id("00000000:0A:00.0") == "0000:0a:00.0"
    assert bus_id("00010000:00:06.0") == "10000:00:06.0"


def test_masks_are_written_as_ranges():
    assert ranges([0b1011]) == "0-1,3"
    assert ranges([1 << 63, 1]) == "63-64"
    assert ranges([]) == ""


def device(root: Path, way: str, node: int = 0) -> str:
    home = root / "sys/devices" / way
    home.mkdir(parents=True)
    (home / "numa_node").write_text(f"{node}\n")
    link = root / "sys/bus/pci/devices" / home.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(home)
    return home.name


@pytest.mark.parametrize(
    ("first", "second", "nodes", "word"),
    [
        ("pci0000:00/0000:00:06.0", "pci0000:00/0000:00:07.0", (0, 0), "PHB"),
        (
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0",
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0",
            (0, 0),
            "PIX",
        ),
        (
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0/0000:05:00.0/0000:06:00.0",
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0",
            (0, 0),
            "PXB",
        ),
        ("pci0000:00/0000:00:06.0", "pci0000:40/0000:40:07.0", (0, 0), "NODE"),
        ("pci0000:00/0000:00:06.0", "pci0000:80/0000:80:07.0", (0, 1), "SYS"),
    ],
)
def test_the_way_through_pcie_is_read_from_the_kernel_s_tree(tmp_path, first, second, nodes, word):
    a = device(tmp_path, first, nodes[0])
    b = device(tmp_path, second, nodes[1])

    assert pcie_level(a, b, tmp_path) == word


def test_a_kernel_that_hides_its_devices_gives_no_way(tmp_path):
    assert pcie_level("0000:00:06.0", "0000:00:07.0", tmp_path) is None


def test_every_query_has_a_key_of_its_own():
    for second in (False, True):
        keys = [query[0] for query in nvml_queries.plan(deep=True, watch=True, later=second)]
        assert len(keys) == len(set(keys))

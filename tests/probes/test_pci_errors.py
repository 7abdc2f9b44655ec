from pathlib import Path

from gpucheck.probes import pci_errors
from gpucheck.snapshot import PciPort, Unknown


def device(folder: Path, **files: str) -> Path:
    place = folder / "0000:01:00.0"
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    return place


def test_the_totals_of_a_port_are_read(tmp_path: Path):
    place = device(
        tmp_path,
        aer_dev_correctable="RxErr 3\nBadTLP 0\nTOTAL_ERR_COR 4166\n",
        aer_dev_nonfatal="Undefined 0\nTOTAL_ERR_NONFATAL 0\n",
        aer_dev_fatal="TOTAL_ERR_FATAL 1\n",
    )

    assert pci_errors.port(place) == PciPort(
        bus_id="0000:01:00.0", aer_correctable=4166, aer_nonfatal=0, aer_fatal=1
    )


def test_a_kernel_without_counters_has_none(tmp_path: Path):
    found = pci_errors.port(device(tmp_path))

    assert found.aer_correctable is None


def test_a_file_without_its_total_is_added_up():
    assert pci_errors.parse_total("RxErr 3\nBadTLP 4\n", "TOTAL_ERR_COR") == 7
    assert isinstance(pci_errors.parse_total("?", "TOTAL_ERR_COR"), Unknown)


GOOD = (
    "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"
    "0x0000006000000000 0x0000006fffffffff 0x000000000014220c\n"
    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
)


def test_the_upper_half_of_a_wide_bar_is_zero_by_nature(tmp_path: Path):
    assert pci_errors.unassigned_bars(device(tmp_path, resource=GOOD)) == ()


def test_bars_that_start_at_zero_have_no_address():
    nothing = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 3
    sized = GOOD.replace("0x0000006000000000 0x0000006fffffffff", "0x0000000000000000 0x0000000fff")

    assert pci_errors.parse_resources(nothing) == (0, 1)
    assert pci_errors.parse_resources(sized) == (1,)


def test_resources_that_are_not_shown_are_unknown(tmp_path: Path):
    assert isinstance(pci_errors.unassigned_bars(device(tmp_path)), Unknown)
    assert isinstance(pci_errors.parse_resources("?"), Unknown)

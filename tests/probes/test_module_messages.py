import pytest

from gpucheck.probes.kernel_log import parse

BEGIN = "nvidia-nvlink: Nvlink Core is being initialized, major device number 234"
LEGACY = (
    "The NVIDIA NVIDIA GeForce GTX 1050 GPU installed in this system is supported through the "
    "NVIDIA 580.xx Legacy drivers. Please visit http://www.nvidia.com/object/unix.html for more "
    "information.  The 595.71.05 NVIDIA driver will ignore this GPU.  Continuing probe..."
)
LEGACY_LINES = (
    "NVRM: The NVIDIA NVIDIA GeForce GTX 1050 GPU installed in this system is",
    "NVRM:  supported through the NVIDIA 580.xx Legacy drivers. Please",
    "NVRM:  visit http://www.nvidia.com/object/unix.html for more",
    "NVRM:  information.  The 595.71.05 NVIDIA driver will ignore",
    "NVRM:  this GPU.  Continuing probe...",
)


def stamped(*messages: str) -> list[str]:
    return [f"[   {n}.5] {message}" for n, message in enumerate(messages, 1)]


@pytest.mark.parametrize(
    "lines",
    [
        [f"6,1,5,-;{chr(92)}x0a".join(["", ""]) + f"{chr(92)}x0a".join(LEGACY_LINES)],
        stamped(*LEGACY_LINES),
        [f"[    3.1] {line.replace('NVRM:  ', 'NVRM: ')}" for line in LEGACY_LINES],
    ],
    ids=["one record", "a record each", "a record each, with one space"],
)
def test_a_sentence_over_several_lines_or_records_is_one(lines: list[str]):
    said = parse(lines).module_said

    assert isinstance(said, tuple)
    assert " ".join(said[0].split()) == " ".join(LEGACY.split())
    assert len(said) == 1


def test_a_record_may_begin_anew_with_each_of_its_lines():
    [said] = parse(
        [
            (
                "6,1,5,-;NVRM: The NVIDIA GPU 0000:01:00.0\\x0aNVRM: (PCI ID: 10de:1c8d) installed "
                "in this system has\\x0aNVRM: fallen off the bus and is not responding to commands."
            )
        ]
    ).module_said  # type: ignore[misc]

    assert said == (
        "The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1c8d) installed in this system has fallen off "
        "the bus and is not responding to commands."
    )


def test_only_what_was_said_since_the_last_load_counts():
    log = parse(
        stamped(
            BEGIN,
            "NVRM: No NVIDIA devices probed.",
            BEGIN,
            "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
        )
    )

    assert log.module_said == (
        "loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build",
    )


def test_what_is_said_before_the_module_calls_itself_loaded_belongs_to_that_load():
    log = parse(stamped(BEGIN, "NVRM: No NVIDIA GPU found.", "NVRM: loading NVIDIA UNIX x  580.1"))

    assert log.module_said == ("No NVIDIA GPU found.", "loading NVIDIA UNIX x  580.1")


FAILED = "NVRM: GPU 0000:17:00.0: RmInitAdapter failed! (0x61:0x56:1697)"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            (
                (
                    "nvidia 0000:17:00.0: Direct firmware load for nvidia/550.76/gsp_ga10x.bin "
                    "failed with error -2"
                ),
                "NVRM: RmFetchGspRmImages: No firmware image found",
            ),
            "RmFetchGspRmImages: No firmware image found",
        ),
        (
            (
                (
                    "NVRM: GPU0 kgspBootstrap_TU102: unexpected WPR2 already up, cannot proceed "
                    "with booting GSP"
                ),
            ),
            "GPU0 kgspBootstrap_TU102: unexpected WPR2 already up, cannot proceed with booting GSP",
        ),
        (
            ("NVRM: GPU0 gpuWaitForGfwBootComplete_TU102: failed to wait for GFW boot",),
            "GPU0 gpuWaitForGfwBootComplete_TU102: failed to wait for GFW boot",
        ),
        (
            (
                (
                    "nvidia 0000:17:00.0: Unable to change power state from D3cold to D0, device "
                    "inaccessible"
                ),
                "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.76",
            ),
            (
                "nvidia 0000:17:00.0: Unable to change power state from D3cold to D0, device "
                "inaccessible"
            ),
        ),
    ],
)
def test_the_line_before_a_failed_start_is_kept(before: tuple[str, ...], reason: str):
    lines = [f"[    8.25] {message}" for message in (*before, FAILED)]

    [found] = parse(lines).adapter_reasons  # type: ignore[misc]

    assert (found.bus_id, found.text) == ("0000:17:00.0", reason)


def test_another_gpu_s_line_or_one_of_another_time_is_no_reason():
    log = parse(
        [
            "[1.0] NVRM: RmFetchGspRmImages: No firmware image found",
            "[500.0] nvidia 0000:31:00.0: Direct firmware load for nvidia/550.76/x.bin failed",
            f"[500.0] {FAILED}",
        ]
    )

    assert log.adapter_reasons == ()
    assert log.adapter_failures == ("0000:17:00.0",)

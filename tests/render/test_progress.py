"""What is shown while a smoke training goes on."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from gpucheck.probes.messages import GpuReading, Loss, Message, Notice, Phase
from gpucheck.render.progress import Live, log_line, write_log

LOSS = Loss(at=1.0, epoch=1, images=6400, count=60_000, loss=2.292416)
GPU = GpuReading(
    index=3,
    uuid="GPU-1",
    bus_id=None,
    utilization_percent=87,
    temperature_celsius=61,
    memory_used_bytes=512 << 20,
)


def shown(live: Live, *reported: Message) -> list[str]:
    for message in reported:
        live(message)
    console = Console(file=io.StringIO(), width=100)
    console.print(live.draw())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_log_line_has_the_form_of_pytorchs_own_example():
    assert log_line(LOSS) == "Train Epoch: 1 [6400/60000 (11%)]\tLoss: 2.292416"


def test_a_bar_tells_phase_loss_and_speed_and_each_gpu_has_a_row():
    live = Live(1, lambda: [GPU])

    bar, gpu = shown(live, Phase(at=0.0, name="training"), replace(LOSS, images=0, loss=2.3), LOSS)

    assert bar.startswith("training")
    assert "loss 2.2924" in bar
    assert bar.rstrip().endswith("images/s")
    assert gpu.split() == ["gpu", "3", "87%", "61", "°C", "512", "MiB"]


def test_what_nvml_does_not_tell_is_left_out():
    silent = replace(GPU, temperature_celsius=None, memory_used_bytes=None)

    *_, gpu = shown(Live(1, lambda: [silent]))

    assert gpu.split() == ["gpu", "3", "87%"]


def test_the_search_for_the_odd_gpu_says_which_is_trained_alone():
    live = Live(1, list)

    bar, *_ = shown(live, LOSS, Phase(at=2.0, name="parity", alone="GPU 2"))

    assert bar.startswith("training on GPU 2 alone")


def test_where_no_bar_is_shown_a_notice_goes_to_stderr_without_its_control_sequences(
    capsys: pytest.CaptureFixture[str],
):
    write_log(
        Notice(at=0.0, text="no MNIST here: training on synthetic digits (\x1b[31mImportError)")
    )

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gpucheck: no MNIST here: ")
    assert "\x1b" not in captured.err

"""The deep trial: real children, with a real torch where there is one, and with broken ones."""

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpreters import patched_python

from gpucheck.probes import messages
from gpucheck.probes.child import Ended
from gpucheck.snapshot import Deep, GpuWork, Unknown
from gpucheck.workloads import deep

#: Two GPUs, played by the CPU: all that the program does with a GPU it then does there.
REHEARSAL = """
DEVICE = "cpu"
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.synchronize = lambda *_: None
"""


def fake_torch(folder: Path, text: str) -> None:
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text(text)


def rehearse(folder: Path, more: str = "") -> deep.Outcome:
    """Run the workload on the CPU, with *more* done before it starts."""
    python = patched_python(folder, "deep", REHEARSAL + more)
    return deep.run(python, deadline_seconds=100)


def gpus_of(found: Deep) -> tuple[GpuWork, ...]:
    assert isinstance(found.gpus, tuple)
    return found.gpus


# ------------------------------------------------------------------------------- a broken torch


def test_an_import_error_is_told_by_its_last_line(tmp_path, monkeypatch):
    fake_torch(tmp_path, "raise ImportError('libcudnn.so.9: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, mapped = deep.run(sys.executable, deadline_seconds=20)

    assert found.import_error == "ImportError: libcudnn.so.9: cannot open shared object file"
    assert found.is_available == Unknown("torch cannot be imported")
    assert isinstance(mapped, Unknown)


def test_a_torch_that_leaves_python_is_told(tmp_path, monkeypatch):
    fake_torch(tmp_path, "raise SystemExit('no')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, _ = deep.run(sys.executable, deadline_seconds=20)

    assert found.import_error == "SystemExit: no"


def test_a_torch_that_crashes_is_told_with_its_signal(tmp_path, monkeypatch):
    fake_torch(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, _ = deep.run(sys.executable, deadline_seconds=20)

    assert found.import_error == "crashed with SIGSEGV while importing torch"


def test_a_torch_that_hangs_is_unknown_and_says_where(tmp_path, monkeypatch):
    fake_torch(tmp_path, "import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, _ = deep.run(sys.executable, deadline_seconds=1)

    assert found.import_error == Unknown("no answer in 1 s while importing torch")
    assert found.gpus == Unknown("no answer in 1 s while importing torch")


def test_what_torch_prints_does_not_disturb(tmp_path, monkeypatch):
    fake_torch(tmp_path, "print('gpucheck:{\"is_available\": true}'); raise ImportError('x')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, _ = deep.run(sys.executable, deadline_seconds=20)

    assert found.import_error == "ImportError: x"
    assert isinstance(found.is_available, Unknown)


def test_a_torch_folder_in_the_current_directory_is_not_taken(tmp_path, monkeypatch):
    fake_torch(tmp_path, "raise ImportError('from the current directory')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")

    found, _ = deep.run(sys.executable, deadline_seconds=60)

    assert "current directory" not in str(found.import_error)


def test_a_python_that_is_not_there_is_unknown():
    found, mapped = deep.run("/nowhere/python", deadline_seconds=5)

    assert isinstance(found.import_error, Unknown)
    assert "could not start" in found.import_error.why
    assert isinstance(mapped, Unknown)


# ---------------------------------------------------------------------------------- a real one


@pytest.mark.torch
def test_a_cpu_only_torch_imports_and_sees_no_gpu():
    pytest.importorskip("torch")

    found, mapped = deep.run(sys.executable, deadline_seconds=100)

    assert found.import_error is None
    assert found.is_available is False
    assert found.device_count == 0
    assert isinstance(found.warning, str)
    assert found.gpus == ()
    assert found.copies == ()
    assert isinstance(mapped, tuple)


@pytest.mark.torch
def test_sound_gpus_do_all_work_right_and_copy_both_ways(tmp_path):
    pytest.importorskip("torch")

    found, _ = rehearse(tmp_path)

    assert [(g.kernel, g.matrix_product, g.convolution) for g in gpus_of(found)] == [
        (None, None, None),
        (None, None, None),
    ]
    assert isinstance(found.copies, tuple)
    assert [(c.source, c.target, c.error) for c in found.copies] == [(0, 1, None), (1, 0, None)]


@pytest.mark.torch
def test_wrong_results_are_seen(tmp_path):
    pytest.importorskip("torch")
    spoil = """
real = torch.Tensor.__matmul__
def matmul(a, b):
    c = real(a, b)
    if a.dtype == torch.float16:
        c[0, 0] += 1
    return c
torch.Tensor.__matmul__ = matmul
"""

    found, _ = rehearse(tmp_path, spoil)

    wrong = "in float16: wrong result: 1 of 262144 numbers differ, by up to 1"
    assert [g.matrix_product for g in gpus_of(found)] == [wrong, wrong]
    assert [g.kernel for g in gpus_of(found)] == [None, None]
    assert found.copies == ()


@pytest.mark.torch
def test_a_crash_on_one_gpu_leaves_what_was_known(tmp_path):
    pytest.importorskip("torch")
    crash = """
import os, signal
real = torch.nn.functional.conv2d
def conv2d(*a, **k):
    os.kill(os.getpid(), signal.SIGBUS)
torch.nn.functional.conv2d = conv2d
"""

    found, mapped = rehearse(tmp_path, crash)

    first, second = gpus_of(found)
    assert first.kernel is None
    assert first.matrix_product is None
    assert first.convolution == "crashed with SIGBUS"
    assert second.kernel == Unknown(
        "crashed with SIGBUS while running a cuDNN convolution on gpu 0"
    )
    assert isinstance(mapped, Unknown)


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="no NVIDIA GPU here")
def test_every_gpu_of_this_machine_works():
    torch = pytest.importorskip("torch")

    found, mapped = deep.run(sys.executable, deadline_seconds=100)

    assert found.is_available is True
    assert len(gpus_of(found)) == torch.cuda.device_count()
    for gpu in gpus_of(found):
        assert (gpu.kernel, gpu.matrix_product, gpu.convolution) == (None, None, None)
        assert isinstance(gpu.bus_id, str)
    assert isinstance(mapped, tuple)
    assert any(library.soname.startswith("libcudnn.so") for library in mapped)


# ------------------------------------------------------------------------------ judging the lines


def lines(*facts: messages.Message) -> bytes:
    return b"".join(b"gpucheck:" + msgspec.json.encode(each) + b"\n" for each in facts)


BEGINNING = (
    messages.Step(text="importing torch", at=100.0),
    messages.TorchImported(import_error=None, cuda="13.0", at=102.0),
    messages.CudaInTorch(is_available=True, device_count=1, warning=None, at=103.0),
    messages.GpuFound(gpu=0, bus_id="0000:00:06.0", at=103.0),
    messages.Step(text="a small kernel on gpu 0", gpu=0, work="kernel", at=103.0),
)


def test_a_gpu_that_hangs_for_long_has_failed():
    ended = Ended(stdout=lines(*BEGINNING), late_after_seconds=60.0)

    found, _ = deep.judge(ended)

    [gpu] = gpus_of(found)
    assert gpu.kernel == "no answer in 57 s"
    assert gpu.matrix_product == Unknown("no answer in 60 s while running a small kernel on gpu 0")


def test_a_gpu_that_had_no_time_is_unknown():
    ended = Ended(stdout=lines(*BEGINNING), late_after_seconds=5.0)

    [gpu] = gpus_of(deep.judge(ended)[0])

    assert isinstance(gpu.kernel, Unknown)


def test_the_line_that_announces_the_load_is_known():
    assert deep.is_loaded(b'gpucheck:{"type": "loaded", "at": 3.0}')
    assert not deep.is_loaded(b"loaded")


@pytest.mark.parametrize(
    ("number", "version"), [(91900, "9.19.0"), (90100, "9.1.0"), (8902, "8.9.2"), (8500, "8.5.0")]
)
def test_cudnns_numbers_are_versions(number, version):
    assert deep.cudnn_version(number) == version


def test_a_soname_is_the_name_or_stands_in_the_header(tmp_path):
    assert deep.soname_of("/x/libcudnn.so.9") == "libcudnn.so.9"
    assert deep.soname_of("/x/libcublas.so.13.1.0") == "libcublas.so.13.1.0"
    (tmp_path / "libcuda.so.580.1").write_bytes(b"\x7fELF" + b"\xff" * 100)
    assert deep.soname_of(str(tmp_path / "libcuda.so.580.1")) == "libcuda.so.580.1"


def test_nonsense_of_our_own_program_is_said_and_costs_every_fact():
    ended = Ended(stdout=lines(*BEGINNING) + b'gpucheck:{"type": "wrok"}\n', exit_code=0)

    found, mapped = deep.judge(ended)

    assert isinstance(found.is_available, Unknown)
    assert "wrok" in found.is_available.why
    assert isinstance(mapped, Unknown)


INDEXES = st.none() | st.integers(-1, 2)
MESSAGES = st.one_of(
    st.builds(
        messages.Step,
        at=st.floats(0, 99),
        text=st.text(),
        gpu=INDEXES,
        work=st.sampled_from([None, "kernel", "convolution"]),
        source=INDEXES,
        target=INDEXES,
    ),
    *(
        st.builds(kind, at=st.floats(0, 99))
        for kind in (
            messages.TorchImported,
            messages.CudnnInTorch,
            messages.Architectures,
            messages.GpuFound,
            messages.Worked,
            messages.Copied,
            messages.Mapped,
            messages.AllWorked,
        )
    ),
    st.builds(messages.CudaInTorch, at=st.floats(0, 99), device_count=st.integers(0, 3)),
)


@given(st.lists(MESSAGES, max_size=8), st.sampled_from([None, 30.0]))
def test_no_order_of_messages_breaks_us(reported, late):
    deep.judge(
        Ended(stdout=lines(*reported), late_after_seconds=late, exit_code=None if late else 0)
    )


@given(st.binary())
def test_no_bytes_of_a_child_break_us(content):
    deep.judge(Ended(stdout=b"gpucheck:" + content + b"\n", exit_code=0))

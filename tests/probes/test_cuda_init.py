import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import cuda
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes import cuda_init
from gpucheck.probes.child import Child, reap_left
from gpucheck.probes.messages import Answered, Calling, LoadError, MappedFrom, Message
from gpucheck.snapshot import CudaInit, Driver, Unknown

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda.build(tmp_path_factory.mktemp("lib dir") / "libcuda.so.1")


@pytest.fixture
def driver(library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    return library


def ask(deadline_seconds: float = 20.0) -> CudaInit | Unknown:
    return cuda_init.finish(cuda_init.start(deadline_seconds))


def test_a_driver_that_works_says_its_version_its_gpus_and_its_path(driver: Path):
    assert ask() == CudaInit(library=str(driver), code=0, driver_version="13.0", device_count=2)


@pytest.mark.parametrize("code", [3, 34, 100, 803, 999, 12345])
def test_the_code_of_a_failure_is_a_fact(driver: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    monkeypatch.setenv("FAKE_CODE", str(code))

    answer = ask()

    assert answer == CudaInit(library=str(driver), code=code, driver_version="13.0")


def test_no_library_is_a_fact_with_the_loader_s_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "libcuda.so.1").write_bytes(b"not a library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    answer = ask()

    assert isinstance(answer, CudaInit)
    assert answer.library is None
    assert "libcuda.so.1" in str(answer.load_error)


def test_a_library_without_cuinit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty.c").write_text("int nothing;")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", "libcuda.so.1", "empty.c"], cwd=tmp_path, check=True
    )
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    answer = ask()

    assert isinstance(answer, CudaInit)
    assert "cuInit" in str(answer.load_error)
    assert answer.code is None


@pytest.mark.parametrize("call", ["cuInit", "cuDriverGetVersion", "cuDeviceGetCount"])
def test_a_call_that_hangs_is_named_within_the_deadline(
    driver: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    monkeypatch.setenv("FAKE_CUDA", f"{call}=hang")
    began = time.monotonic()

    answer = ask(deadline_seconds=1.0)

    assert time.monotonic() - began < 2.0
    assert isinstance(answer, CudaInit)
    assert answer.error == f"no answer in 1 s to {call}"


def test_a_call_that_crashes_is_named_with_its_signal(
    driver: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_CUDA", "cuInit=crash")

    answer = ask()

    assert isinstance(answer, CudaInit)
    assert answer.error == "crashed with SIGSEGV in cuInit"
    assert answer.library == str(driver)


def test_a_library_that_ends_the_child_is_named(driver: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_CUDA", "cuInit=exit")

    answer = ask()

    assert isinstance(answer, CudaInit)
    assert answer.error == "exit status 3 in cuInit"


def test_megabytes_of_chatter_change_nothing(driver: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_CUDA", "cuInit=flood")

    answer = ask()

    assert isinstance(answer, CudaInit)
    assert answer.code == 0


def test_a_child_that_does_not_start_is_unknown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")

    answer = ask()

    assert isinstance(answer, Unknown)
    assert "could not start" in answer.why


def test_no_child_is_left_behind(driver: Path):
    child = cuda_init.start(20.0)

    pid = child.pid

    cuda_init.finish(child)
    reap_left(5.0)

    assert pid is not None
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


MESSAGES = st.one_of(
    st.builds(Calling, at=st.just(0.0), call=st.sampled_from(["dlopen", "cuInit"])),
    st.builds(LoadError, at=st.just(0.0), text=st.text()),
    st.builds(MappedFrom, at=st.just(0.0), path=st.text()),
    st.builds(Answered, at=st.just(0.0), call=st.text(), value=st.integers()),
)


@given(st.lists(MESSAGES), st.one_of(st.none(), st.text()))
def test_no_answer_out_of_order_makes_the_judge_raise(answers: list[Message], why: str | None):
    cuda_init.judge(answers, why)


@pytest.mark.parametrize(
    ("persistence", "gpus", "seconds"),
    [(True, 8, 10.0), (False, 1, 12.5), (False, 8, 30.0), (Unknown("hidden"), 2, 15.0)],
)
def test_the_patience_follows_the_gpus_that_have_to_be_woken(
    persistence: bool | Unknown, gpus: int, seconds: float
):
    bus_ids = tuple(f"0000:0{n}:00.0" for n in range(gpus))
    driver = Driver(persistenced_running=persistence, proc_gpus=bus_ids)

    assert cuda_init.patience(driver) == seconds


def test_a_deadline_is_brought_forward_and_never_back():
    with Child([sys.executable, "-c", "import time; time.sleep(60)"], deadline_seconds=60) as child:
        child.shorten(90)
        assert child.deadline_seconds == 60
        child.shorten(0.3)

        assert child.end().why == "no answer in 0.3 s"

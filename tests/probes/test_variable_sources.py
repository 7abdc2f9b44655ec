"""Who sets a variable besides start-up files, from real files."""

import json
from pathlib import Path

from gpucheck.probes import variable_sources

WANTED = frozenset({"LD_LIBRARY_PATH", "CUDA_HOME", "NCCL_DEBUG"})


def found(variables: dict[str, str], folder: Path) -> list[tuple[str, str, int | None]]:
    sources = variable_sources.probe(variables, WANTED, folder / "proc")
    return [(source.variable, source.kind, source.line) for source in sources]


def test_condas_scripts_and_state_are_read(tmp_path: Path):
    scripts = tmp_path / "etc/conda/activate.d"
    scripts.mkdir(parents=True)
    (scripts / "env_vars.sh").write_text("#!/bin/sh\nexport LD_LIBRARY_PATH=:/x/lib\n")
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta/state").write_text(json.dumps({"env_vars": {"NCCL_DEBUG": "INFO"}}))
    here = {"CONDA_PREFIX": str(tmp_path), "LD_LIBRARY_PATH": ":/x/lib", "NCCL_DEBUG": "INFO"}

    assert found(here, tmp_path) == [
        ("LD_LIBRARY_PATH", "conda script", 2),
        ("NCCL_DEBUG", "conda state", None),
    ]


def test_loaded_modulefiles_in_tcl_and_lua_are_read(tmp_path: Path):
    (tmp_path / "cuda").write_text("#%Module\nsetenv CUDA_HOME /opt/cuda\n")
    (tmp_path / "nccl.lua").write_text('prepend_path("LD_LIBRARY_PATH", "/opt/nccl/lib")\n')
    here = {
        "LOADEDMODULES": "cuda/12.4:nccl/2",
        "_LMFILES_": f"{tmp_path}/cuda:{tmp_path}/nccl.lua",
        "CUDA_HOME": "/opt/cuda",
        "LD_LIBRARY_PATH": "/opt/nccl/lib",
    }

    assert found(here, tmp_path) == [
        ("CUDA_HOME", "module", 2),
        ("LD_LIBRARY_PATH", "module", 1),
    ]


def test_the_first_process_tells_what_a_container_was_started_with(tmp_path: Path):
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/environ").write_bytes(b"NCCL_DEBUG=INFO\0CUDA_HOME=/other\0SECRET=x\0")
    here = {"NCCL_DEBUG": "INFO", "CUDA_HOME": "/opt/cuda"}

    assert found(here, tmp_path) == [("NCCL_DEBUG", "container", None)]


def test_what_is_broken_tells_nothing(tmp_path: Path):
    (tmp_path / "conda-meta").mkdir()
    for text in ("", "[]", "{", '{"env_vars": 3}', "[" * 100_000):
        (tmp_path / "conda-meta/state").write_text(text)
        here = {"CONDA_PREFIX": str(tmp_path), "_LMFILES_": "/a:/b", "LOADEDMODULES": "x"}
        assert found(here, tmp_path) == []

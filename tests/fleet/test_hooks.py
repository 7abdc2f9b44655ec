"""Hooks fit their hosts: shells read them, and no limit of theirs is passed."""

import json
import subprocess

import pytest

from gpucheck.fleet.hooks import HOOKS, hook
from gpucheck.usage_error import UsageError


@pytest.mark.parametrize("name", [name for name in HOOKS if HOOKS[name].endswith((".sh", ".nhc"))])
def test_a_shell_reads_the_hook(name: str):
    ended = subprocess.run(["bash", "-n"], input=hook(name), text=True, capture_output=True)

    assert ended.returncode == 0, ended.stderr


def test_npd_keeps_the_rules_deadline_within_its_own():
    config = json.loads(hook("npd"))

    seconds = [int(rule["timeout"].removesuffix("s")) for rule in config["rules"]]
    assert max(seconds) <= int(config["pluginConfig"]["timeout"].removesuffix("s"))
    assert config["pluginConfig"]["max_output_length"] == 80


@pytest.mark.parametrize(
    ("status", "drains"), [(0, False), (1, True), (2, False), (3, False), (124, False)]
)
def test_slurms_health_check_drains_for_an_error_alone(status: int, drains: bool, tmp_path):
    for name, text in {
        "gpucheck": f"echo 'broken: GPU001 A GPU is lost'; exit {status}",
        "scontrol": f'[ "$1" = show ] && echo "State=IDLE" || echo "$@" >> {tmp_path}/asked',
        "logger": "true",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    ended = subprocess.run(
        ["sh", "-s"],
        input=hook("slurm-healthcheck"),
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURMD_NODENAME": "n1"},
        capture_output=True,
    )

    assert ended.returncode == 0, ended.stderr
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert ("state=drain" in asked) == drains
    if drains:
        assert "reason=gpucheck: broken: GPU001 A GPU is lost" in asked


def test_a_drained_node_keeps_its_reason(tmp_path):
    for name, text in {
        "gpucheck": "echo broken; exit 1",
        "scontrol": f'[ "$1" = show ] && echo "State=IDLE+DRAIN" || echo "$@" >> {tmp_path}/asked',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    subprocess.run(
        ["sh", "-s"],
        input=hook("slurm-healthcheck"),
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )

    assert not (tmp_path / "asked").exists()


def test_a_hook_that_is_none_is_a_wrong_call():
    with pytest.raises(UsageError, match="no such hook"):
        hook("cron")

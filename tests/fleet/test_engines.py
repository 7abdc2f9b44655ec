"""Each node is asked by its engine's own command; what it answers, or why not, is a file."""

import stat
import time
from pathlib import Path

import msgspec
import pytest

from gpucheck.fleet.engines import Launch, Plan, parse_sinfo, plan
from gpucheck.fleet.run import gather
from gpucheck.usage_error import UsageError
from machines import HEALTHY

GOOD = msgspec.json.encode(HEALTHY)


def program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def gathered(folder: Path, launches: dict[str, tuple[str, ...]], seconds: float = 5.0):
    planned = Plan(
        launches=tuple(Launch(node=node, command=words) for node, words in launches.items()),
        out_of_reach={"gone": "drained: bad PSU"},
    )
    return {one.node: one.why for one in gather(planned, folder, timeout_seconds=seconds)}


def test_each_node_is_a_snapshot_or_a_reason(tmp_path: Path):
    (tmp_path / "good.json").write_bytes(GOOD)
    out = tmp_path / "out"
    cat = f"cat {tmp_path}/good.json"
    why = gathered(
        out,
        {
            "well": (program(tmp_path, "well", cat),),
            "noisy": (program(tmp_path, "noisy", f"echo 'Welcome to {{this}} node'; {cat}"),),
            "refuses": (program(tmp_path, "refuses", "echo 'Permission denied' >&2; exit 255"),),
            "garbage": (program(tmp_path, "garbage", "echo hello"),),
            "killed": (program(tmp_path, "killed", "kill -9 $$"),),
            "absent": ("/nowhere/ssh",),
        },
    )

    assert why["well"] == why["noisy"] == ""
    assert why["refuses"].endswith("ended with status 255: Permission denied")
    assert why["garbage"] == "what it sent is no snapshot: hello"
    assert why["killed"].endswith("was ended by signal 9")
    assert why["absent"] == "could not start /nowhere/ssh: No such file or directory"
    assert why["gone"] == "drained: bad PSU"
    assert sorted(path.name for path in out.iterdir()) == [
        *("absent.failed", "garbage.failed", "gone.failed", "killed.failed", "noisy.json"),
        *("refuses.failed", "well.json"),
    ]
    assert (out / "noisy.json").read_bytes() == GOOD


def test_a_node_that_hangs_stops_nobody_else(tmp_path: Path):
    began = time.monotonic()
    why = gathered(
        tmp_path / "out", {"hangs": ("sleep", "60"), "garbage": ("echo", "x")}, seconds=1.0
    )

    assert why["hangs"] == "late: 1 s"
    assert time.monotonic() - began < 10


def test_a_second_run_asks_only_those_that_gave_nothing(tmp_path: Path):
    (tmp_path / "good.json").write_bytes(GOOD)
    out = tmp_path / "out"
    flaky = program(
        tmp_path, "flaky", f"[ -e {tmp_path}/again ] && exec cat {tmp_path}/good.json; exit 1"
    )
    well = program(tmp_path, "well", f"echo x >> {tmp_path}/asked; cat {tmp_path}/good.json")
    gathered(out, {"well": (well,), "flaky": (flaky,)})
    (tmp_path / "again").touch()

    assert gathered(out, {"well": (well,), "flaky": (flaky,)})["flaky"] == ""
    assert (tmp_path / "asked").read_text() == "x\n"
    assert not (out / "flaky.failed").exists()


def test_ssh_asks_nothing_and_quotes_what_runs_there():
    [launch] = plan("ssh", ["n1"], ["/opt/my tools/gpucheck", "snapshot"]).launches

    assert launch.command[0] == "ssh"
    assert "BatchMode=yes" in launch.command
    assert launch.command[-2:] == ("n1", "'/opt/my tools/gpucheck' snapshot")


def test_a_node_named_like_an_option_is_refused():
    with pytest.raises(UsageError, match="no name of a node"):
        plan("ssh", ["-oProxyCommand=x"], ["gpucheck"])


def test_sinfo_says_who_is_out_of_reach_and_why():
    text = "n1|idle|none\nn2|drained|bad PSU [root]\nn3|idle*|none\nn4|mixed|none\nn1|idle|none\n"

    assert parse_sinfo(text) == {
        "n1": "",
        "n2": "drained: bad PSU [root]",
        "n3": "idle*, does not respond",
        "n4": "",
    }

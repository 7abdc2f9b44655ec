"""Whatever is on a dead file system: no command waits for it, and none leaves a process behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import stuck
from marked import MARK, left_after, marked, new_mark
from soak import IS_SOAK, rounds

from gpucheck import snapshot_file
from machines import HEALTHY

pytestmark = [
    pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not())),
    pytest.mark.timeout(3600),
]

#: For Python to start, and to print, with as many others at work.
SLACK_SECONDS = rounds(4, 90)
AT_ONCE = 12
#: What has to be waited for once the file system has let go of it.
HUNG: list["subprocess.Popen[str]"] = []
DOCTOR_SECONDS = 3.0
#: `require` waits 5 s, the facts 7 s; install looks at them again for each new shell.
ENV_SECONDS = 8.0
#: The examination has 30 s, a training that is silent 5 s.
SMOKE_SECONDS = 36.0
BENCH_SECONDS = 31.0
#: A Python whose libraries are on the dead file system is waited for as if its disk were slow.
SLOW = dict.fromkeys(("bench, LD_LIBRARY_PATH", "burn, LD_LIBRARY_PATH"), 152.0)

#: Started as the console script is, but in a folder, and with variables, that would keep Python
#: itself from starting.
LAUNCHER = """
import json, os, sys
call = json.loads(sys.argv[1])
sys.path.remove("")
os.environ.update(call["variables"])
if call["folder"]:
    os.chdir(call["folder"])
sys.argv = ["gpucheck", *call["arguments"]]
from gpucheck.__main__ import main
main()
"""
SMOKE = ["smoke", "--device", "cpu", "--timeout", "5"]
BENCH = ["bench", "--device", "cpu", "--quick", "--only", "gemm"]
BURN = ["burn", "--device", "cpu", "--minutes", "0.02", "--phases", "core"]
LOCAL = ["fleet", "run", "quick", "--engine", "local", "--nodes", "localhost", "--timeout", "6"]
LOCAL += ["--remote-command", f"{sys.executable} -m gpucheck"]

#: Each command by its name, and how long it may take. {} is the folder that lives.
COMMANDS: dict[str, tuple[list[str], float]] = {
    "doctor": (["doctor", "--timeout", "3"], DOCTOR_SECONDS),
    "doctor --quick": (["doctor", "--quick", "--timeout", "3"], DOCTOR_SECONDS),
    "doctor --deep": (["doctor", "--deep", "--timeout", "4"], 4.0),
    "doctor --from": (["doctor", "--from", "{}/snapshot.json"], 2.0),
    "explain": (["explain", "DRV006"], 1.0),
    "snapshot": (["snapshot", "--timeout", "3"], DOCTOR_SECONDS),
    "env": (["env", "--shell", "bash"], ENV_SECONDS),
    "env diff": (["env", "diff", "--shell", "bash"], ENV_SECONDS),
    "env status": (["env", "status", "--shell", "bash"], ENV_SECONDS),
    "env install": (["env", "install", "--yes", "--shell", "bash"], 3 * ENV_SECONDS),
    "env uninstall": (["env", "uninstall", "--yes", "--shell", "bash"], ENV_SECONDS),
    "smoke": (SMOKE, SMOKE_SECONDS),
    "bench": (BENCH, BENCH_SECONDS),
    "burn": (BURN, BENCH_SECONDS + 5),
    "fleet judge": (["fleet", "judge", "{}/snapshot.json"], 6.0),
    "fleet run": ([*LOCAL, "--out", "{}/{id}"], 6.0),
}
#: What is dead, by variables. {} is the dead folder.
PLACES: dict[str, dict[str, str]] = {
    "HOME": {"HOME": "{}"},
    "PATH": {"PATH": "{}:" + os.environ.get("PATH", "")},
    "CUDA_HOME": {"CUDA_HOME": "{}/cuda"},
    "VIRTUAL_ENV": {"VIRTUAL_ENV": "{}/venv"},
    "LD_LIBRARY_PATH": {"LD_LIBRARY_PATH": "{}/lib"},
    "XDG_CONFIG_HOME": {"XDG_CONFIG_HOME": "{}"},
    "XDG_CACHE_HOME": {"XDG_CACHE_HOME": "{}"},
    "XDG_STATE_HOME": {"XDG_STATE_HOME": "{}"},
    "ZDOTDIR": {"ZDOTDIR": "{}"},
    "TMPDIR": {"TMPDIR": "{}"},
    "the current directory": {},
}
#: Options that name what is dead, and how long such a call may take. {dead} and {} as above.
OPTIONS: dict[str, tuple[list[str], float]] = {
    **{
        f"env {command} --file": (["env", command, *yes, "--file", "{dead}/rc"], ENV_SECONDS)
        for command, yes in (
            *(("diff", ()), ("status", ())),
            *(("install", ("--yes",)), ("uninstall", ("--yes",))),
        )
    },
    "env --python": (["env", "--shell", "bash", "--python", "{dead}/python"], 1.0),
    "env --cuda": (["env", "--shell", "bash", "--cuda", "{dead}/cuda"], ENV_SECONDS),
    "snapshot -o": (["snapshot", "--quick", "-o", "{dead}/x.json"], 1.0),
    "snapshot --python": (["snapshot", "--quick", "--python", "{dead}/python"], 1.0),
    "doctor -o": (["doctor", "--quick", "--timeout", "3", "-o", "{dead}/x"], 8.0),
    "doctor --python": (["doctor", "--quick", "--python", "{dead}/python"], 1.0),
    "doctor --from FILE": (["doctor", "--from", "{dead}/x.json"], 2.0),
    "doctor --from DIR": (["doctor", "--from", "{dead}"], 2.0),
    "smoke --data": ([*SMOKE, "--data", "{dead}"], 1.0),
    "smoke --python": ([*SMOKE, "--python", "{dead}/python"], 1.0),
    "smoke --snapshot": ([*SMOKE, "--snapshot", "{dead}/x"], SMOKE_SECONDS),
    "bench --python": ([*BENCH, "--python", "{dead}/python"], 1.0),
    "bench --baseline": ([*BENCH, "--baseline", "{dead}/x"], 1.0),
    "bench --snapshot": ([*BENCH, "--snapshot", "{dead}/x"], BENCH_SECONDS),
    "burn --python": ([*BURN, "--python", "{dead}/python"], 1.0),
    "burn -o": ([*BURN, "-o", "{dead}/journal"], 1.0),
    "burn --resume": ([*BURN, "--resume", "{dead}/journal"], 1.0),
    "fleet judge FILE": (["fleet", "judge", "{dead}/x.json"], 5.0),
    "fleet judge DIR": (["fleet", "judge", "{dead}"], 5.0),
    "fleet judge --racks": (["fleet", "judge", "{}/snapshot.json", "--racks", "{dead}/x"], 6.0),
    "fleet judge --asked": (["fleet", "judge", "{}/snapshot.json", "--asked", "@{dead}/x"], 6.0),
    "fleet judge --history": (["fleet", "judge", "{}/snapshot.json", "--history", "{dead}"], 6.0),
    "fleet run --out": ([*LOCAL, "--out", "{dead}/out"], 1.0),
}
#: What every run tries: one command of each kind of door, where it met a dead file system.
ALWAYS = {
    *("doctor, HOME", "doctor, PATH", "doctor --quick, the current directory"),
    *("doctor --deep, LD_LIBRARY_PATH", "doctor --from, PATH", "explain, HOME"),
    *("env, CUDA_HOME", "env diff, ZDOTDIR", "env status, XDG_STATE_HOME", "env uninstall, PATH"),
    *("smoke, VIRTUAL_ENV", "bench, XDG_STATE_HOME", "fleet run, PATH"),
    *("env install --file", "env --python", "snapshot -o", "doctor -o", "doctor --from DIR"),
    *("smoke --data", "burn -o", "bench --baseline", "fleet judge DIR", "fleet judge --history"),
    "fleet run --out",
}


@dataclass
class Call:
    """One command, where something that it needs is dead."""

    name: str
    arguments: list[str]
    seconds: float
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    mark: str = field(default_factory=new_mark)


@dataclass
class Went:
    """How it went."""

    call: Call
    status: int | None
    seconds: float
    stdout: str
    stderr: str

    @property
    def faults(self) -> str:
        """What is wrong with that; "" where nothing is."""
        if self.status is None:
            return f"hung for {self.seconds:.1f} s"
        if self.seconds > self.call.seconds + 1 + SLACK_SECONDS:
            return f"took {self.seconds:.1f} s, and may take {self.call.seconds:g}"
        # That Python was chosen by the call: `nothing was burned in` is about that.
        fine = (0, 1, 2, 3) if self.call.name in SLOW else (0, 1, 3)
        if self.status not in fine or "Traceback" in self.stderr or "itself" in self.stderr:
            return f"ended with {self.status}: {self.stderr}"
        lines = [line for line in self.stderr.splitlines() if "no MNIST" not in line]
        if not self.stdout and len(lines) != 1:
            return f"said nothing in one line: {self.stderr!r}"
        return ""


def calls(living: Path, dead: Path) -> Iterator[Call]:
    def filled(words: list[str], number: int) -> list[str]:
        return [
            word.replace("{dead}", str(dead))
            .replace("{}", str(living))
            .replace("{id}", str(number))
            for word in words
        ]

    number = 0
    for command, (words, seconds) in COMMANDS.items():
        for place, variables in PLACES.items():
            number += 1
            name = f"{command}, {place}"
            yield Call(
                name,
                filled(words, number),
                SLOW.get(name, seconds),
                {name: text.replace("{}", str(dead)) for name, text in variables.items()},
                "" if variables else str(dead),
            )
    for name, (words, seconds) in OPTIONS.items():
        number += 1
        yield Call(name, filled(words, number), seconds)


def run(call: Call, living: Path) -> Went:
    home = living / call.mark
    home.mkdir()
    (home / ".bashrc").write_text("# mine\n")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        "HOME": str(home),
        MARK: call.mark,
    }
    environment.pop("VIRTUAL_ENV", None)
    what = {"arguments": call.arguments, "variables": call.variables, "folder": call.folder}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(what)],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=call.seconds + 1 + 2 * SLACK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        HUNG.append(process)
        return Went(call, None, time.monotonic() - began, "", "")
    return Went(call, process.returncode, time.monotonic() - began, stdout, stderr)


def test_nothing_waits_for_a_dead_file_system(tmp_path: Path):
    living, dead = tmp_path / "living", tmp_path / "dead"
    living.mkdir()
    (living / "snapshot.json").write_text(snapshot_file.as_json(HEALTHY))
    dead.mkdir()
    chosen = [each for each in calls(living, dead) if IS_SOAK or each.name in ALWAYS]
    assert {each.name for each in chosen} >= ALWAYS
    with stuck.stuck_file_system(dead):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            went = list(pool.map(lambda call: run(call, living), chosen))
        # What the kernel holds is all that is left, and it goes when the kernel lets go.
        waiting = {each.name: marked(each.mark) for each in chosen}
    for process in HUNG:
        process.communicate()

    assert not (faults := [f"{each.call.name}: {each.faults}" for each in went if each.faults]), (
        "\n".join(faults)
    )
    assert {name: left for name, left in waiting.items() if set(left.values()) - {"D"}} == {}
    assert {each.name: left for each in chosen if (left := left_after(each.mark, 1.0))} == {}

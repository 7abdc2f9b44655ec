"""Imports torch in a child, and puts it and every GPU to work: what `doctor --deep` asks."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from gpucheck.probes.child import Child, Ended
from gpucheck.snapshot import (
    Deep,
    GpuWork,
    Known,
    MappedLibrary,
    Maybe,
    PeerCopy,
    Unknown,
)

Outcome = tuple[Deep, tuple[MappedLibrary, ...] | Unknown]

#: A step that gave no answer for this long has failed; a shorter wait, at the end of a deadline
#: that an earlier step used up, tells nothing. A GPU's first use takes seconds at most.
STALL_SECONDS = 20.0


def run(python: str, *, deadline_seconds: float) -> Outcome:
    """Import torch in *python* and put every GPU to work; what was not reached is unknown."""
    return finish(start(python, deadline_seconds))


def start(python: str, deadline_seconds: float, load_seconds: float = 0.0) -> Child:
    """Start the trial; at its end the GPUs stay loaded for *hold_seconds*.

    When the load begins the child writes a line that `is_loaded` knows.
    """
    return start_program(program(), python, deadline_seconds, load_seconds)


def start_program(
    text: str, python: str, deadline_seconds: float, load_seconds: float = 0.0
) -> Child:
    """Start the text of a trial under *python*, with gpucheck's settings for a child."""
    environment = {
        **os.environ,
        # CUDA's numbers are then NVML's, and nothing is written beside the torch examined.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GPUCHECK_HOLD_SECONDS": f"{load_seconds:g}",
    }
    return Child([python, "-c", text], deadline_seconds=deadline_seconds, environment=environment)


def program() -> str:
    """Return the text of the program that the child runs."""
    files = resources.files("gpucheck.workloads")
    return files.joinpath("deep_program.py").read_text(encoding="utf-8")


def is_loaded(line: bytes) -> bool:
    """Tell whether a line of the child says that the GPUs are under load now."""
    return any(facts.get("loaded") is True for facts in parse([line]))


def finish(child: Child) -> Outcome:
    """Wait for the trial to its end or its deadline, and return what it did."""
    return judge(child.end())


def parse(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Read the child's lines; what is not ours is left out."""
    found: list[dict[str, Any]] = []
    for line in lines:
        if not line.startswith(b"gpucheck:"):
            continue
        try:
            facts = json.loads(line.removeprefix(b"gpucheck:"))
        except (ValueError, RecursionError):
            continue  # the last line of a child that was killed while it wrote
        if isinstance(facts, dict):
            found.append(facts)
    return found


def judge(ended: Ended) -> Outcome:
    """Make facts of what the child wrote, and of how it ended."""
    reported = parse(ended.stdout.splitlines())
    facts: dict[str, Any] = {}
    for line in reported:
        if "gpu" not in line and "source" not in line:
            facts.update(line)
    last = reported[-1] if reported else {}
    step = last.get("step") if isinstance(last.get("step"), str) else None
    fault = _trouble(ended, step)
    unknown = Unknown(fault or "the trial did not come so far")
    import_error = _import_error(facts, ended, step, fault, unknown)
    if isinstance(import_error, str):
        unknown = Unknown("torch cannot be imported")
    deep = Deep(
        import_error=import_error,
        is_available=_value(facts, "is_available", bool, unknown),
        warning=_maybe(facts, "warning", str, unknown),
        device_count=_value(facts, "device_count", int, unknown),
        torch_cuda=_maybe(facts, "torch_cuda", str, unknown),
        cudnn=_cudnn(facts, unknown),
        architectures=_strings(facts, "architectures", unknown),
        gpus=_gpus(reported, facts, _verdict(ended, last, fault), unknown),
        copies=_copies(reported, facts, _verdict(ended, last, fault), unknown),
    )
    mapped = _strings(facts, "mapped", unknown)
    if isinstance(mapped, Unknown):
        return deep, mapped
    return deep, tuple(MappedLibrary(soname=soname_of(path), path=path) for path in mapped)


def _trouble(ended: Ended, step: str | None) -> str | None:
    """Say how the child came to an early end, and at which step; None: it went through."""
    if ended.why is None:
        return None
    return f"{ended.why} while {_doing(step)}" if step else ended.why


def _doing(step: str) -> str:
    """Return a step as what was being done: "running a small kernel on gpu 0"."""
    return step if step.split(" ", 1)[0].endswith("ing") else f"running {step}"


def _verdict(ended: Ended, last: Mapping[str, Any], fault: str | None) -> str | None:
    """Return the error of the step at which the child ended, where that is the step's own fault."""
    if fault is None:
        return None
    if ended.late_after_seconds is None:
        return ended.why
    at = last.get("at")
    waited = ended.late_after_seconds - at if isinstance(at, int | float) else 0.0
    return f"no answer in {waited:.0f} s" if waited >= STALL_SECONDS else None


def _import_error(
    facts: Mapping[str, Any],
    ended: Ended,
    step: str | None,
    fault: str | None,
    unknown: Unknown,
) -> Maybe[str]:
    if "import_error" in facts:
        error = facts["import_error"]
        return error if isinstance(error, str) else None
    if step is None or fault is None or ended.late_after_seconds is not None:
        return unknown  # a slow disk may need long for torch's gigabytes: late is not broken
    return fault


def _value(facts: Mapping[str, Any], name: str, kind: type, unknown: Unknown) -> Any:  # noqa: ANN401
    value = facts.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return unknown
    return value


def _maybe(facts: Mapping[str, Any], name: str, kind: type, unknown: Unknown) -> Any:  # noqa: ANN401
    if name in facts and facts[name] is None:
        return None
    return _value(facts, name, kind, unknown)


def _strings(facts: Mapping[str, Any], name: str, unknown: Unknown) -> Known[tuple[str, ...]]:
    value = facts.get(name)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    error = facts.get(f"{name}_error")
    return Unknown(error) if isinstance(error, str) else unknown


def _cudnn(facts: Mapping[str, Any], unknown: Unknown) -> Maybe[str]:
    error = facts.get("cudnn_error")
    if isinstance(error, str):
        return Unknown(error)
    number = _maybe(facts, "cudnn", int, unknown)
    return cudnn_version(number) if isinstance(number, int) else number


def cudnn_version(number: int) -> str:
    """Return cuDNN's number as a version: 91900 → "9.19.0", 8902 → "8.9.2"."""
    if number >= 90000:
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


_WORK = ("kernel", "matrix_product", "convolution")


def _gpus(
    reported: Iterable[Mapping[str, Any]],
    facts: Mapping[str, Any],
    verdict: str | None,
    unknown: Unknown,
) -> Known[tuple[GpuWork, ...]]:
    count = _value(facts, "device_count", int, unknown)
    if isinstance(count, Unknown):
        return count
    answers: dict[int, dict[str, Any]] = {
        index: {**dict.fromkeys(_WORK, unknown), "bus_id": unknown} for index in range(count)
    }
    for line in reported:
        mine = answers.get(line.get("gpu", -1)) if isinstance(line.get("gpu"), int) else None
        if mine is None:
            continue
        what = line.get("what")
        if "bus_id" in line:
            mine["bus_id"] = line["bus_id"] if isinstance(line["bus_id"], str) else None
            mine["kernel"] = unknown
        elif "step" in line:
            # Where this is the last line, the child ended in this step; else its answer follows.
            mine[what if what in _WORK else "kernel"] = unknown if verdict is None else verdict
        elif what in _WORK:
            error = line.get("error")
            mine[what] = error if isinstance(error, str) else None
    return tuple(GpuWork(index=index, **answer) for index, answer in answers.items())


def _copies(
    reported: Iterable[Mapping[str, Any]],
    facts: Mapping[str, Any],
    verdict: str | None,
    unknown: Unknown,
) -> Known[tuple[PeerCopy, ...]]:
    found: dict[tuple[int, int], Maybe[str]] = {}
    for line in reported:
        source, target = line.get("source"), line.get("target")
        if not isinstance(source, int) or not isinstance(target, int):
            continue
        if "step" in line:
            found[source, target] = verdict if verdict is not None else unknown
        else:
            error = line.get("error")
            found[source, target] = error if isinstance(error, str) else None
    if not found and facts.get("worked") is not True:
        return unknown
    return tuple(PeerCopy(source=a, target=b, error=error) for (a, b), error in found.items())


def soname_of(path: str) -> str:
    """Return the SONAME of a mapped library, by its name or, where that holds more, its header."""
    name = path.rpartition("/")[2]
    if re.fullmatch(r"lib[\w+.-]+?\.so\.[0-9]+", name):
        return name
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            section = ELFFile(file).get_section_by_name(".dynamic")
            if isinstance(section, DynamicSection):
                for tag in section.iter_tags("DT_SONAME"):
                    return str(tag.soname)
    except (OSError, ELFError, ValueError, KeyError, AttributeError):
        pass
    return name

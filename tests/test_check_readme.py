"""The README's tables come from the program itself."""

import check_readme
import pytest

from gpucheck.rules import RULES

EMPTY = (
    "# x\n<!-- commands -->\n<!-- /commands -->\ny\n<!-- rules --><!-- /rules -->\nz\n"
    "<!-- misconfigured --><!-- /misconfigured --><!-- no-gpu --><!-- /no-gpu -->\nend\n"
)


def test_the_tables_are_put_between_their_marks_and_the_rest_stays():
    text = check_readme.corrected(EMPTY)

    assert text.startswith("# x\n<!-- commands -->\n\n| command | what it does |\n")
    assert "\n| `gpucheck doctor` | Examine this machine: " in text
    assert "\n#### `gpucheck doctor`\n" in text
    assert "<!-- /commands -->\ny\n<!-- rules -->\n" in text
    assert "<!-- /rules -->\nz\n<!-- misconfigured -->\n\n```text\ngpucheck " in text
    assert text.endswith("```\n\n<!-- /no-gpu -->\nend\n")
    assert "| `--format text\\|json\\|markdown` | How to print the report. Default: text. |" in text
    for rule in RULES:
        assert f"| {rule.code} | {rule.severity.value} | " in text


def test_a_right_readme_is_left_as_it_is():
    once = check_readme.corrected(EMPTY)

    assert check_readme.corrected(once) == once


@pytest.mark.parametrize("text", ["", EMPTY.replace("<!-- /rules -->", ""), EMPTY + EMPTY])
def test_marks_that_lack_or_stand_twice_are_told(text: str):
    with pytest.raises(LookupError, match="must stand once"):
        check_readme.corrected(text)

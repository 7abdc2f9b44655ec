"""`gpucheck explain` knows codes, families and pasted errors, and says so where it does not."""

import pytest

from gpucheck.explain import explanation, rule_list
from gpucheck.families import FAMILIES
from gpucheck.rules import RULES
from gpucheck.usage_error import UsageError


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_is_explained_with_its_title_and_its_causes(rule):
    text = explanation(f" {rule.code.lower()}\n")

    assert text.startswith(f"{rule.code} ({rule.severity.value}): {rule.title}\n")
    assert rule.explanation in text
    for root in rule.caused_by:
        assert f"\n  {root}  " in text or f"\n  {root}\n" in text


def test_a_family_is_listed():
    assert explanation("gpu").startswith("GPU: each GPU's health\n  GPU001  error    ")


def test_the_list_holds_every_rule_once():
    listed = [line.split()[0] for line in rule_list().splitlines() if line.startswith("  ")]

    assert sorted(listed) == sorted(rule.code for rule in RULES)
    assert {rule.family for rule in RULES} <= {family.prefix for family in FAMILIES}


def test_an_unknown_code_gets_the_nearest():
    with pytest.raises(UsageError, match=r"no rule is called GPU999; near it: .*GPU0"):
        explanation("GPU999")


@pytest.mark.parametrize("text", ["", "  ", "hello world", "no such error"])
def test_a_text_that_is_not_known_is_said_to_be_so(text: str):
    with pytest.raises(UsageError) as refused:
        explanation(text)

    assert "\n" not in str(refused.value)


def test_a_pasted_error_gets_its_meaning_what_to_do_and_its_rules():
    text = explanation("RuntimeError: CUDA error: uncorrectable ECC error encountered")

    assert text.startswith("Error 214: ")
    assert "What to do: Drain the GPU" in text
    assert "\n  GPU004  Uncorrected ECC errors since the driver loaded\n" in text


def test_the_most_specific_of_several_errors_comes_first():
    text = explanation(
        "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"
    )

    assert text.startswith("Error 802")
    assert "\n----\n" in text

"""Takes every symptom that a test of a rule produces through the matrix of remedies."""

from collections.abc import Iterator
from typing import Any

import pytest
from matrix_coverage import taken_through
from payloads import live
from remedy_matrix import complaints

from gpucheck.rule import Rule, Symptom
from gpucheck.snapshot import Snapshot


@pytest.fixture(autouse=True)
def remedies_that_can_be_obeyed(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    judged: list[tuple[Rule, Snapshot]] = []
    judge = Rule.__call__

    def recording(rule: Rule, machine: Snapshot, *more: Any) -> Iterator[object]:
        for answer in judge(rule, machine, *more):
            if isinstance(answer, Symptom) and (rule, machine) not in judged:
                judged.append((rule, machine))
            yield answer

    with monkeypatch.context() as patched:
        patched.setattr(Rule, "__call__", recording)
        yield
    wrong = [text for rule, machine in judged[:4] for text in complaints(rule, machine)]
    wrong += [
        f"{rule.code}: {text}"
        for rule, machine in judged[:4]
        for text in live(rule, machine, request.node.nodeid)
    ]
    taken_through.update(rule.code for rule, _ in judged[:4])
    assert not wrong, "\n".join(wrong)

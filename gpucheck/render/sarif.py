"""The report as SARIF 2.1.0, for code scanning: findings of start-up files have their line.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0 (sections 3.19, 3.27, 3.28, 3.49).
"""

import hashlib
import re
from typing import Any

import msgspec

from gpucheck import __version__
from gpucheck.report import Finding, Report
from gpucheck.rule import Severity

_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_LINE = re.compile(r"((?:~|/)[^\s:]*):([1-9][0-9]{0,6})\b")
#: GitHub shows only results with a file and a line; this one stands for the machine.
_MACHINE = "gpucheck-report"


def as_sarif(report: Report) -> str:
    """Return *report* as one SARIF log, indented, with a newline at its end."""
    from gpucheck.site_rules import every_rule

    found = {finding.code for finding in report.findings}
    rules = [
        {
            "id": rule.code,
            "name": rule.code,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.why or rule.title},
            "help": {"text": rule.explanation or rule.title},
            "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        }
        for rule in every_rule()
        if rule.code in found
    ]
    numbers = {rule["id"]: number for number, rule in enumerate(rules)}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "gpucheck",
                        "semanticVersion": report.machine.gpucheck or __version__,
                        "rules": rules,
                    }
                },
                "invocations": [{"executionSuccessful": True}],
                "results": [_result(finding, numbers) for finding in report.findings],
            }
        ],
    }
    return msgspec.json.format(msgspec.json.encode(log), indent=2).decode() + "\n"


def _result(finding: Finding, numbers: dict[Any, int]) -> dict[str, Any]:
    subject = finding.subject or "machine"
    print_of = hashlib.sha256(f"{finding.code}\0{finding.subject}".encode()).hexdigest()
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.title}: {finding.saw}. {finding.remedy.text}"},
        "locations": [
            {
                "physicalLocation": _place(finding),
                "logicalLocations": [{"name": subject, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"gpucheck/v1": print_of},
    }
    if finding.code in numbers:
        result["ruleIndex"] = numbers[finding.code]
    return result


def _place(finding: Finding) -> dict[str, Any]:
    """Return the file and line that the finding names, else the stand-in."""
    named = _LINE.search(finding.subject) or _LINE.search(finding.saw)
    uri, line = (named[1].lstrip("/"), int(named[2])) if named else (_MACHINE, 1)
    return {
        "artifactLocation": {"uri": uri.replace("~/", "home/").replace(" ", "%20")},
        "region": {"startLine": line},
    }

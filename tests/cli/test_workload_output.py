"""What a workload found is printed whatever becomes of the files that were asked for."""

from pathlib import Path

import pytest

from gpucheck import privacy
from gpucheck.cli.workload_output import WorkloadOutput
from gpucheck.render import Format
from gpucheck.report import examine
from gpucheck.usage_error import UsageError
from machines import HEALTHY


@pytest.mark.parametrize("is_there", [True, False], ids=["written", "no such folder"])
def test_a_file_that_cannot_be_written_costs_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_there: bool
):
    facts = tmp_path / ("facts.json" if is_there else "absent/facts.json")
    output = WorkloadOutput(form=Format.ONELINE, facts_to=facts, verbose=False, quiet=False)

    if is_there:
        output.write(examine(HEALTHY), privacy.redact)
    else:
        with pytest.raises(UsageError, match="absent"):
            output.write(examine(HEALTHY), privacy.redact)

    assert "healthy" in capsys.readouterr().out
    assert facts.exists() is is_there

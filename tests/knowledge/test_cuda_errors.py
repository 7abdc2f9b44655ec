import pytest

from gpucheck.knowledge.cuda_errors import cuda_error, nvml_error, table


def test_every_row_names_a_source_that_is_listed_and_every_source_is_used():
    rows = (*table().cuda, *table().nvml)

    used = {source for row in rows for source in row.source}

    assert all(row.source for row in rows)
    assert used == set(table().sources)


@pytest.mark.parametrize("rows", [table().cuda, table().nvml], ids=["cuda", "nvml"])
def test_codes_rise_and_every_row_says_what_to_do(rows):
    codes = [row.code for row in rows]

    assert codes == sorted(set(codes))
    assert all(row.name and row.meaning and row.causes and row.fix for row in rows)
    assert {row.confidence for row in rows} <= {"high", "medium", "low"}


@pytest.mark.parametrize("code", [3, 34, 36, 46, 100, 101, 304, 802, 803, 804, 919, 999])
def test_the_codes_that_cuinit_fails_with_are_known(code: int):
    row = cuda_error(code)

    assert row is not None
    assert row.name.startswith("CUDA_ERROR_")


def test_a_code_that_nobody_knows_is_none():
    assert cuda_error(123456) is None
    assert nvml_error(123456) is None


def test_nvml_and_cuda_number_themselves_apart():
    assert getattr(nvml_error(18), "name", "") == "NVML_ERROR_LIB_RM_VERSION_MISMATCH"
    assert cuda_error(18) is None

import pytest
from env_machines import ELSEWHERE, ENV

from machines import symptoms


@pytest.mark.parametrize("rule", ENV, ids=lambda rule: rule.code)
def test_a_machine_that_has_nothing_to_do_with_cuda_is_left_alone(rule):
    assert not symptoms(rule, ELSEWHERE)


def test_every_row_of_the_catalogue_is_here():
    codes = {rule.code for rule in ENV}

    assert codes == {f"ENV{n:03}" for n in range(1, 36) if n != 17}

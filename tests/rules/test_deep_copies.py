"""The rule about copies between GPUs, on what `doctor --deep` copied."""

from gpucheck.rules.training import copy_differs
from gpucheck.snapshot import Deep, PeerCopy, Unknown
from machines import is_applicable, machine, not_checked, passes, symptoms


def deep(*errors):
    pairs = ((0, 1), (1, 0))
    return Deep(
        copies=tuple(
            PeerCopy(source=a, target=b, error=error)
            for (a, b), error in zip(pairs, errors, strict=False)
        )
    )


def test_a_copy_that_came_back_different_is_an_error():
    [found] = symptoms(copy_differs, machine(deep=deep(None, "3 words came back different")))

    assert found.saw == "from gpu 1 to gpu 0: 3 words came back different"


def test_copies_that_came_back_the_same_are_fine():
    assert passes(copy_differs, machine(deep=deep(None, None)))


def test_copies_that_were_not_made_are_not_checked():
    assert not_checked(copy_differs, machine(deep=Deep(copies=Unknown("no answer in 60 s"))))


def test_one_gpu_has_nobody_to_copy_to():
    assert not is_applicable(copy_differs, machine(deep=deep()))


def test_without_any_trial_nothing_is_asked():
    assert not is_applicable(copy_differs, machine())

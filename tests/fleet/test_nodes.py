"""Node sets are ClusterShell's notation, and give back the names they were made of."""

import random

import pytest

from gpucheck.fleet.nodes import expanded, folded


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["gpu1"], "gpu1"),
        (["gpu1", "gpu2", "gpu3"], "gpu[1-3]"),
        ([f"gpu{n:04d}" for n in [*range(1, 313), 400]], "gpu[0001-0312,0400]"),
        (["gpu9", "gpu10", "gpu11"], "gpu[9-11]"),
        (["n08", "n09", "n10", "n11"], "n[08-11]"),
        (["a", "login"], "a,login"),
        (["r1n1", "r1n2", "r2n1"], "r1n[1-2],r2n1"),
        (["gpu1.example.org", "gpu2.example.org"], "gpu[1-2].example.org"),
        (["b", "b"], "b"),
        ([], ""),
    ],
)
def test_names_are_folded(names: list[str], text: str):
    assert folded(names) == text


@pytest.mark.parametrize("seed", range(20))
def test_folding_and_expanding_gives_the_names_back(seed: int):
    chance = random.Random(seed)
    names = {
        f"{chance.choice(['gpu', 'n', 'rack2-'])}{chance.randrange(200):0{chance.choice([1, 3])}d}"
        for _ in range(chance.randrange(1, 150))
    }

    assert set(expanded(folded(names))) == names


@pytest.mark.parametrize("text", ["gpu[1-", "gpu[3-1]", "a]b", "gpu[1-2-3]", "x[1-99999999]"])
def test_what_is_no_set_is_refused(text: str):
    with pytest.raises(ValueError, match=r"is no set of nodes|names more than"):
        expanded(text)

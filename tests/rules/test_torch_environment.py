"""The rules about what stands beside torch."""

import pytest

from gpucheck.rules import torch_environment as rules
from gpucheck.snapshot import Distribution
from machines import (
    SITE,
    advice,
    commands,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)
from torches import CPU, distributions, torch

# ------------------------------------------------------------------------------------- TOR006


TORCH = ("torch", "2.11.0", ("triton==3.6.0",))


def test_a_torchvision_that_requires_another_torch_is_an_error():
    bad = distributions(TORCH, ("torchvision", "0.25.0", ("torch==2.10.0",)))

    [found] = symptoms(rules.mismatched_companions, machine(pytorch=bad))

    assert found.saw == "torchvision 0.25.0 requires torch==2.10.0; torch is 2.11.0+cu130"
    assert commands(found) == (
        (
            "/opt/venv/bin/python3 -m pip install torchvision==0.26.0+cu130 --index-url "
            "https://download.pytorch.org/whl/cu130"
        ),
    )


def test_where_the_wheel_says_nothing_the_table_tells():
    bad = distributions(TORCH, ("torchvision", "0.25.0", ()), ("torchaudio", "2.8.0", ()))

    found = symptoms(rules.mismatched_companions, machine(pytorch=bad))

    assert [each.subject for each in found] == ["torchvision", "torchaudio"]
    assert found[0].saw == "torchvision 0.25.0 is made for torch 2.10.0; torch is 2.11.0+cu130"


def test_the_right_companions_are_fine():
    good = distributions(
        TORCH,
        ("torchvision", "0.26.0", ("torch==2.11.0",)),
        ("torchaudio", "2.11.0", ()),
        ("triton", "3.6.0", ()),
    )

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_a_torchvision_that_allows_later_releases_is_fine():
    good = {
        **distributions(
            ("torch", "2.15.0", ()),
            ("torchvision", "0.29.2+cu130", ("torch>=2.14.0",)),
        ),
        **torch(version="2.15.0+cu130"),
    }

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_a_vendors_own_builds_that_pin_one_another_are_fine():
    version = "2.9.0a0+145a3a7bda.nv25.10"
    good = {
        **torch(version=version),
        **distributions(
            ("torch", version, ()), ("torchvision", "0.24.0a0+094e7af5", (f"torch=={version}",))
        ),
    }

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_a_version_that_the_table_does_not_know_is_not_judged():
    new = distributions(TORCH, ("torchvision", "0.99.0", ()))

    assert not symptoms(rules.mismatched_companions, machine(pytorch=new))
    assert not_checked(rules.mismatched_companions, machine(pytorch=new))


@pytest.mark.parametrize(
    ("changes", "torchvision"),
    [
        (CPU, "0.26.0"),  # the default index gives the CUDA build
        (CPU, "0.26.0+cu130"),
        ({}, "0.26.0+cpu"),
        ({}, "0.26.0+cu128"),  # another CUDA major
        ({"version": "2.11.0+cu128", "cuda": "12.8"}, "0.26.0"),
    ],
)
def test_builds_of_different_kinds_do_not_fit(changes, torchvision):
    found = {
        **torch(**changes),
        **distributions(TORCH, ("torchvision", torchvision, ("torch==2.11.0",))),
    }

    assert symptoms(rules.mismatched_companions, machine(pytorch=found))


@pytest.mark.parametrize(
    ("changes", "torchvision"),
    [
        (CPU, "0.26.0+cpu"),
        ({}, "0.26.0"),
        ({}, "0.26.0+cu130"),
        ({"version": "2.11.0+cu128", "cuda": "12.8"}, "0.26.0+cu126"),  # one major
    ],
)
def test_builds_of_one_kind_fit(changes, torchvision):
    found = {
        **torch(**changes),
        **distributions(TORCH, ("torchvision", torchvision, ("torch==2.11.0",))),
    }

    assert passes(rules.mismatched_companions, machine(pytorch=found))


def test_another_triton_than_torch_requires_is_an_error():
    bad = distributions(TORCH, ("triton", "3.5.0", ()))

    [found] = symptoms(rules.mismatched_companions, machine(pytorch=bad))

    assert found.saw == ("triton 3.5.0 is installed; torch 2.11.0+cu130 requires triton==3.6.0")


def test_a_compatible_triton_is_fine():
    good = distributions(
        ("torch", "2.14.0", ("triton~=3.8.0",)),
        ("triton", "3.8.2", ()),
    )

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_torch_alone_has_no_companions():
    assert not is_applicable(rules.mismatched_companions, machine(pytorch=distributions(TORCH)))


# -------------------------------------------------------------------------- TOR010 and TOR011


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        ("a folder named torch in the current directory, /src", "another folder"),
        ("PYTHONPATH names /opt/lib", "PYTHONPATH"),
        ("it lies in the user's site folder, /home/me/.local", "Uninstall"),
    ],
)
def test_a_torch_from_elsewhere_is_a_warning(why, fix):
    [found] = symptoms(
        rules.outside_environment, machine(pytorch=torch(is_outside_environment=why))
    )

    assert found.saw == why
    assert fix in advice(found)


def test_the_environments_own_torch_is_fine():
    assert passes(rules.outside_environment, machine())


def test_conda_and_pip_in_one_prefix_are_a_warning():
    both = (
        Distribution(name="torch", version="2.11.0", location=SITE, installer="pip"),
        Distribution(name="torch", version="2.5.1", location="/opt/venv", installer="conda"),
    )

    [found] = symptoms(rules.conda_and_pip, machine(pytorch={"distributions": both}))

    assert found.saw == "conda installed torch 2.5.1, and pip 2.11.0, both in /opt/venv"
    assert found.remedy is not None
    assert found.remedy.steps == ()
    pips, condas = ([step.text for step in way.steps] for way in found.remedy.alternatives)
    assert pips == [
        "conda remove -p /opt/venv --force pytorch",
        "/opt/venv/bin/python3 -m pip install --force-reinstall --no-deps torch==2.11.0",
    ]
    assert condas == [
        "/opt/venv/bin/python3 -m pip uninstall -y torch",
        "conda install -p /opt/venv --force-reinstall pytorch",
    ]


def test_two_prefixes_are_two_environments():
    apart = (
        Distribution(name="torch", version="2.11.0", location="/home/me/.local", installer="pip"),
        Distribution(name="torch", version="2.5.1", location="/opt/venv", installer="conda"),
    )

    assert passes(rules.conda_and_pip, machine(pytorch={"distributions": apart}))

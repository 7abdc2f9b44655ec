"""What leaves the machine with a smoke training, and what is said of it."""

from gpucheck.privacy import redact
from gpucheck.render.training import details, entry
from gpucheck.snapshot import Replica, Snapshot, Training, TrainingFailure


def ranks(*hosts: str) -> tuple[Replica, ...]:
    return tuple(Replica(position=n, gpu=0, host=host) for n, host in enumerate(hosts))


def test_the_names_of_other_hosts_become_tokens_that_still_tell_them_apart():
    failure = TrainingFailure(kind="lost", rank=2, host="secret-b")
    training = Training(replicas=ranks("secret-a", "secret-a", "secret-b"), failure=failure)

    shared = redact(Snapshot(training=training)).training

    assert shared is not None
    assert "secret" not in str(shared)
    assert isinstance(shared.replicas, tuple)
    assert [one.host for one in shared.replicas] == ["host-0", "host-0", "host-1"]
    assert isinstance(shared.failure, TrainingFailure)
    assert shared.failure.host == "host-1"


def test_a_rehearsal_says_in_capitals_that_no_gpu_was_proven():
    assert "NO GPU WAS PROVEN" in next(details(Training(device="cpu")))
    assert not any("NO GPU" in line for line in details(Training(device="cuda")))


def test_several_gpus_that_are_slower_than_one_are_called_so():
    slow = Training(images_per_second=70_000.0, reference_images_per_second=300_000.0)

    text = " ".join(details(slow))

    assert "0.23 times as fast" in text
    assert "slower than one" in text


def test_the_published_curve_stands_beside_ours():
    text = " ".join(details(Training(losses=(2.3, 1.8), data="mnist")))

    assert "2.311 2.292 2.388 2.243 2.188 2.099 1.972 1.815 1.637 1.466" in text


def test_another_training_than_the_published_one_is_not_held_against_it():
    for change in ({"data": "synthetic"}, {"batch_size": 512}, {"learning_rate": 0.1}):
        training = Training(losses=(2.3, 1.8), **({"data": "mnist"} | change))

        text = " ".join(details(training))

        assert "2.300 1.800" in text
        assert "2.311" not in text


def test_a_training_of_which_nothing_is_known_has_nulls_and_no_numbers():
    reported = entry(Training())

    assert reported.losses is None
    assert reported.parity is None
    assert reported.per_gpu is None

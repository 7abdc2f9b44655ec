from typing import Any

import msgspec
import pytest

import machines
from gpucheck.report import examine
from gpucheck.rule import Rule
from gpucheck.rules import training as rules
from gpucheck.rules import training_failures as failures
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    DataFault,
    GpuProcess,
    NotFinite,
    PeerCopy,
    Replica,
    Snapshot,
    SoloRun,
    Training,
    TrainingFailure,
    TrainingGpu,
    Unknown,
    WatchedGpu,
    Xid,
)
from machines import machine, not_checked, passes, symptoms
from seen_facts import seen

CURVE = (2.343, 1.889, 1.489, 1.159, 0.975, 0.845, 0.734, 0.699, 0.679, 0.603)
OTHER_CURVE = (2.343, 1.889, 1.689, 1.459, 1.275, 1.145, 1.034, 0.999, 0.979, 0.783)


def watched(index: int = 0, **changes: Any) -> WatchedGpu:
    healthy: dict[str, Any] = {
        "samples": 12,
        "memory_used_before_bytes": 0,
        "memory_used_maximum_bytes": 1 << 30,
        "utilization_maximum_percent": 40,
        "temperature_maximum_celsius": 41,
        "power_maximum_watts": 180.0,
        "clocks_event_reasons": 0,
        "corrected_ecc_added": 0,
        "uncorrected_ecc_added": 0,
    }
    return WatchedGpu(index=index, **{**healthy, **changes})


def gpu(index: int, **changes: Any) -> TrainingGpu:
    uuid = f"GPU-{str(index) * 8}-0000-0000-0000-000000000000"
    return TrainingGpu(
        index=index, name="NVIDIA H200", uuid=uuid, watched=watched(index, **changes)
    )


def replica(position: int, **changes: Any) -> Replica:
    sound: dict[str, Any] = {
        "gpu": position % 2,
        "images": 15_000,
        "share": 0.25,
        "output_difference": 0.0,
    }
    return Replica(position=position, **{**sound, **changes})


SOUND = Training(
    gpus_wanted="0,1,0,1",
    replicas_wanted=4,
    torch="2.11.0+cu130",
    cuda_unavailable=None,
    gpus_visible=2,
    gpus_missing=(),
    gpus=(gpu(0), gpu(1)),
    replicas=tuple(replica(position) for position in range(4)),
    data="mnist",
    data_directory="/data",
    data_fault=None,
    copies=(
        PeerCopy(source=0, target=1, error=None),
        PeerCopy(source=1, target=0, error=None),
    ),
    losses=CURVE,
    not_finite=None,
    accuracy=0.875,
    reference_losses=CURVE,
    reference_accuracy=0.875,
    first_epoch_accuracy=0.875,
    images_per_second=70_000.0,
    reference_images_per_second=300_000.0,
    new_xids=(),
    failure=None,
)
EVERY_RULE = [
    each for where in (rules, failures) for each in vars(where).values() if isinstance(each, Rule)
]


def after(base: Snapshot = machines.HEALTHY, **changes: Any) -> Snapshot:
    """A healthy machine after a sound training, with some of the training's facts changed."""
    return machine(base, training=msgspec.structs.replace(SOUND, **changes))


def failed(kind: Any, **facts: Any) -> Snapshot:
    """The same after a training that was stopped in batch 50."""
    failure = TrainingFailure(kind=kind, **{"phase": "training", "step": 50, **facts})
    late = Unknown("the training did not come so far")
    return after(
        failure=failure, accuracy=late, reference_losses=late, replicas=late, not_finite=late
    )


def codes(snapshot: Snapshot) -> list[tuple[str, str | None]]:
    report = examine(snapshot, select=("TRN", "GPU", "LNK", "DRV", "TOR"))
    return [(finding.code, finding.explained_by) for finding in report.findings]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_a_sound_training_passes(rule: Rule):
    assert passes(rule, after())


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_without_a_training_the_question_does_not_arise(rule: Rule):
    assert not machines.is_applicable(rule, machines.HEALTHY)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_a_training_of_which_nothing_is_known_never_passes_nor_fails(rule: Rule):
    report = examine(Snapshot(training=Training()), rules=[rule])

    assert not report.findings
    assert not report.passed


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_a_training_that_was_not_begun_blames_nobody(rule: Rule):
    blocked = TrainingFailure(kind="blocked", phase="import", message="see DRV006")

    assert not symptoms(rule, machine(training=Training(failure=blocked)))


def test_the_eleven_rules_are_there():
    codes = [f"TRN{n:03}" for n in range(1, 13) if n != 9]  # TRN009 is LNK014 now

    assert sorted(rule.code for rule in EVERY_RULE) == codes


# ------------------------------------------------------------------------------------- learning


def test_a_loss_above_what_any_seed_gave_is_an_error():
    [symptom] = symptoms(rules.loss_too_high, after(losses=(*CURVE[:-1], 1.3)))

    assert "1.300" in symptom.saw
    assert "0.80" in symptom.saw


def test_synthetic_digits_have_a_limit_of_their_own():
    assert passes(rules.loss_too_high, after(losses=(1.0,), data="synthetic"))
    assert symptoms(rules.loss_too_high, after(losses=(1.0,), data="mnist"))


@pytest.mark.parametrize("rule", [rules.loss_too_high, rules.accuracy_too_low])
def test_another_recipe_than_the_measured_one_is_not_judged_by_it(rule: Rule):
    snapshot = after(losses=(2.0,), accuracy=0.2, learning_rate=0.001)

    assert not symptoms(rule, snapshot)
    assert not_checked(rule, snapshot)


def test_an_accuracy_under_what_any_seed_gave_is_an_error():
    [symptom] = symptoms(rules.accuracy_too_low, after(accuracy=0.73))

    assert "73.0%" in symptom.saw


def test_a_low_accuracy_is_explained_by_the_loss():
    assert codes(after(losses=(*CURVE[:-1], 1.3), reference_losses=(), accuracy=0.73)) == [
        ("TRN001", None),
        ("TRN007", "TRN001"),
    ]


def test_a_number_that_is_not_finite_is_an_error_on_the_gpu_that_does_it_alone():
    solo = (
        SoloRun(where="gpu 0", losses=CURVE, error=None),
        SoloRun(where="gpu 1", error="the loss of batch 40 is not finite"),
        SoloRun(where="cpu", losses=CURVE, error=None),
    )
    [symptom] = symptoms(
        rules.not_finite, after(not_finite=NotFinite(step=40, what="the loss"), solo=solo)
    )

    assert symptom.subject == "gpu 1"
    assert "the loss of batch 40" in symptom.saw


def test_a_far_larger_learning_rate_is_named_before_any_gpu():
    [symptom] = symptoms(
        rules.not_finite, after(not_finite=NotFinite(step=3, what="the loss"), learning_rate=10.0)
    )

    assert [step.text for step in symptom.remedy.steps] == ["gpucheck smoke --lr 0.01"]


# --------------------------------------------------------------------------------------- parity


def test_curves_that_part_are_an_error_with_the_batch():
    [symptom] = symptoms(rules.parity_lost, after(losses=OTHER_CURVE))

    assert "from batch 51 on" in symptom.saw


def test_rounding_is_no_difference():
    assert passes(rules.parity_lost, after(losses=tuple(loss + 3e-6 for loss in CURVE)))


def test_the_gpu_whose_own_curve_is_off_is_named():
    solo = (
        SoloRun(where="gpu 0", losses=CURVE, error=None),
        SoloRun(where="gpu 1", losses=OTHER_CURVE, error=None),
        SoloRun(where="cpu", losses=CURVE, error=None),
    )
    [symptom] = symptoms(rules.parity_lost, after(losses=OTHER_CURVE, solo=solo))

    assert symptom.subject == "gpu 1"


def test_where_every_gpu_alone_is_right_the_replica_that_differs_is_named():
    solo = tuple(SoloRun(where=w, losses=CURVE, error=None) for w in ("gpu 0", "gpu 1", "cpu"))
    replicas = (replica(0), replica(1, output_difference=3.0))
    [symptom] = symptoms(rules.parity_lost, after(losses=OTHER_CURVE, solo=solo, replicas=replicas))

    assert symptom.subject == "gpu 1"
    assert "each is right alone" in symptom.saw


def test_equal_curves_with_another_accuracy_differ_in_the_last_batches():
    assert symptoms(rules.parity_lost, after(first_epoch_accuracy=0.80))


def test_a_lost_parity_is_explained_by_a_corrupted_copy():
    copies = (PeerCopy(source=0, target=1, error="1 of 4 bytes differ, first at 0"),)

    assert codes(after(losses=OTHER_CURVE, copies=copies)) == [
        ("LNK014", None),
        ("TRN003", "LNK014"),
    ]


# ------------------------------------------------------------------------------- share and number


def test_a_replica_that_was_given_no_images_is_an_error():
    replicas = tuple(replica(n, images=0 if n == 3 else 15_000) for n in range(4))
    [symptom] = symptoms(rules.idle_gpu, after(replicas=replicas))

    assert symptom.subject == "gpu 1"
    assert "0 of its 15,000 images" in symptom.saw


def test_uneven_parts_are_as_they_should_be():
    images = (60_000 - 234 * 170 - 64, 234 * 86 + 32, 234 * 84 + 32)
    replicas = tuple(replica(n, images=count) for n, count in enumerate(images))

    assert passes(rules.idle_gpu, after(replicas=replicas))


def test_a_gpu_of_which_nvml_saw_no_memory_in_use_did_no_work():
    [symptom] = symptoms(
        rules.idle_gpu, after(gpus=(gpu(0), gpu(1, memory_used_maximum_bytes=3 << 20)))
    )

    assert symptom.subject == "gpu 1"


def test_a_gpu_that_nvml_never_read_is_not_checked():
    [answer] = not_checked(rules.idle_gpu, after(gpus=(gpu(0), gpu(1, samples=0))))

    assert answer.subject == "gpu 1"


def test_fewer_gpus_than_asked_for_is_an_error_with_the_way_out():
    [symptom] = symptoms(
        failures.too_few_gpus, after(gpus_wanted="4", gpus_missing=(2, 3), gpus_visible=2)
    )

    assert "torch sees 2 GPUs" in symptom.saw
    ways = [way.steps[0].text for way in symptom.remedy.alternatives]
    assert ways == ["gpucheck smoke --gpus all", "gpucheck smoke --gpus 0,1,0,1"]


def test_hidden_gpus_are_told_with_the_variable_that_hides_them():
    base = machines.with_variables(CUDA_VISIBLE_DEVICES="0")
    [symptom] = symptoms(failures.too_few_gpus, after(base, gpus_missing=(1,), gpus_visible=1))

    assert "CUDA_VISIBLE_DEVICES=0" in symptom.saw


def test_no_gpu_at_all_is_too_few_even_for_all():
    assert symptoms(failures.too_few_gpus, after(gpus_wanted="all", gpus_visible=0))


def test_missing_gpus_are_explained_by_a_torch_without_cuda():
    torch = msgspec.structs.replace(seen(machines.HEALTHY.pytorch.torch), build="cpu", cuda=None)
    base = machine(pytorch={"torch": torch})
    snapshot = after(
        base,
        gpus_visible=0,
        gpus_missing=(0, 1),
        cuda_unavailable="torch 2.13.0+cpu is built without CUDA",
    )

    assert ("TRN006", "TOR002") in codes(snapshot)


def test_a_rehearsal_on_the_cpu_asks_for_no_gpu():
    snapshot = after(device="cpu", gpus=(), gpus_visible=0)

    assert not machines.is_applicable(failures.too_few_gpus, snapshot)
    assert not machines.is_applicable(failures.errors_under_load, snapshot)


# -------------------------------------------------------------------------------- what stopped it


def test_a_hang_names_the_batch_the_gpu_and_the_place():
    [symptom] = symptoms(
        failures.hung,
        failed("hang", after_seconds=60.0, gpus=(1,), stack=("training.py:1 run", "x.py:2 wait")),
    )

    assert symptom.subject == "gpu 1"
    for part in ("60 s", "batch 50", "gpu 1", "x.py:2 wait"):
        assert part in symptom.saw


def test_a_lost_rank_is_named_with_its_host():
    [symptom] = symptoms(failures.hung, failed("lost", after_seconds=9.0, rank=3, host="node7"))

    assert symptom.subject == "rank 3 on node7"


def test_a_hang_is_explained_by_a_gpu_that_is_lost():
    gpus = (machines.gpu(0), machines.gpu(1, state="lost", error="nvmlDeviceGetName"))
    snapshot = machine(failed("hang", gpus=(1,)), nvml={"gpus": gpus})

    assert ("TRN005", "GPU001") in codes(snapshot)


def test_a_crash_names_its_signal_and_the_last_line():
    [symptom] = symptoms(
        failures.crashed, failed("crash", signal="SIGSEGV", last_lines=("Fatal Python error",))
    )

    assert "SIGSEGV in batch 50" in symptom.saw
    assert "Fatal Python error" in symptom.saw


def test_a_killed_child_points_to_the_out_of_memory_killer():
    [symptom] = symptoms(failures.crashed, failed("crash", signal="SIGKILL"))

    assert "out-of-memory killer" in symptom.remedy.text


def test_a_cuda_error_names_its_gpu():
    [symptom] = symptoms(
        failures.crashed, failed("error", gpus=(1,), message="RuntimeError: CUDA error: misaligned")
    )

    assert symptom.subject == "gpu 1"


def test_out_of_memory_names_who_holds_it():
    holder = GpuProcess(pid=4711, name="python", used_bytes=120 << 30)
    base = machine(nvml={"gpus": (machines.gpu(0), machines.gpu(1, processes=(holder,)))})
    failure = TrainingFailure(
        kind="out of memory", gpus=(1,), message="GPU 1 has 100 MiB free of 143,771"
    )
    [symptom] = symptoms(failures.out_of_memory, after(base, failure=failure))

    assert symptom.subject == "gpu 1"
    assert "python (pid 4711, 122,880 MiB)" in symptom.saw


def test_a_stop_of_one_kind_is_no_finding_of_the_others():
    assert passes(failures.crashed, failed("hang"))
    assert passes(failures.hung, failed("crash", signal="SIGSEGV"))
    assert passes(failures.out_of_memory, failed("crash", signal="SIGSEGV"))


def test_an_unreadable_file_is_named_with_what_was_expected():
    fault = DataFault(path="/data/x", problem="1,000 bytes", expected="60,008 bytes")
    [symptom] = symptoms(rules.data_unreadable, after(data_fault=fault))

    assert symptom.subject == "/data/x"
    assert symptom.saw == "/data/x: 1,000 bytes; expected 60,008 bytes"


# ------------------------------------------------------------------------------------ under load


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clocks_event_reasons": 0x40}, "hardware thermal slowdown"),
        ({"clocks_event_reasons": 0x80 | 0x04}, "hardware power brake"),
        ({"corrected_ecc_added": 3}, "3 corrected memory errors"),
        ({"uncorrected_ecc_added": 1}, "1 uncorrected memory error"),
    ],
)
def test_trouble_under_load_is_a_warning_on_its_gpu(changes: dict[str, int], said: str):
    [symptom] = symptoms(failures.errors_under_load, after(gpus=(gpu(0), gpu(1, **changes))))

    assert symptom.subject == "gpu 1"
    assert said in symptom.saw


def test_idle_clocks_and_a_power_cap_are_no_trouble():
    assert passes(failures.errors_under_load, after(gpus=(gpu(0, clocks_event_reasons=0x05),)))


def test_counters_that_a_gpu_lacks_are_no_trouble():
    quiet = gpu(0, corrected_ecc_added=NOT_SUPPORTED, clocks_event_reasons=NOT_SUPPORTED)

    assert not symptoms(failures.errors_under_load, after(gpus=(quiet,)))


def test_an_xid_during_the_training_is_a_warning():
    xid = Xid(bus_id="0000:00:07.0", number=31, count=1, text="MMU Fault")
    [symptom] = symptoms(failures.errors_under_load, after(new_xids=(xid,)))

    assert "Xid 31" in symptom.saw


def test_a_kernel_log_that_may_not_be_read_is_not_checked():
    snapshot = after(new_xids=Unknown("permission denied"))

    assert not symptoms(failures.errors_under_load, snapshot)
    assert not_checked(failures.errors_under_load, snapshot)

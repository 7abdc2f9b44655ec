import dataclasses

import pytest

from gpucheck.workloads.launch import first_host, joined, on_this_host, visible_gpus
from gpucheck.workloads.plan import Plan, PlanError, check, chosen_gpus

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ("4", [0, 1, 2, 3]),
        ("1", [0]),
        ("0,2,5", [0, 2, 5]),
        ("0,1,0,1", [0, 1, 0, 1]),
        ("3,", [3]),
        ("all", [0, 1, 2]),
    ],
)
def test_gpus_are_a_count_or_numbers_or_all(wanted: str, numbers: list[int]):
    assert chosen_gpus(wanted, visible=3) == numbers


@pytest.mark.parametrize("wanted", ["", ",", "0,,1", "-1", "0", "two", "1.5", "²", "9999", "0;1"])
def test_anything_else_is_refused_with_what_was_expected(wanted: str):
    with pytest.raises(PlanError, match="--gpus"):
        chosen_gpus(wanted, visible=3)


def test_two_ranks_never_share_a_gpu():
    with pytest.raises(PlanError, match="each GPU once"):
        check(Plan(gpus="0,1,0,1", strategy="ddp"))


def test_ranks_on_the_cpu_share_it():
    check(Plan(gpus="0,0", strategy="ddp", device="cpu"))


def test_a_plan_survives_the_way_to_the_child():
    plan = Plan(gpus="0,1", seed=3, data="/data", rank=1)

    assert Plan.from_json(plan.to_json()) == plan


def test_under_torchrun_the_plan_is_that_of_one_rank():
    plan = joined(Plan(strategy="ddp"), TORCHRUN)

    assert (plan.rank, plan.world, plan.local_rank) == (3, 8, 1)
    assert (plan.address, plan.port, plan.agent_store) == ("node1", 29500, True)
    assert plan.wanted == "8"


def test_under_srun_the_first_host_of_the_step_is_rank_0s():
    plan = joined(
        Plan(strategy="ddp"),
        {
            "SLURM_PROCID": "5",
            "SLURM_NTASKS": "8",
            "SLURM_LOCALID": "1",
            "SLURM_JOB_ID": "123456",
            "SLURM_STEP_NODELIST": "node[03-05,9]",
        },
    )

    assert (plan.rank, plan.world, plan.local_rank) == (5, 8, 1)
    assert (plan.address, plan.port, plan.agent_store) == ("node03", 23456, False)


def test_a_single_process_joins_nothing():
    plan = Plan(strategy="ddp")

    assert joined(plan, {"RANK": "0", "WORLD_SIZE": "1"}) == plan
    assert joined(plan, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == plan
    assert joined(plan, {}) == plan


def test_a_job_without_an_address_is_refused_by_the_variables_name():
    variables = {name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}

    with pytest.raises(PlanError, match="MASTER_ADDR is not set"):
        joined(Plan(strategy="ddp"), variables)


def test_a_job_with_a_rank_that_is_no_number_is_refused():
    with pytest.raises(PlanError, match="make no sense"):
        joined(Plan(strategy="ddp"), TORCHRUN | {"RANK": "first"})


def test_data_parallel_in_a_job_of_many_is_refused():
    with pytest.raises(PlanError, match="--strategy ddp"):
        check(joined(Plan(), TORCHRUN))


def test_a_job_decides_how_many_gpus_take_part():
    with pytest.raises(PlanError, match="leave --gpus out"):
        check(joined(Plan(strategy="ddp", gpus="2"), TORCHRUN))


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[03-05,9],gpu1", "node03"),
        ("rack[1,4]-gpu,login", "rack1-gpu"),
    ],
)
def test_the_first_host_of_a_slurm_node_list(nodes: str, host: str):
    assert first_host(nodes) == host


def test_ranks_of_this_host_share_an_address_and_differ_in_their_rank():
    plans = on_this_host(Plan(strategy="ddp", device="cpu"), ranks=3)

    assert [plan.rank for plan in plans] == [0, 1, 2]
    assert len({(plan.address, plan.port, plan.world) for plan in plans}) == 1
    assert dataclasses.replace(plans[2], rank=0, local_rank=0) == plans[0]


def test_the_visible_gpus_are_those_that_cuda_is_shown():
    assert visible_gpus({}, on_the_machine=8) == 8
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}, on_the_machine=8) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, on_the_machine=8) == 0

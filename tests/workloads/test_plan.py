import dataclasses

import pytest

from gpucheck.payload.assignment import Assignment, GpuChoiceError, chosen_gpus
from gpucheck.workloads.launch import (
    Place,
    assignment,
    first_host,
    place_in_job,
    places_on_this_host,
    to_json,
    visible_gpus,
)
from gpucheck.workloads.plan import Plan, PlanError, check

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
    with pytest.raises(GpuChoiceError, match="--gpus"):
        chosen_gpus(wanted, visible=3)


def test_two_ranks_never_share_a_gpu():
    with pytest.raises(PlanError, match="each GPU once"):
        check(Plan(gpus="0,1,0,1", strategy="ddp"))


def test_ranks_on_the_cpu_share_it():
    check(Plan(gpus="0,0", strategy="ddp", device="cpu"))


def test_an_assignment_survives_the_way_to_the_child():
    work = assignment(Plan(gpus="0,1", seed=3, data="/data"), Place(rank=1, world=2))

    assert Assignment.from_json(to_json(work)) == work
    assert (work.gpus, work.seed, work.rank, work.world) == ("0,1", 3, 1, 2)


def test_all_gpus_take_part_where_none_are_named():
    assert assignment(Plan(), Place()).gpus == "all"


def test_under_torchrun_the_place_is_that_of_one_rank():
    place = place_in_job(TORCHRUN)

    assert place is not None
    assert (place.rank, place.world, place.local_rank) == (3, 8, 1)
    assert (place.address, place.port, place.agent_store) == ("node1", 29500, True)


def test_under_srun_the_first_host_of_the_step_is_rank_0s():
    place = place_in_job(
        {
            "SLURM_PROCID": "5",
            "SLURM_NTASKS": "8",
            "SLURM_LOCALID": "1",
            "SLURM_JOB_ID": "123456",
            "SLURM_STEP_NODELIST": "node[03-05,9]",
        },
    )

    assert place is not None
    assert (place.rank, place.world, place.local_rank) == (5, 8, 1)
    assert (place.address, place.port, place.agent_store) == ("node03", 23456, False)


def test_a_single_process_joins_nothing():
    assert place_in_job({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert place_in_job({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    assert place_in_job({}) is None


def test_a_job_without_an_address_is_refused_by_the_variables_name():
    variables = {name: value for name, value in TORCHRUN.items() if name != "MASTER_ADDR"}

    with pytest.raises(PlanError, match="MASTER_ADDR is not set"):
        place_in_job(variables)


def test_a_job_with_a_rank_that_is_no_number_is_refused():
    with pytest.raises(PlanError, match="not a number"):
        place_in_job(TORCHRUN | {"RANK": "first"})


def test_data_parallel_in_a_job_of_many_is_refused():
    with pytest.raises(PlanError, match="--strategy ddp"):
        check(Plan(), is_one_of_a_job=True)


def test_a_job_decides_how_many_gpus_take_part():
    with pytest.raises(PlanError, match="omit --gpus"):
        check(Plan(strategy="ddp", gpus="2"), is_one_of_a_job=True)


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
    places = places_on_this_host(ranks=3)

    assert [place.rank for place in places] == [0, 1, 2]
    assert len({(place.address, place.port, place.world) for place in places}) == 1
    assert dataclasses.replace(places[2], rank=0, local_rank=0) == places[0]


def test_the_visible_gpus_are_those_that_cuda_is_shown():
    assert visible_gpus({}, on_the_machine=8) == 8
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}, on_the_machine=8) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, on_the_machine=8) == 0

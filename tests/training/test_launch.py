"""Which launcher started a process, and what its numbers do to the recipe's."""

import socket

import pytest
from lightning.pytorch.utilities import rank_zero_only

from scalablevit.training import launch
from scalablevit.training.launch import Launch, find_launch, launched_options, note_rank_of_node, told_once
from scalablevit.training.recipe_errors import RecipeError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2", "RANK": "3", "LOCAL_RANK": "1"}
SLURM = {
    **{"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"},
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"},
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE", *SLURM):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_no_launcher_leaves_the_options_as_they_are() -> None:
    assert find_launch() is None
    assert launched_options({"devices": 3, "num_nodes": 2}, None) == {"devices": 3, "num_nodes": 2}


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        (TORCHRUN, Launch("torchrun", 2, 3, ("--nproc-per-node", "--nnodes"))),
        (SLURM, Launch("SLURM", 4, 2, ("--ntasks-per-node", "--nodes"))),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "one"}, Launch("SLURM", 1, 1, ("--ntasks-per-node", "--nodes"))),
        ({**SLURM, **TORCHRUN}, Launch("torchrun", 2, 3, ("--nproc-per-node", "--nnodes"))),
    ],
)
def test_a_launcher_is_found(variables: dict[str, str], launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, variables)
    assert find_launch() == launch


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({**TORCHRUN, "WORLD_SIZE": "5"}, "torchrun started 5 processes .* 2 of them on this node .* --nproc-per-node"),
        ({**SLURM, "SLURM_NTASKS_PER_NODE": "x"}, "SLURM_NTASKS_PER_NODE is 'x' .* --ntasks-per-node N"),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "a"}, "SLURM_NTASKS_PER_NODE is None"),
    ],
)
def test_variables_that_contradict_each_other(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    with pytest.raises(RecipeError, match=said):
        find_launch()


LAUNCH = Launch("torchrun", 2, 3, ("--nproc-per-node", "--nnodes"))


@pytest.mark.parametrize("devices", ["auto", -1, "-1", 2, "2", [0, 1], "0,1"])
@pytest.mark.parametrize("num_nodes", [1, 3])
def test_the_launchers_numbers_win_over_defaults(devices: object, num_nodes: int) -> None:
    options = launched_options({"devices": devices, "num_nodes": num_nodes, "max_epochs": 5}, LAUNCH)
    kept = devices if devices in ([0, 1], "0,1") else 2
    assert options == {"devices": kept, "num_nodes": 3, "max_epochs": 5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 4}, "--devices 4 .* torchrun, which started 2 process.* --devices 2 or auto.*--nproc-per-node 4"),
        ({"devices": "0,1,2"}, "--devices 0,1,2 .*--nproc-per-node 3"),
        ({"num_nodes": 2}, "--trainer.num_nodes 2 .* 3 node.*: leave it out, or .*--nnodes 2"),
    ],
)
def test_other_numbers_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        launched_options({"devices": "auto", "num_nodes": 1, **options}, LAUNCH)


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [({}, True), ({"NODE_RANK": "0"}, True), ({"NODE_RANK": "1"}, False), ({"NODE_RANK": "1", "RANK": "0"}, True)],
)
def test_the_first_process_of_another_node_is_not_the_runs_first(
    variables: dict[str, str], is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    set_all(monkeypatch, variables)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    note_rank_of_node()
    assert (rank_zero_only.rank == 0) is is_first


def test_other_processes_wait_for_the_first_ones_word(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(launch.time, "sleep", waited.append)
    error = ValueError("the data folder is missing")
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert told_once(error) is error
    assert waited == []
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert str(told_once(error)) == f"rank 3 on {socket.gethostname()} cannot begin: the data folder is missing"
    assert waited

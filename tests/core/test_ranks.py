"""Which rank this process is, from torchrun's or Slurm's variables."""

from __future__ import annotations

import pytest

from mcc.core.errors import UsageError
from mcc.core.ranks import Ranks, from_environment, restart_count, restarts_elsewhere, set_restart_count

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
# As srun sets them for the first task of the second of two nodes; a batch script has the first three alone.
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "3,2"}
SLURM = {
    **BATCH,
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "3,2",
}


def test_torchrun_and_slurm() -> None:
    of_torchrun = Ranks(rank=3, world_size=8, local_rank=1, local_world_size=2)
    assert from_environment(TORCHRUN) == of_torchrun
    assert from_environment(SLURM) == Ranks(rank=3, world_size=5, local_rank=0, local_world_size=2)
    assert from_environment({**SLURM, **TORCHRUN}) == of_torchrun


ALONE = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}


@pytest.mark.parametrize("env", [{}, {"RANK": "0"}, {"WORLD_SIZE": "2"}, ALONE, BATCH])
def test_a_process_started_alone_has_no_ranks(env: dict[str, str]) -> None:
    assert from_environment(env) is None


def test_one_rank_of_torchrun_is_still_a_rank() -> None:
    assert from_environment({"RANK": "0", "WORLD_SIZE": "1"}) == Ranks()


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() is None
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert from_environment() == Ranks(rank=3, world_size=8, local_rank=1, local_world_size=2)


def test_what_is_no_number_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="RANK='x' is not a number"):
        from_environment({"RANK": "x", "WORLD_SIZE": "8"})


def test_counts_of_agents_on_several_machines_are_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    set_restart_count(2)
    assert restart_count() == 2
    assert restarts_elsewhere({"TORCHELASTIC_MAX_RESTARTS": "3", "GROUP_WORLD_SIZE": "2"})
    assert not restarts_elsewhere({"TORCHELASTIC_MAX_RESTARTS": "0", "GROUP_WORLD_SIZE": "2"})
    assert not restarts_elsewhere({"TORCHELASTIC_MAX_RESTARTS": "3", "GROUP_WORLD_SIZE": "1"})
    assert not restarts_elsewhere({})

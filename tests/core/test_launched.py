"""Whether this process is the first of those that torchrun has started."""

import pytest

from regraft.core.launched import is_first, launch_number, rank_and_size
from regraft.errors import ConfigError

OTHERS = {"WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def test_without_torchrun_a_process_is_the_only_one(monkeypatch):
    monkeypatch.setenv("RANK", "1")  # alone it is not from torchrun
    assert rank_and_size() == (0, 1)
    assert is_first()


@pytest.mark.parametrize(("rank", "first"), [("0", True), ("3", False)])
def test_torchrun_numbers_its_processes(rank, first, monkeypatch):
    for name, value in {**OTHERS, "RANK": rank}.items():
        monkeypatch.setenv(name, value)
    assert rank_and_size() == (int(rank), 4)
    assert is_first() is first


@pytest.mark.parametrize("value", ["one", "-1", "", "\u0663"])
def test_a_variable_that_is_not_a_number_is_named(value, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", value)
    with pytest.raises(ConfigError, match=r"^the variable LOCAL_RANK is .*; torchrun sets it to"):
        launch_number("LOCAL_RANK", 0)
    assert launch_number("LOCAL_WORLD_SIZE", 7) == 7

"""Mutants of checkpoints and of split.csv, which a run reads again."""

import pytest

from attacks import checkpoints, splits
from attacks.hunting import hunt
from regraft.errors import RunError
from regraft.finetune.checkpoint import Saved


def test_mutants_of_checkpoints_are_refused_or_go_on():
    report = hunt(checkpoints.attack, 30, seed=0)
    assert not report.findings, str(report)
    assert set(report.outcomes) == {"resumed", "RunError"}


def test_mutants_of_split_csv_end_in_sound_parts_or_in_an_error():
    report = hunt(splits.attack, 600, seed=0)
    assert not report.findings, str(report)
    assert set(report.outcomes) == {"parts", "TableError"}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("network/bias", lambda tensor: tensor[:1].clone(), "of shape (1,), and not"),
        ("network/bias", lambda tensor: tensor.double(), "is torch.float64"),
        ("network/bias", lambda tensor: tensor * float("nan"), "is not finite"),
        ("optimizer/exp_avg/bias", None, "of bias is missing or unknown"),
        ("average/bias", None, "average/bias is missing"),
    ],
)
def test_tensors_of_another_training_are_refused_by_name(name, change, words):
    """torch broadcasts one value to many, and copies complex numbers to real ones."""
    loop, state, tensors = checkpoints.good()
    changed = dict(tensors)
    changed[name] = changed.pop(name) if change is None else change(tensors[name])
    if change is None:
        del changed[name]

    with pytest.raises(RunError) as caught:
        loop.state.restore(Saved(changed, state))
    assert words in caught.value.message
    loop.state.restore(Saved(tensors, state))

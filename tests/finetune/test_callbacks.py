"""Callbacks through the main path: called at their moments, and refused where none would be."""

import numpy as np
import pytest

import regraft
from conftest import CLASSES, texture
from regraft.errors import ConfigError
from regraft.finetune.callbacks import MOMENTS

pytestmark = pytest.mark.filterwarnings("ignore::regraft.errors.SmallSampleWarning")

NAMES = [name for name in CLASSES for _ in range(10)]
DATA = (np.stack([texture(name, i, 16) for i, name in enumerate(NAMES)]), NAMES)
SMALL = {
    "model": "minivgg", "image_size": 16, "batch_size": 8, "epochs": 2, "test_fraction": 0.3,
    "val_fraction": 0.3, "strategy": "scratch", "cache": False,
}  # fmt: skip


class Steps:
    def __init__(self):
        self.seen, self.rates = [], []

    def on_train_begin(self, loop):
        self.seen.append(("begin", loop.state.progress.step))

    def on_batch_end(self, loop):
        self.seen.append(("batch", loop.state.progress.step))
        self.rates.append(loop.schedule.rate(loop.state.progress.step - 1))

    def on_train_end(self, loop):
        self.seen.append(("end", loop.state.progress.step))


class Epochs:
    def on_epoch_end(self, loop):
        self.history = list(loop.state.progress.history)


def test_each_is_called_at_its_moments_and_changes_nothing(tmp_path):
    steps, epochs = Steps(), Epochs()
    run = regraft.train(DATA, callbacks=[steps, epochs], out=tmp_path / "a", **SMALL)
    n = run.metrics["head"]["steps"]
    assert steps.seen == [("begin", 0), *(("batch", i) for i in range(1, n + 1)), ("end", n)]
    assert [row["epoch"] for row in epochs.history] == [0, 1, 2]
    assert epochs.history[-1]["learning_rate"] == steps.rates[-1]
    plain = regraft.train(DATA, out=tmp_path / "b", **SMALL)
    assert plain.metrics["test"] == run.metrics["test"]
    assert (plain.folder / "predictions.csv").read_bytes() == (
        run.folder / "predictions.csv"
    ).read_bytes()


class Stopping:
    def on_batch_end(self, loop):
        raise LookupError(f"after step {loop.state.progress.step}")


def test_what_a_callback_raises_ends_the_training_and_leaves_no_run(tmp_path):
    with pytest.raises(LookupError, match="after step 1"):
        regraft.train(DATA, callbacks=[Stopping()], out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("callbacks", "strategy", "message"),
    [
        (
            [Steps()],
            "probe",
            "callbacks are given, and a probe calls none: it is fitted and not trained in steps",
        ),
        ([Steps], "finetune", "the class Steps is given as a callback"),
        (
            [object()],
            "finetune",
            f"a callback of type object has none of the methods {', '.join(MOMENTS)}",
        ),
    ],
)
def test_callbacks_that_would_not_be_called_are_refused_first(
    callbacks, strategy, message, tmp_path
):
    with pytest.raises(ConfigError) as caught:
        regraft.train(tmp_path / "nowhere", callbacks=callbacks, strategy=strategy)
    assert caught.value.message == message

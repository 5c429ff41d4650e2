"""Callbacks: a user's objects that a training calls. Imports no torch: they are checked first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from regraft.finetune.schedule import Schedule
    from regraft.finetune.state import State

#: The methods that a callback may have.
MOMENTS = ("on_train_begin", "on_batch_end", "on_epoch_end", "on_train_end")


class TrainingLoop(Protocol):
    """What a callback gets: the training as it is at this moment.

    A callback may read all of it. What it changes in ``state`` changes the training.

    Attributes
    ----------
    state : State
        ``state.network`` is trained; ``state.optimizer`` trains it. ``state.progress`` has
        ``epoch`` (0 before the first one), ``step`` (steps that are done), ``best_epoch`` and
        ``history``: a list with one dict for each epoch done, its keys the columns of history.csv.
    schedule : Schedule
        ``schedule.rate(step)`` is the learning rate of a step, counted from 0; ``schedule.batch``
        is the largest number of images in a step.
    batch_loss : float
        Mean loss of the last step's images; not a number before the first step.
    """

    @property
    def state(self) -> State:
        """Return network, optimiser and progress."""

    @property
    def schedule(self) -> Schedule:
        """Return the learning rate of each step."""

    @property
    def batch_loss(self) -> float:
        """Return the mean loss of the last step's images."""


class Callback(Protocol):
    """Methods that a training calls; a callback has one or more of them, and needs no base class.

    What a method raises ends the training. A training that is stopped by a signal does not call
    ``on_train_end``.

    Examples
    --------
    ::

        class PrintLoss:
            def on_epoch_end(self, loop):
                print(loop.state.progress.history[-1]["val_loss"])

        regraft.train("photos", strategy="finetune", callbacks=[PrintLoss()])
    """

    def on_train_begin(self, loop: TrainingLoop) -> None:
        """Run before the first step, after a checkpoint was resumed.

        Parameters
        ----------
        loop : TrainingLoop
            The training.
        """

    def on_batch_end(self, loop: TrainingLoop) -> None:
        """Run after each step.

        Parameters
        ----------
        loop : TrainingLoop
            The training; ``loop.state.progress.step`` counts this step.
        """

    def on_epoch_end(self, loop: TrainingLoop) -> None:
        """Run after each epoch, epoch 0 too, when its row is in the history.

        Parameters
        ----------
        loop : TrainingLoop
            The training.
        """

    def on_train_end(self, loop: TrainingLoop) -> None:
        """Run after the last epoch.

        Parameters
        ----------
        loop : TrainingLoop
            The training.
        """


def check_callbacks(callbacks: Sequence[object], strategy: str) -> None:
    """Refuse callbacks without a method of ``MOMENTS``, and any with the strategy "probe".

    Examples
    --------
    >>> check_callbacks(["a"], "finetune")
    Traceback (most recent call last):
        ...
    regraft.errors.ConfigError: a callback of type str has none of the methods on_train_begin, \
on_batch_end, on_epoch_end, on_train_end
    hint: give it one, def on_epoch_end(self, loop)
    """
    if callbacks and strategy == "probe":
        raise ConfigError(
            "callbacks are given, and a probe calls none: it is fitted and not trained in steps",
            hint="strategy='finetune' or strategy='scratch'",
        )
    for callback in callbacks:
        if isinstance(callback, type):  # it has the methods, but nothing to call them on
            raise ConfigError(
                f"the class {callback.__name__} is given as a callback",
                hint=f"an object of it: {callback.__name__}()",
            )
        if not any(callable(getattr(callback, moment, None)) for moment in MOMENTS):
            raise ConfigError(
                f"a callback of type {type(callback).__name__} has none of the methods "
                f"{', '.join(MOMENTS)}",
                hint="give it one, def on_epoch_end(self, loop)",
            )


def call(callbacks: Sequence[object], moment: str, loop: TrainingLoop) -> None:
    """Call the method of this name of each callback that has it."""
    for callback in callbacks:
        method: Callable[[TrainingLoop], None] | None = getattr(callback, moment, None)
        if method is not None:
            method(loop)

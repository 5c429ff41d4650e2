"""Objects of a user that a training calls; imports no torch: they are checked first of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regraft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from regraft.finetune.loop import Loop

#: Methods that a callback may have, each called with the loop: before the first step, after each
#: step, after each epoch once it is in the history (epoch 0 too), and when all is done.
MOMENTS = ("on_train_begin", "on_batch_end", "on_epoch_end", "on_train_end")


def check_callbacks(callbacks: Sequence[object], strategy: str) -> None:
    """Refuse callbacks that would never be called.

    Parameters
    ----------
    callbacks : sequence of object
        Each with one or more methods of ``MOMENTS``.
    strategy : str
        The probe has no loop.

    Raises
    ------
    ConfigError
        Where one has no such method, or none can be called.

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


def call(callbacks: Sequence[object], moment: str, loop: Loop) -> None:
    """Call what of the callbacks has a method of this name; what it raises ends the training."""
    for callback in callbacks:
        method: Callable[[Loop], None] | None = getattr(callback, moment, None)
        if method is not None:
            method(loop)

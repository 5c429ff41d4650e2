"""Record the random numbers of a bundle's views, so that an exported folder draws none itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from regraft.core.keyed_random import generator
from regraft.errors import ConfigError
from regraft.images.augment import AUGMENTATIONS

if TYPE_CHECKING:
    from regraft.images.render import Preprocess

_EXPORTED = ("none", "light")
_ATTEMPTS = 10  # of a random crop, as in ``regraft.images.augment``
_SPARE = 6  # words of 64 bits after the attempts; a view uses two, unless one is drawn again


def check_views(preprocess: Preprocess) -> None:
    """Raise ``ConfigError`` unless an exported folder can render the views of a bundle."""
    if preprocess.views and preprocess.augment not in _EXPORTED:
        raise ConfigError(
            f"views with augment={preprocess.augment!r} cannot be exported",
            hint="train with `augment='light'`, or without `tta`",
        )


def recorded_draws(preprocess: Preprocess) -> list[dict[str, list[float] | list[int]] | None]:
    """Return what each view has drawn, for JSON; None for a view that is the plain image.

    Which of the numbers a view uses depends on the size of the image: ``shares`` and ``aspects`` of
    the area are those of the attempts, and ``words`` are all bits of the generator, 32 at a time.

    Examples
    --------
    >>> from regraft.images.render import Preprocess
    >>> half = (0.5, 0.5, 0.5)
    >>> recorded_draws(Preprocess(64, 64, half, half, "bicubic", views=2, augment="none"))
    [None, None]
    """
    check_views(preprocess)
    return [_draw(number, preprocess.augment) for number in range(1, preprocess.views + 1)]


def _draw(view: int, augment: str) -> dict[str, Any] | None:
    area = AUGMENTATIONS[augment].area
    if area is None:
        return None
    random = generator("view", view)
    limits = math.log(3 / 4), math.log(4 / 3)
    drawn = [(random.uniform(*area), math.exp(random.uniform(*limits))) for _ in range(_ATTEMPTS)]
    words = generator("view", view).bit_generator.random_raw(2 * _ATTEMPTS + _SPARE)
    return {
        "shares": [share for share, _ in drawn],
        "aspects": [aspect for _, aspect in drawn],
        "words": [half for word in words.tolist() for half in (word & 0xFFFFFFFF, word >> 32)],
    }

"""Small data told honestly: every image is tested once, by a probe that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.core.reporter import Reporter
from regraft.probe.fit import fit_probe, score, score_baselines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from regraft.backbones.backbone import Backbone
    from regraft.config.train_config import TrainConfig
    from regraft.data.samples import Parts, Samples
    from regraft.features.extract import Features
    from regraft.model import Model
    from regraft.probe.fit import Probe


@dataclass(frozen=True)
class Scored:
    """Answers on the images that are tested, by models that have not seen them.

    Attributes
    ----------
    tested : array of shape (n,), int64
        Samples, ascending.
    probabilities : array of shape (n, K), float32
        Of each by the probe of its round.
    baselines : dict of str to (array of shape (n, K), str)
        Those that every round has, put together in the same way.
    rounds : list of dict
        JSON-ready: images, blocks and penalty of each round, which made its own choices; none where
        one test part was held out.
    round_of : array of shape (n,), int64, or None
        In which of them each was tested, from 1.
    """

    tested: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    baselines: dict[str, tuple[NDArray[np.float32], str]]
    rounds: list[dict[str, Any]]
    round_of: NDArray[np.int64] | None = None

    @property
    def protocol(self) -> str:
        """What was done, in words."""
        if not self.rounds:
            return "one held-out test part"
        return (
            f"every image tested once, in {len(self.rounds)} rounds of training without it; "
            "the bundle is fitted on all images"
        )


def score_test(
    model: Model,
    seen: Features,
    probe: Probe,
    features: Features,
    samples: Samples,
    parts: Parts,
    config: TrainConfig,
) -> Scored:
    """Score the held-out test part.

    Parameters
    ----------
    model : Model
        What is deployed, reading ``seen``.
    seen : Features
        Of its backbone.
    probe : Probe
        Where it began, reading ``features``; the same where nothing more was trained.
    features, samples, parts, config
        As for ``fit_probe``.

    Returns
    -------
    Scored
    """
    baselines = score_baselines(probe, features, samples, parts, config)
    return Scored(parts.test, score(model, seen, parts.test), baselines, [])


def cross_validate(
    features: Features,
    samples: Samples,
    rounds: Sequence[Parts],
    backbone: Backbone,
    config: TrainConfig,
    reporter: Reporter | None = None,
) -> Scored:
    """Fit and test a probe a round; blocks, penalty and temperature are chosen in each anew.

    Parameters
    ----------
    features : Features
        Has a row for every sample of the rounds.
    samples : Samples
        Labels, groups and hashes.
    rounds : sequence of Parts
        As ``outer_rounds`` makes them: no image is in the test part of two.
    backbone : Backbone
        Names the blocks.
    config : TrainConfig
        As for ``fit_probe``.
    reporter : Reporter, optional
        Follows the rounds.

    Returns
    -------
    Scored
    """
    answers: dict[str, list[NDArray[np.float32]]] = {}
    descriptions: dict[str, str] = {}
    told, compared = [], False
    for note in rounds[0].notes:
        (reporter or Reporter()).say(note)
    with (reporter or Reporter()).track("test", len(rounds)) as advance:
        for each in rounds:
            probe = fit_probe(features, samples, each, backbone, config)
            scored = score(probe.model, features, each.test)
            answers.setdefault("", []).append(scored)
            baselines = score_baselines(probe, features, samples, each, config)
            compared |= probe.last_stage is not None
            # A round that chose the last stage is its own baseline.
            baselines.setdefault("last_stage", (scored, "the same head on the last stage alone"))
            for name, (probabilities, description) in baselines.items():
                answers.setdefault(name, []).append(probabilities)
                descriptions.setdefault(name, description)
            told.append(
                {
                    "n": {"train": len(each.train), "test": len(each.test)},
                    "blocks": [str(block) for block in probe.model.blocks],
                    "penalty": probe.fitted.record.get("penalty"),
                    "temperature": probe.fitted.temperature,
                }
            )
            advance(1)
    tested = np.concatenate([each.test for each in rounds])
    order = np.argsort(tested)
    joined = {name: np.concatenate(parts)[order] for name, parts in answers.items()}
    probabilities = joined.pop("")
    if not compared:  # all rounds read the last stage alone, or none was fitted on it
        del joined["last_stage"]
    baselines = {name: (joined[name], descriptions[name]) for name in joined}
    numbers = np.repeat(np.arange(1, len(rounds) + 1), [len(each.test) for each in rounds])
    return Scored(tested[order], probabilities, baselines, told, numbers[order])

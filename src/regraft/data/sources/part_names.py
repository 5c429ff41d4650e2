"""Names of parts: which folder names, splits and table values mean train, val or test."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from regraft.data.samples import Part

#: Words that mean a part, in lower case; all that a table may use.
PART_NAMES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Words of folders and splits only.
_MORE_NAMES: dict[str, Part] = {"trainval": "train", "dev": "val", "holdout": "test"}
# The last part where there is no test part, as in training, validation and evaluation.
_EVALUATION = {"eval", "evaluation"}
# Words beside the part's that say nothing: training_set, Test Images, traindata.
FILLERS = {
    *("set", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos", "pics"),
    *("folder", "split", "part", "subset"),
}
#: Names of folders of images that nobody has labelled yet: seg_pred, single_prediction.
_TO_PREDICT = {"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled"}

# Capitals begin a word: trainingSet, JPEGImages. Digits are words of their own: train2017.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\da-zA-Z_]+")
_JOINED = re.compile(r"(.+?)(?:set|data|images|imgs)")


class _Parsed(NamedTuple):
    """What a name says: ``seg_train2`` is ("train", "seg")."""

    part: Part
    others: str  # the words that are not the part's, fillers and numbers


def words(name: str) -> list[str]:
    """Return the words of a name in lower case.

    Examples
    --------
    >>> words("trainingSet_2017"), words("JPEGImages")
    (['training', 'set', '2017'], ['jpeg', 'images'])
    """
    return [word.lower() for word in _WORD.findall(name)]


def part_of(name: str) -> Part | None:
    """Return the part that a name means by itself; None for all other names.

    Examples
    --------
    >>> [part_of(name) for name in ("Training Set", "valid", "evaluation", "seg_train", "rose")]
    ['train', 'val', 'test', None, None]
    """
    parsed = _parse(name)
    return parsed.part if parsed is not None and not parsed.others else None


def find_parts(names: Iterable[str]) -> dict[str, Part]:
    """Return the part of each name that means one; none where the names mean no two parts.

    Names with other words, such as ``seg_train``, mean parts where two of them have the same other
    words, and no two names mean parts by themselves. Of several groups of such names only the first
    in the alphabet is returned: of ``train_cats``, ``test_cats``, ``train_dogs`` and ``test_dogs``
    the first two.

    Examples
    --------
    >>> find_parts(["seg_train", "seg_test", "seg_pred"])
    {'seg_train': 'train', 'seg_test': 'test'}
    >>> find_parts(["train", "bus"]), find_parts(["test_positive", "test_negative"])
    ({}, {})
    """
    found: dict[str, dict[str, Part]] = defaultdict(dict)
    for name in names:
        parsed = _parse(name)
        if parsed is not None:
            found[parsed.others][name] = parsed.part
    for _, parts in sorted(found.items()):  # "" comes first
        if len(set(parts.values())) > 1:
            return _with_evaluation(parts)
    return {}


def says_only_a_part(name: str) -> bool:
    """Return whether a name has only words such as images and train."""
    return part_of(name) is not None or (bool(words(name)) and set(words(name)) <= FILLERS)


def is_to_predict(name: str) -> bool:
    """Return whether a folder's name says that its images have no labels yet."""
    return not _TO_PREDICT.isdisjoint(words(name))


def _parse(name: str) -> _Parsed | None:
    parts: set[Part] = set()
    others = []
    for word in words(name):
        joined = _JOINED.fullmatch(word)
        stem = joined[1] if joined is not None and _word_part(joined[1]) else word
        part = _word_part(stem)
        if part is not None:
            parts.add(part)
        elif word not in FILLERS and not word.isdecimal():
            others.append(word)
    return _Parsed(parts.pop(), " ".join(others)) if len(parts) == 1 else None


def _word_part(word: str) -> Part | None:
    if word in _EVALUATION:
        return "test"
    return PART_NAMES.get(word) or _MORE_NAMES.get(word)


def _with_evaluation(parts: dict[str, Part]) -> dict[str, Part]:
    """Return the parts with evaluation as validation, where another name is the test part."""
    evaluation = [name for name in parts if not _EVALUATION.isdisjoint(words(name))]
    others = {part for name, part in parts.items() if name not in evaluation}
    if "test" in others and "val" not in others:
        return {name: "val" if name in evaluation else part for name, part in parts.items()}
    return parts

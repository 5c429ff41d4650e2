"""The images on which exported files are compared with the bundle."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from regraft.config.yaml_file import read_config
from regraft.data.sources.options import SourceOptions
from regraft.data.sources.registry import open_source
from regraft.data.sources.unlabelled import open_unlabelled
from regraft.errors import ImageError, InputError, RunError
from regraft.exports.compare import Proof
from regraft.images.decode import hash_payload
from regraft.runs.metrics_file import read_metrics
from regraft.splits.split_csv import read_split

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from regraft.data.samples import Source
    from regraft.images.payload import Payload
    from regraft.splits.split_csv import SplitRow

MOST = 2_000
_ENOUGH = 500  # a smaller test part is filled up with images of the training part
_HINT = "give other images to compare on: regraft export RUN IMAGES; labels are not needed"


class ProofImages(NamedTuple):
    """Some images of a source, what is known of them, and how many of them are a test part."""

    source: Source
    indices: tuple[int, ...]  # ascending
    labels: Mapping[int, int]  # of images of the test part
    hashes: Mapping[int, bytes]  # of images that the run has seen
    n_test: int

    def each(self) -> Iterator[Proof]:
        """Yield them as encoded files; an image that has changed or cannot be read is left out."""
        for index, load in self.source.stream(self.indices):
            try:
                payload = load()
            except ImageError:
                continue
            expected = self.hashes.get(index)
            if expected is None or expected == hash_payload(payload):
                name = self.source.entries[index].id
                yield Proof(name, _encoded(payload), self.labels.get(index))


def _encoded(payload: Payload) -> bytes:
    if isinstance(payload, bytes):
        return payload
    content = io.BytesIO()
    Image.fromarray(np.asarray(payload)).save(content, "PNG", compress_level=1)
    return content.getvalue()


def images_of_run(run: Path, classes: Sequence[str]) -> ProofImages:
    """Return images of a run's own data: its test part first, then of its training part.

    Raises RunError if the data are not there any more, or the folder is a bundle alone.
    """
    metrics = read_metrics(run)
    location, kind = metrics["data"]["source"], metrics["data"]["kind"]
    if kind == "arrays":
        raise RunError("the run was trained on arrays, which no file holds", hint=_HINT)
    try:
        source = open_source(location, SourceOptions.of(read_config(run / "config.yaml")))
    except InputError as error:
        raise RunError(
            f"the images of the training cannot be read: {error.message}", hint=_HINT
        ) from error
    rows = {row.id: row for row in read_split(run / "split.csv")}
    known = {k: rows[each.id] for k, each in enumerate(source.entries) if each.id in rows}
    if not known:
        raise RunError(f"{location} has none of the images of {run / 'split.csv'}", hint=_HINT)
    return _chosen(source, known, classes)


def _chosen(source: Source, known: Mapping[int, SplitRow], classes: Sequence[str]) -> ProofImages:
    """Return up to ``MOST`` images: of the test part, then others, in an order of chance."""

    def in_turn(index: int) -> tuple[bool, bytes]:
        row = known[index]
        return row.part != "test", hashlib.sha256(row.sha256).digest()

    n_test = sum(row.part == "test" for row in known.values())
    some = sorted(sorted(known, key=in_turn)[: min(max(n_test, _ENOUGH), MOST)])
    number = {name: k for k, name in enumerate(classes)}
    labels = {k: number[known[k].label] for k in some if known[k].part == "test"}
    return ProofImages(source, tuple(some), labels, {k: known[k].sha256 for k in some}, len(labels))


def images_given(paths: Sequence[str]) -> ProofImages:
    """Return up to ``MOST`` images of some paths, as ``predict`` takes them."""
    source = open_unlabelled(paths)
    n = len(source.entries)
    some = np.random.default_rng(0).permutation(n)[:MOST]
    return ProofImages(source, tuple(sorted(some.tolist())), {}, {}, 0)

"""Images that are called unknown, kept in a folder from which a new class can be named."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regraft.core.csv_text import warn_of_formulas
from regraft.core.files import read_regular, write_atomic
from regraft.core.text import counted
from regraft.data.sources.folder import LARGEST_FILE
from regraft.decision.alike import distance_within, group_alike, most_central
from regraft.errors import ConfigError, RunError
from regraft.images.decode import decode
from regraft.images.headers import read_header
from regraft.images.pixels import shrunk
from regraft.runs.names import check_folder, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from regraft.bundle.prediction import Prediction
    from regraft.decision.policy import Rules
    from regraft.decision.typicality import Typicality

TABLE, PICTURE = "unknown.csv", "unknown.png"
COLUMNS = ("name", "id", "typicality", "predicted", "cluster")
_SUFFIXES = {
    "JPEG": ".jpg", "PNG": ".png", "WebP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
    "AVIF": ".avif", "HEIC": ".heic", "JPEG 2000": ".jp2",
}  # fmt: skip
_HINT = "`keep_unknown` names another folder; `overwrite=True` replaces table and picture"
_SHORT = 16  # letters of a hash in a name; all of them where another file has the name
_SIDE = 192  # pixels of a small picture


def check_keep_unknown(folder: Path | str, paths: Sequence[str], *, overwrite: bool) -> Path:
    """Return the folder; raise RunError, before any work, if nothing can be kept in it."""
    return check_folder(folder, (TABLE, PICTURE), paths, _HINT, overwrite=overwrite)


def require_level(rules: Rules | None) -> Typicality:
    """Return the typicality; raise ConfigError if no image can be called unknown."""
    if rules is None or rules.typicality is None:
        raise ConfigError(
            "keep_unknown needs a bundle that tells how unlike an image is, and this does not",
            hint="train again: bundles of this version do",
        )
    if rules.level is None:
        reason = rules.missing["unknown_level"]
        raise ConfigError(
            f"keep_unknown needs a level: {reason}", hint="`unknown_level` names a higher one"
        )
    return rules.typicality


class _Kept(NamedTuple):
    name: str
    id: str
    typicality: float
    predicted: str


class UnknownImages:
    """Copies unknown images into a folder as they come; ``finish`` writes table and picture.

    The bytes of an image are written at once, and its features to a temporary file: neither stays
    in memory.
    """

    def __init__(
        self, folder: Path, typicality: Typicality, max_pixels: int, *, overwrite: bool
    ) -> None:
        self.folder = folder
        self._overwrite = overwrite
        self._within = distance_within(typicality)
        self._max_pixels = max_pixels
        self._images: list[_Kept] = []
        self._width = 0
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close

    def close(self) -> None:
        """Remove the temporary file."""
        self._rows.close()

    def add(self, prediction: Prediction, data: bytes | None) -> None:
        """Keep an image if it is unknown; ``data`` are its bytes."""
        if not prediction.unknown or data is None or prediction.pooled is None:
            return
        name = _keep(self.folder, data)
        typicality = 0.0 if prediction.typicality is None else prediction.typicality
        self._images.append(_Kept(name, prediction.id, typicality, prediction.label or ""))
        row = prediction.pooled.astype(np.float32)
        self._width = len(row)
        self._rows.write(row.tobytes())

    def finish(self) -> str:
        """Write table and picture; return a sentence for the user."""
        clusters, rows = np.empty(0, np.int64), np.empty((0, 1), np.float32)
        if self._images:
            self._rows.flush()
            shape = (len(self._images), self._width)
            rows = np.memmap(self._rows, np.float32, "r", shape=shape)
            clusters = group_alike(rows, self._within)
        table: list[Sequence[object]] = [COLUMNS]
        sizes = np.bincount(clusters)
        several = int((sizes > 1).sum())  # clusters: these come first, then images like no other
        order = sorted(range(len(self._images)), key=lambda at: (clusters[at], at))
        table += [
            (*self._images[at], int(clusters[at]) + 1 if clusters[at] < several else "")
            for at in order
        ]
        path = self.folder / TABLE
        write_table(path, table, _HINT, overwrite=self._overwrite)
        warn_of_formulas(str(path), (cell for row in table[1:] for cell in row))
        if not self._images:
            if self._overwrite:  # a picture of an earlier call is not of this table
                (self.folder / PICTURE).unlink(missing_ok=True)
            return f"no image is unknown; {path} has no row"
        self._draw(rows, clusters, several)
        found = "none of them like another"
        if several:
            inside = int(sizes[:several].sum())
            found = f"{inside:,} of them in {counted(several, 'cluster')}"
        n_images = counted(len(self._images), "unknown image")
        return f"{n_images}, {found}: {self.folder / PICTURE}, {path}"

    def _draw(self, rows: NDArray[np.float32], clusters: NDArray[np.int64], several: int) -> None:
        """Draw the clusters that have ``several`` images, then those that are like no other."""
        from regraft.plots.alike import IN_A_ROW, SHOWN, Row, draw_rows  # noqa: PLC0415 - matplotlib

        alone = np.flatnonzero(clusters >= several)
        shown = min(several, SHOWN - bool(len(alone)))
        lines = []
        for number in range(shown):
            members = np.flatnonzero(clusters == number)
            answers = Counter(self._images[at].predicted for at in members.tolist())
            (answer, count), *_ = answers.most_common(1)
            predicted = f", {count:,} predicted as {answer}"
            lines.append((f"cluster {number + 1}", predicted, most_central(rows, members)))
        if len(alone):
            lines.append(("like no other", "", alone))
        drawn = []
        for name, predicted, members in lines:
            each = {self._images[at].name: self._images[at].id for at in members.tolist()}
            some = [*each.items()][:IN_A_ROW]  # of copies, one
            fewer = "" if len(some) == len(members) else f" ({len(some)} shown)"
            images = [self._small(file) for file, _ in some]
            names = [id_.rpartition("/")[2] for _, id_ in some]
            drawn.append(Row(f"{name}: {counted(len(members))}{fewer}{predicted}", images, names))
        title = f"{counted(len(clusters), 'image')} unlike the training images"
        if several > shown:
            title += f"; the largest {shown} of {several:,} clusters"
        draw_rows(self.folder / PICTURE, drawn, title)

    def _small(self, name: str) -> NDArray[np.uint8]:
        data = read_regular(self.folder / name, LARGEST_FILE)
        return shrunk(decode(data, self._max_pixels), _SIDE)


def _keep(folder: Path, data: bytes) -> str:
    """Write an image under the hash of its bytes unless it is there already; return its name."""
    digest = hashlib.sha256(data).hexdigest()
    suffix = _SUFFIXES.get(read_header(data).format, "")
    for length in (_SHORT, len(digest)):
        name = f"{digest[:length]}{suffix}"
        path = folder / name
        if not os.path.lexists(path):
            write_atomic(path, data)
            return name
        if _holds(path, data):
            return name
    raise RunError(f"{path} exists and is another file; it is left alone")


def _holds(path: Path, data: bytes) -> bool:
    try:
        return read_regular(path, len(data)) == data
    except OSError:  # larger, or no regular file
        return False

"""Ask the exported classifier in this folder about images.

    python predict.py IMAGE...           a line for each image
    python predict.py --json IMAGE...    a JSON object a line

Needs Python 3.11, numpy, Pillow and onnxruntime, and nothing else: ``pip install -r
requirements.txt``. ``ExportedClassifier`` is for your own code:

    from predict import ExportedClassifier
    answers = ExportedClassifier().predict([open("photo.jpg", "rb").read()])
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from decode import decode  # type: ignore[import-not-found]  # beside this file
from preprocess import render_views  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
ABSTAINED, UNKNOWN = -1, -2  # in ``decision``, which else is the number of a class
DECIDED = ("typicality", "unknown", "set", "abstained", "decision")


class ExportedClassifier:
    """The classifier of an exported folder, with all decisions that it makes."""

    def __init__(self, folder: Path = HERE, threads: int = 0) -> None:
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
        self.folder = folder
        self.resizing: onnxruntime.InferenceSession | None = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: all cores
        self.session = onnxruntime.InferenceSession(
            str(folder / self.meta["model"]["file"]), options, providers=["CPUExecutionProvider"]
        )

    def render(self, data: bytes) -> list[np.ndarray]:
        """Return an encoded image as the network's input: one array for each network."""
        image = decode(data, self.meta["max_pixels"])
        return [render_views(image, each) for each in self.meta["inputs"]]

    def run(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the graph's outputs for images (N, ...) by name; ``inputs`` has each network's."""
        names = [each["name"] for each in self.meta["inputs"]]
        outputs = self.session.run(None, dict(zip(names, inputs, strict=True)))
        return dict(zip([each.name for each in self.session.get_outputs()], outputs, strict=True))

    def run_image(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of the file that resizes by itself, for one image (H, W, 3) uint8."""
        if self.resizing is None:
            path = self.folder / self.meta["with_resize"]
            self.resizing = onnxruntime.InferenceSession(
                str(path), self.session.get_session_options(), providers=["CPUExecutionProvider"]
            )
        outputs = self.resizing.run(None, {"image": image})
        return dict(zip([each.name for each in self.resizing.get_outputs()], outputs, strict=True))

    def predict(self, images: Sequence[bytes], top: int = 5) -> list[dict[str, Any]]:
        """Return an answer for each encoded image, in their order; ``error`` for one that fails."""
        return [self._answer(data, top) for data in images]

    def _answer(self, data: bytes, top: int) -> dict[str, Any]:
        try:
            rendered = self.render(data)
        except ValueError as error:
            return {"label": None, "probability": None, "top": [], "error": str(error)}
        found = self.run([each[None] for each in rendered])
        return self.described({name: rows[0] for name, rows in found.items()}, top)

    def described(self, row: dict[str, np.ndarray], top: int) -> dict[str, Any]:
        """Return the outputs for one image as an answer in words."""
        classes, probabilities = self.meta["classes"], row["probabilities"]
        if not np.isfinite(row["logits"]).all() or not np.isfinite(row["features"]).all():
            error = "the features of the image are not finite"
            return {"label": None, "probability": None, "top": [], "error": error}
        order = np.argsort(-probabilities, kind="stable")
        best = [{"label": classes[k], "probability": float(probabilities[k])} for k in order[:top]]
        decided: dict[str, Any] = dict.fromkeys(DECIDED)
        decided |= {name: row[name].item() for name in DECIDED if name in row and name != "set"}
        decided["decision"] = _named(decided["decision"], classes) or best[0]["label"]
        if "set" in row:
            decided["set"] = [classes[k] for k in order if row["set"][k]]
        return {**best[0], "top": best, **decided, "error": None}


def _named(decision: int | None, classes: Sequence[str]) -> str | None:
    if decision is None:
        return None
    return {ABSTAINED: "abstain", UNKNOWN: "unknown"}.get(decision) or classes[decision]


def in_words(answer: dict[str, Any], *, by_costs: bool) -> str:
    """Return an answer as one line; ``by_costs`` is whether costs decide."""
    if answer["error"]:
        return f"error: {answer['error']}"
    text = ", ".join(f"{each['label']} {each['probability']:.3f}" for each in answer["top"][:1])
    if answer["decision"] != answer["label"]:
        text = f"{answer['decision']} ({text})"
    words = [text]
    if answer["unknown"]:
        p = answer["typicality"]
        words.append(f"fits no class: unlike the training images, p {p:.2g}")
    elif answer["set"] and len(answer["set"]) > 1:
        words.append(f"set: {', '.join(answer['set'])}")
    if answer["abstained"]:
        words.append(f"no answer: {'that costs least' if by_costs else 'not sure enough'}")
    return "; ".join(words)


def main() -> int:
    """Print an answer for each image; return 1 if one could not be used."""
    parser = argparse.ArgumentParser(description="Classify images.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    parser.add_argument("--topk", type=int, default=5, help="classes in top, with --json")
    given = parser.parse_args()
    classifier, failed = ExportedClassifier(), False
    by_costs = (classifier.meta["decisions"] or {}).get("costs") is not None
    for name in given.images:
        try:
            answer = classifier.predict([Path(name).read_bytes()], max(given.topk, 1))[0]
        except OSError as error:
            answer = {"label": None, "probability": None, "top": [], "error": error.strerror}
        failed |= answer["error"] is not None
        line = {"schema_version": 1, "id": name, **answer}
        words = f"{name}: {in_words(answer, by_costs=by_costs)}"
        print(json.dumps(line, ensure_ascii=False) if given.json else words)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

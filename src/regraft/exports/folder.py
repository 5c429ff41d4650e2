"""The folder of exported files: the model, what runs it without regraft, and what describes it."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from regraft.bundle.exported import SCHEMA_VERSION
from regraft.bundle.golden import golden_images
from regraft.core.files import write_atomic
from regraft.core.version import __version__
from regraft.exports.onnx_file import input_name
from regraft.exports.views import recorded_draws
from regraft.images.augment import render_views
from regraft.images.decode import decode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from regraft.backbones.backbone import Backbone
    from regraft.bundle.predictor import Predictor
    from regraft.decision.policy import Rules
    from regraft.exports.options import Weights

MODEL, META, PARITY = "model.onnx", "meta.json", "parity.json"
WITH_RESIZE = "model-with-resize.onnx"
_MOST_PIXELS = 10**6  # of a golden image
_GOLDEN_TOLERANCE = 1e-3  # of a probability, by the same file on another machine
#: Files that are copied as they are.
STANDALONE = ("predict.py", "preprocess.py", "decode.py", "requirements.txt")


def meta_of(
    predictor: Predictor, rules: Rules | None, model: bytes, weights: Weights
) -> dict[str, Any]:
    """Return what a program needs to know to use the file ``model``, ready for JSON."""
    networks = predictor.model.networks
    return {
        "schema_version": SCHEMA_VERSION,
        "regraft": __version__,
        "task": "single-label",
        "classes": list(predictor.classes),
        "model": {
            "file": MODEL,
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "weights": weights,
        },
        "inputs": [_input(index, network) for index, network in enumerate(networks)],
        "max_pixels": predictor.max_pixels,
        "decisions": _levels(rules),
        "networks": [
            {"name": each.name, "weights": each.weights, "licence": each.licence}
            for each in networks
        ],
        "golden": _golden(predictor, model),
        "golden_tolerance": _GOLDEN_TOLERANCE,
    }


def _input(index: int, network: Backbone) -> dict[str, Any]:
    look = network.preprocess
    return {
        "name": input_name(index),
        "image_size": look.image_size,
        "resize_size": look.resize_size,
        "interpolation": look.interpolation,
        "draws": recorded_draws(look),
    }


def _levels(rules: Rules | None) -> dict[str, Any] | None:
    """Return the levels of the decisions in the graph; None if it makes none."""
    if rules is None:
        return None
    levels = rules.levels
    return {
        "unknown_level": rules.level,
        "coverage": levels.coverage,
        "coverage_by": levels.coverage_by,
        "min_precision": levels.min_precision,
        "costs": None if levels.costs is None else list(levels.costs.extra),
        "notes": list(rules.notes),
    }


def _golden(predictor: Predictor, model: bytes) -> list[dict[str, Any]]:
    """Return the golden images with the hashes of their squares, and the file's answers."""
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = []
    for name, data in golden_images().items():
        pixels = decode(data, _MOST_PIXELS)
        squares = [
            render_views(pixels, each.preprocess).contiguous().numpy()
            for each in predictor.model.networks
        ]
        given = {input_name(k): each[None] for k, each in enumerate(squares)}
        (probabilities,) = session.run(["probabilities"], given)
        found.append(
            {
                "file": name,
                "pixels": [hashlib.sha256(each.tobytes()).hexdigest() for each in squares],
                "probabilities": probabilities[0].tolist(),
            }
        )
    return found


def write_folder(folder: Path, meta: dict[str, Any], models: Mapping[str, bytes]) -> None:
    """Write everything but the proof into a folder that exists; ``models`` by their file names."""
    for name, data in models.items():
        write_atomic(folder / name, data)
    write_json(folder / META, meta)
    source = files("regraft.standalone")
    for name in STANDALONE:
        write_atomic(folder / name, (source / name).read_bytes())
    (folder / "golden").mkdir()
    for name, data in golden_images().items():
        write_atomic(folder / name, data)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


def _for_other_programs(meta: dict[str, Any]) -> str:
    return (
        f"`{MODEL}` takes squares of {meta['inputs'][0]['image_size']} pixels as uint8, made by "
        "`preprocess.py`; no mean is subtracted outside. Its first output has the probabilities of "
        f"the classes in `{META}`. Other programs must decode, resize and crop in the same way: "
        "`golden/` has images, and `meta.json` the sha256 of their pixels and their probabilities."
    )


def _about_resizing(meta: dict[str, Any]) -> list[str]:
    if "with_resize" not in meta:
        return []
    what = (
        "takes one decoded image of any size (H, W, 3) as uint8, and resizes it a little otherwise"
    )
    return [f"`{meta['with_resize']}` {what}.", ""]


def describe(meta: dict[str, Any], parity: dict[str, Any]) -> str:
    """Return the README of an exported folder."""
    licences = [
        f"- {each['name']} ({each['weights']}): {each['licence'] or 'licence not stated'}"
        for each in meta["networks"]
    ]
    agreed = (
        f"Compared with the training's own bundle on {parity['n']:,} images: the largest "
        f"difference of a probability is {parity['largest']:.2g}, and "
        f"{parity['labels']['differ']:,} of the labels differ"
    )
    lines = [
        f"# An image classifier of {len(meta['classes']):,} classes",
        "",
        f"Written by regraft {meta['regraft']}. {agreed} (`{PARITY}`).",
        "",
        "    pip install -r requirements.txt",
        "    python predict.py photo.jpg",
        "",
        _for_other_programs(meta),
        "",
        *_about_resizing(meta),
        "Networks and their licences:",
        "",
        *licences,
        "",
    ]
    return "\n".join(lines)

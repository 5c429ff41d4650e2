"""Answer for images that arrive on standard input: how an export is tested, in its own process.

``python -I answer_frames.py FOLDER`` imports the files of an exported folder, and nothing else.
What comes in are batches: the number of images, then of each its length and its content; numbers
have 8 bytes, little-endian. For each batch a .npz goes out, after its length: the outputs for the
images that could be read, ``pixels`` with the sha256 of their squares, and ``errors``, which is
empty for these.
"""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def main() -> None:
    """Answer until standard input ends."""
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    from predict import ExportedClassifier  # type: ignore[import-not-found]  # noqa: PLC0415

    classifier = ExportedClassifier(folder)
    while (count := _number(sys.stdin.buffer)) is not None:
        images = [sys.stdin.buffer.read(_number(sys.stdin.buffer) or 0) for _ in range(count)]
        content = io.BytesIO()
        np.savez(content, **_answers(classifier, images))
        sys.stdout.buffer.write(len(content.getvalue()).to_bytes(8, "little") + content.getvalue())
        sys.stdout.buffer.flush()


def _number(stream: BinaryIO) -> int | None:
    head = stream.read(8)
    return int.from_bytes(head, "little") if len(head) == 8 else None


def _answers(classifier: Any, images: list[bytes]) -> dict[str, Any]:
    from decode import decode  # type: ignore[import-not-found]  # noqa: PLC0415

    rendered, errors, resized = [], [], []
    for data in images:
        try:
            rendered.append(classifier.render(data))
            errors.append("")
            if "with_resize" in classifier.meta:
                image = decode(data, classifier.meta["max_pixels"])
                resized.append(classifier.run_image(image)["probabilities"][0])
        except ValueError as error:
            errors.append(str(error) or "it cannot be read")
    answers: dict[str, Any] = {"errors": np.array(errors)}
    if not rendered:
        return answers
    hashes = [[hashlib.sha256(each.tobytes()).hexdigest() for each in one] for one in rendered]
    inputs = [np.stack(each) for each in zip(*rendered, strict=True)]
    answers["pixels"] = np.array(hashes)
    if resized:
        answers["resized"] = np.stack(resized)
    return {**answers, **classifier.run(inputs)}


if __name__ == "__main__":
    main()

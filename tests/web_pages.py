"""Pages of small classifiers, images for them, and what Python answers."""

import base64
import hashlib
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler

import numpy as np
import onnxruntime
from PIL import Image

from pictures import encode, exif
from regraft.standalone.decode import decode
from regraft.standalone.preprocess import render_views
from stand_ins import serve

DECIDED = ("decision", "set", "unknown", "abstained")
ASK = """
(async () => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const { squares, outputs, answer, times } = await regraft.ask(new Blob([bytes]));
  const hashes = [];
  for (const square of squares) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", square));
    hashes.push([...digest].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  const rows = Object.entries(outputs).filter(([name]) => name !== "features");
  const plain = Object.fromEntries(rows.map(([name, row]) => [name, Array.from(row, Number)]));
  return { hashes, outputs: plain, answer, times };
})()
"""


def photograph(number, height=150, width=200):
    """Return smooth colours with some grain, as photographs have them."""
    random = np.random.default_rng([77, number])
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = random.normal(0, 6, image.shape)
    return Image.fromarray(np.clip(image + grain, 0, 255).astype(np.uint8))


def odd_images(image=None):
    """Return twenty odd files by name; of ``image``, or of one that is made."""
    image = photograph(0) if image is None else image
    random = np.random.default_rng(3)
    alpha = np.dstack([np.asarray(image), random.integers(0, 256, image.size[::-1], np.uint8)])
    rgba = Image.fromarray(alpha.astype(np.uint8))
    found = {f"turned {k}": encode(image, quality=90, exif=exif(k)) for k in range(2, 9)}
    return found | {
        "grey JPEG": encode(image.convert("L")),
        "grey PNG": encode(image.convert("L"), "PNG"),
        "grey with alpha": encode(rgba.convert("LA"), "PNG"),
        "alpha": encode(rgba, "PNG"),
        "palette": encode(image.quantize(64), "PNG"),
        "palette with transparency": encode(image.quantize(16), "PNG", transparency=3),
        "black and white": encode(image.convert("1"), "PNG"),
        "GIF": encode(image.quantize(64), "GIF"),
        "BMP": encode(image, "BMP"),
        "lossless WebP with alpha": encode(rgba, "WEBP", lossless=True, exact=True),
        "tiny": encode(image.resize((3, 2)), "PNG"),
        "panorama": encode(image.resize((4000, 90))),
        "progressive": encode(image, progressive=True, quality=60),
    }


class Reference:
    """What Python answers with the model of a page."""

    def __init__(self, meta, model):
        self.meta = meta
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def __call__(self, data):
        pixels = decode(data)
        squares = [render_views(pixels, each) for each in self.meta["inputs"]]
        names = [each["name"] for each in self.meta["inputs"]]
        fed = {name: square[None] for name, square in zip(names, squares, strict=True)}
        names = [each.name for each in self.session.get_outputs()]
        rows = dict(zip(names, self.session.run(None, fed), strict=True))
        hashes = [hashlib.sha256(each.tobytes()).hexdigest() for each in squares]
        return hashes, {name: row[0] for name, row in rows.items()}


def ask(browser, data):
    """Return what the page in a browser answers."""
    return browser.evaluate(ASK % base64.b64encode(data).decode())


def differences(found, expected):
    """Return whether the squares are the same, the largest difference, and other decisions."""
    hashes, rows = expected
    outputs = found["outputs"]
    gap = float(np.abs(np.array(outputs["probabilities"]) - rows["probabilities"]).max())
    other = [
        name
        for name in DECIDED
        if name in rows and np.atleast_1d(rows[name]).astype(int).tolist() != outputs[name]
    ]
    return found["hashes"] == hashes, gap, other


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def served(folder):
    """Serve a folder on this machine; enter it for its address."""
    return serve(partial(_Silent, directory=str(folder)))


def changed(folder, change):
    """Change the record of a page."""
    meta = json.loads((folder / "meta.json").read_text("utf-8"))
    change(meta)
    (folder / "meta.json").write_text(json.dumps(meta), "utf-8")

"""Does the page of ``regraft export --to web`` answer in a browser as Python does, and how fast?

    regraft export RUN --to web --out FOLDER
    regraft export RUN --to web --single-file --out FILE.html
    python benchmarks/bench_web.py FOLDER FILE.html IMAGES

IMAGES is a zip of photographs, such as the one that the run was trained on. Needs Chromium.

50 photographs, 20 odd files made of one of them (turned, grey, with alpha, palette, tiny, a
panorama), one of 12 megapixels and one in CMYK are answered by headless Chromium, from a server on
this machine and from disk, and by Python with onnxruntime on the very same file. Squares are
compared by their sha256. All requests and all complaints of the browser are counted.

Prints one JSON line a page: bytes, milliseconds until the page is ready (of several loads, without
any cache), and the differences. Exits with 1 if pixels of anything but CMYK differ, a probability
differs by more than 5e-4, a decision differs, another server is asked, or the browser complains.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import statistics
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from chromium import Chromium, find_chromium
from pictures import encode
from web_pages import Reference, ask, differences, odd_images, served

TOLERANCE = 5e-4
LOADS = 5
SUFFIXES = (".jpg", ".jpeg", ".png")
READY = "regraft.ready.then(() => performance.now())"


def photographs(path, count):
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(SUFFIXES))
        some = np.random.default_rng(0).permutation(len(names))[:count]
        return {names[k]: archive.read(names[k]) for k in some}


def images_of(path):
    found = photographs(path, 50)
    first = Image.open(io.BytesIO(next(iter(found.values())))).convert("RGB")
    found |= odd_images(first)
    found["12 megapixels"] = encode(first.resize((4000, 3000)), quality=90)
    found["CMYK"] = encode(first.convert("CMYK"), quality=90)
    return found


def ready_times(address):
    times = []
    for _ in range(LOADS):
        with Chromium(find_chromium()) as browser:
            browser.open(address)
            times.append(round(browser.evaluate(READY)))
    return times


def compare(address, images, reference):
    """Return what differs between the page and Python."""
    gaps, pixels, decisions, computed = {}, [], [], []
    with Chromium(find_chromium()) as browser:
        browser.open(address)
        checked = browser.evaluate("regraft.ready")
        for name, data in images.items():
            found = ask(browser, data)
            equal, gap, other = differences(found, reference(data))
            computed.append(found["times"]["computed"])
            if name != "CMYK":
                gaps[name] = gap
                pixels += [] if equal else [name]
                decisions += [name] if other else []
            else:
                cmyk = {"same_pixels": equal, "largest": gap, "decisions_differ": other}
        asked, complaints = browser.requests(), browser.complaints()
    return {
        "checked_itself": checked,
        "n": len(gaps),
        "pixels_differ": pixels,
        "largest": max(gaps.values()),
        "decisions_differ": decisions,
        "cmyk": cmyk,
        "computed_ms": round(statistics.median(computed)),
        "other_requests": [each for each in asked if not each.startswith(address)],
        "complaints": complaints,
    }


def measure(address, size, images, reference):
    times = ready_times(address)
    found = {
        "page": address.partition(":")[0],
        "bytes": size,
        "ready_ms": sorted(times),
        "load_average": os.getloadavg()[0],
        **compare(address, images, reference),
    }
    print(json.dumps(found))
    wrong = ("pixels_differ", "decisions_differ", "other_requests", "complaints")
    return found["largest"] <= TOLERANCE and not any(found[name] for name in wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("folder", "file", "images"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    if find_chromium() is None:
        sys.exit("there is no Chromium on this machine")
    meta = json.loads((given.folder / "meta.json").read_text("utf-8"))
    model = gzip.decompress((given.folder / "model.onnx.gz").read_bytes())
    reference, images = Reference(meta, model), images_of(given.images)
    size = sum(each.stat().st_size for each in given.folder.rglob("*") if each.is_file())
    with served(given.folder.parent) as address:
        there = f"{address}/{given.folder.name}/"
        good = measure(there, size, images, reference)
    good &= measure(given.file.resolve().as_uri(), given.file.stat().st_size, images, reference)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

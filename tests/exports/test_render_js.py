"""The renderer for browsers: the very bits of preprocess.py, run by Node."""

import json
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from odd_pictures import SIZES, noise, odd_pictures
from regraft.exports.views import recorded_draws
from regraft.images.render import Preprocess
from regraft.standalone import preprocess as standalone

SOURCE = files("regraft.exports") / "web" / "render.js"
NODE = shutil.which("node")
HALF = (0.5, 0.5, 0.5)
RUN = """
import { readFileSync, writeFileSync } from "node:fs";
const { renderViews } = await import("./render.mjs");
for (const { image, width, height, jobs } of JSON.parse(readFileSync("jobs.json"))) {
  const data = readFileSync(image);
  for (const { out, input } of jobs) writeFileSync(out, renderViews(data, width, height, input));
}
"""

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node on this machine")


def inputs():
    """Yield what meta.json holds for every size and interpolation; one of them with views."""
    for number, (size, resize) in enumerate(SIZES):
        for interpolation in ("bicubic", "bilinear"):
            preprocess = Preprocess(size, resize, HALF, HALF, interpolation)
            if number == 2:
                preprocess = Preprocess(
                    size, resize, HALF, HALF, interpolation, views=6, augment="light"
                )
            yield {
                "image_size": size, "resize_size": resize, "interpolation": interpolation,
                "draws": recorded_draws(preprocess),
            }  # fmt: skip


def node(folder, script, *arguments):
    (folder / "render.mjs").write_bytes(SOURCE.read_bytes())  # a module, whatever is around it
    (folder / "run.mjs").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [NODE, "run.mjs", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(folder, pictures, settings):
    """Render each picture by Node with each of the settings; return bytes in that order."""
    plan = []
    for number, image in enumerate(pictures):
        (folder / f"{number}").write_bytes(image.tobytes())
        jobs = [{"out": f"{number}.{at}", "input": each} for at, each in enumerate(settings)]
        height, width = image.shape[:2]
        plan.append({"image": f"{number}", "width": width, "height": height, "jobs": jobs})
    (folder / "jobs.json").write_text(json.dumps(plan), encoding="utf-8")
    node(folder, RUN)
    return [(folder / job["out"]).read_bytes() for each in plan for job in each["jobs"]]


def test_every_odd_picture_is_rendered_in_the_same_bits(tmp_path):
    names, pictures = zip(*odd_pictures(), strict=True)
    settings = list(inputs())
    found = iter(rendered(tmp_path, pictures, settings))
    for name, image in zip(names, pictures, strict=True):
        for each in settings:
            expected = standalone.render_views(image, each)
            label = f"{name}, {each['image_size']}, {each['interpolation']}"
            assert next(found) == expected.tobytes(), label
    assert next(found, None) is None


def test_a_photograph_of_twelve_megapixels_is_rendered_in_the_same_bits(tmp_path):
    image = noise(3000, 4000)
    settings = list(inputs())[:2]
    expected = [standalone.render_views(image, each).tobytes() for each in settings]
    assert rendered(tmp_path, [image], settings) == expected


def test_rgba_is_composited_on_white_as_pillow_does(tmp_path):
    alpha, value = np.mgrid[0:256, 0:256].astype(np.uint8)
    rgba = np.dstack([value, 255 - value, value // 2, alpha])
    white = Image.new("RGBA", (256, 256), "white")
    on_white = np.array(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))
    setting = {"image_size": 256, "resize_size": 256, "interpolation": "bilinear"}
    [found] = rendered(tmp_path, [rgba], [setting])
    assert found == on_white.transpose(2, 0, 1).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 2, 2, 2, 2, "bicubic"), "5 bytes for 2 by 2 pixels"),
        ((12, 2.5, 2, 2, 2, "bicubic"), "12 bytes for 2.5 by 2 pixels"),
        ((0, 0, 0, 2, 2, "bicubic"), "0 bytes for 0 by 0 pixels"),
        ((12, 2, 2, 3, 2, "bicubic"), "image_size 3 must be from 1 to resize_size, which is 2"),
        ((12, 2, 2, 2, 2, "nearest"), "interpolation nearest must be one of bilinear, bicubic"),
    ],
)
def test_what_cannot_be_rendered_is_named(tmp_path, arguments, message):
    script = """
    const { render } = await import("./render.mjs");
    const [bytes, width, height, image_size, resize_size, interpolation] =
      JSON.parse(process.argv[2]);
    try {
      render(new Uint8Array(bytes), width, height, { image_size, resize_size, interpolation });
    } catch (error) {
      console.log(`${error.name}: ${error.message}`);
    }
    """
    printed = node(tmp_path, script, json.dumps(arguments))
    assert printed.startswith(f"RangeError: {message}")
    assert printed.count("\n") == 1


def test_recorded_words_are_drawn_again_where_numpy_does(tmp_path):
    """A bound of three quarters of 2^32 refuses a quarter of the words."""
    words = [0, 7, 1 << 31, 5]
    script = (
        SOURCE.read_text(encoding="utf-8")
        + "const drawn = readWords(JSON.parse(process.argv[2]), 0);\n"
        + "console.log(drawn.below(1), drawn.below(3 * 2 ** 30), drawn.isBelowHalf());\n"
        + "try { drawn.below(2); } catch (error) { console.log(error.message); }\n"
    )
    here = standalone._Words(words, 0)
    expected = [here.below(1), here.below(3 << 30), here.is_below_half()]
    printed = node(tmp_path, script, json.dumps(words)).splitlines()
    assert printed[0] == " ".join(str(each).lower() for each in expected)
    assert printed[1] == "the 4 recorded words of a view are used up"

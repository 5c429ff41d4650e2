"""The page in a browser: the pixels, numbers and decisions of Python, and what a visitor reads."""

import base64
import dataclasses
import gzip
import hashlib

import numpy as np
import pytest
from PIL import Image

from chromium import Chromium, find_chromium
from pictures import encode
from regraft.bundle.predictor import Predictor
from regraft.core.reporter import SILENT
from regraft.errors import ExportError
from regraft.exports import folder as exported
from regraft.exports import web_page
from regraft.exports.onnx_file import make_onnx
from regraft.exports.web_runtime import get_runtime
from regraft.features.compute import Compute
from regraft.standalone.decode import decode
from tiny_bundles import some_decisions, tiny_model
from web_pages import (
    Reference,
    ask,
    changed,
    differences,
    odd_images,
    photograph,
    served,
)

CHROMIUM = find_chromium()
NAMES = ("<img src=x onerror=alert(1)>", "dog & </script>", "Ääh “fish”")
PARITY = {"n": 12, "largest": 0.25, "labels": {"differ": 3}, "accuracy": None}
SIDES = (200).to_bytes(4) + (150).to_bytes(4)  # in a PNG's header
PIXELS = """
(async () => {
  const bytes = Uint8Array.from(atob("%s"), (c) => c.charCodeAt(0));
  const { decode } = await import("./decode.js");
  const { sha256 } = await import("./files.js");
  return sha256((await decode(new Blob([bytes]), 1e6)).pixels);
})()
"""
TEXT = "document.body.innerText"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture(scope="session")
def runtime():
    """The package of onnxruntime-web, kept in the user's own cache folder after the first time."""
    try:
        return get_runtime(None, SILENT)
    except ExportError as error:
        pytest.skip(f"no onnxruntime-web: {error.message}")


@pytest.fixture(scope="module")
def make_page(runtime):
    """Return a function that makes a page of a tiny model, and remembers the models."""
    known = {}

    def make(*, two=False, kind="neighbours", **levels):
        key = (two, kind, *levels.items())
        if key not in known:
            model = dataclasses.replace(tiny_model(views=2 if two else 0, two=two), classes=NAMES)
            predictor = Predictor.of(model, Compute("cpu", "float32", 8), some_decisions(kind))
            rules = predictor.rules(**levels)
            data = make_onnx(model, rules).SerializeToString()
            meta = exported.meta_of(predictor, rules, data, "float32")
            known[key] = web_page.Page(meta, PARITY, ["it is <b>tiny</b>"], data, runtime)
        return known[key]

    return make


@pytest.fixture(scope="module")
def browser():
    with Chromium(CHROMIUM) as found:
        yield found


@pytest.fixture
def site(tmp_path, browser):
    """A server that holds the page in a folder of a folder."""
    place = tmp_path / "a b" / "page"
    place.mkdir(parents=True)
    with served(tmp_path) as address:
        yield place, f"{address}/a%20b/page/"
        browser.open("about:blank")  # a page that still loads would complain in the next test


def same(browser, page, images):
    """Check that the page answers for images as Python does."""
    expected = Reference(page.meta, page.model)
    for name, data in images.items():
        equal, gap, other = differences(ask(browser, data), expected(data))
        assert equal, f"{name}: other pixels"
        assert gap <= 5e-4, name
        assert not other, name


def test_a_folder_answers_as_python_does_and_asks_no_other_server(browser, make_page, site):
    place, address = site
    page = make_page()
    web_page.write_folder(page, place)
    browser.open(address)
    assert browser.evaluate("regraft.ready") == {"read": [], "answered": [], "unchecked": False}
    same(browser, page, odd_images() | {f"{k}": encode(photograph(k, 90 + k)) for k in range(20)})
    assert {each.startswith(address) for each in browser.requests()} == {True}
    assert browser.complaints() == []


def test_a_single_file_of_two_networks_and_views_answers_from_disk(browser, make_page, tmp_path):
    page, file = make_page(two=True), tmp_path / "page.html"
    web_page.write_single(page, file)
    browser.open(file.as_uri())
    assert browser.evaluate("regraft.ready") == {"read": [], "answered": [], "unchecked": False}
    same(browser, page, odd_images(photograph(5, 480, 640)))
    assert browser.requests() == [file.as_uri()]
    assert browser.complaints() == []


def test_every_colour_at_every_alpha_is_put_on_white_as_pillow_does(browser, make_page, site):
    place, address = site
    web_page.write_folder(make_page(), place)
    alpha, value = np.mgrid[0:256, 0:256].astype(np.uint8)
    data = encode(Image.fromarray(np.dstack([value, 255 - value, value // 2, alpha])), "PNG")
    browser.open(address)
    hashed = browser.evaluate(PIXELS % base64.b64encode(data).decode())
    assert hashed == hashlib.sha256(decode(data).tobytes()).hexdigest()


def test_a_photograph_of_twelve_megapixels_is_the_same(browser, make_page, site):
    place, address = site
    page = make_page()
    page = page._replace(meta=page.meta | {"max_pixels": 40_000_000})
    web_page.write_folder(page, place)
    browser.open(address)
    same(browser, page, {"12 MP": encode(photograph(1, 3000, 4000), quality=80)})


def answers(browser, n):
    browser.wait_for(f"document.querySelectorAll('#answers > li').length >= {n}")
    browser.wait_for("!document.querySelector('#status').textContent.startsWith('Working')")
    return browser.evaluate("[...document.querySelectorAll('#answers > li')].map(e => e.innerText)")


def test_several_files_stand_in_their_order_with_plain_words(browser, make_page, site, tmp_path):
    place, address = site
    web_page.write_folder(make_page(), place)
    images = {
        "<i>1.png": encode(photograph(1), "PNG"),
        "broken.jpg": encode(photograph(2))[:60],
        "large.avif": encode(photograph(3, 1001, 1000), "AVIF"),  # known once it is decoded
        "huge.png": encode(photograph(3), "PNG").replace(SIDES, b"\0\0\xea\x60" * 2),
        "words.txt": b"no image",
    }
    paths = [tmp_path / name for name in images]
    for path, data in zip(paths, images.values(), strict=True):
        path.write_bytes(data)
    browser.open(address)
    browser.evaluate("regraft.ready")
    browser.drop(paths)
    unknown, broken, large, huge, text = answers(browser, 5)
    browser.wait_for("document.querySelector('#status').textContent === '5 images are done.'")
    assert unknown.startswith(
        "Fits no class\n\n<i>1.png\n\nIt is unlike the images of the training"
    )
    assert "The nearest class is " in unknown
    assert all(name in unknown for name in NAMES)
    for found, name in ((broken, "broken.jpg"), (text, "words.txt")):
        assert found == f"Cannot be read\n\n{name}\n\nThis browser cannot read it as an image."
    assert "1000 by 1001 pixels; at most 1,000,000 in all are read." in large
    assert "60000 by 60000 pixels; at most 1,000,000 in all are read." in huge
    browser.choose("#files", paths[:1])
    assert answers(browser, 6)[0].startswith("Fits no class")  # the latest stands above
    assert browser.evaluate("document.querySelectorAll('#answers img, #answers i').length") == 0
    assert "It answers with one of these" not in browser.evaluate(TEXT)
    assert browser.complaints() == []


def test_an_abstention_and_a_set_are_told_in_words(browser, make_page, site, tmp_path):
    place, address = site
    page = make_page(kind="", min_precision=0.9999, coverage=0.999)
    web_page.write_folder(page, place)
    (tmp_path / "1.png").write_bytes(encode(photograph(1), "PNG"))
    browser.open(address)
    browser.evaluate("regraft.ready")
    browser.choose("#files", [tmp_path / "1.png"])
    [found] = answers(browser, 1)
    assert found.startswith("No answer: not sure enough")
    assert "The likeliest class is " in found
    assert "It answers with one of these for an image of anything else" in browser.evaluate(TEXT)
    assert "hold the right class in 99.9 of 100 images: " in found


def test_the_camera_and_a_pasted_image_are_answered(browser, make_page, site):
    place, address = site
    web_page.write_folder(make_page(), place)
    browser.open(address)
    browser.evaluate("regraft.ready")
    browser.evaluate("document.querySelector('#camera').click()")
    browser.wait_for("document.querySelector('#video').videoWidth > 0")
    browser.evaluate("document.querySelector('#shoot').click()")
    assert "\n\nphoto\n\n" in answers(browser, 1)[0]
    assert browser.evaluate("document.querySelector('#video').srcObject") is None
    browser.evaluate(
        "new Promise((done) => { const c = document.createElement('canvas');"
        "c.toBlob((b) => { const d = new DataTransfer(); d.items.add(new File([b], 'pasted.png'));"
        "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: d })); done(); }); })"
    )
    assert "\n\npasted.png\n\n" in answers(browser, 2)[0]
    assert browser.complaints() == []


def test_keys_reach_every_button_and_results_are_announced(browser, make_page, site):
    place, address = site
    web_page.write_folder(make_page(), place)
    browser.open(address)
    browser.evaluate("regraft.ready")
    reached = []
    for _ in range(3):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.evaluate("document.activeElement.textContent"))
    assert reached == ["Choose images", "Take a photo", "About this classifier"]
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {each["role"]["value"] for each in tree}
    assert {"status", "list", "button", "heading", "main"} <= roles
    assert browser.evaluate("document.querySelector('#status').textContent") == "Ready."


def test_the_page_says_that_this_browser_decodes_or_computes_otherwise(browser, make_page, site):
    place, address = site
    web_page.write_folder(make_page(), place)
    changed(place, lambda meta: meta["golden"][1].update(pixels=["0" * 64]))
    browser.open(address)
    assert browser.evaluate("regraft.ready")["read"] == ["golden/rotated.jpg"]
    assert "decodes some images otherwise than the training did" in browser.evaluate(TEXT)
    changed(place, lambda meta: meta["golden"][0]["probabilities"].reverse())
    browser.open(address)
    assert browser.evaluate("regraft.ready")["answered"] == ["golden/wide.jpg"]
    assert "computes otherwise than the training did" in browser.evaluate(TEXT)


def test_a_model_of_another_page_or_none_at_all_is_named(browser, make_page, site):
    place, address = site
    web_page.write_folder(make_page(), place)
    changed(place, lambda meta: meta["model"].update(sha256="0" * 64))
    browser.open(address)
    browser.wait_for("!document.querySelector('#warning').hidden")
    assert "is not the file that belongs to meta.json" in browser.evaluate(TEXT)
    (place / "model.onnx.gz").unlink()
    browser.open(address)
    browser.wait_for("!document.querySelector('#warning').hidden")
    assert "the server answers 404 for model.onnx.gz" in browser.evaluate(TEXT)


def test_a_folder_that_is_opened_from_disk_says_that_it_needs_a_server(
    browser, make_page, tmp_path
):
    web_page.write_folder(make_page(), tmp_path)
    browser.open((tmp_path / "index.html").as_uri())
    browser.wait_for("getComputedStyle(document.querySelector('#off')).visibility === 'visible'")
    assert "it cannot be opened from disk" in browser.evaluate(TEXT)


def test_a_policy_forbids_every_other_address(browser, make_page, site, tmp_path):
    place, address = site
    web_page.write_folder(make_page(), place)
    file = tmp_path / "page.html"
    web_page.write_single(make_page(), file)
    with served(tmp_path) as other:
        for start in (address, file.as_uri()):
            browser.open(start)
            browser.evaluate("regraft.ready")
            tried = f"fetch('{other}/page.html').then(() => 'came', () => 'refused')"
            assert browser.evaluate(tried) == "refused"
            assert any("Content Security Policy" in each for each in browser.complaints())


def test_a_server_that_says_gzip_changes_nothing(browser, make_page, site):
    """As some servers do for files whose names end in .gz: the browser unpacks them itself."""
    place, address = site
    web_page.write_folder(make_page(), place)
    for name in (web_page.MODEL, web_page.WASM):
        (place / name).write_bytes(gzip.decompress((place / name).read_bytes()))
    browser.open(address)
    assert browser.evaluate("regraft.ready")["answered"] == []


def test_infinite_features_are_no_answer(browser, make_page, site):
    place, address = site
    web_page.write_folder(make_page(), place)
    browser.open(address)
    said = browser.evaluate(
        "import('./classify.js').then((m) => { try { m.describe({classes: ['a']}, {probabilities:"
        "[1], logits: [NaN], features: [1]}) } catch (error) { return error.message } })"
    )
    assert said == "The network computes no numbers for it: its features are not finite."

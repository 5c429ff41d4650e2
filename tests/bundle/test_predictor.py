"""The predictor: whatever it is given, one image spoils no other, and nothing hangs."""

import dataclasses
import io
import json
import os
import re
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.bundle.predictor import Predictor
from regraft.cli.main import main
from regraft.commands.predict import predict
from regraft.commands.show import show
from regraft.core.reporter import Reporter
from regraft.data.sources.registry import open_unlabelled
from regraft.decision.costs import Costs
from regraft.errors import NOT_FINITE, ConfigError, ImageError, InputError, LevelWarning
from regraft.features.compute import Compute
from regraft.heads.modules import LinearHead
from regraft.images.losses import DARK, FRAMES
from tiny_bundles import CLASSES, some_decisions, tiny_model, write_tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def predictor_of(model):
    return Predictor.of(model, Compute("cpu", "float32", 4))


@pytest.fixture(scope="module")
def predictor():
    return predictor_of(tiny_model())


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def spoils_no_other(predictor, image, kind: str) -> ImageError:
    """Between two good images, the one gives an error and the others their own answers."""
    first, middle, last = predictor.predict_many([PIXELS, image, PIXELS])
    alone = predictor.predict(PIXELS)
    assert first.label == last.label == alone.label
    assert middle.label is None  # "" was taken for a class
    assert np.isnan(middle.probability)
    assert len(middle.top) == len(middle.probabilities) == 0
    assert middle.error.kind == kind
    with pytest.raises(ImageError, match=re.escape(kind)):
        predictor.predict(image)
    return middle.error


# --- PIL images -------------------------------------------------------------------------------

GREY = Image.fromarray(PIXELS).convert("L")
PIL_MODES = {
    "1": lambda: GREY.convert("1"),
    "L": lambda: GREY,
    "LA": lambda: GREY.convert("LA"),
    "La": lambda: GREY.convert("LA").convert("La"),
    "P": lambda: Image.fromarray(PIXELS).convert("P"),
    "PA": lambda: Image.fromarray(PIXELS).convert("P").convert("PA"),
    "RGB": lambda: Image.fromarray(PIXELS),
    "RGBA": lambda: Image.fromarray(PIXELS).convert("RGBA"),
    "RGBa": lambda: Image.fromarray(PIXELS).convert("RGBA").convert("RGBa"),
    "RGBX": lambda: Image.fromarray(PIXELS).convert("RGBX"),
    "CMYK": lambda: Image.fromarray(PIXELS).convert("CMYK"),
    "YCbCr": lambda: Image.fromarray(PIXELS).convert("YCbCr"),
    "HSV": lambda: Image.fromarray(PIXELS).convert("HSV"),
    "I;16": lambda: Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257),
    "I;16B": lambda: Image.fromarray((np.asarray(GREY).astype(np.uint16) * 257).astype(">u2")),
}


@pytest.mark.parametrize("mode", PIL_MODES)
def test_every_mode_of_pil_has_an_answer_near_that_of_its_colours(predictor, mode):
    image = PIL_MODES[mode]()
    assert image.mode == mode
    plain = np.asarray(GREY if mode in {"L", "LA", "La", "I;16", "I;16B"} else image.convert("RGB"))
    expected = predictor.predict(plain).probabilities
    assert np.abs(predictor.predict(image).probabilities - expected).max() < 0.02


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_a_clear_colour_are_refused(predictor, mode):
    error = spoils_no_other(predictor, Image.new(mode, (9, 9)), "unsupported pixels")
    assert "a picture of" in error.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_truncated_picture_that_pil_has_opened_is_an_error(predictor, kind):
    image = opened(encoded(Image.fromarray(PIXELS).resize((400, 300)), kind))
    image.fp.truncate(4000)  # PIL reads pixels only when they are asked for
    (answer,) = predictor.predict_many([image])
    assert answer.error.kind in {"truncated", "corrupt"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_orientation_is_applied_once_before_and_after_loading(predictor, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(PIXELS), kind, exif=exif)
    image = opened(data)
    image.load()
    for given in (opened(data), image, image):
        difference = predictor.predict(given).probabilities - predictor.predict(data).probabilities
        assert np.abs(difference).max() < 0.02


def test_the_size_is_checked_before_a_picture_is_loaded(predictor):
    image = opened(encoded(Image.new("1", (4000, 4000))))
    spoils_no_other(predictor, image, "too many pixels")
    assert image._im is None  # not loaded
    spoils_no_other(predictor, np.zeros((4000, 4000), np.uint8), "too many pixels")


# --- other forms ------------------------------------------------------------------------------


def test_every_form_of_a_picture_has_the_same_answer(predictor, tmp_path):
    """The same bits where the pixels are the same; ``test_given.py`` has all forms."""
    data = encoded(Image.fromarray(PIXELS))
    (tmp_path / "a.png").write_bytes(data)
    with (tmp_path / "a.png").open("rb") as file:
        forms = [PIXELS, data, bytearray(data), io.BytesIO(data), file, tmp_path / "a.png",
                 opened(data), torch.from_numpy(PIXELS), torch.from_numpy(PIXELS).permute(2, 0, 1),
                 PIXELS / 255, np.dstack([PIXELS, np.full((30, 40), 255, np.uint8)])]  # fmt: skip
        answers = [predictor.predict(form) for form in forms]
        together = predictor.predict_many(forms)
    assert len({answer.probabilities.tobytes() for answer in answers}) == 1
    batch = torch.from_numpy(np.stack([PIXELS] * 2)).permute(0, 3, 1, 2)
    for answer in (*together, *predictor.predict_many(batch)):
        assert np.abs(answer.probabilities - answers[0].probabilities).max() < 1e-4


def test_pixels_that_are_not_clear_spoil_no_other_image(predictor):
    error = spoils_no_other(predictor, PIXELS * 2.0, "unsupported pixels")
    assert "floating point must be from 0 to 1" in error.reason
    assert "not bytes" in spoils_no_other(predictor, io.StringIO("text"), "unreadable").reason


# --- files ------------------------------------------------------------------------------------


def test_a_path_of_any_kind_is_read(predictor, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS)))

    class Named(os.PathLike):
        def __fspath__(self):
            return str(path)

    labels = {a.label for a in predictor.predict_many([path, str(path), Named(), PIXELS])}
    assert len(labels) == 1


def test_paths_without_an_image_are_errors(predictor, tmp_path):
    spoils_no_other(predictor, "a\0b", "missing")
    spoils_no_other(predictor, tmp_path / "nowhere.png", "missing")
    spoils_no_other(predictor, tmp_path, "not a regular file")
    spoils_no_other(predictor, None, "not an image")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_fifo_and_a_device_do_not_hang(predictor, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = threading.Event()

    def ask():
        for path in (tmp_path / "pipe", "/dev/zero"):
            spoils_no_other(predictor, path, "not a regular file")
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(60)


def test_a_stream_continues_after_a_bad_image(predictor, tmp_path):
    good = encoded(Image.fromarray(PIXELS))
    for name, data in {"a.png": good, "b.png": good[:200], "c.png": b"", "d.png": good}.items():
        (tmp_path / name).write_bytes(data)
    answers = list(predictor.stream(open_unlabelled([str(tmp_path)]), workers=1))
    assert [a.error is None for a in answers] == [True, False, False, True]


# --- one image or several -------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [PIXELS, PIXELS[:, :, 0], np.array(3), "a.png", b"\x89PNG", GREY, np.zeros((9, 8, 7)),
     io.BytesIO(b"\x89PNG\n"), bytearray(b"\x89PNG"), torch.from_numpy(PIXELS)],
)  # fmt: skip
def test_one_image_is_not_taken_as_several(predictor, given):
    with pytest.raises(InputError, match=r"predict_many: .*(one image or several|a single )"):
        predictor.predict_many(given)


def test_an_argument_without_images_is_refused(predictor):
    with pytest.raises(InputError, match="predict_many takes a list of images, not int"):
        predictor.predict_many(3)
    assert predictor.predict_many([]) == []


def test_an_array_of_several_colour_images_is_taken_image_by_image(predictor):
    several = np.stack([PIXELS, PIXELS[::-1]])
    found = [answer.label for answer in predictor.predict_many(several)]
    assert found == [predictor.predict(image).label for image in several]
    grey = predictor.predict_many(list(several[..., 0]))
    assert [answer.error for answer in grey] == [None, None]


# --- numbers ----------------------------------------------------------------------------------


def broken_for(kind: str):
    """Return a predictor whose network or head cannot answer for any image."""
    model = tiny_model(taps="last")
    width = model.head.n_features
    if kind == "features":
        bias = next(m for m in reversed(list(model.backbone.module.modules()))
                    if isinstance(m, torch.nn.BatchNorm2d)).bias  # fmt: skip
        bias.data.fill_(torch.nan)
        return predictor_of(model)
    weight = torch.full((3, width), 3e38)
    head = LinearHead(torch.zeros(width), torch.full((width,), 1e30), weight, torch.zeros(3))
    return predictor_of(dataclasses.replace(model, head=head))


@pytest.mark.parametrize("kind", ["features", "head"])
def test_answers_that_are_not_finite_are_refused_as_in_training(kind):
    (answer,) = broken_for(kind).predict_many([PIXELS])
    assert (answer.error.kind, answer.error.reason) == (NOT_FINITE.kind, NOT_FINITE.reason)
    assert (answer.label, answer.top) == (None, ())


@pytest.mark.parametrize(
    "setting", [{"batch_size": 0}, {"batch_size": -3}, {"precision": "float16"}]
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, setting):
    with pytest.raises(ConfigError, match="cannot be used"):
        Predictor.load(tmp_path, **setting)


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_a_tiny_bundle_answers(tmp_path, head):
    answer = Predictor.load(write_tiny(tmp_path / "bundle", tiny_model(head))).predict(PIXELS)
    assert answer.label in CLASSES


def test_what_decoding_leaves_out_is_told_by_predict_as_by_show(tmp_path, predictor):
    """Each was told for labelled images only: a folder of new ones was answered without a word."""
    dark = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
    moving = encoded(Image.fromarray(PIXELS), "GIF", save_all=True, append_images=[GREY])
    files = {
        "rose/12-bit.png": (encoded(Image.fromarray(dark)), (DARK,)),
        "rose/16-bit.png": (encoded(Image.fromarray(dark * 16)), ()),
        "tulip/moving.gif": (moving, (FRAMES,)),
    }
    photos = tmp_path / "photos"
    for name, (data, notes) in files.items():
        (photos / name).parent.mkdir(exist_ok=True, parents=True)
        (photos / name).write_bytes(data)
        assert predictor.predict(data).notes == notes
    answers = predictor.stream(open_unlabelled([str(photos)]), workers=2)
    assert {
        answer.id.removeprefix(f"{photos.as_posix()}/"): answer.notes for answer in answers
    } == {name: notes for name, (_, notes) in files.items()}
    write_tiny(tmp_path / "bundle", predictor.model)
    said = Said()
    paths = [str(photos / name) for name in files]
    assert len(list(predict(tmp_path / "bundle", paths, reporter=said, device="cpu"))) == 3
    assert said.lines == [
        f"{paths[0]}: {DARK}",
        f"{paths[2]}: {FRAMES}",
    ]
    assert show(photos, tmp_path / "show.png").splitlines()[-3:-1] == [
        f"tulip/moving.gif: {FRAMES}",
        f"rose/12-bit.png: {DARK} (seen in 2 of the 2 images with 16 bits)",
    ]


class Said(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize(
    ("extra", "decision", "words"),
    [
        # To the tiny network, whose bank is of random numbers, every picture is unknown.
        ({}, "fish", "costs least: fish"),
        ({"unknown": 0}, "unknown", None),
        ({"abstain": 0.01}, "unknown", "no answer: that costs least"),
    ],
)
def test_a_line_tells_the_decision_that_json_has(tmp_path, capsys, extra, decision, words):
    """A fish that is missed is dear, and the picture looks like a cat or a dog."""
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    bundle = write_tiny(tmp_path / "b", decisions=some_decisions())
    costs = np.array([[0, 1, 1, 9], [1, 0, 1, 9], [1e6, 1e6, 0, 9]])[:, : 3 + len(extra)]
    costs[:, 3:] = list(extra.values())
    table = [
        ["true", *CLASSES, *extra],
        *([n, *row] for n, row in zip(CLASSES, costs, strict=True)),
    ]
    text = "\n".join(",".join(map(str, row)) for row in table)
    (tmp_path / "costs.csv").write_text(text, encoding="utf-8")
    command = ["predict", str(bundle), str(tmp_path / "a.png")]
    command += ["--costs", str(tmp_path / "costs.csv")]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["unknown"], told["decision"]) == (True, decision)
    assert told["label"] != "fish"
    assert main(command) == 0
    line = capsys.readouterr().out.strip()
    unlike = f"fits no class: unlike the training images, p {told['typicality']:.2g}"
    assert line.partition("; ")[2] == "; ".join(filter(None, [unlike, words]))
    assert not [word for word in CLASSES if word in line.partition("; ")[2] and word != decision]


def test_no_answer_because_of_costs_is_not_said_to_be_unsure(tmp_path):
    predictor = Predictor.load(write_tiny(tmp_path / "b", decisions=some_decisions()))
    costs = Costs(np.hstack([1 - np.eye(3), np.full((3, 1), 0.01)]), ("abstain",))
    answer = predictor.predict(PIXELS, costs=costs)
    assert answer.abstained
    assert "no answer: that costs least" in answer.remarks()
    with pytest.warns(LevelWarning):
        answer = predictor.predict(PIXELS, min_precision=0.99)
    assert answer.abstained
    assert "no answer: not sure enough" in answer.remarks()


def test_a_level_that_is_given_and_cannot_be_had_is_a_warning(tmp_path):
    """One of the training is none: its bundle was written with a note."""
    asked = some_decisions(coverage=0.999, min_precision=0.99)
    predictor = Predictor.load(write_tiny(tmp_path / "b", decisions=asked))
    predictor.predict(PIXELS, unknown_level=0.05)
    with pytest.warns(LevelWarning, match="0.998 cannot be aimed at with 120 answers: each set"):
        assert predictor.predict(PIXELS, coverage=0.998).set is not None
    with pytest.warns(LevelWarning, match="no precision is promised, so nothing is answered: "):
        assert predictor.predict_many([PIXELS], min_precision=0.98)[0].abstained

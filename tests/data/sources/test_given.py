"""Images as users of Python have them: every form of one picture gives the same pixels."""

import io
import re
import tempfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.data.sources import given
from regraft.data.sources.given import images_of, payload_of
from regraft.errors import DataError, ImageError
from regraft.images.decode import decode

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (9, 11, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (9, 11), dtype=np.uint8)
BLACK_AND_WHITE = GREY > 127
ALPHA = RANDOM.integers(0, 256, (9, 11, 4), dtype=np.uint8)
PICTURES = {"colour": COLOUR, "grey": GREY, "1 bit": BLACK_AND_WHITE, "alpha": ALPHA}


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def forms(pixels, folder):
    """Yield the name of each form of a picture, and the picture in that form."""
    data = png(pixels)
    path = folder / "a.png"
    path.write_bytes(data)
    yield from {"bytes": data, "bytearray": bytearray(data), "memoryview": memoryview(data)}.items()
    yield from {"str": str(path), "Path": path, "np.str_": np.str_(path)}.items()
    at_its_end = io.BytesIO()
    at_its_end.write(data)
    yield "BytesIO", io.BytesIO(data)
    yield "BytesIO after writing", at_its_end
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        yield "file", file
        yield "unbuffered file", raw
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        yield "temporary file", file
    yield "PIL", Image.open(io.BytesIO(data))
    yield "PIL of pixels", Image.fromarray(pixels)
    yield "array", pixels
    yield "array in another order", np.asfortranarray(pixels)
    yield "tensor", torch.from_numpy(pixels)
    if pixels.dtype == np.bool_:
        return
    yield "array from 0 to 1", pixels / 255
    yield "float16 from 0 to 1", (pixels / 255).astype(np.float16)
    yield "tensor from 0 to 1", torch.from_numpy(pixels).float().div(255).requires_grad_()
    yield "half tensor from 0 to 1", torch.from_numpy(pixels).float().div(255).half()
    if pixels.ndim == 2:
        yield "array with a channel", pixels[..., None]
        yield "tensor with a channel first", torch.from_numpy(pixels)[None]
    else:
        yield "tensor with channels first", torch.from_numpy(pixels).permute(2, 0, 1)
        yield "parameter", torch.nn.Parameter(torch.from_numpy(pixels / 255).permute(2, 0, 1))


@pytest.mark.parametrize("name", PICTURES)
def test_every_form_of_a_picture_has_the_same_pixels(name, tmp_path):
    pixels = PICTURES[name]
    if name == "alpha":  # c * a + 255 * (1 - a), within the rounding of whole numbers
        share = pixels[..., 3:] / 255
        expected = decode(png(pixels), 10**6)
        assert np.abs(pixels[..., :3] * share + 255 * (1 - share) - expected).max() <= 1
    else:
        levels = pixels * np.uint8(255) if name == "1 bit" else pixels
        expected = np.broadcast_to(levels.reshape(9, 11, -1), (9, 11, 3))
    count = 0
    for form, image in forms(pixels, tmp_path):
        for _ in range(2):  # a file is read from its beginning again
            found = decode(payload_of(image, 10**6), 10**6)
            assert np.array_equal(found, expected), form
        (listed,) = images_of([image])
        assert np.array_equal(decode(payload_of(listed, 10**6), 10**6), expected), form
        count += 1
    assert count > 14


@pytest.mark.parametrize("name", PICTURES)
def test_a_batch_is_its_images(name):
    pixels = PICTURES[name]
    several = np.stack([pixels, pixels[::-1], pixels[:, ::-1]])
    batches = [several, torch.from_numpy(several), list(several), iter(list(several))]
    if pixels.ndim == 3:
        batches.append(torch.from_numpy(several).permute(0, 3, 1, 2))
    expected = [decode(payload_of(each, 10**6), 10**6) for each in several]
    for batch in batches:
        found = [decode(payload_of(each, 10**6), 10**6) for each in images_of(batch)]
        assert np.array_equal(found, expected)
    assert np.shares_memory(images_of(several), several)


SIZES = re.escape("(H, W), or (H, W, C) with 1, 3 or 4 channels (RGBA)")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (COLOUR / 255 * 16, "float64 pixels from 0 to 16; floating point must be from 0 to 1"),
        (COLOUR.astype(np.float32), r"float32 pixels from 0 to 255; .*round\(\).astype"),
        (torch.tensor([[-2.1, 2.5]]), "float32 pixels from -2.1 to 2.5; floating point must be"),
        (np.array([[0.5, np.nan]]), "float64 pixels from nan to nan"),
        (COLOUR.astype(np.int64), "pixels of type int64; they must be uint8 from 0 to 255"),
        (GREY.astype(np.uint16), "pixels of type uint16; they must be uint8 from 0 to 255"),
        (GREY + 0j, "pixels of type complex128"),
        (np.zeros((9, 11, 5), np.uint8), rf"shape \(9, 11, 5\); an image must be {SIZES}$"),
        (np.zeros((9, 11, 2), np.uint8), rf"shape \(9, 11, 2\); an image must be {SIZES}$"),
        (np.zeros(9, np.uint8), rf"shape \(9,\); an image must be {SIZES}$"),
        (np.zeros((1, 9, 11, 3), np.uint8), r"shape \(1, 9, 11, 3\); an image must be"),
        (np.moveaxis(COLOUR, 2, 0), r"shape \(3, 9, 11\); .*moveaxis.* puts the channels last$"),
        (torch.zeros(5, 9, 11), rf"shape \(5, 9, 11\); an image must be {SIZES}"),
        (torch.zeros(3, 9, 4), r"shape \(3, 9, 4\), whose channels may come first or last"),
        (torch.zeros(9, 9).to_sparse(), "a tensor that is no dense array: "),
        (torch.zeros(9, 9, device="meta"), "a tensor that is no dense array: "),
        (np.zeros((0, 9, 3), np.uint8), "^empty: array of 9 by 0 pixels"),
        (io.StringIO("x"), r"the file gives text and not bytes; .*open\(path, 'rb'\)"),
        ([[0, 1]], "^not an image: list is neither bytes, a file, a path nor pixels"),
        (None, "^not an image: NoneType is neither bytes, a file, a path nor pixels"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_is_expected(image, message):
    with pytest.raises(ImageError, match=message) as caught:
        payload_of(image, 10**6)
    assert "\n" not in str(caught.value)
    with pytest.raises((DataError, ImageError), match=r"image 1 cannot be used|empty"):
        [payload_of(each, 10**6) for each in images_of([COLOUR, image])]


def test_limits_are_checked_before_memory_is_allocated():
    wide = np.broadcast_to(np.float32(0.5), (10**6, 10**6))
    with pytest.raises(ImageError, match=r"too many pixels: array of 1000000 by 1000000"):
        given.to_pixels(wide, 10**6)
    with pytest.raises(ImageError, match=r"too many pixels: array of 11 by 9 pixels; 98 pixels"):
        payload_of(ALPHA, 98)


def test_a_file_that_is_too_large_or_closed_is_refused(monkeypatch):
    monkeypatch.setattr(given, "LARGEST_FILE", 99)
    assert payload_of(io.BytesIO(bytes(99)), 1) == bytes(99)
    with pytest.raises(ImageError, match=r"^too large: the file holds more than 99 bytes"):
        payload_of(io.BytesIO(bytes(100)), 1)

    class Endless(io.RawIOBase):
        def read(self, size=-1):  # gives more than it was asked for
            return bytes(size + 1)

    with pytest.raises(ImageError, match=r"^too large"):
        payload_of(Endless(), 1)
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(ImageError, match=r"^unreadable: the file cannot be read: I/O operation"):
        payload_of(closed, 1)


def test_a_stream_that_cannot_go_back_is_read_once():
    class Response:  # as of urllib.request.urlopen
        def __init__(self):
            self.left = [png(COLOUR)[:50], png(COLOUR)[50:], b""]

        def read(self, _size):
            return self.left.pop(0)

    samples = scan(([Response(), COLOUR[::-1]], ["a", "b"]), TrainConfig())
    for _ in range(2):
        found = dict(samples.pixels([0, 1], 1))
        assert np.array_equal(found[0], COLOUR)


def test_a_training_takes_a_list_of_every_form(tmp_path):
    images = [image for name, image in forms(COLOUR, tmp_path) if not name.endswith("file")]
    images += [b"no image", tmp_path / "missing.png"] + [COLOUR] * 60
    samples = scan(
        (images, [f"class {number % 2}" for number in range(len(images))]), TrainConfig()
    )
    refused = [entry for entry in samples.ledger.entries if entry.status == "refused"]
    assert [entry.path for entry in refused] == [str(len(images) - 62), str(len(images) - 61)]
    assert len(samples) == len(images) - 2
    assert (samples.sizes == (9, 11)).all()
    found = samples.pixels(range(len(samples)), 2)
    assert all(np.array_equal(pixels, COLOUR) for _, pixels in found)


def test_a_picture_of_pillow_that_is_listed_twice_is_loaded_once(monkeypatch):
    """Threads read images, and Pillow's pictures are not made for two at a time."""
    opened = Image.open(io.BytesIO(png(np.tile(COLOUR, (40, 40, 1)))))
    samples_of = given.images_of([opened] * 16)
    assert all(each is opened for each in samples_of)
    loads, load = [], opened.load
    inside = []

    def counted():
        inside.append(1)
        loads.append(len(inside))
        time.sleep(0.005)  # long enough for another thread to come in
        try:
            return load()
        finally:
            inside.pop()

    monkeypatch.setattr(opened, "load", counted)
    samples = scan(([opened] * 16, ["a", "b"] * 8), TrainConfig(workers=8))
    assert len({pixels.tobytes() for _, pixels in samples.pixels(range(16), 8)}) == 1
    assert set(loads) == {1}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.jpg", r"the images are a str; there must be several\nhint: one image is a list"),
        (io.BytesIO(b"x"), "the images are a BytesIO; there must be several"),
        (Image.new("L", (2, 2)), "the images are a Image; there must be several"),
        (5, "the images are a int; there must be several"),
        (np.zeros((2, 9), np.uint8), r"the images cannot be used: images of shape \(2, 9\); each"),
        (COLOUR[None] / 4, r"the images cannot be used: float64 pixels from 0 to 63"),
        ([GREY, 7], "image 1 cannot be used: int is neither bytes, a file, a path nor pixels"),
    ],
)
def test_what_is_not_several_images_is_refused(images, message):
    with pytest.raises(DataError, match=message):
        images_of(images)

"""Arrays in Python: what is accepted, and the errors for all else."""

import numpy as np
import pytest

from image_trees import pixels, read_all
from regraft.data.sources.arrays import open_arrays
from regraft.data.sources.options import SourceOptions
from regraft.errors import DataError

OPTIONS = SourceOptions()
GREY = np.stack([pixels(n, channels=0) for n in range(3)])
COLOUR = np.stack([pixels(n) for n in range(3)])
LABELS = ["b", "a", "b"]


@pytest.mark.parametrize("images", [GREY, COLOUR, list(COLOUR), tuple(GREY)])
def test_images_come_back_under_their_numbers(images):
    source = open_arrays((images, LABELS), OPTIONS)
    read = read_all(source)
    assert list(read) == ["0", "1", "2"]
    assert all(np.array_equal(read[str(n)], images[n]) for n in range(3))
    assert [entry.label for entry in source.entries] == LABELS


def test_images_may_have_differing_sizes():
    images = [pixels(1), pixels(2, height=9), pixels(3, channels=0)]
    read = read_all(open_arrays((images, LABELS), OPTIONS))
    assert [image.shape for image in read.values()] == [(6, 5, 3), (9, 5, 3), (6, 5)]
    ragged = np.empty(3, dtype=object)
    ragged[:] = images
    assert len(read_all(open_arrays((ragged, LABELS), OPTIONS))) == 3


def test_images_are_not_copied():
    read = read_all(open_arrays((COLOUR, LABELS), OPTIONS))
    assert np.shares_memory(read["1"], COLOUR)


@pytest.mark.parametrize(
    "labels", [[9, 10, 9], np.array([9, 10, 9]), ["9", "10", "9"], np.array(["9", "10", "9"]),
               (np.int64(9), np.str_("10"), 9)],
)  # fmt: skip
def test_labels_are_named_by_their_text(labels):
    source = open_arrays((GREY, labels), OPTIONS)
    assert [entry.label for entry in source.entries] == ["9", "10", "9"]
    assert {type(entry.label) for entry in source.entries} == {str}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (COLOUR * 16.0, "the images cannot be used: float64 pixels from 0 to "),
        (list(COLOUR * 16.0), "image 0 cannot be used: float64 pixels from "),
        (COLOUR.astype(int), "the images cannot be used: pixels of type int64; they must be uint8"),
        (np.moveaxis(COLOUR, 3, 1), r"of shape \(3, 3, 6, 5\); .*moveaxis\(images, -3, -1\)"),
        (np.zeros((3, 4, 4, 5), np.uint8), r"of shape \(3, 4, 4, 5\); .* 1, 3 or 4 channels"),
        (COLOUR[:2], "there are 2 images and 3 labels"),
    ],
)
def test_images_that_cannot_be_used(images, message):
    with pytest.raises(DataError, match=message):
        open_arrays((images, LABELS), OPTIONS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.5, 1.0], r"label 0 is 0\.0, which is not a class"),
        ([0, 1, None], "label 2 is None"),
        ([0, 1, float("nan")], "label 2 is nan"),
        (["a", "", "b"], "label 1 is ''"),
        (np.eye(3, dtype=int), r"label 0 is \[1, 0, 0\]"),
        ("abc", "the labels are of type str\nhint: pass a list or an array"),
        ({"a": 1, "b": 2, "c": 3}, "the labels are of type dict"),
        ({"a", "b", "c"}, "the labels are of type set"),
        (None, "the labels are of type NoneType"),
        (np.array(3), "the labels are of type ndarray"),
    ],
)
def test_labels_that_cannot_be_used(labels, message):
    with pytest.raises(DataError, match=message):
        open_arrays((GREY, labels), OPTIONS)


def test_three_things_are_not_images_and_labels():
    with pytest.raises(DataError, match="the data are a tuple of 3"):
        open_arrays((GREY, LABELS, LABELS), OPTIONS)

"""Grids of images: shapes, pixels, names, and what is right or wrong."""

import warnings

import numpy as np
import pytest

from pictures import STRANGE, read
from regraft.plots import grid
from regraft.plots.grid import Item, draw_grid


def plain(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def test_right_and_wrong_differ_without_colour(tmp_path):
    image = plain(50, 50)
    draw_grid(tmp_path / "right.png", [Item(image, "cat", "cat", 0.9)])
    draw_grid(tmp_path / "wrong.png", [Item(image, "dog", "cat", 0.9)])
    right, wrong = (read(tmp_path / f"{name}.png").mean(axis=2) for name in ("right", "wrong"))

    def frame(picture):
        """Return the mean number of pixels left and right of the image that are neither."""
        rows = (picture == 128).sum(axis=1) > 200
        return ((picture[rows] != 128) & (picture[rows] < 250)).sum(axis=1).mean()

    assert frame(right) < 5
    assert frame(wrong) > 5


def test_a_white_image_without_a_prediction_has_a_grey_frame(tmp_path):
    draw_grid(tmp_path / "p.png", [Item(plain(50, 50, 255), None, "p 0.01", None)])
    picture = read(tmp_path / "p.png").astype(int)
    grey = (abs(picture - 153) < 25).all(axis=2)
    assert grey.sum() > 600


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (28, 28), (60, 180), (3000, 1500), (10, 400)]
)
def test_images_keep_their_shape(tmp_path, height, width):
    draw_grid(tmp_path / "p.png", [Item(plain(height, width), "a", "a", 1.0)])
    picture = read(tmp_path / "p.png")
    grey = (picture == 128).all(axis=2)
    rows, columns = grey.any(axis=1).sum(), grey.any(axis=0).sum()
    longest = max(rows, columns)
    assert longest > 200
    assert abs(rows - longest * height / max(height, width)) < 8
    assert abs(columns - longest * width / max(height, width)) < 8


def test_small_images_have_sharp_pixels(tmp_path):
    checks = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(checks[:, :, None], 3, axis=2)
    draw_grid(tmp_path / "p.png", [Item(image, "a", "a", 1.0)])
    middle = read(tmp_path / "p.png")[120:230, 30:200].mean(axis=2)
    assert np.isin(middle.round(), [0, 255]).mean() > 0.95


@pytest.mark.parametrize("n", [0, 1, 4, 5, 7, 30])
def test_grids_of_any_number(tmp_path, n):
    items = [Item(plain(8, 8), STRANGE[k % 8], STRANGE[k % 7], 0.5) for k in range(n)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_grid(tmp_path / "p.png", items, "$ the _most_ confident 猫 mistakes")
    assert read(tmp_path / "p.png").shape[1] > 200


def test_a_tile_without_an_image_says_why(tmp_path):
    draw_grid(tmp_path / "p.png", [Item(None, "a", "b", 0.5, reason="changed since $it$")])
    picture = read(tmp_path / "p.png")
    grey = (picture == 242).all(axis=2)
    assert grey.sum() > 20_000
    assert (picture[grey.any(axis=1)][:, 40:200] < 100).any()


def test_tiles_name_their_files(tmp_path):
    sizes = []
    for name in ("", "roses/001.jpg"):
        draw_grid(tmp_path / "p.png", [Item(plain(50, 50), "a", "a", 0.5, name)])
        sizes.append((read(tmp_path / "p.png")[30:90, :220] < 180).any(axis=2).sum())
    assert sizes[1] > sizes[0] + 50


def test_classes_and_files_with_a_common_beginning_and_end_are_told_apart(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(grid, "write_figure", lambda figure, _: drawn.append(figure))
    classes = [f"a rather long name of a plant species {k:02} of the mountains" for k in range(12)]
    files = [f"photographs of the year/IMG_2023_{k:04}_final_version.jpg" for k in range(12)]
    items = [
        Item(plain(8, 8), classes[k], classes[11 - k], 0.5, file) for k, file in enumerate(files)
    ]
    draw_grid(tmp_path / "p.png", items, "mistakes")
    texts = [text.get_text() for text in drawn[0].texts][1:]  # without the title
    for k, (lines, name) in enumerate(zip(texts[::2], texts[1::2], strict=True)):
        predicted, true = lines.splitlines()
        assert predicted.startswith("\N{BALLOT X} predicted")
        assert f"{k:02}" in predicted
        assert f"{11 - k:02}" in true
        assert f"{k:04}" in name
    draw_grid(tmp_path / "p.png", [Item(plain(8, 8), None, name, None) for name in classes])
    texts = [text.get_text() for text in drawn[1].texts][1::2]
    assert all(f"{k:02}" in text for k, text in enumerate(texts))

import warnings

import numpy as np
import pytest
from PIL import Image

from regraft.plots import grid as plots
from regraft.plots import text as glyphs
from regraft.plots.grid import Item, confusion_matrix, curves, prediction_grid
from regraft.plots.text import label


def read(path):
    """Return the pixels of a picture, (H, W, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def counts_of(n_classes, seed=0):
    generator = np.random.default_rng(seed)
    counts = generator.poisson(0.3, (n_classes, n_classes))
    counts[np.diag_indices(n_classes)] += 20
    return counts


STRANGE = ["Gänseblümchen", "$x_1$ and $", "snake_" * 10, "猫", "a\nb", "🐶 dog", "\x00", ""]


@pytest.mark.parametrize("n_classes", [2, 5, 8, 29, 30, 100])
def test_confusion_matrices_of_any_size_are_drawn(tmp_path, n_classes):
    names = [*STRANGE, *(f"class {k}" for k in range(n_classes))][:n_classes]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # missing glyphs are only warned of
        confusion_matrix(tmp_path / "c.png", counts_of(n_classes), names)
    picture = read(tmp_path / "c.png")
    assert 300 < picture.shape[0] < 1400
    assert 300 < picture.shape[1] < 1800
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


def test_a_row_is_a_true_class(tmp_path):
    """Where all are taken for the second class, the right column is dark, and not the upper row."""

    def dark(counts):
        confusion_matrix(tmp_path / "c.png", np.array(counts), ["a", "b"])
        matrix = read(tmp_path / "c.png").astype(int).sum(axis=2)[40:300, :370] < 250
        return matrix.sum(axis=0).argmax(), matrix.sum(axis=0).max()

    (left, left_height), (right, right_height) = dark([[9, 0], [9, 0]]), dark([[0, 9], [0, 9]])
    assert left < right - 50
    assert min(left_height, right_height) > 200  # both rows


def test_a_class_without_images_and_no_images_at_all(tmp_path):
    counts = counts_of(5)
    counts[2] = 0
    confusion_matrix(tmp_path / "c.png", counts, list("abcde"))
    picture = read(tmp_path / "c.png")
    assert (picture == 229).all(axis=2).sum() > 5000  # the grey row
    confusion_matrix(tmp_path / "c.png", np.zeros((5, 5), int), list("abcde"))


def test_shapes_that_do_not_fit_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"counts has shape \(2, 2\); there are 3 classes"):
        confusion_matrix(tmp_path / "c.png", np.eye(2, dtype=int), ["a", "b", "c"])


def test_the_same_figure_has_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        confusion_matrix(tmp_path / name, counts_of(30), [f"c{k}" for k in range(30)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.info) == {"dpi"}


def plain(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def test_right_and_wrong_differ_without_colour(tmp_path):
    image = plain(50, 50)
    prediction_grid(tmp_path / "right.png", [Item(image, "cat", "cat", 0.9)])
    prediction_grid(tmp_path / "wrong.png", [Item(image, "dog", "cat", 0.9)])
    right, wrong = (read(tmp_path / f"{name}.png").mean(axis=2) for name in ("right", "wrong"))

    def frame(picture):
        """Return the mean number of pixels left and right of the image that are neither."""
        rows = (picture == 128).sum(axis=1) > 200
        return ((picture[rows] != 128) & (picture[rows] < 250)).sum(axis=1).mean()

    assert frame(right) < 5
    assert frame(wrong) > 5


@pytest.mark.parametrize(
    ("height", "width"), [(8, 8), (28, 28), (60, 180), (3000, 1500), (10, 400)]
)
def test_images_keep_their_shape(tmp_path, height, width):
    prediction_grid(tmp_path / "p.png", [Item(plain(height, width), "a", "a", 1.0)])
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
    prediction_grid(tmp_path / "p.png", [Item(image, "a", "a", 1.0)])
    middle = read(tmp_path / "p.png")[120:230, 30:200].mean(axis=2)
    assert np.isin(middle.round(), [0, 255]).mean() > 0.95


@pytest.mark.parametrize("n", [0, 1, 4, 5, 7, 30])
def test_grids_of_any_number(tmp_path, n):
    items = [Item(plain(8, 8), STRANGE[k % 8], STRANGE[k % 7], 0.5) for k in range(n)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prediction_grid(tmp_path / "p.png", items, "$ the _most_ confident 猫 mistakes")
    assert read(tmp_path / "p.png").shape[1] > 200


def history(n=5):
    return [
        {
            "penalty": 10.0**k,
            "log_loss": 0.4 + 0.05 * (k - 1) ** 2,
            "accuracy": 0.9,
            "log_loss_se": 0.02,
            "chosen": k == 1,
        }
        for k in range(n)
    ]


def test_the_chosen_penalty_is_marked(tmp_path):
    curves(tmp_path / "chosen.png", history())
    curves(tmp_path / "none.png", [{**row, "chosen": False} for row in history()])
    marked = np.array([213, 94, 0])  # plots.WRONG

    def marks(name):
        return (np.abs(read(tmp_path / name).astype(int) - marked).sum(axis=2) < 10).sum()

    assert marks("chosen.png") > 50
    assert marks("none.png") == 0


def test_where_nothing_was_chosen_there_is_no_picture(tmp_path):
    curves(tmp_path / "c.png", [])
    curves(tmp_path / "c.png", history(1))
    assert not list(tmp_path.iterdir())


def axes_of(monkeypatch, tmp_path, rows):
    """Return the axes of the figure that is written."""
    drawn = []
    monkeypatch.setattr(plots, "_write", lambda figure, _: drawn.extend(figure.axes))
    curves(tmp_path / "c.png", rows)
    return drawn


def test_the_axes_show_what_can_be(monkeypatch, tmp_path):
    """No accuracy above 1, no log-loss below 0, and no zoom into the rounding of equal values."""
    rows = [{**row, "accuracy": 1.0, "log_loss": 0.01, "log_loss_se": 0.02} for row in history()]
    loss, accuracy = axes_of(monkeypatch, tmp_path, rows)
    assert loss.get_ylim()[0] == 0
    assert accuracy.get_ylim()[1] == 1
    assert accuracy.get_ylim()[0] <= 0.95
    assert loss.get_xscale() == "log"


def test_whole_numbers_are_named_on_the_axis(monkeypatch, tmp_path):
    rows = [
        {"neighbours": k, "log_loss": 0.4, "accuracy": 0.9, "chosen": k == 2} for k in (1, 2, 5)
    ]
    _, accuracy = axes_of(monkeypatch, tmp_path, rows)
    assert [text.get_text() for text in accuracy.get_xticklabels()] == ["1", "2", "5"]


def test_a_tile_without_an_image_says_why(tmp_path):
    prediction_grid(tmp_path / "p.png", [Item("changed since $it$ was read", "a", "b", 0.5)])
    picture = read(tmp_path / "p.png")
    grey = (picture == 242).all(axis=2)
    assert grey.sum() > 20_000
    assert (picture[grey.any(axis=1)][:, 40:200] < 100).any()


def test_tiles_name_their_files(tmp_path):
    sizes = []
    for name in ("", "roses/001.jpg"):
        prediction_grid(tmp_path / "p.png", [Item(plain(50, 50), "a", "a", 0.5, name)])
        sizes.append((read(tmp_path / "p.png")[30:90, :220] < 180).any(axis=2).sum())
    assert sizes[1] > sizes[0] + 50


def test_names_are_shortened_in_the_middle():
    assert label("short", 16) == "short"
    assert label("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"
    assert label(" a\n\tb ", 16) == "a b"
    assert label("", 16) == "(empty)"
    assert label("$x_1$", 16) == "$x_1$"


def test_names_without_glyphs_stay_apart(monkeypatch):
    glyphs._fonts_for.cache_clear()
    monkeypatch.setattr(glyphs, "families", lambda: ("DejaVu Sans",))
    assert label("猫", 16) == "<732b>"
    assert label("犬", 16) == "<72ac>"
    assert label("Größe ✓", 16) == "Größe ✓"
    glyphs._fonts_for.cache_clear()

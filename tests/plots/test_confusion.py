"""Confusion matrices of any size are drawn, and show what they must."""

import warnings

import numpy as np
import pytest
from PIL import Image

from pictures import STRANGE, read
from regraft.plots import confusion
from regraft.plots.confusion import draw_confusion


def counts_of(n_classes, seed=0):
    generator = np.random.default_rng(seed)
    counts = generator.poisson(0.3, (n_classes, n_classes))
    counts[np.diag_indices(n_classes)] += 20
    return counts


@pytest.mark.parametrize("n_classes", [2, 5, 8, 29, 30, 100])
def test_confusion_matrices_of_any_size_are_drawn(tmp_path, n_classes):
    names = [*STRANGE, *(f"class {k}" for k in range(n_classes))][:n_classes]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # missing glyphs are only warned of
        draw_confusion(tmp_path / "c.png", counts_of(n_classes), names)
    picture = read(tmp_path / "c.png")
    assert 300 < picture.shape[0] < 1400
    assert 300 < picture.shape[1] < 1800
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


@pytest.mark.parametrize("n_classes", [12, 40])
def test_classes_with_a_common_beginning_and_end_are_told_apart(n_classes, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(confusion, "write_figure", lambda figure, *_, **__: drawn.append(figure))
    names = [
        f"a rather long name of a plant species {k:02} of the mountains" for k in range(n_classes)
    ]
    draw_confusion(tmp_path / "c.png", counts_of(n_classes), names)
    axes = drawn[0].axes[0]
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        shown = [text.get_text() for text in ticks]
        assert len(set(shown)) == n_classes
        assert all(f"{k:02}" in text for k, text in enumerate(shown))


def test_a_row_is_a_true_class(tmp_path):
    """All images are predicted as the second class: the right column is dark, not the upper row."""

    def dark(counts):
        draw_confusion(tmp_path / "c.png", np.array(counts), ["a", "b"])
        matrix = read(tmp_path / "c.png").astype(int).sum(axis=2)[40:300, :370] < 250
        return matrix.sum(axis=0).argmax(), matrix.sum(axis=0).max()

    (left, left_height), (right, right_height) = dark([[9, 0], [9, 0]]), dark([[0, 9], [0, 9]])
    assert left < right - 50
    assert min(left_height, right_height) > 200  # both rows


def test_a_class_without_images_and_no_images_at_all(tmp_path):
    counts = counts_of(5)
    counts[2] = 0
    draw_confusion(tmp_path / "c.png", counts, list("abcde"))
    picture = read(tmp_path / "c.png")
    assert (picture == 229).all(axis=2).sum() > 5000  # the grey row
    draw_confusion(tmp_path / "c.png", np.zeros((5, 5), int), list("abcde"))


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"counts has shape \(2, 2\); there are 3 classes"):
        draw_confusion(tmp_path / "c.png", np.eye(2, dtype=int), ["a", "b", "c"])


def test_the_same_figure_has_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        draw_confusion(tmp_path / name, counts_of(30), [f"c{k}" for k in range(30)])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.info) == {"dpi"}

"""A model of digits put to work on digits from elsewhere, by the commands of docs/tutorials.md."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from image_trees import encoded, write_idx, write_tree
from regraft.cli.main import main
from regraft.runs.metrics_file import read_metrics

N_TRAIN, N_TEST = 500, 120


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Files called and shaped like MNIST's, and QMNIST's test labels, which continue after them."""
    root = tmp_path_factory.mktemp("root")
    digits = load_digits()
    images = np.zeros((len(digits.images), 28, 28), np.uint8)
    images[:, 2:26, 2:26] = np.kron(digits.images * 15, np.ones((3, 3)))
    labels = digits.target.astype(np.uint8)
    start = 0
    for part, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        chosen = slice(start, start + n)
        raw = root / "MNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", images[chosen], zipped=True)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels[chosen], zipped=True)
        start += n
    columns = np.full((N_TEST + 50, 8), 70_000, np.int32)
    columns[:, 0] = labels[N_TRAIN : start + 50]
    write_idx(root / "qmnist-test-labels-idx2-int", columns, zipped=True)
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mnist"
    words = ["train", "mnist", "--data-root", str(root), "--out", str(folder), "--workers", "1"]
    words += ["--model", "timm/test_resnet", "--weights", "none", "--image-size", "32"]
    assert main([*words, "--no-cache"]) == 0
    return folder


def evaluated(run, capsys, *words):
    assert main(["evaluate", str(run), *words, "--no-cache"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_qmnists_test_part_out_of_mnists_images(run, root, capsys):
    found, printed = evaluated(run, capsys, "qmnist", "--data-root", str(root))
    own = read_metrics(run)["test"]
    assert found["n"] == own["n"] == N_TEST
    # The same images: the class is the first of eight columns, and not any other.
    assert found["accuracy"] == own["accuracy"]
    assert found["accuracy"]["value"] > 0.5
    assert f"qmnist: only a test part of {N_TEST} is here: MNIST's test images" in printed


def test_another_source_of_the_same_classes_shows_the_fall(run, capsys):
    """The digits of scikit-learn fill their 8 by 8 pixels; the model has learnt them with a rim."""
    found, _ = evaluated(run, capsys, "digits")
    assert found["n"] == 1_797
    assert [each["name"] for each in found["per_class"]] == list("0123456789")
    assert found["accuracy"]["high"] < read_metrics(run)["test"]["accuracy"]["value"]


def test_the_figures_are_also_printed_as_lines(run, tmp_path, capsys):
    digits = load_digits()
    for number in range(60):
        image = np.kron(digits.images[number] * 15, np.ones((3, 3))).astype(np.uint8)
        label = digits.target[number]
        if label < 8:
            path = tmp_path / str(label) / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
    assert main(["evaluate", str(run), str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    missing = "no image of 2 of the run's 10 classes: 8, 9; macro figures are of the others"
    assert missing in found["data"]["notes"]
    lines = err.splitlines()
    assert missing in lines
    assert set(found["warnings"]) <= set(lines)
    (accuracy,) = [line for line in lines if line.startswith("accuracy ")]
    assert accuracy.endswith(f"n = {found['n']})")


def test_classes_that_do_not_match_are_listed(run, tmp_path, capsys):
    names = ["0", "1", "nine", "ten"]
    write_tree(tmp_path, {f"{name}/{n}.png": encoded(n) for name in names for n in range(2)})
    assert main(["evaluate", str(run), str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(
        "error: 2 of the data's 4 classes are unknown to the run: nine, ten\n"
        "hint: classes are matched by name; the run knows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; "
        "--exclude nine leaves one out\n"
    )

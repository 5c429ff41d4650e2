"""Copies that are not byte-identical are found across parts, by name and with pictures."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import CLASSES, texture
from image_trees import write_tar, write_tree
from regraft.check.near_duplicates import (
    Directions,
    duplicate_notes,
    find_near_duplicates,
    likeness,
)
from regraft.config.train_config import TrainConfig
from regraft.data.dataset import Dataset
from regraft.data.scan import scan
from regraft.features.compute import choose_compute
from regraft.features.extract import RowExtractor, extract
from regraft.features.extractor import load_networks
from regraft.features.features import Features
from regraft.features.store.store import temporary_store
from regraft.runs.write import draw_pairs
from regraft.splits.split import split

CONFIG = TrainConfig(image_size="64", workers=1, batch_size=8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(name, number):
    """Paint what has large forms, as photographs have; a texture alone is one grey when small."""
    random = np.random.default_rng([CLASSES.index(name), number])
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    smooth = coarse.resize((96, 96), Image.Resampling.BICUBIC)
    return Image.blend(smooth, Image.fromarray(texture(name, number, side=96)), 0.3)


ALTERED = {
    "recompressed": lambda image: encoded(image, "JPEG", quality=40),
    "smaller": lambda image: encoded(image.resize((70, 70))),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.3)),
    "paler": lambda image: encoded(ImageEnhance.Color(image).enhance(0.7)),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
    "moved": lambda image: encoded(image.crop((6, 4, 96, 96))),
}


@pytest.fixture(scope="module")
def files():
    """Sixty pictures, six of the test part each an altered one of training."""
    made = {}
    for name in CLASSES:
        for number in range(14):
            made[f"train/{name}/{number}.png"] = encoded(picture(name, number))
        for number in range(20, 24):
            made[f"test/{name}/{number}.png"] = encoded(picture(name, number))
    for number, (how, alter) in enumerate(ALTERED.items()):
        suffix = "jpg" if how == "recompressed" else "png"
        made[f"test/checks/{how}.{suffix}"] = alter(picture("checks", number))
    return made


def found_in(data, weights="default"):
    samples = scan(data, CONFIG)
    dataset = Dataset(samples, split(samples, test_fraction=0.2, seed=0))
    (backbone,) = load_networks(CONFIG.replace(weights=weights))
    network = RowExtractor(samples, backbone, choose_compute("cpu", "float32", 8), 1)
    with temporary_store() as store:
        features = Features.of(extract(network, np.arange(len(samples)), store))
        return (
            samples,
            dataset.parts,
            find_near_duplicates([dataset], Directions(features, len(samples)), 1, 24),
        )


def names(samples, pairs):
    return {samples.ids[pair.test]: samples.ids[pair.other] for pair in pairs}


WANTED = {
    f"test/checks/{how}.{'jpg' if how == 'recompressed' else 'png'}": f"train/checks/{number}.png"
    for number, how in enumerate(ALTERED)
}


def test_altered_copies_are_found_and_nothing_else(files, tmp_path):
    samples, parts, pairs = found_in(write_tree(tmp_path, files))
    assert names(samples, pairs) == WANTED
    assert [pair.correlation for pair in pairs] == sorted(
        (pair.correlation for pair in pairs), reverse=True
    )
    (line,) = duplicate_notes(pairs, samples, len(parts.test))
    assert line.startswith(
        "6 of 18 test images are nearly the same as an image of training (duplicates.png; copies "
        "and bursts make the result too good: remove one of each pair, or, if folders or names of "
        "a pair have something in common, keep them in one part by `group_by`): "
    )
    assert line.endswith(" and 1 more")
    draw_pairs(tmp_path / "duplicates.png", pairs, samples, len(parts.test))
    with Image.open(tmp_path / "duplicates.png") as image:
        assert image.width > 800
        assert np.asarray(image.convert("L")).std() > 20


def test_with_random_weights_plain_copies_are_found(files, tmp_path):
    samples, _, pairs = found_in(write_tree(tmp_path, files), weights="none")
    found = names(samples, pairs)
    assert found.items() <= WANTED.items()
    assert {"test/checks/recompressed.jpg", "test/checks/smaller.png"} <= set(found)


def test_a_compressed_tar_in_any_order_gives_the_same(files, tmp_path):
    mixed = dict(sorted(files.items(), key=lambda item: item[1][-30:-20]))
    samples, _, pairs = found_in(write_tar(tmp_path / "a.tgz", mixed, "w:gz"))
    assert names(samples, pairs) == WANTED


def test_copies_under_another_label_are_reported(files, tmp_path):
    moved = dict(files)
    moved["test/stripes/paler.png"] = moved.pop("test/checks/paler.png")
    samples, parts, pairs = found_in(write_tree(tmp_path, moved))
    lines = duplicate_notes(pairs, samples, len(parts.test))
    assert lines[1:] == [
        "1 of these has another label there: test/stripes/paler.png and train/checks/3.png"
    ]


def test_without_duplicates_there_is_no_note(files, tmp_path):
    plain = {name: content for name, content in files.items() if name not in WANTED}
    samples, parts, pairs = found_in(write_tree(tmp_path, plain))
    assert pairs == []
    assert duplicate_notes(pairs, samples, len(parts.test)) == []


def test_small_images_are_not_looked_at(tmp_path):
    random = np.random.default_rng(0)
    base = random.integers(0, 200, (40, 40, 3), np.uint8)
    tree = {
        f"{part}/{label}/{n}.png": encoded(Image.fromarray(base + np.uint8(10 * k)))
        for k, (part, label, n) in enumerate(
            [("train", "a", 1), ("train", "b", 1), ("test", "a", 2), ("test", "b", 2)]
        )
    }
    assert found_in(write_tree(tmp_path, tree))[2] == []


def test_likeness_knows_neither_brightness_nor_mirrors_nor_small_moves():
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4), np.uint8))
    grey = np.asarray(coarse.resize((40, 40), Image.Resampling.BICUBIC), np.float32)
    here = grey[4:36, 4:36]
    assert likeness(here, 0.5 * here + 9) == pytest.approx(1)
    assert likeness(here, here[:, ::-1]) == pytest.approx(1)
    assert likeness(here, grey[6:38, 3:35]) > 0.9
    other = np.asarray(Image.fromarray(random.integers(0, 256, (6, 6), np.uint8)).resize((32, 32)))
    assert likeness(here, other.astype(np.float32)) < 0.7
    assert likeness(here, np.full((32, 32), 7, np.float32)) == 0

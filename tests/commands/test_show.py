"""`regraft show`: counts, drawn images, and the path of the picture."""

import numpy as np
import pytest
from PIL import Image

from image_trees import FLOWERS, encoded, write_tree
from regraft.cli.main import main
from regraft.commands.show import VIEWS, _views, choose_examples, show
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.errors import ConfigError, DataError, RunError
from regraft.finetune.batches import TrainingBatches
from regraft.finetune.reader import ImageReader
from regraft.images.augment import AUGMENTATIONS
from regraft.images.render import Preprocess, render

COUNTED = """\
{folder}: 4 images of 2 classes
0 refused, 1 byte-identical to another
class  images
rose        2
tulip       2
2 sizes, most often 5 x 6 pixels (3 images); short side 5 to 9, median 5
picture: {picture}"""


@pytest.fixture
def flowers(tmp_path):
    files = {**FLOWERS, "rose/2.png": FLOWERS["rose/1.png"]}
    return write_tree(tmp_path / "flowers", {**files, "tulip/1.png": encoded(7, height=9, width=9)})


def test_classes_and_sizes_are_counted_and_images_drawn(flowers, tmp_path):
    picture = tmp_path / "grid.png"
    assert show(flowers, picture) == COUNTED.format(folder=flowers, picture=picture)
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 200


def test_given_parts_are_counted(tmp_path):
    paths = ("train/1/1", "train/1/2", "train/2/3", "test/1/4", "test/2/5")
    files = {f"{path}.png": encoded(seed) for seed, path in enumerate(paths)}
    text = show(write_tree(tmp_path / "data", files), tmp_path / "a.png")
    assert (
        "class  images  train  test\n1           3      2     1\n2           2      1     1" in text
    )


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_are_what_a_training_sees(photographs, name):
    config = TrainConfig()
    samples = scan(photographs, config)
    preprocess = Preprocess(64, 72, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    reader = ImageReader(samples, preprocess, n_threads=1)
    images = TrainingBatches(reader, np.arange(4), AUGMENTATIONS[name], seed=5)
    with Image.open(photographs / samples.ids[3]) as opened:
        pixels = np.asarray(opened)
    measured, *views = _views(pixels, samples, 3, name, preprocess, seed=5)
    assert np.array_equal(measured.image, render(pixels, preprocess).permute(1, 2, 0).numpy())
    assert len(views) == VIEWS
    for epoch, view in enumerate(views, 1):
        seen = images.render(3, epoch).permute(1, 2, 0).numpy()
        assert np.array_equal(view.image, seen)


def test_augmented_views_are_drawn_at_the_size_of_a_training(photographs, tmp_path):
    plain, augmented = tmp_path / "plain.png", tmp_path / "augmented.png"
    show(photographs, plain, image_size="64")
    show(photographs, augmented, "strong", image_size="64")
    assert plain.read_bytes() != augmented.read_bytes()


def test_examples_are_of_all_classes_alike(tmp_path):
    labels = ["many"] * 40 + ["few"] * 3 + ["some"] * 20
    images = np.random.default_rng(0).integers(0, 255, (63, 8, 8), dtype=np.uint8)
    samples = scan((images, labels), TrainConfig())
    chosen = choose_examples(samples, 25, seed=0)
    counts = {name: sum(labels[index] == name for index in chosen) for name in set(labels)}
    assert counts == {"many": 11, "few": 3, "some": 11}
    assert chosen == choose_examples(samples, 25, seed=0) != choose_examples(samples, 25, seed=1)
    assert len(set(chosen)) == 25


def test_an_image_that_cannot_be_decoded_is_a_word_in_the_picture(tmp_path):
    whole = encoded(1, height=60, width=60)
    odd = {f"odd/{k}.png": whole[:200] + bytes([k]) * 12 + whole[212:] for k in range(8)}
    data = write_tree(tmp_path / "data", {**FLOWERS, **odd, "odd/good.png": whole})
    for augmentation in (None, "light"):
        picture = tmp_path / f"{augmentation}.png"
        text = show(data, picture, augmentation, image_size="64")
        assert picture.exists()
        if augmentation is None:  # all 13 images are drawn
            lines = text.splitlines()
            assert lines[0] == f"{data}: 5 images of 3 classes"  # "13 images" and "0 refused"
            assert (
                lines[1] == "8 refused (8 of the 13 that were decoded), 0 byte-identical to another"
            )
            assert [line.split(":")[:2] for line in lines[2:8]] == [
                *([f"  odd/{k}.png", " corrupt"] for k in range(5)),
                ["  and 3 more"],
            ]
            assert lines[9:12] == ["odd         1", "rose        2", "tulip       2"]
    with pytest.raises(DataError, match=r"odd/0\.png: corrupt"):
        show(data, tmp_path / "strict.png", strict=True)
    assert not (tmp_path / "strict.png").exists()


def test_the_picture_replaces_nothing_of_the_users(flowers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    with pytest.raises(RunError) as raised:
        show(flowers, mine)
    assert str(raised.value) == f"{mine} exists; it is left alone\nhint: `out` names another file"
    assert mine.read_bytes() == b"mine"
    with pytest.raises(RunError, match="would be in the data"):
        show(flowers, flowers / "rose" / "grid.png")
    with pytest.raises(RunError, match="is not the name of a PNG file"):
        show(flowers, tmp_path / "grid.jpg")
    for _ in range(2):  # its own picture is replaced
        assert main(["show", str(flowers)]) == 0
    assert capsys.readouterr().out.count("picture: regraft-runs") == 2
    assert {path.name for path in (tmp_path / "regraft-runs").iterdir()} == {"show.png"}


def test_unknown_names_are_reported(flowers):
    with pytest.raises(ConfigError) as raised:
        show(flowers, augmentation="storng")
    assert str(raised.value) == (
        "augment is storng; it must be one of auto, none, light, standard, strong, digits"
    )
    with pytest.raises(ConfigError, match="head belongs to training and changes nothing here"):
        show(flowers, head="knn")

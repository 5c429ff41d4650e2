"""Augmentation: a function of seed, epoch and content, whatever else goes on."""

import numpy as np
import pytest
import torch

from conftest import CLASSES, texture
from regraft.config.train_config import TrainConfig
from regraft.core.keyed_random import generator, key_of, torch_seeded
from regraft.data.scan import scan
from regraft.errors import DataError
from regraft.finetune.batches import TrainingBatches, n_batches
from regraft.finetune.mixing import draw_mixing
from regraft.finetune.reader import ImageReader
from regraft.images.augment import AUGMENTATIONS, Augmentation, _operations, augment
from regraft.images.render import Preprocess, render

PREPROCESS = Preprocess(48, 54, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bicubic")


def samples_of(n=24, first=0, side=40):
    pictures = np.stack([texture(CLASSES[k % 3], first + k, side) for k in range(n)])
    return scan((pictures, [CLASSES[k % 3] for k in range(n)]), TrainConfig())


def training_images(samples, indices=None, seed=0, workers=1, recipe="strong"):
    indices = np.arange(len(samples)) if indices is None else np.asarray(indices)
    reader = ImageReader(samples, PREPROCESS, workers)
    return TrainingBatches(reader, indices, AUGMENTATIONS[recipe], seed=seed)


def rendered(images, epoch, size):
    """Return {content hash: pixels} of an epoch, and the order."""
    found, order = {}, []
    with images.epoch(epoch, n_batches(images.n_images, size, 1)) as batches:
        for batch in batches:
            order += batch.indices.tolist()
            for index, image in zip(batch.indices, batch.images, strict=True):
                found[images.samples.hashes[index]] = image.clone()
            assert batch.labels.tolist() == images.samples.labels[batch.indices].tolist()
    return found, order


def assert_same(one, other):
    for name in one.keys() & other.keys():
        assert torch.equal(one[name], other[name])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_neither_workers_nor_batches_nor_neighbours_change_a_bit(name):
    samples = samples_of()
    first, order = rendered(training_images(samples, recipe=name), 1, 8)
    many, same_order = rendered(training_images(samples, workers=4, recipe=name), 1, 5)
    assert same_order == order
    assert first.keys() == many.keys()
    assert_same(first, many)
    half, _ = rendered(training_images(samples, range(0, 24, 2), recipe=name), 1, 24)
    assert len(half) == 12
    assert_same(first, half)
    again, _ = rendered(training_images(samples_of(12), workers=2, recipe=name), 1, 3)
    assert_same(first, again)  # the other half of the data is not even there


def test_each_epoch_and_each_seed_is_another_one():
    samples = samples_of()
    images = training_images(samples)
    one, order = rendered(images, 1, 8)
    for other, other_order in (
        rendered(images, 2, 8),
        rendered(training_images(samples, seed=1), 1, 8),
    ):
        assert other_order != order
        assert sorted(other_order) == sorted(order) == list(range(24))
        assert sum(torch.equal(one[key], other[key]) for key in one) <= 2


def test_images_that_come_later_do_not_change_the_order_of_the_others():
    few = training_images(samples_of(12))
    more = training_images(samples_of(24))
    known = set(few.samples.hashes)
    order = [more.samples.hashes[k] for k in more.order(3)]
    assert [key for key in order if key in known] == [few.samples.hashes[k] for k in few.order(3)]


def test_no_global_generator_is_read_or_changed():
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - what must rest
    first, _ = rendered(training_images(samples_of()), 1, 8)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    torch.manual_seed(7)
    assert_same(first, rendered(training_images(samples_of()), 1, 8)[0])


def test_torch_is_seeded_by_key_and_put_back():
    before = torch.get_rng_state()
    with torch_seeded(torch.device("cpu"), 0, "dropout", 5):
        one = torch.rand(3)
    with torch_seeded(torch.device("cpu"), 0, "dropout", 5):
        same = torch.rand(3)
    with torch_seeded(torch.device("cpu"), 0, "dropout", 6):
        other = torch.rand(3)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_none_is_the_evaluation_rendering():
    picture = texture("checks", 3, 60)
    found = augment(picture, PREPROCESS, AUGMENTATIONS["none"], generator(0))
    assert torch.equal(found, render(picture, PREPROCESS))


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 2), (3, 5), (48, 48), (500, 333)])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_any_shape_becomes_a_square(name, shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    picture.flags.writeable = False  # as Pillow's pixels are
    for turned in (picture, picture[::-1, ::-1]):
        for draw in range(8):
            found = augment(turned, PREPROCESS, AUGMENTATIONS[name], generator(draw))
            assert found.shape == (3, 48, 48)
            assert found.dtype == torch.uint8


def test_every_operation_does_something_and_keeps_the_shape():
    picture = torch.from_numpy(texture("blobs", 1, 48)).permute(2, 0, 1)
    changed = set()
    for name, operation in _operations().items():
        for level in (0.0, 0.5, 1.0):
            for sign in (-1.0, 1.0):
                found = operation(picture, level, sign)
                assert (found.shape, found.dtype) == (picture.shape, torch.uint8)
                if not torch.equal(found, picture):
                    changed.add(name)
    assert changed == set(_operations()) - {"identity"}


def test_digits_are_moved_and_never_mirrored():
    """The bright half stays, and what comes in from outside is as dark as the border."""
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[12:36, 24:34] = 200
    for draw in range(30):
        found = augment(picture, PREPROCESS, AUGMENTATIONS["digits"], generator(draw)).float()
        assert found[0, :, 24:].sum() > found[0, :, :24].sum()
        assert found[:, 0].max() == 0
    white = 255 - picture
    found = augment(white, PREPROCESS, AUGMENTATIONS["digits"], generator(3))
    assert found[:, 0].min() == 255


def test_half_of_the_images_are_mirrored_and_a_quarter_loses_a_rectangle():
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[:, 24:] = 255
    recipe = Augmentation(flip=True)
    found = [augment(picture, PREPROCESS, recipe, generator(k)) for k in range(400)]
    mirrored = [image[0, 24, 2] > 0 for image in found]
    assert 160 < sum(mirrored) < 240
    recipe = Augmentation(erase=0.25)
    plain = render(picture, PREPROCESS)
    erased = [augment(picture, PREPROCESS, recipe, generator(k)) for k in range(400)]
    lost = [found for found in erased if not torch.equal(found, plain)]
    assert 70 < len(lost) < 130
    colours = {tuple(pixel) for pixel in lost[0].flatten(1).T.tolist()}
    assert (128, 102, 76) in colours  # the mean colour, which becomes 0


def test_an_image_that_has_changed_or_gone_is_named(tmp_path):
    from conftest import make_photographs  # noqa: PLC0415

    data = make_photographs(tmp_path / "data", a_class=4)
    samples = scan(str(data), TrainConfig())
    images = training_images(samples)
    changed = data / samples.ids[2]
    changed.write_bytes((data / samples.ids[3]).read_bytes())
    with (
        pytest.raises(DataError, match=r"blobs/002.png could be read when the run began and cannot "
                                       r"be now: changed: its bytes have changed since they were "
                                       r"first read\nhint: put it back"),
        images.epoch(1, 1) as batches,
    ):  # fmt: skip
        list(batches)
    changed.unlink()
    with pytest.raises(DataError, match=r"blobs/002.png could be read .*: missing: "):
        images.render(2, 1)


def test_batches_differ_by_one_image_and_can_begin_anywhere():
    images = training_images(samples_of(), recipe="none")
    number = n_batches(24, 7, 1)
    with images.epoch(1, number) as batches:
        whole = [batch.indices.tolist() for batch in batches]
    assert [len(batch) for batch in whole] == [6, 6, 6, 6]
    for first in range(5):
        with images.epoch(1, number, first) as batches:
            assert [batch.indices.tolist() for batch in batches] == whole[first:]


def test_mixing_is_a_function_of_the_step_and_keeps_shares():
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 16)
    targets = torch.eye(4)
    for kind in ({"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}):
        shares = []
        for step in range(20):
            mixing = draw_mixing(4, 16, **kind, seed=0, step=step)
            again = draw_mixing(4, 16, **kind, seed=0, step=step)
            assert (again.share, again.box) == (mixing.share, mixing.box)
            partners = torch.from_numpy(mixing.partners)
            mixed = mixing.images(images, images[partners])
            expected = torch.arange(4.0) * mixing.share + partners * (1 - mixing.share)
            assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
            blended = mixing.targets(targets, targets[partners])
            assert torch.allclose(blended.sum(1), torch.ones(4))
            itself = blended.argmax(1).tolist() == [0, 1, 2, 3]
            assert itself or mixing.share <= 0.5
            shares.append(mixing.share)
        assert len(set(shares)) > 15
    both = [draw_mixing(4, 16, mixup=0.4, cutmix=1.0, seed=0, step=k).box for k in range(200)]
    assert 60 < sum(box is None for box in both) < 140


def test_keys_do_not_run_into_each_other():
    words = ((1, 23), (12, 3), ("1", 23), (b"1", 23), (1, 2, 3), (123,), (b"12", 3), (b"", b"1"))
    keys = [key_of(*some) for some in words]
    assert len(set(keys)) == len(keys)

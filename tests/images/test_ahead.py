"""Reading ahead: the order stays, memory is bounded, and each error belongs to its image."""

import functools
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from regraft.errors import ImageError
from regraft.images.ahead import ahead, decode_ahead, read_checked, render_ahead
from regraft.images.decode import hash_payload
from regraft.images.render import Preprocess, render

PREPROCESS = Preprocess(16, 18, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def stream(n: int = 5):
    return [(number, functools.partial(picture, number)) for number in range(n)]


def unreadable():
    raise FileNotFoundError(2, "No such file or directory")


def test_results_come_in_order_and_items_are_taken_one_by_one():
    taken = []
    items = (taken.append(number) or number for number in itertools.count())
    results = ahead(lambda number: number * 2, items, n_threads=3, most=4)
    assert list(itertools.islice(results, 6)) == [0, 2, 4, 6, 8, 10]
    assert len(taken) == 6 + 4
    results.close()


def test_an_error_is_raised_instead_of_its_result():
    results = ahead(lambda number: 6 // number, [3, 0, 2], n_threads=2, most=2)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_with_the_generator():
    results = ahead(str, range(100), n_threads=2, most=8)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if "regraft-images" in thread.name]


def test_an_image_that_changed_or_cannot_be_read_is_an_error():
    first = hash_payload(picture(1))
    assert np.array_equal(read_checked(lambda: picture(1), first), picture(1))
    assert np.array_equal(read_checked(lambda: picture(2), None), picture(2))
    with pytest.raises(ImageError, match="changed since") as caught:
        read_checked(lambda: picture(2), first)
    assert caught.value.kind == "changed"
    with pytest.raises(ImageError, match="No such file") as caught:
        read_checked(unreadable, None)
    assert caught.value.kind == "unreadable"


def render_with_default(images, *arguments):
    return render_ahead(images, PREPROCESS, *arguments)


@pytest.mark.parametrize("read", [decode_ahead, render_with_default])
def test_each_error_has_the_index_of_its_image(read):
    images = stream()
    images[1] = (1, unreadable)
    images[2] = (2, lambda: b"text")
    hashes = [hash_payload(picture(number)) for number in range(5)]
    hashes[2], hashes[3] = hash_payload(b"text"), hashes[0]
    found = dict(read(images, 2, 10**6, hashes))
    kinds = {index: value.kind for index, value in found.items() if isinstance(value, ImageError)}
    assert list(found) == [0, 1, 2, 3, 4]
    assert kinds == {1: "unreadable", 2: "not an image", 3: "changed"}


def test_images_are_decoded_and_rendered_as_one_by_one():
    for index, pixels in decode_ahead(stream(), 2, 10**6):
        assert np.array_equal(pixels, picture(index))
    for index, rendered in render_ahead(stream(), PREPROCESS, 2, 10**6):
        assert torch.equal(rendered, render(picture(index), PREPROCESS))


def test_threads_that_start_during_a_stream_keep_their_processors():
    before = torch.get_num_threads()
    seen = []

    def counted(load):
        seen.append(torch.get_num_threads())
        return load()

    images = ((index, functools.partial(counted, load)) for index, load in stream(60))
    torch.set_num_threads(2)
    try:
        rendered = render_ahead(images, PREPROCESS, 2, 10**6)
        next(rendered)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
        assert torch.get_num_threads() == 2
        assert len(list(rendered)) == 59
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}

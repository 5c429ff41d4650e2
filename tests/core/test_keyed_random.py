"""Random numbers by key: pinned for ever, since a seed must mean the same in later versions.

A change of a value here changes the batches, the augmentation and the heads of every seed.
"""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from regraft.core.keyed_random import generator, key_of, torch_seeded

CPU = torch.device("cpu")


def test_a_key_is_the_sha256_of_each_word_after_its_length():
    words = [b"7", b"'two'", b"b\xff\x00ab\n", b"'" + b"x" * 300 + b"'"]
    lengths = [b"\x01\x00\x00\x00", b"\x05\x00\x00\x00", b"\x06\x00\x00\x00", b"\x2e\x01\x00\x00"]
    each = b"".join(length + word for length, word in zip(lengths, words, strict=True))
    assert key_of(7, "two", b"\xff\x00ab\n", "x" * 300) == hashlib.sha256(each).digest()
    assert key_of() == hashlib.sha256(b"").digest()


def test_no_two_lists_of_words_have_one_key():
    """Not those of which one is the other written in another way: 1 and "1", "a" and b"a"."""
    words = (0, 1, 10, -1, "", "0", "1", "10", "a", "ab", "'a'", b"", b"0", b"1", b"a", b"'a'")
    lists = [each for size in range(4) for each in itertools.product(words, repeat=size)]
    assert len({key_of(*each) for each in lists}) == len(lists) == 1 + 16 + 16**2 + 16**3


def test_a_generator_is_philox_with_half_of_the_key():
    key = np.frombuffer(key_of(3, "crop", b"ab")[:16], dtype="<u8")
    expected = np.random.Generator(np.random.Philox(key=key))
    np.testing.assert_array_equal(generator(3, "crop", b"ab").random(9), expected.random(9))


def test_what_a_generator_draws_is_the_same_for_ever():
    raw = generator(0, "order", b"x").bit_generator.random_raw(2)
    assert raw.tolist() == [7177740665811698996, 7547532994792490638]


def test_torch_draws_as_seeded_by_seven_bytes_of_the_key():
    expected = torch.Generator().manual_seed(int.from_bytes(key_of(0, "dropout", 5)[:7], "little"))
    with torch_seeded(CPU, 0, "dropout", 5):
        found = torch.rand(5)
    assert torch.equal(found, torch.rand(5, generator=expected))
    with torch_seeded(CPU, 0, "dropout", 5):
        assert torch.initial_seed() == 43_689_111_392_239_440  # for ever


def test_torch_draws_on_as_if_nothing_had_been_drawn_between():
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    first = torch.rand(2)
    with torch_seeded(CPU, 1, "x"):
        torch.rand(100)
    with pytest.raises(KeyError), torch_seeded(CPU, 1, "x"):  # also where the block fails
        raise KeyError(torch.rand(1))
    assert torch.equal(torch.cat([first, torch.rand(2)]), expected)


def test_the_processor_is_seeded_beside_any_other_device():
    with torch_seeded(CPU, 4):
        expected = torch.rand(3)
    with torch_seeded(torch.device("meta"), 4):
        assert torch.equal(torch.rand(3), expected)

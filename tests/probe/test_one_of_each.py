"""One sample of each unit, in an order that does not know how many samples a unit has."""

import numpy as np

from listed_samples import images, samples_of
from regraft.probe.decisions import one_of_each


def test_units_of_many_samples_come_neither_first_nor_last():
    """300 units of one sample and 300 of nine: the mean places are those of a random order."""
    units = np.concatenate([np.arange(300), 300 + np.repeat(np.arange(300), 9)])
    found = one_of_each(np.arange(3000), units, samples_of(images("rose", 3000)))
    assert sorted(units[found].tolist()) == list(range(600))
    places = np.flatnonzero(units[found] >= 300)
    error = (600 * 601 / 12 / 300 * (300 / 600)) ** 0.5  # of the mean of 300 of 600 places
    assert abs(places.mean() - 299.5) < 4 * error


def test_of_each_unit_any_sample_may_stand_for_it():
    """The first of ten, in the order of the data, is one of ten by chance."""
    units = np.repeat(np.arange(200), 10)
    found = one_of_each(np.arange(2000), units, samples_of(images("rose", 2000)))
    counts = np.bincount(found % 10, minlength=10)
    assert counts.min() > 20 - 4 * 18**0.5
    assert counts.max() < 20 + 4 * 18**0.5


def test_the_order_of_the_data_does_not_matter():
    units = np.repeat(np.arange(20), 3)
    samples = samples_of(images("rose", 60))
    found = one_of_each(np.arange(60), units, samples)
    shuffled = np.random.default_rng(0).permutation(60)
    assert one_of_each(shuffled, units, samples).tolist() == found.tolist()
    some = np.arange(0, 60, 2)
    assert {*one_of_each(some, units, samples).tolist()} <= {*some.tolist()}
    assert one_of_each(some[:0], units, samples).tolist() == []

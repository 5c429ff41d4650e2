"""The task decides which labels and classes are possible."""

import numpy as np
import pytest

from regraft.errors import InputError
from regraft.task import check_classes, check_labels


@pytest.mark.parametrize("classes", [("cat", "cat"), ("dog", "cat"), ("cat", "dog", "cat")])
def test_classes_are_sorted_and_each_is_there_once(classes):
    with pytest.raises(InputError, match="not sorted by code point, each once"):
        check_classes(classes)


def test_one_class_is_too_few():
    with pytest.raises(InputError, match="there is 1 class; a classifier needs two"):
        check_classes(("cat",))


@pytest.mark.parametrize("labels", [[-1, 0], [0, 3], [7]])
def test_a_label_is_the_number_of_a_class(labels):
    with pytest.raises(InputError, match="they must be from 0 to 2"):
        check_labels(np.array(labels), 3)


def test_all_labels_of_the_classes_and_no_labels_at_all_are_good():
    check_labels(np.array([0, 2, 1]), 3)
    check_labels(np.array([], np.int64), 3)

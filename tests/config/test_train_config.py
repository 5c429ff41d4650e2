"""TrainConfig as Python users make it."""

import copy
import inspect
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

import regraft
from regraft.config.declaration import settings_of
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import from_yaml, to_yaml
from regraft.errors import ConfigError
from regraft.features.taps import GRIDS

PIXELS = "auto or a number of pixels from 8 to 4096"


def test_values_are_converted_to_the_type_of_their_setting():
    config = TrainConfig(
        out="runs/a", cache_dir=PurePosixPath("store"), image_size=224, seed=np.int64(3),
        test_fraction=np.float64(0.5),
    )  # fmt: skip
    assert (config.out, config.cache_dir) == (Path("runs/a"), Path("store"))
    assert (config.image_size, config.seed, config.test_fraction) == ("224", 3, 0.5)
    assert from_yaml(to_yaml(config)) == config
    assert config.replace(split="split.csv").split == Path("split.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hed": 1}, "unknown setting hed\nhint: did you mean head?"),
        ({"zzz": 1}, "unknown setting zzz\nhint: docs/settings.md has all"),
        ({"seed": "3"}, "seed is '3'; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"folds": 2.5}, "folds is 2.5; it must be a whole number"),
        ({"strict": 1}, "strict is 1; it must be True or False"),
        ({"out": 3}, "out is 3; it must be a path"),
        ({"model": None}, "model is None; it must be text"),
        ({"test_fraction": "x"}, "test_fraction is 'x'; it must be a number"),
        (
            {"test_fraction": float("nan")},
            "test_fraction is nan; it must be between 0 and 1, both excluded",
        ),
        ({"head": ["knn"]}, "head is ['knn']; it must be one of logistic, ridge, knn, mean"),
        (
            {"image_size": 5},
            f"image_size is 5; it must be {PIXELS}",
        ),
        *(
            ({"memory": value}, f"memory is {value}; it must be auto or a number of GiB, 0 or more")
            for value in ("much", "nan", "inf", "-1", "", -0.5, "1e999")
        ),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_in_the_error(settings, message):
    for make in (TrainConfig, TrainConfig().replace):
        with pytest.raises(ConfigError) as caught:
            make(**settings)
        assert str(caught.value) == message


def test_memory_is_a_number_as_python_has_them_or_text():
    assert [TrainConfig(memory=value).memory for value in (0.5, 2, "1.5", "auto")] == [
        *("0.5", "2", "1.5", "auto"),
    ]


def test_the_grids_that_can_be_set_are_those_that_are_read():
    assert {str(grid) for grid in GRIDS} == {*settings_of(TrainConfig)["grids"].rule.words}


def test_the_signature_lists_the_settings():
    assert list(inspect.signature(TrainConfig).parameters) == list(settings_of(TrainConfig))
    assert copy.deepcopy(TrainConfig(seed=4)) == TrainConfig(seed=4)


def test_wrong_names_are_errors_of_the_functions_too():
    hed = "unknown setting hed\nhint: did you mean head?"
    training = "head belongs to training and changes nothing here\nhint: what can be set is "
    for call, message in (
        (lambda: regraft.train("x", hed=1), hed),
        (lambda: regraft.train("x", TrainConfig(), hed=1), hed),
        (lambda: regraft.evaluate("x", "y", hed=1), hed),
        (lambda: next(regraft.predict("x", ["y"], hed=1)), hed),
        (lambda: regraft.evaluate("x", "y", head="knn"), training),
        (lambda: next(regraft.predict("x", ["y"], head="knn")), training),
        (
            lambda: regraft.train("x", {"seed": 1}),
            "the configuration is of type dict; it must be a TrainConfig\nhint: settings can be ",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(message)

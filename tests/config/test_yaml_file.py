import copy
import inspect
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import regraft
from regraft.config.declaration import settings_of
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import MAX_BYTES, from_yaml, read_config, to_yaml
from regraft.errors import ConfigError

NEWER = """\
c.yaml, line 1: schema_version is 2; this regraft reads up to 1
hint: the file was written by a newer regraft: update with pip install -U regraft"""

PIXELS = "auto or a number of pixels from 8 to 4096"

texts = st.text(max_size=30)


@given(
    st.builds(
        TrainConfig,
        model=texts,
        weights=st.one_of(
            texts, st.sampled_from(["no", "null", "~", "1e3", "0x10", "1:30", "yes"])
        ),
        taps=texts,
        image_size=st.sampled_from(["auto", "224"]),
        group_by=st.none() | texts,
        test_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
        seed=st.integers(0, 2**32 - 1),
        cache=st.booleans(),
        head=st.sampled_from(["logistic", "knn", "mean"]),
        out=st.none() | st.sampled_from([Path("a"), Path("a b/c"), Path("null"), Path("7")]),
    )
)
def test_what_is_written_is_read_back(config):
    assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("weights: no", "weights", "no"),
        ("image_size: 224", "image_size", "224"),
        ("cache: no", "cache", False),
        ("cache: true", "cache", True),
        ("test_fraction: 1e-1", "test_fraction", 0.1),
        ("split: ~", "split", None),
        ("split: parts/split.csv", "split", Path("parts/split.csv")),
        ("schema_version: 1\nseed: 7", "seed", 7),
        ("", "seed", 0),
        ("# nothing\n", "seed", 0),
    ],
)
def test_values_mean_what_they_look_like(text, name, value):
    assert getattr(from_yaml(text), name) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 3", "c.yaml, line 1: unknown setting sed\nhint: did you mean seed?"),
        ("zzz: 3", "c.yaml, line 1: unknown setting zzz\nhint: docs/settings.md has all"),
        ("seed: 1\n\nseed: 2", "c.yaml, line 3: seed is set twice"),
        ("seed: x", "c.yaml, line 1: seed is x; it must be a whole number"),
        ("seed:", "c.yaml, line 1: seed is empty; it must be a whole number"),
        ("seed: 1.5", "c.yaml, line 1: seed is 1.5; it must be a whole number"),
        ("cache: maybe", "c.yaml, line 1: cache is maybe; it must be True or False"),
        ("head: logstic", "c.yaml: head is logstic; it must be one of logistic, ridge, knn, mean"),
        ("folds: 1", "c.yaml: folds is 1; it must be 0 or lie between 2 and 100"),
        ("schema_version: 2", NEWER),
        (
            "schema_version: new",
            "c.yaml, line 1: schema_version is new; it must be a number from 1",
        ),
        ("- 1", "c.yaml: settings are written as `name: value`, one a line"),
        ("train:\n  seed: 1", "c.yaml, line 1: settings are written as `name: value`, not nested"),
        ("a: b: c", "c.yaml, line 1: not YAML: mapping values are not allowed here"),
        ("seed: 1\n---\nseed: 2", "c.yaml, line 2: not YAML: but found another document"),
        ("[" * 10_000, "c.yaml: not YAML"),
        ("\0", "c.yaml: not YAML"),
        ("a" * 70_000, "c.yaml is longer than 65536 characters: not a configuration"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(text, message):
    with pytest.raises(ConfigError) as caught:
        from_yaml(text, "c.yaml")
    assert str(caught.value) == message


def test_a_tag_makes_no_object(tmp_path):
    made = tmp_path / "made"
    assert from_yaml("model: !x y").model == "y"
    with pytest.raises(ConfigError, match="not nested"):
        from_yaml(f"model: !!python/object/apply:os.mkdir ['{made.as_posix()}']")
    assert not made.exists()


def test_files_are_read_within_bounds(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 5\r\n")  # as Windows editors write it
    assert read_config(path).seed == 5
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="at most 65536 are read"):
        read_config(path)
    path.write_bytes(b"model: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029", "\ufeff", "\x1b[31m", "ö 猫"])
def test_characters_that_yaml_takes_for_line_breaks_come_back(text):
    assert from_yaml(to_yaml(TrainConfig(model=text))).model == text


# --- TrainConfig itself -----------------------------------------------------------------------


def test_python_users_may_give_what_is_meant():
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
            "test_fraction is nan; it must lie between 0 and 1, both excluded",
        ),
        ({"head": ["knn"]}, "head is ['knn']; it must be one of logistic, ridge, knn, mean"),
        (
            {"image_size": 5},
            f"image_size is 5; it must be {PIXELS}",
        ),
    ],
)  # fmt: skip
def test_wrong_settings_are_told_by_name(settings, message):
    for make in (TrainConfig, TrainConfig().replace):
        with pytest.raises(ConfigError) as caught:
            make(**settings)
        assert str(caught.value) == message


def test_the_signature_is_the_one_of_the_fields():
    assert list(inspect.signature(TrainConfig).parameters) == list(settings_of(TrainConfig))
    assert copy.deepcopy(TrainConfig(seed=4)) == TrainConfig(seed=4)


def test_the_functions_tell_wrong_names_too():
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

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.config.declaration import settings_of
from regraft.config.train_config import TrainConfig
from regraft.config.yaml_file import MAX_BYTES, from_yaml, read_config, to_yaml
from regraft.errors import ConfigError

NEWER = """\
c.yaml, line 1: schema_version is 2; this regraft reads up to 1
hint: the file was written by a newer regraft: update with pip install -U regraft"""


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
def test_values_are_read_as_they_are_written(text, name, value):
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
        ("folds: 1", "c.yaml: folds is 1; it must be 0 or between 2 and 100"),
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
def test_an_error_names_the_line(text, message):
    with pytest.raises(ConfigError) as caught:
        from_yaml(text, "c.yaml")
    assert str(caught.value) == message


PATHS = [name for name, each in settings_of(TrainConfig).items() if each.base_type is Path]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("written", "shown"), [(r"a\0b", r"a\x00b"), (r"a\uD800b", r"a\ud800b")])
def test_what_no_system_takes_for_a_path_is_refused_in_every_setting(name, written, shown):
    message = f"{name} is {shown}; it must be a path that this system can have"
    with pytest.raises(ConfigError) as caught:
        from_yaml(f'{name}: "{written}"', "c.yaml")
    assert str(caught.value) == f"c.yaml: {message}"
    with pytest.raises(ConfigError) as caught:  # in Python, and from a flag
        TrainConfig(**{name: "a\0b" if "x00" in shown else "a\ud800b"})
    assert str(caught.value) == message
    odd = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8 is a path all the same
    assert from_yaml(to_yaml(TrainConfig(**{name: odd}))) == TrainConfig(**{name: odd})


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

"""The files of a repository that hold its images are chosen by name and size."""

from huggingface_hub.utils import filter_repo_objects

from regraft.data.sources.hub_files import choose_files, patterns, short_list


def test_tables_are_the_data_where_there_are_any():
    sizes = {"train.parquet": 1, "a/1.png": 900, "b/1.png": 900, "all.zip": 900}
    assert choose_files("hf:a/b", sizes) == (["train.parquet"], [])


def test_of_images_and_archives_those_with_more_bytes_are_chosen():
    images = {"a/1.png": 5, "b/1.png": 5}
    notes = ["all.zip: left out, since the images have more bytes"]
    assert choose_files("hf:a/b", {**images, "all.zip": 9}) == (["a/1.png", "b/1.png"], notes)
    notes = ["a/1.png, b/1.png: left out, since all.zip has more bytes"]
    assert choose_files("hf:a/b", {**images, "all.zip": 10}) == (["all.zip"], notes)


def test_names_of_any_length_and_number_make_a_short_list():
    assert short_list(["x" * 5000]) == "x" * 100
    assert short_list([str(n) for n in range(5000)]).endswith("9 and 4,990 more")


def test_many_images_are_named_by_few_folders():
    """The client compares every file with every pattern."""
    wanted = [f"train/{name}/{n}.png" for name in ("rose", "tulip [1]", "a*b") for n in range(500)]
    others = ["README.md", "train/a*b/notes.txt", "train/a*b/.x/1.png", "train/aXb/1.txt"]
    others += ["rose/1.txt", "train/tulip 1/2.txt", "../train/rose/3.png"]
    found = patterns(wanted, [*wanted, *others])
    assert sorted(found[:2]) == ["train/rose/*", "train/tulip [[]1]/*"]
    assert list(filter_repo_objects([*wanted, *others], allow_patterns=found)) == wanted
    assert patterns(["a.png", "b/c.png"], ["a.png", "b/c.png"]) == ["a.png", "b/*"]

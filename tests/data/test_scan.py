"""A scan reads every image once, accounts for every loss and replaces nothing."""

import hashlib
import io
import random
import threading
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from image_trees import FLOWERS, encoded, pixels, write_tar, write_tree, write_zip
from regraft.config.train_config import TrainConfig
from regraft.core.reporter import Reporter
from regraft.data.ledger import Ledger, LedgerEntry
from regraft.data.samples import Entry
from regraft.data.scan import check_losses, scan
from regraft.errors import ArchiveError, DataError
from regraft.images.losses import DARK, FRAMES
from regraft.splits.split import split

CONFIG = TrainConfig(workers=2)


def many(n, **others):
    """Return a tree of n images in two classes, and other files."""
    files = {f"{'ab'[i % 2]}/{i:03}.png": encoded(i) for i in range(n)}
    return {**files, **{name.replace("__", "/"): content for name, content in others.items()}}


def statuses(samples):
    return {entry.path: (entry.status, entry.kind) for entry in samples.ledger.entries}


def test_samples_are_complete_and_in_order(tmp_path):
    files = {**FLOWERS, "tulip/wide.jpg": encoded(5, "JPEG", height=3, width=9)}
    samples = scan(write_zip(tmp_path / "a.zip", files), CONFIG)
    assert samples.ids == tuple(files)
    assert samples.classes == ("rose", "tulip")
    assert samples.labels.tolist() == [0, 0, 1, 1, 1]
    assert samples.hashes == tuple(hashlib.sha256(f).digest() for f in files.values())
    assert samples.sizes.tolist() == [[6, 5]] * 4 + [[3, 9]]
    assert samples.positions.tolist() == [0, 1, 2, 3, 4]
    assert samples.ledger.counts() == {"used": 5, "refused": 0, "passed over": 0}
    assert samples.labels.dtype == np.int64
    assert samples.sizes.dtype == np.int32


def test_classes_are_sorted_by_code_point():
    images = [pixels(n) for n in range(5)]
    samples = scan((images, ["é", "b", "10", "9", "B"]), CONFIG)
    assert samples.classes == ("10", "9", "B", "b", "é")
    assert samples.labels.tolist() == [4, 3, 0, 1, 2]


def test_parts_and_groups_come_along(tmp_path):
    files = {f"{part}/{name}": encoded(i) for i, (part, name) in enumerate(
        [("train", "a/1.png"), ("train", "b/1.png"), ("test", "b/2.png")])}  # fmt: skip
    samples = scan(write_tree(tmp_path, files), CONFIG.replace(group_by="parent"))
    assert samples.ids == ("test/b/2.png", "train/a/1.png", "train/b/1.png")
    assert samples.parts == ("test", "train", "train")
    assert samples.groups == ("test/b", "train/a", "train/b")
    assert samples.classes == ("a", "b")


@pytest.mark.parametrize("container", [write_tree, lambda p, f: write_zip(p / "a.zip", f),
                                       lambda p, f: write_tar(p / "a.tgz", f, "w:gz")])  # fmt: skip
def test_what_cannot_be_used_is_in_the_ledger(tmp_path, container):
    bad = {
        "a__text.jpg": b"this is text",
        "a__empty.png": b"",
        "b__cut.png": encoded(1)[:20],
        "b__page.gif": b"<!doctype html>",
        "a__readme.txt": b"text",
        "b__nothing": b"",
    }
    samples = scan(container(tmp_path, many(100, **bad)), CONFIG)
    assert len(samples) == 100
    lost = {path: status for path, status in statuses(samples).items() if status[0] != "used"}
    assert lost == {
        "a/text.jpg": ("refused", "not an image"),
        "a/empty.png": ("refused", "empty"),
        "b/cut.png": ("refused", "truncated"),
        "b/page.gif": ("refused", "not an image"),
        "a/readme.txt": ("passed over", "not an image"),
        "b/nothing": ("passed over", "not an image"),
    }
    assert all(e.reason for e in samples.ledger.entries if e.status != "used")
    # the positions skip what was refused, and lead to the same bytes
    for index, load in samples.stream(range(len(samples))):
        assert hashlib.sha256(load()).digest() == samples.hashes[index]


def test_strict_stops_at_the_first(tmp_path):
    write_tree(tmp_path, many(40, a__text=b"", **{"b__x.jpg": b"text", "b__y.jpg": b"text"}))
    with pytest.raises(DataError, match=r"^b/x\.jpg: not an image: text") as caught:
        scan(tmp_path, CONFIG.replace(strict=True))
    assert "strict" in caught.value.hint


def test_strict_stops_at_what_the_listing_refused(tmp_path):
    write_tree(tmp_path, {**many(40), "loose.png": encoded(1)})
    with pytest.raises(DataError, match=r"^loose\.png: beside class folders: "):
        scan(tmp_path, CONFIG.replace(strict=True))
    scan(tmp_path, CONFIG)


def test_an_image_with_too_many_pixels_is_refused(tmp_path):
    files = many(40, **{"a__large.png": encoded(1, height=20, width=20)})
    samples = scan(write_tree(tmp_path, files), CONFIG.replace(max_pixels=399))
    assert statuses(samples)["a/large.png"] == ("refused", "too many pixels")


def test_more_than_five_per_cent_lost_is_an_error(tmp_path):
    write_tree(tmp_path, many(95, **{f"a__bad{n}.jpg": b"text" for n in range(5)}))
    assert len(scan(tmp_path, CONFIG)) == 95
    write_tree(tmp_path, {f"b/bad{n}.jpg": b"text" for n in range(10)})
    with pytest.raises(DataError) as caught:
        scan(tmp_path, CONFIG)
    lines = caught.value.message.split("\n")
    assert lines[0] == "15 of 110 images are refused, more than 5%"
    assert lines[1] == "  a/bad0.jpg: not an image: text"
    assert lines[-1] == "  and 5 more"
    assert len(lines) == 12
    assert caught.value.hint == (
        "repair or remove these files; `max_refused=0.14` goes on without them"
    )
    assert len(scan(tmp_path, CONFIG.replace(max_refused=0.14))) == 95


def test_a_class_that_is_lost_is_an_error(tmp_path):
    write_tree(tmp_path, many(100, **{"c__1.jpg": b"text"}))
    with pytest.raises(DataError) as caught:
        scan(tmp_path, CONFIG)
    assert caught.value.message == ("all images of c are refused\n  c/1.jpg: not an image: text")
    assert caught.value.hint == "repair or remove these files; `exclude='c'` leaves the class out"
    assert scan(tmp_path, CONFIG.replace(exclude="c")).classes == ("a", "b")
    with pytest.raises(DataError, match="all images of c are refused"):
        scan(tmp_path, CONFIG.replace(max_refused=1))


def test_a_folder_without_images_is_no_class(tmp_path):
    write_tree(tmp_path, many(20, docs__readme=b"text"))
    assert scan(tmp_path, CONFIG).classes == ("a", "b")


def test_losses_do_not_count_what_is_passed_over():
    entries = [Entry(name, name[0]) for name in ("a1", "b1")]
    used = [LedgerEntry(entry.id, "used") for entry in entries]
    check_losses(Ledger([*used, *[LedgerEntry("x", "passed over")] * 50]), entries, 0)
    with pytest.raises(DataError, match="1 of 3 images is refused"):
        check_losses(Ledger([*used, LedgerEntry("loose.png", "refused", "k", "r")]), entries, 0.3)


def test_the_same_image_under_two_labels_is_named():
    images = [pixels(0), pixels(1), pixels(0), pixels(0), pixels(1)]
    samples = scan((images, ["a", "b", "b", "a", "b"]), CONFIG)
    (note,) = samples.notes
    assert note == (
        "1 image under several labels, which are not changed; a run's ledger.json names all: "
        "0 (a) = 2 (b) = 3 (a)"
    )
    assert [(entry.status, entry.kind, entry.reason) for entry in samples.ledger.entries] == [
        ("used", "several labels", "the same bytes as 2 (b), 3 (a)"),
        ("used", "", ""),
        ("used", "several labels", "the same bytes as 0 (a), 3 (a)"),
        ("used", "several labels", "the same bytes as 0 (a), 2 (b)"),
        ("used", "", ""),
    ]


def test_many_images_under_several_labels_are_one_line():
    """The same sentence was printed for each of them."""
    images = [pixels(k % 20) for k in range(40)]
    samples = scan((images, ["a"] * 20 + ["b"] * 20), CONFIG)
    (note,) = samples.notes
    assert note.startswith("20 images under several labels, ")
    assert note.endswith(
        ": 0 (a) = 20 (b), 1 (a) = 21 (b), 2 (a) = 22 (b), 3 (a) = 23 (b), "
        "4 (a) = 24 (b) and 15 more"
    )
    assert {entry.kind for entry in samples.ledger.entries} == {"several labels"}


def many_orders(tmp_path, files):
    """Write the same files as archives in several orders."""
    names = list(files)
    for number in range(3):
        random.Random(number).shuffle(names)
        mixed = {name: files[name] for name in names}
        yield write_zip(tmp_path / f"{number}.zip", mixed)
        yield write_tar(tmp_path / f"{number}.tar", mixed)
        yield write_tar(tmp_path / f"{number}.tgz", mixed, "w:gz")


def test_the_order_in_an_archive_changes_nothing(tmp_path):
    files = many(60, **{"a__bad.jpg": b"text", "a__copy.png": encoded(1)})
    seen = set()
    for path in many_orders(tmp_path, files):
        samples = scan(path, CONFIG)
        parts = split(samples, test_fraction=0.3, seed=0)
        read = {samples.ids[i]: load() for i, load in samples.stream(range(len(samples)))}
        assert read == {name: files[name] for name in samples.ids}
        seen.add(
            repr((samples.ids, samples.labels.tolist(), samples.hashes, samples.sizes.tolist(),
                  samples.notes, samples.ledger.entries, parts))
        )  # fmt: skip
    assert len(seen) == 1


def test_the_order_of_a_table_changes_nothing(tmp_path):
    write_tree(tmp_path, many(20))
    rows = [f"{name},{name[0]}" for name in many(20)]
    ids = set()
    for number in range(3):
        random.Random(number).shuffle(rows)
        (tmp_path / f"{number}.csv").write_text("\n".join(["path,label", *rows]), "utf-8")
        ids.add(scan(tmp_path / f"{number}.csv", CONFIG).ids)
    assert ids == {tuple(sorted(many(20)))}


def test_arrays_keep_their_own_order():
    images = [pixels(n) for n in range(12)]
    assert scan((images, ["a", "b"] * 6), CONFIG).ids == tuple(map(str, range(12)))


@pytest.mark.parametrize("container", [write_tree, lambda p, f: write_zip(p / "a.zip", f)])
def test_one_class_is_enough_to_measure_and_not_to_train(tmp_path, container):
    data = container(tmp_path, {f"rose/{n}.png": encoded(n) for n in range(3)})
    assert scan(data, CONFIG, least_classes=1).classes == ("rose",)
    with pytest.raises(DataError) as caught:
        scan(data, CONFIG)
    assert caught.value.message == f"{data} holds images of one class only: rose"
    assert caught.value.hint == "a classifier needs at least two classes"


def sixteen(values):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def test_12_bit_data_in_16_bit_files_are_named_and_not_changed(tmp_path):
    random = np.random.default_rng(0)
    dark = {f"a/{n}.png": sixteen(random.integers(0, 4096, (6, 6))) for n in range(3)}
    full = {f"b/{n}.png": sixteen(random.integers(0, 65536, (6, 6))) for n in range(40)}
    path = write_zip(tmp_path / "a.zip", {**dark, **full, "b/8.gif": encoded(1, "GIF")})
    samples = scan(path, CONFIG)
    (note,) = samples.notes
    assert note == f"a/0.png, a/1.png: {DARK} (seen in 32 of the 43 images with 16 bits)"
    write_zip(path, {**full, "a/1.png": encoded(1)})
    assert scan(path, CONFIG).notes == ()


def frames(kind, count=2, **options):
    stream = io.BytesIO()
    first, *others = (Image.fromarray(pixels(n)) for n in range(count))
    first.save(stream, kind, save_all=True, append_images=others, **options)
    return stream.getvalue()


def test_frames_and_pages_that_are_not_read_are_counted(tmp_path):
    files = {
        "a/moving.gif": frames("GIF"),
        "a/moving.png": frames("PNG"),
        "a/moving.webp": frames("WEBP"),
        "b/pages.tif": frames("TIFF"),
        "b/pages.tiff": frames("TIFF", big_tiff=True),
    }
    stills = {f"b/still.{kind}": frames(kind, 1) for kind in ("GIF", "PNG", "WEBP", "TIFF")}
    samples = scan(write_tree(tmp_path, {**files, **stills}), CONFIG)
    assert samples.notes == (f"{', '.join(sorted(files))}: {FRAMES}",)
    assert len(samples) == 9


@pytest.mark.parametrize(
    ("label", "shown", "what"),
    [
        ("tu\nlip", r"tu\nlip", "control characters, or what is not valid text"),
        ("\x1b[31mred", r"\x1b[31mred", "control characters, or what is not valid text"),
        ("\ud800x", r"\ud800x", "control characters, or what is not valid text"),
        ("x" * 1001, "x" * 100 + "...", "1,001 characters"),
    ],
)
def test_a_class_that_cannot_be_printed_is_an_error(label, shown, what):
    images = [pixels(n) for n in range(4)]
    with pytest.raises(DataError) as caught:
        scan((images, ["a", "b", label, "a"]), CONFIG)
    assert caught.value.message == f"arrays: the class of 2 is called '{shown}', which holds {what}"
    assert caught.value.hint == "give the class a plain name"


def test_a_class_folder_that_cannot_be_printed_is_an_error(tmp_path):
    path = write_zip(tmp_path / "a.zip", {**many(40), "c\n/1.png": encoded(7)})
    with pytest.raises(DataError, match=r"the class of c\\n/1\.png is called 'c\\n', which holds"):
        scan(path, CONFIG)


def test_a_damaged_archive_stops_the_scan(tmp_path, monkeypatch):
    files = {f"{'ab'[i % 2]}/{i}.png": encoded(i, height=60, width=60) for i in range(60)}
    path = write_tar(tmp_path / "a.tgz", files, "w:gz")
    whole = path.read_bytes()

    class Cutting(Reporter):
        """Damages the archive between listing and reading."""

        @contextmanager
        def track(self, label, total):  # noqa: ARG002
            path.write_bytes(whole[: len(whole) // 2])
            yield lambda _: None

    before = threading.active_count()
    with pytest.raises(ArchiveError, match=r"a\.tgz is damaged at or after [ab]/\d+\.png"):
        scan(path, CONFIG, Cutting())
    assert threading.active_count() == before


def test_progress_counts_every_image():
    class Counting(Reporter):
        @contextmanager
        def track(self, label, total):
            self.label, self.total, self.steps = label, total, 0

            def advance(steps):
                self.steps += steps

            yield advance

    reporter = Counting()
    scan(([pixels(n) for n in range(21)], ["a", "b", "c"] * 7), CONFIG, reporter)
    assert (reporter.label, reporter.total, reporter.steps) == ("scan", 21, 21)


def test_the_number_of_threads_changes_nothing(tmp_path):
    path = write_zip(tmp_path / "a.zip", many(60, **{"a__x.jpg": b"text"}))
    one, eight = (scan(path, CONFIG.replace(workers=n)) for n in (1, 8))
    assert one.hashes == eight.hashes
    assert list(one.ledger.entries) == list(eight.ledger.entries)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_memory_does_not_grow_with_the_images(tmp_path, name):
    """120 files of 0.5 MB are read; far less is held at any time."""
    image = encoded(1)
    files = {f"{'ab'[i % 2]}/{i}.png": image + i.to_bytes(2, "big") * 250_000 for i in range(120)}
    path = tmp_path / name
    if name == "a.zip":
        write_zip(path, files)
    else:
        write_tar(path, files, "w:gz" if name == "a.tgz" else "w")
    files.clear()
    tracemalloc.start()
    scan(path, CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25_000_000


@pytest.mark.parametrize("group_by", ["parent", "0"])
def test_groups_that_are_the_classes_are_an_error_that_says_how(tmp_path, group_by):
    tree = {
        f"{label}/p{n}_1.png": encoded(n + 100 * ord(label)) for label in "ab" for n in range(20)
    }
    write_tree(tmp_path, tree)
    with pytest.raises(DataError, match="every class has one image or group only") as caught:
        split(scan(tmp_path, CONFIG.replace(group_by=group_by)), test_fraction=0.3, seed=0)
    assert "such as '(p[0-9]+)_' does" in caught.value.hint
    samples = scan(tmp_path, CONFIG.replace(group_by="(p[0-9]+)_"))
    assert len(set(samples.groups)) == 20
    split(samples, test_fraction=0.3, seed=0)

"""Extraction: rows repeat to the bit whatever was missing, killed or flipped before."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from conftest import make_photographs
from regraft.backbones.image_size import at_image_size
from regraft.backbones.registry import load_backbone
from regraft.config.train_config import TrainConfig
from regraft.data.scan import scan
from regraft.errors import StoreError, StoreWarning
from regraft.features.compute import Compute, choose_compute
from regraft.features.extract import RowExtractor, extract, feature_fingerprint
from regraft.features.store.rows import encode_row, row_key
from regraft.features.store.store import FeatureStore, default_folder
from regraft.features.taps import row_blocks

SIDE = 64


@pytest.fixture(scope="module")
def backbone():
    return at_image_size(load_backbone("embedded"), SIDE, crop=False)


def run(data, backbone, store, compute=None, indices=None):
    samples = scan(data, TrainConfig())
    chosen = np.arange(len(samples)) if indices is None else np.asarray(indices)
    compute = compute or choose_compute("cpu", "auto", 8)
    return extract(RowExtractor(samples, backbone, compute, 2), chosen, store)


def everything(features, backbone) -> np.ndarray:
    return features.matrix(np.fromiter(features.keys, np.int64), row_blocks(backbone))


@pytest.fixture
def store(tmp_path):
    store = FeatureStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture(scope="module")
def expected(photographs, backbone, tmp_path_factory):
    """Rows of an undisturbed run."""
    store = FeatureStore(tmp_path_factory.mktemp("undisturbed"))
    rows = everything(run(photographs, backbone, store), backbone)
    store.close()
    return rows


def test_a_second_run_extracts_nothing(photographs, backbone, store, expected):
    first = run(photographs, backbone, store)
    second = run(photographs, backbone, store)
    assert (first.n_extracted, first.n_reused) == (60, 0)
    assert (second.n_extracted, second.n_reused) == (0, 60)
    assert second.widths == first.widths
    assert np.array_equal(everything(second, backbone), expected)


def test_rows_do_not_depend_on_what_was_there_before(photographs, backbone, store, expected):
    run(photographs, backbone, store, indices=[3, 17, 18, 44])
    assert np.array_equal(everything(run(photographs, backbone, store), backbone), expected)


def test_another_batch_size_or_precision_is_another_row(photographs, backbone, store):
    run(photographs, backbone, store, Compute("cpu", "float32", 8))
    again = run(photographs, backbone, store, Compute("cpu", "float32", 4))
    assert again.n_extracted == 60


def test_another_size_is_another_row(photographs, backbone, store):
    run(photographs, backbone, store)
    larger = at_image_size(backbone, 96, crop=False)
    assert run(photographs, larger, store, indices=range(10)).n_extracted == 10


def test_a_moved_and_renamed_image_keeps_its_row(photographs, backbone, store, tmp_path):
    run(photographs, backbone, store)
    moved = tmp_path / "elsewhere"
    for number, file in enumerate(sorted(photographs.glob("*/*.png"))):
        target = moved / file.parent.name / f"renamed-{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    assert run(moved, backbone, store).n_reused == 60


def test_copies_are_extracted_once(backbone, store, tmp_path):
    folder = make_photographs(tmp_path / "data", a_class=2)
    data = (folder / "blobs" / "000.png").read_bytes()
    for number in range(5):
        (folder / "blobs" / f"copy{number}.png").write_bytes(data)
    run(folder, backbone, store)
    assert store.info().rows == 6


def test_an_image_that_cannot_be_decoded_is_refused_and_moves_no_other(backbone, store, tmp_path):
    folder = make_photographs(tmp_path / "data", a_class=10)
    before = everything(run(folder, backbone, store), backbone)
    broken = folder / "checks" / "004.png"
    data = broken.read_bytes()
    # Header and length whole, pixels damaged: only decoding finds out.
    broken.write_bytes(data[:1000] + bytes(300) + data[1300:])
    samples = scan(folder, TrainConfig())
    features = run(folder, backbone, store)
    position = samples.ids.index("checks/004.png")
    assert list(features.refused) == [position]
    assert features.refused[position].kind in ("truncated", "corrupt")
    kept = [index for index in range(30) if index != position]
    after = features.matrix(np.asarray(kept), row_blocks(backbone))
    assert np.array_equal(after, before[kept])


def test_a_file_that_changes_after_the_scan_is_refused(backbone, store, tmp_path):
    folder = make_photographs(tmp_path / "data", a_class=3)
    samples = scan(folder, TrainConfig())
    Image.new("RGB", (48, 48)).save(folder / "blobs" / "001.png")
    network = RowExtractor(samples, backbone, Compute("cpu", "float32", 8), 2)
    features = extract(network, np.arange(9), store)
    assert {index: error.kind for index, error in features.refused.items()} == {1: "changed"}


def test_a_flipped_byte_is_noticed_and_the_row_made_anew(photographs, backbone, tmp_path, expected):
    store = FeatureStore(tmp_path)
    run(photographs, backbone, store)
    store.close()
    rows = expected[17].astype(np.float16).tobytes()[-400:]
    data = bytearray((tmp_path / "features-v3.sqlite").read_bytes())
    position = data.find(rows)
    assert position > 0
    data[position + 33] ^= 4
    (tmp_path / "features-v3.sqlite").write_bytes(data)
    store = FeatureStore(tmp_path)
    features = run(photographs, backbone, store)
    assert (features.n_extracted, features.n_reused) == (1, 59)
    assert np.array_equal(everything(features, backbone), expected)
    store.close()


@pytest.mark.parametrize("during", [False, True], ids=["before", "during"])
def test_rows_with_other_blocks_are_extracted_again_though_their_checksum_is_right(
    photographs, backbone, store, expected, during
):
    """As another program, or a person, may write them into a shared store."""
    features = run(photographs, backbone, store)
    names = [str(block) for block in row_blocks(backbone)]
    narrow = dict.fromkeys(names, np.ones(1, np.float16))
    undefined = {str(block): np.full(n, np.nan, np.float16) for block, n in features.widths.items()}
    others = [narrow, {"x": np.ones(3, np.float32)}, {}, undefined]
    keys = list(features.keys.values())[10:14]
    store.write((key, encode_row(key, row)) for key, row in zip(keys, others, strict=True))
    if not during:
        features = run(photographs, backbone, store)
        assert (features.n_extracted, features.n_reused) == (3, 57)  # values are read later
    assert np.array_equal(everything(features, backbone), expected)


def test_rows_that_left_are_extracted_again(photographs, backbone, store, expected):
    """Another run's eviction, `regraft cache clear` or a damaged file ends no run."""
    features = run(photographs, backbone, store)
    store.limit = store.info().bytes // 2
    store.evict()
    assert store.info().rows < 40
    order = np.random.default_rng(0).permutation(60)
    assert np.array_equal(features.matrix(order, row_blocks(backbone)), expected[order])
    assert store.info().rows == 60
    store.clear()
    some = np.asarray([7, 3, 3])
    assert np.array_equal(features.matrix(some, row_blocks(backbone)), expected[some])
    assert store.info().rows == 2


def test_a_store_that_is_damaged_during_a_run_changes_nothing(
    photographs, backbone, store, expected
):
    features = run(photographs, backbone, store)
    store.close()
    [file] = store.folder.glob("*.sqlite")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.warns(StoreWarning, match="was damaged"):
        rows = everything(features, backbone)
    assert np.array_equal(rows, expected)
    assert np.array_equal(everything(run(photographs, backbone, store), backbone), expected)


def test_a_store_that_is_damaged_before_a_run_is_made_anew_in_it(
    photographs, backbone, store, expected
):
    run(photographs, backbone, store)
    store.close()
    [file] = store.folder.glob("*.sqlite")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.warns(StoreWarning, match="was damaged") as warned:
        features = run(photographs, backbone, store)
    rows = everything(features, backbone)
    assert len(warned) == 1
    assert (features.n_extracted, features.n_reused) == (60, 0)
    assert np.array_equal(rows, expected)


def test_a_row_that_left_with_its_image_is_a_store_error(backbone, store, tmp_path):
    folder = make_photographs(tmp_path / "data", a_class=2)
    features = run(folder, backbone, store)
    (folder / "blobs" / "001.png").unlink()
    store.clear()
    message = (
        r"a row was removed from the store .* while this run was using it, and its image cannot be "
        r"read again: missing: .*\nhint: run"
    )
    with pytest.raises(StoreError, match=message):
        everything(features, backbone)


def test_memory_is_bounded_by_the_rows_that_are_asked_for(photographs, backbone, store):
    """What comes back is a source of rows: asking for one block reads that block."""
    features = run(photographs, backbone, store)
    pooled = row_blocks(backbone)[-1]
    assert features.matrix(np.asarray([5, 2]), [pooled]).shape == (2, backbone.n_features)
    assert not [name for name, value in vars(features).items() if isinstance(value, np.ndarray)]


def test_cache_folder_comes_from_the_environment(own_store):
    assert str(default_folder()) == os.environ["REGRAFT_CACHE"] == str(own_store)


#: Of commit 900496f: first bytes of fingerprint and key, for a machine, a decoder and an image that
#: are made up, since those of a real machine differ.
KEYS = {
    ("embedded", ()): ("00dae3839bc3d3b8", "76dc8979fd1e4b8b"),
    ("embedded", (("view", 1), ("augment", "light"))): ("0566c2f7dbdf8cee", "36bbbfccf20e30dc"),
    ("embedded", (("views", 2), ("augment", "digits"))): ("08f5bb2bd5459653", "e2c415535c999def"),
    ("timm/test_resnet", ()): ("dc4af1f4f65adbff", "8c5f581b2f420d01"),
    ("torchvision/resnet18", ()): ("8762cd57ff9aa137", "9365e7d3b8b9a002"),
}


class MadeUp(Compute):
    def fingerprint(self):
        return {
            "torch": "2.0", "device": "cpu", "instructions": "AVX2", "machine": "x86_64",
            "threads": 2, "precision": "float32", "batch_size": 16, "rules": 3,
        }  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), KEYS)
def test_keys_of_features_are_those_of_earlier_versions(name, changes, monkeypatch):
    monkeypatch.setattr("regraft.features.extract.DECODER_VERSION", "rules 1, test")
    network = load_backbone(name, "default" if name == "embedded" else "none")
    preprocess = dataclasses.replace(network.preprocess, **dict(changes))
    network = dataclasses.replace(network, preprocess=preprocess)
    compute = MadeUp("cpu", "float32", 16)
    fingerprint = feature_fingerprint(network, row_blocks(network), compute)
    key = row_key(bytes(32), preprocess.view, fingerprint)
    assert (fingerprint.hex()[:16], key.hex()[:16]) == KEYS[name, changes]

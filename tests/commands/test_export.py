"""``regraft export``: files that answer as the bundle does, or no files."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.bundle.exported import ExportedPredictor
from regraft.bundle.predictor import Predictor
from regraft.cli.main import main
from regraft.commands import export as command
from regraft.commands.export import export
from regraft.errors import (
    BundleError,
    ConfigError,
    ExportError,
    MissingExtraError,
    RunError,
    SmallSampleWarning,
)
from regraft.exports import folder as folders
from regraft.exports import onnx_file, parity, resize
from regraft.exports.compare import Compared
from regraft.splits.split_csv import read_split
from tiny_bundles import some_decisions, tiny_model, write_tiny

pytest.importorskip("onnxruntime")

CLASSES = ("grass", "sky")
COLOURS = {"grass": (40, 160, 40), "sky": (90, 150, 230)}


def picture(name, seed, size=(40, 52)):
    rng = np.random.default_rng([seed, len(name)])
    pixels = np.array(COLOURS[name]) + rng.normal(0, 45, (*size, 3)) + rng.normal(0, 25, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(autouse=True, scope="module")
def written_once():
    """Write the graph of equal models once: it takes seconds, and tests/exports/ is about it."""
    made, kept = onnx_file.make_onnx, {}

    def make(model, rules):
        typicality = rules and rules.typicality and rules.typicality.scorer.kind
        weights = next(model.backbone.module.parameters()).sum().item()
        key = len(model.classes), model.head.mean.sum().item(), typicality, weights
        if key not in kept:
            kept[key] = made(model, rules)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "make_onnx", make)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for seed in range(40):
            picture(name, seed).save(folder / name / f"{seed}.{'jpg' if seed % 2 else 'png'}")
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "photos"
    settings = {"model": "timm/test_resnet", "weights": "none", "image_size": "32"}
    with pytest.warns(SmallSampleWarning):
        regraft.train(photos, out=run, cache=False, unknown_level="0.05", **settings)
    return run


@pytest.fixture
def run(trained, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    return copy


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    return export(trained, out=folder), folder


def test_files_and_their_proof(exported, trained, photos):
    found, folder = exported
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "decode.py", "golden", "meta.json", "model.onnx", "parity.json", "predict.py",
        "preprocess.py", "requirements.txt",
    ]  # fmt: skip
    record = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    assert record == found["parity"]
    assert record["n"] == 80  # the small test part is filled up
    tested = [row for row in read_split(trained) if row.part == "test"]
    assert record["accuracy"]["n"] == len(tested) < 80
    assert record["n_pixels_differ"] == record["n_refused"] == 0
    assert record["largest"] <= 5e-4
    assert record["labels"]["outside_ties"] == record["decisions"]["outside_ties"] == 0
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert meta["classes"] == list(CLASSES)
    assert meta["decisions"]["unknown_level"] == 0.05
    assert [path.name for path in folder.parent.iterdir()] == ["onnx"]  # nothing is left beside it


def test_the_engine_answers_as_the_bundle_does(exported, trained, photos, tmp_path):
    paths = sorted(photos.glob("*/*"))[:20]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    paths.append(tmp_path / "broken.jpg")
    theirs = Predictor.load(exported[1], engine="onnx").predict_many(paths)
    ours = Predictor.load(trained, precision="float32").predict_many(paths)
    assert theirs[-1].error.kind == ours[-1].error.kind
    for here, wanted in zip(theirs[:-1], ours[:-1], strict=True):
        np.testing.assert_allclose(here.probabilities, wanted.probabilities, atol=5e-4)
        assert here.typicality == pytest.approx(wanted.typicality, abs=0.02)
        for name in ("id", "label", "set", "unknown", "abstained", "decision"):
            assert getattr(here, name) == getattr(wanted, name), name


WITHOUT = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "regraft", "timm", "scipy"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_predict_py_answers_without_regraft_and_torch(exported, trained, photos):
    paths = [str(path) for path in sorted(photos.glob("*/*"))[:3]]
    script = str(exported[1] / "predict.py")
    words = [sys.executable, "-c", WITHOUT, script, "--json", *paths, str(photos / "none.jpg")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["error"] == "No such file or directory"
    predictor = Predictor.load(trained, precision="float32")
    for line, path in zip(lines[:-1], paths, strict=True):
        wanted = predictor.predict(path)
        assert (line["label"], line["decision"]) == (wanted.label, wanted.decision)
        assert line["probability"] == pytest.approx(wanted.probability, abs=5e-4)
        assert line["set"] == list(wanted.set)


def test_predict_takes_the_engine_without_torch(exported, run, photos, capsys):
    shutil.copytree(exported[1], run / "export" / "onnx")
    path = str(next(photos.glob("sky/*")))
    assert main(["predict", str(run), path]) == 0
    wanted = capsys.readouterr().out
    code = (
        "import sys; from regraft.cli.main import main\n"
        f"code = main({['predict', str(run), path, '--engine', 'onnx']!r})\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, wanted), done.stderr


def test_what_the_engine_cannot_do_is_refused(exported, run, photos, capsys):
    path = str(next(photos.glob("sky/*")))
    assert main(["predict", str(run), path, "--engine", "onnx"]) == 2
    assert capsys.readouterr().err == (
        f"error: {run} has no exported files\nhint: regraft export {run} writes them\n"
    )
    shutil.copytree(exported[1], run / "export" / "onnx")
    assert main(["predict", str(run), path, "--engine", "onnx", "--coverage", "0.9"]) == 2
    assert (
        "coverage is fixed in an exported file\nhint: export again with the"
        in capsys.readouterr().err
    )
    assert main(["predict", str(run), path, "--engine", "onnx", "--device", "cpu"]) == 2
    assert "engine onnx computes on the processor" in capsys.readouterr().err


def test_a_damaged_or_altered_export_is_refused(exported, tmp_path):
    folder = tmp_path / "onnx"
    shutil.copytree(exported[1], folder)
    model = folder / "model.onnx"
    data = model.read_bytes()
    model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match="is damaged or altered"):
        ExportedPredictor.load(folder)
    model.write_bytes(data)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    meta["inputs"][0]["interpolation"] = "bilinear"
    meta["inputs"][0]["resize_size"] += 9
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(BundleError, match="a probability differs by"):
        ExportedPredictor.load(folder)
    for field, value in (
        ("golden", []), ("inputs", [{}]), ("classes", []), ("max_pixels", "1"), ("networks", [3]),
        ("golden", [{"file": "../../secret", "probabilities": []}]), ("decisions", {}),
        ("inputs", [meta["inputs"][0] | {"name": "other"}]),
    ):  # fmt: skip
        text = json.dumps(meta | {field: value})
        (folder / "meta.json").write_text(text, encoding="utf-8")
        with pytest.raises(BundleError, match=r"meta\.json"):
            ExportedPredictor.load(folder)
    for text in ("", "[]", "{}", '{"schema_version": 9}', "[" * 100_000):
        (folder / "meta.json").write_text(text, encoding="utf-8")
        with pytest.raises(BundleError, match=r"meta\.json"):
            ExportedPredictor.load(folder)


def inverted(folder):
    """Exported files whose rendering is another one."""
    path = folder / "preprocess.py"
    text = path.read_text(encoding="utf-8")
    text += "\n_plain = render\n\ndef render(*given):\n    return 255 - _plain(*given)\n"
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("stage", "match"),
    [("pixels", "it arises in the pixels"), ("weights", "it arises in the features")],
)
def test_files_that_answer_otherwise_are_removed(run, monkeypatch, stage, match):
    written = folders.write_folder

    def change(folder, meta, models):
        written(folder, meta, models)
        if stage == "pixels":
            inverted(folder)

    monkeypatch.setattr(folders, "write_folder", change)
    if stage == "weights":
        made = onnx_file.make_onnx

        def changed(model, rules):
            next(model.backbone.module.parameters()).data.mul_(-1)
            return made(model, rules)

        monkeypatch.setattr(onnx_file, "make_onnx", changed)
    with pytest.raises(ExportError) as caught:
        export(run)
    assert "are removed: " in caught.value.message
    assert match in caught.value.hint
    assert not (run / "export" / "onnx").exists()
    assert not list(run.glob("export/.*"))


def test_files_that_do_not_run_are_removed(run, monkeypatch):
    written = folders.write_folder

    def change(folder, meta, models):
        written(folder, meta, models)
        (folder / "model.onnx").write_bytes(b"no model")

    monkeypatch.setattr(folders, "write_folder", change)
    with pytest.raises(ExportError, match="the exported files do not run: "):
        export(run)
    assert not (run / "export" / "onnx").exists()


def test_what_is_there_is_left_alone_until_it_is_replaced(run, capsys):
    assert main(["export", str(run)]) == 0
    out = capsys.readouterr().out.splitlines()
    place = run / "export" / "onnx"
    assert out[0].startswith(f"written: {place}, ")
    assert out[1].startswith("compared with the bundle: 80 images, largest difference of a ")
    assert main(["export", str(run)]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: {place} exists; it is left alone\n"
        "hint: --out names another folder; --overwrite replaces it\n"
    )
    (place / "old").write_text("old", encoding="utf-8")
    assert main(["export", str(run), "--overwrite"]) == 0
    assert not (place / "old").exists()
    strange = run / "mine"
    strange.mkdir()
    assert main(["export", str(run), "--overwrite", "--out", str(strange)]) == 2
    assert strange.exists()


@pytest.mark.parametrize(("quantize", "largest"), [("float16", 0.02), ("int8", 0.2)])
def test_smaller_weights_answer_nearly_the_same(trained, exported, tmp_path, quantize, largest):
    found = export(trained, out=tmp_path / "small", quantize=quantize)
    whole = (exported[1] / "model.onnx").stat().st_size
    assert found["meta"]["model"]["bytes"] < {"float16": 0.75, "int8": 0.6}[quantize] * whole
    assert 0 < found["parity"]["largest"] < largest
    assert (found["meta"]["decisions"]["unknown_level"] is None) == (quantize == "int8")
    assert any("8 bits" in note for note in found["notes"]) == (quantize == "int8")
    predictor = ExportedPredictor.load(tmp_path / "small")
    assert predictor.meta["model"]["weights"] == quantize


def test_without_the_bank_no_row_of_an_image_is_exported(trained, tmp_path):
    import onnx  # noqa: PLC0415

    found = export(trained, out=tmp_path / "b", bank=False)
    proto = onnx.load(str(tmp_path / "b" / "model.onnx"))
    kinds = {onnx.numpy_helper.to_array(each).dtype for each in proto.graph.initializer}
    assert np.dtype(np.int8) not in kinds or all(
        onnx.numpy_helper.to_array(each).ndim < 2
        for each in proto.graph.initializer
        if onnx.numpy_helper.to_array(each).dtype == np.int8
    )
    assert any("without the bank" in note for note in found["notes"])
    assert found["parity"]["decisions"]["outside_ties"] == 0


def test_a_bundle_alone_needs_images_and_a_place(tmp_path, photos, capsys):
    bundle = write_tiny(tmp_path / "b", tiny_model(), some_decisions())
    with pytest.raises(RunError, match="is no run folder"):
        export(bundle)
    with pytest.raises(RunError, match="its images are not known"):
        export(bundle, out=tmp_path / "out")
    found = export(bundle, [str(photos)], out=tmp_path / "out")
    assert found["parity"]["n"] == 80
    assert found["parity"]["accuracy"] is None


def test_data_that_have_moved_are_named(run, photos, monkeypatch, tmp_path):
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics["data"]["source"] = str(tmp_path / "gone")
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    with pytest.raises(RunError, match="the images of the training cannot be read: ") as caught:
        export(run)
    assert caught.value.hint.startswith("give other images to compare on: ")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"to": "coreml"}, "to is 'coreml'; it must be one of onnx, web"),
        ({"quantize": "int4"}, "quantize is 'int4'; it must be one of auto, none, float16, int8"),
        ({"epochs": 3}, "epochs belongs to training"),
        ({"coverage": 1.0}, "coverage is 1.0; it must be between 0 and 1"),
    ],
)
def test_settings_that_cannot_be(run, settings, match):
    with pytest.raises(ConfigError, match=match):
        export(run, **settings)
    assert not (run / "export").exists()


def test_a_missing_package_is_named_before_any_work(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(command, "load_predictor", lambda *_: pytest.fail("it worked before"))
    with pytest.raises(MissingExtraError) as caught:
        export(run)
    assert caught.value.hint == "pip install 'regraft[export]'"


def test_few_labels_that_differ_are_judged_by_their_share():
    n = 200
    found = Compared()
    rng = np.random.default_rng(0)
    ours = rng.dirichlet([1, 1, 1], n).astype(np.float32)
    theirs = ours.copy()
    theirs[:3] = np.roll(ours[:3], 1, axis=1)
    both = {"features": ours, "logits": ours, "pixels": np.zeros((n, 1))}
    found.ids, found.labels = [str(k) for k in range(n)], ours.argmax(1).tolist()
    found.ours, found.theirs = [both | {"probabilities": ours}], [both | {"probabilities": theirs}]
    record = parity.judge(found, None, "int8")
    assert record["fault"] == "3 of 200 labels differ; 99.0% must be the same"
    found.theirs[0]["probabilities"][2] = ours[2]
    assert parity.judge(found, None, "int8")["fault"] is None
    record = parity.judge(found, None, "float32")
    assert record["fault"].startswith("a probability differs by")


def test_an_image_in_another_form_is_compared_as_well(trained, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    picture("sky", 1).convert("L").save(odd / "grey.png")
    picture("sky", 2).convert("P").save(odd / "palette.gif")
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("grass", 3, (90, 33)).save(rotated, "JPEG", exif=exif)
    (odd / "rotated.jpg").write_bytes(rotated.getvalue())
    rgba = picture("grass", 4).convert("RGBA")
    rgba.putalpha(120)
    rgba.save(odd / "alpha.png")
    (odd / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = export(trained, str(odd), out=tmp_path / "out")
    assert (found["parity"]["n"], found["parity"]["n_refused"]) == (4, 0)


def test_an_engine_that_is_none(trained):
    with pytest.raises(ConfigError, match="engine is 'tensorrt'; it must be torch or onnx"):
        Predictor.load(trained, engine="tensorrt")
    with pytest.raises(ConfigError, match="engine is 'tensorrt'; it must be one of torch, onnx"):
        next(regraft.predict(trained, ["x.jpg"], engine="tensorrt"))


def test_a_file_that_resizes_by_itself_answers_nearly_the_same(trained, tmp_path):
    found = export(trained, out=tmp_path / "out", with_resize=True)
    assert (tmp_path / "out" / "model-with-resize.onnx").is_file()
    resized = found["parity"]["with_resize"]
    assert 0 < resized["largest"] <= 0.02
    with pytest.raises(ConfigError, match="views cannot be rendered inside the graph"):
        resize.with_resize(None, tiny_model(views=2))

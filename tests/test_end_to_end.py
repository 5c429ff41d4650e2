"""The command line as a person uses it: real images, real weights, and whole processes."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import CLASSES
from forked import REGRAFT
from regraft.cli import main as cli


def regraft(*words, cwd, **more):
    return subprocess.run(
        [sys.executable, "-m", "regraft", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        **more,
    )


@pytest.fixture(scope="module")
def trained(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    store = tmp_path_factory.mktemp("store")
    done = regraft(
        "train", photographs, "--image-size", 64, "--out", "run", "--cache-dir", store, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train_prints_the_result_to_stdout_and_the_way_there_to_stderr(trained):
    folder, done = trained
    assert done.stdout.startswith("test accuracy ")
    assert "next: regraft predict run PHOTO.jpg\n" in done.stdout
    assert "image size 64: as given" in done.stderr
    assert "extract: 60 in " in done.stderr
    assert "warning: " in done.stderr  # sixty images are too few for claims, and it says so
    assert "Traceback" not in done.stderr
    assert (folder / "run" / "metrics.json").exists()


@pytest.fixture
def here(capsys, monkeypatch):
    """Run a command in this process, which has imported torch already."""

    def run(*words, cwd):
        monkeypatch.chdir(cwd)
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, captured.out, captured.err)

    return run


def test_predict_prints_lines_json_and_csv(trained, photographs, here):
    folder, _ = trained
    files = [photographs / "blobs" / "001.png", photographs / "checks" / "002.png"]
    lines = here("predict", "run", *files, cwd=folder)
    assert lines.returncode == 0, lines.stderr
    assert len(lines.stdout.splitlines()) == 2
    rows = here("predict", "run", *files, "--json", "--topk", 3, cwd=folder)
    first = json.loads(rows.stdout.splitlines()[0])
    assert first["label"] in CLASSES
    assert len(first["top"]) == 3
    table = here("predict", "run", photographs / "blobs", "--csv", "out.csv", cwd=folder)
    assert table.returncode == 0, table.stderr
    with (folder / "out.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 20


def test_predict_reads_an_image_from_standard_input(trained, photographs, forks):
    folder, _ = trained
    image = photographs / "blobs" / "001.png"
    done = forks.run(REGRAFT, ["predict", "run", "-"], cwd=folder, stdin=image)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_evaluate_prints_json(trained, photographs, here):
    folder, _ = trained
    done = here("evaluate", "run", photographs, cwd=folder)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout)["accuracy"] == metrics["test"]["accuracy"]


def test_a_runs_own_configuration_repeats_it(trained, photographs, here):
    folder, _ = trained
    done = here("train", photographs, "-c", "run/config.yaml", "--out", "again", cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in ("predictions.csv", "split.csv"):
        assert (folder / "again" / name).read_bytes() == (folder / "run" / name).read_bytes()


def test_a_damaged_bundle_is_two_lines(trained, photographs, tmp_path, here):
    folder, _ = trained
    bundle = tmp_path / "bundle"
    for path in (folder / "run" / "bundle").rglob("*"):
        if path.is_file():
            target = bundle / path.relative_to(folder / "run" / "bundle")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    data = bytearray((bundle / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "head.safetensors").write_bytes(data)
    done = here("predict", bundle, photographs / "blobs" / "001.png", cwd=tmp_path)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert error.endswith("head.safetensors is not what the manifest says (bytes or sha256 differ)")
    assert hint == "hint: the file was changed or copied in part: copy the bundle again"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["train", "nowhere"], "nowhere", "hint: "),
        (["train", "DATA", "--device", "cuda:7"], "device cuda:7 is not there", "hint: "),
        (["train", "DATA", "--taps", "layer9"], "taps: embedded has no layer9@1", "hint: "),
        (
            ["train", "DATA", "--model", "resnt50"],
            "unknown backbone resnt50",
            "hint: did you mean ",
        ),
        (["train", "DATA", "--weights", "no.safetensors"], "no.safetensors", ""),
        (["train", "DATA", "--split", "no.csv"], "no.csv", ""),
        (["predict", "nowhere", "a.jpg"], "", "hint: "),
        (["evaluate", "nowhere", "DATA"], "", "hint: "),
    ],
)
def test_wrong_input_is_two_lines_and_exit_code_2(words, error, hint, photographs, tmp_path, here):
    words = [photographs if word == "DATA" else word for word in words]
    done = here(*words, cwd=tmp_path)
    printed = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert done.returncode == 2, done.stderr
    assert 1 <= len(printed) <= 2
    assert error in printed[0]
    assert hint in printed[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_ends_cleanly(sent, code, photographs, forks, tmp_path):
    process = forks.start(
        REGRAFT, ["train", photographs, "--out", "run"],
        cwd=tmp_path, env={"REGRAFT_CACHE": str(tmp_path / "store")},
    )  # fmt: skip
    process.wait_for("\nextract")
    os.kill(process.pid, sent)
    assert process.wait() == code, process.err()
    assert process.out() == ""
    assert "Traceback" not in process.err()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]

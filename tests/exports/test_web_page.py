"""What a page is made of: the runtime's package, one script with its hash, and the options."""

import base64
import hashlib
import io
import json
import re
import tarfile

import pytest

from regraft.commands import export as command
from regraft.core.reporter import SILENT
from regraft.errors import ConfigError, ExportError, RunError
from regraft.exports import web_page, web_runtime
from regraft.exports.options import ExportOptions
from regraft.exports.web_runtime import Runtime, get_runtime

MODULE = (
    b"const a=1,b=2;export{a as InferenceSession,b as env,b as Tensor};\n//# sourceMappingURL=x\n"
)
META = {
    "regraft": "0",
    "classes": ["</script><b>", "b"],
    "model": {"file": "model.onnx", "sha256": "0", "weights": "int8"},
    "inputs": [],
    "golden": [],
    "networks": [{"name": "n", "weights": "w", "licence": None}],
}
ACCURACY = {"exported": 0.9, "bundle": 0.91, "n": 50}
PARITY = {"n": 1200, "largest": 0.0213, "labels": {"differ": 3}, "accuracy": ACCURACY}


def package(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


WHOLE = package({
    "package/../../outside": b"x",
    web_runtime._MODULE: MODULE,
    web_runtime._WASM: b"\0asm" * 100,
})  # fmt: skip


@pytest.fixture
def known(monkeypatch):
    """The small package has the hash that is asked for."""
    monkeypatch.setattr(web_runtime, "SHA256", hashlib.sha256(WHOLE).hexdigest())


@pytest.fixture
def page(monkeypatch):
    monkeypatch.setattr(web_page, "_probabilities", lambda _: [])
    return web_page.Page(META, PARITY, ["a note <b>"], b"model" * 50, Runtime(MODULE, b"\x1f\x8bw"))


class Answer(io.BytesIO):
    """What a server sends."""


@pytest.fixture
def server(monkeypatch):
    """Return the addresses that are asked for; the package is sent, or what a test puts there."""
    asked = []

    class Opener:
        answer = WHOLE

        def open(self, address):
            asked.append(address)
            if isinstance(self.answer, Exception):
                raise self.answer
            return Answer(self.answer)

    monkeypatch.setattr(web_runtime, "bounded_opener", lambda _: Opener())
    return asked, Opener


def test_the_runtime_is_downloaded_once(known, server, own_store):
    asked, _ = server
    first = get_runtime(None, SILENT)
    assert get_runtime(None, SILENT) == first
    assert asked == [web_runtime.URL]
    assert first.module == MODULE
    assert (own_store / "runtimes" / web_runtime.NAME).read_bytes() == WHOLE
    assert not (own_store.parent / "outside").exists()


def test_a_file_is_the_runtime_without_any_download(known, server, tmp_path):
    (tmp_path / "x.tgz").write_bytes(WHOLE)
    assert get_runtime(tmp_path / "x.tgz", SILENT).module == MODULE
    assert server[0] == []


def test_another_file_is_refused_and_not_kept(server, own_store, tmp_path):
    (tmp_path / "x.tgz").write_bytes(WHOLE)
    for file in (tmp_path / "x.tgz", None):
        with pytest.raises(ExportError, match=f"{web_runtime.NAME} has {web_runtime.SHA256}"):
            get_runtime(file, SILENT)
    assert not (own_store / "runtimes").exists()


def test_without_a_connection_the_hint_names_the_file(known, server):
    server[1].answer = OSError("no route")
    with pytest.raises(ExportError, match="cannot be downloaded: no route") as caught:
        get_runtime(None, SILENT)
    assert web_runtime.URL in caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"the runtime .*x\.tgz cannot be read: No such file"):
        get_runtime(tmp_path / "x.tgz", SILENT)


@pytest.mark.parametrize("data", [b"no package", package({web_runtime._MODULE: MODULE})])
def test_a_package_without_its_members_is_an_error(monkeypatch, tmp_path, data):
    monkeypatch.setattr(web_runtime, "SHA256", hashlib.sha256(data).hexdigest())
    (tmp_path / "x.tgz").write_bytes(data)
    with pytest.raises(ExportError, match=f"{web_runtime.NAME} cannot be read"):
        get_runtime(tmp_path / "x.tgz", SILENT)


def hash_of(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_a_single_file_has_hashes_of_what_it_runs_and_names_as_text(page, tmp_path):
    web_page.write_single(page, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    [script] = re.findall('<script type="module">(.*?)</script>', text, re.DOTALL)
    [style] = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    assert policy == (
        f"default-src 'none'; script-src '{hash_of(script)}' 'wasm-unsafe-eval'; "
        f"style-src '{hash_of(style)}'; connect-src 'none'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert "<b>" not in text
    [meta] = re.findall('data-json="meta.json">(.*?)</script>', text, re.DOTALL)
    assert json.loads(meta)["classes"] == META["classes"]
    assert web_page.MARK in text[:2000]
    assert not re.search("@[A-Z]+@", text)
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)
    assert "sourceMappingURL" not in script
    assert "return { InferenceSession: a, env: b, Tensor: b };" in script


def test_a_folder_has_a_policy_its_licences_and_what_was_measured(page, tmp_path):
    web_page.write_folder(page, tmp_path)
    text = (tmp_path / "index.html").read_text("utf-8")
    assert (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    ) in text
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert "1,200 images: the largest difference of a probability is 0.021, 3 labels" in readme
    assert "test accuracy 0.900, in the training's own arithmetic 0.910 (50 images)" in readme
    assert "A note <b>." in readme
    assert "- n (w): licence not stated" in readme
    assert "python -m http.server" in readme
    assert "Copyright (c) Microsoft" in (tmp_path / "onnxruntime-licence.txt").read_text("utf-8")
    shown = json.loads((tmp_path / "meta.json").read_text("utf-8"))["page"]
    assert shown["runtime"] == web_runtime.VERSION
    assert web_runtime.VERSION in shown["runtime_licence"]  # the address of its notices


def test_the_scripts_import_only_what_the_single_file_has_before_them():
    seen = {"onnxruntime"}
    for name in web_page._SCRIPTS:
        text = web_page._source(name)
        used = {module for _, module in web_page._IMPORT.findall(text)}
        assert len(used) == text.count("\nimport ") + text.startswith("import ")
        assert used <= seen
        seen.add(name.removesuffix(".js"))


def test_a_script_that_would_end_its_element_is_refused(page, tmp_path):
    bad = page._replace(runtime=Runtime(b"'</SCRIPT >';" + MODULE, b""))
    with pytest.raises(ValueError, match="ends its own element"):
        web_page.write_single(bad, tmp_path / "page.html")


def test_weights_are_small_by_default_in_a_page_alone():
    assert ExportOptions().weights == "float32"
    assert ExportOptions(to="web").weights == "int8"
    assert ExportOptions(to="web", quantize="none").weights == "float32"
    assert ExportOptions(to="web", quantize="float16").weights == "float16"


@pytest.mark.parametrize("option", ["single_file", "runtime"])
def test_options_of_a_page_need_a_page(option):
    with pytest.raises(ConfigError, match=f"`{option}` is only for a page"):
        ExportOptions(**{option: "x"})


def place(tmp_path, **options):
    (tmp_path / "run" / "bundle").mkdir(parents=True, exist_ok=True)
    out, overwrite = options.pop("out", None), options.pop("overwrite", False)
    return command._place(tmp_path / "run", out, ExportOptions(**options), overwrite=overwrite)


def test_each_kind_has_its_place(tmp_path):
    run = tmp_path / "run" / "export"
    assert place(tmp_path) == run / "onnx"
    assert place(tmp_path, to="web") == run / "web"
    assert place(tmp_path, to="web", single_file=True) == run / "web.html"
    with pytest.raises(ConfigError, match=r"needs a name that ends in \.html"):
        place(tmp_path, to="web", single_file=True, out=tmp_path / "page")


def test_only_a_page_is_replaced_by_a_page(page, tmp_path):
    file, folder = tmp_path / "a.html", tmp_path / "a"
    file.write_text("<p>mine", "utf-8")
    folder.mkdir()
    options = {"to": "web", "overwrite": True}
    for out, single in ((file, True), (folder, False)):
        with pytest.raises(RunError, match="it is left alone"):
            place(tmp_path, out=out, single_file=single, **options)
    web_page.write_single(page, file)
    web_page.write_folder(page, folder)
    for out, single in ((file, True), (folder, False)):
        assert place(tmp_path, out=out, single_file=single, **options) == out
        with pytest.raises(RunError, match="it is left alone"):
            place(tmp_path, out=out, single_file=single, to="web")


@pytest.mark.parametrize("single", [True, False])
def test_a_new_page_takes_the_place_of_the_old_one(page, tmp_path, single):
    out = tmp_path / "page.html"
    for turn in ("old", "new"):
        named = page._replace(meta=META | {"classes": [turn]})
        with command._made(out, single=single, overwrite=True) as new:
            if single:
                web_page.write_single(named, new / "index.html")
            else:
                web_page.write_folder(named, new)
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    text = (out if single else out / "meta.json").read_text("utf-8")
    assert '"new"' in text
    assert '"old"' not in text


def test_what_is_said_about_looking_at_it(tmp_path):
    say = command._how_to_open
    assert say(tmp_path, ExportOptions()) is None
    assert say(tmp_path / "a b", ExportOptions(to="web")).startswith(
        f"python -m http.server --directory '{tmp_path}/a b', then"
    )
    single = ExportOptions(to="web", single_file=True)
    assert say(tmp_path / "a.html", single) == f"open {tmp_path / 'a.html'} in a browser"

"""A page that classifies in a browser: a folder for any web server, or one HTML file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from regraft.bundle.golden import golden_images
from regraft.core.files import write_atomic
from regraft.exports.folder import META, PARITY
from regraft.exports.web_runtime import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from regraft.exports.web_runtime import Runtime

INDEX = "index.html"
_OFF_ON_SERVER = (
    "This page does not run. It needs JavaScript, and a web server: it cannot be opened from disk. "
    "In its folder, run <code>python -m http.server</code>, then open "
    "<code>http://localhost:8000</code>."
)
_OFF_IN_ONE_FILE = "This page does not run. It needs JavaScript, and a browser of the last years."
MODEL, WASM, MODULE = "model.onnx.gz", "onnxruntime.wasm.gz", "onnxruntime.mjs"
_LICENCE = "onnxruntime-licence.txt"
#: Each imports only those before it.
_SCRIPTS = ("render.js", "files.js", "decode.js", "classify.js", "page.js")
#: What a page of ours has in its first bytes.
MARK = '<meta name="generator" content="regraft">'
# WebAssembly is compiled by a kind of "eval" with a permission of its own.
_COMMON = "img-src data:; base-uri 'none'; form-action 'none'"
_ON_SERVER = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    f"connect-src 'self'; {_COMMON}"
)
_IN_ONE_FILE = (
    "default-src 'none'; script-src '{script}' 'wasm-unsafe-eval'; style-src '{style}'; "
    f"connect-src 'none'; {_COMMON}"
)
_IMPORT = re.compile(r'^import (?:\* as )?([^;]+?) from "\./(\w+)\.m?js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) (\w+))", re.MULTILINE)
_EXPORTS_OF_RUNTIME = re.compile(r"export\{([^{}]+)\};\s*$")
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)


class Page(NamedTuple):
    """What a page is made of."""

    meta: dict[str, Any]  # as in the exported folder
    parity: dict[str, Any]
    notes: Sequence[str]  # what people must know about the answers
    model: bytes
    runtime: Runtime


def write_folder(page: Page, folder: Path) -> None:
    """Write a page as files for a web server into a folder that exists."""
    assets = _assets(page)
    texts = _texts(page, sum(map(len, assets.values())))
    for name, data in {**assets, **texts, **_golden(page.meta)}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, data)


def write_single(page: Page, file: Path) -> None:
    """Write a page as one HTML file that opens from disk."""
    assets = _assets(page)
    script, style = _script(page.runtime), _source("style.css")
    policy = _IN_ONE_FILE.format(script=_hash_of(script), style=_hash_of(style))
    inside = [_json_element(META, _meta_of(page))]
    for name, data in {**assets, **_golden(page.meta)}.items():
        inside.append(_data_element(name, data))
    text = _index(policy, _OFF_IN_ONE_FILE, sum(map(len, assets.values())))
    text = _replaced(text, '<link rel="stylesheet" href="style.css">', f"<style>{style}</style>")
    text = _replaced(
        text,
        '<script type="module" src="page.js"></script>',
        f'<script type="module">{script}</script>',
    )
    # After everything that is shown, so that the page is there while the rest is read.
    text = _replaced(text, "</body>", "\n".join([*inside, "</body>"]))
    write_atomic(file, text.encode())


def _assets(page: Page) -> dict[str, bytes]:
    """Return the large files, packed."""
    return {MODEL: gzip.compress(page.model, 9, mtime=0), WASM: page.runtime.wasm}


def _texts(page: Page, large: int) -> dict[str, bytes]:
    """Return the small files of the folder; the others have so many bytes."""
    texts = {
        INDEX: _index(_ON_SERVER, _OFF_ON_SERVER, large),
        "style.css": _source("style.css"),
        **{name: _source(name) for name in _SCRIPTS},
        MODULE: _without_map(page.runtime.module),
        META: _json(_meta_of(page)),
        PARITY: _json(page.parity),
        _LICENCE: _source(_LICENCE),
        "README.md": _describe(page),
    }
    return {name: text.encode() for name, text in texts.items()}


def _golden(meta: Mapping[str, Any]) -> dict[str, bytes]:
    images = golden_images()
    return {each["file"]: images[each["file"]] for each in meta["golden"]}


def _source(name: str) -> str:
    """Return a file of ours, with the ends of lines that browsers make of all."""
    data = (files("regraft.exports") / "web" / name).read_bytes()
    return data.decode().replace("\r\n", "\n")


def _index(policy: str, off: str, large: int) -> str:
    text = _replaced(_source(INDEX), "@POLICY@", policy)
    text = _replaced(text, "@OFF@", off)
    return _replaced(text, "@BYTES@", str(large))


def _replaced(text: str, old: str, new: str) -> str:
    before, found, after = text.partition(old)
    if not found:
        raise ValueError(f"{INDEX} has no {old}")
    return before + new + after


# --- the single file ------------------------------------------------------------------------------


def _script(runtime: Runtime) -> str:
    """Return all modules as one: a page from disk may load no second one.

    Each becomes an object of what it exports, made by a function, so that its other names are its
    own.
    """
    parts = [_runtime_inside(_without_map(runtime.module))]
    for name in _SCRIPTS:
        text = _source(name)
        exported = ", ".join(_EXPORT.findall(text))
        inside = _IMPORT.sub(r"const \1 = the_\2;", _EXPORT.sub("", text))
        parts.append(_module(name.removesuffix(".js"), inside, exported))
    script = "\n".join(parts)
    if re.search(r"</script|<!--", script, re.IGNORECASE):
        raise ValueError("a script ends its own element")
    return script


def _module(name: str, text: str, exported: str) -> str:
    return f"const the_{name} = (() => {{\n{text}\nreturn {{ {exported} }};\n}})();"


def _runtime_inside(module: str) -> str:
    found = _EXPORTS_OF_RUNTIME.search(module)
    if found is None:
        raise ValueError("onnxruntime-web exports nothing at its end")
    pairs = [each.split(" as ") for each in found[1].split(",")]
    exported = ", ".join(f"{pair[-1]}: {pair[0]}" for pair in pairs)
    return _module("onnxruntime", module[: found.start()], exported)


def _without_map(module: bytes) -> str:
    return _SOURCE_MAP.sub("", module.decode().replace("\r\n", "\n"))


def _hash_of(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json_element(name: str, value: Mapping[str, Any]) -> str:
    text = _json(value).replace("<", "\\u003c")  # a name may hold the end of an element
    return f'<script type="application/json" data-json="{name}">{text}</script>'


def _data_element(name: str, data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return f'<script type="application/octet-stream" data-file="{name}">{text}</script>'


# --- what the page knows of the classifier --------------------------------------------------------


def _meta_of(page: Page) -> dict[str, Any]:
    """Return the record of the exported folder with what is shown, and what the file answers.

    Smaller weights answer a little otherwise than the bundle; the page compares with the file.
    """
    answers = _probabilities(page)
    golden = [
        {**each, "probabilities": row}
        for each, row in zip(page.meta["golden"], answers, strict=True)
    ]
    shown = {
        "compared": compared(page.parity),
        "notes": list(page.notes),
        "runtime": VERSION,
        # Its lines are for 80 columns; a phone has fewer.
        "runtime_licence": re.sub(r"(?<!\n)\n(?!\n)", " ", _source(_LICENCE).strip()),
    }
    model = {**page.meta["model"], "file": MODEL}
    return {**page.meta, "model": model, "golden": golden, "page": shown}


def _probabilities(page: Page) -> list[list[float]]:
    """Return what the exported file answers for the golden images, by onnxruntime."""
    import onnxruntime  # noqa: PLC0415 - an extra

    from regraft.standalone.decode import decode  # noqa: PLC0415
    from regraft.standalone.preprocess import render_views  # noqa: PLC0415

    session = onnxruntime.InferenceSession(page.model, providers=["CPUExecutionProvider"])
    found = []
    for data in _golden(page.meta).values():
        pixels = decode(data)
        inputs = {
            each["name"]: render_views(pixels, each)[np.newaxis] for each in page.meta["inputs"]
        }
        found.append(session.run(["probabilities"], inputs)[0][0].tolist())
    return found


def compared(parity: Mapping[str, Any]) -> str:
    """Return what was measured at the export, in words."""
    words = (
        f"{parity['n']:,} images: the largest difference of a probability is "
        f"{parity['largest']:.2g}, {parity['labels']['differ']:,} labels differ"
    )
    accuracy = parity["accuracy"]
    if accuracy:
        words += (
            f"; test accuracy {accuracy['exported']:.3f}, in the training's own arithmetic "
            f"{accuracy['bundle']:.3f} ({accuracy['n']:,} images)"
        )
    return words + "."


def _describe(page: Page) -> str:
    """Return the README of the folder."""
    licences = [
        f"- {each['name']} ({each['weights']}): {each['licence'] or 'licence not stated'}"
        for each in page.meta["networks"]
    ]
    return _source("folder.md").format(
        classes=f"{len(page.meta['classes']):,}",
        regraft=page.meta["regraft"],
        compared=compared(page.parity),
        notes="".join(f"\n{note[0].upper()}{note[1:]}.\n" for note in page.notes),
        runtime=VERSION,
        licences="\n".join(licences),
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"

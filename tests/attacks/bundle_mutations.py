"""Hostile bundles: a sound one with one or two changes, and with correct hashes.

``mutate(seed, number, sound)`` is a pure function: equal arguments give equal hostile bundles.
``MUTATIONS`` has the kinds with their weights; a new kind is a function and a line there.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from attacks.bundle_decisions import (
    card,
    decision_fields,
    decision_tensors,
    golden_typicality,
    no_decisions,
    other_networks,
)
from attacks.bundle_draft import (
    CANARY_MODULE,
    Draft,
    hostile_string,
    hostile_value,
    positions,
)
from attacks.bundle_tensors import (
    not_safetensors,
    tensor_entry,
    tensor_header,
    tensor_set,
    tensor_text,
    tensor_values,
)

# --- the manifest -----------------------------------------------------------------------------


def manifest_value(rng: random.Random, draft: Draft) -> None:
    """Replace a value by a hostile one."""
    container, key = rng.choice(positions(draft.manifest))
    container[key] = hostile_value(rng, draft.outside)


def manifest_nudge(rng: random.Random, draft: Draft) -> None:
    """Replace a value by a similar one: off by one, doubled, another case, another order."""
    container, key = rng.choice(positions(draft.manifest))
    value = container[key]
    if isinstance(value, bool):
        container[key] = not value
    elif isinstance(value, int | float):
        container[key] = rng.choice(
            [value + 1, value - 1, value * 2, -value, value / 2, str(value)]
        )
    elif isinstance(value, str):
        container[key] = rng.choice(
            [value + " ", value + "\n", value.upper(), value[:-1], value[::-1], value * 2, [value]]
        )
    elif isinstance(value, list):
        container[key] = rng.choice([value[::-1], value * 2, value[1:], [*value, *value[:1]]])
    elif isinstance(value, dict):
        container[key] = rng.choice([list(value.items()), {**value, "extra": 1}, [value]])


def manifest_shape(rng: random.Random, draft: Draft) -> None:
    """Remove, add or rename a field, or give it the value of another one."""
    container, key = rng.choice(positions(draft.manifest))
    other, other_key = rng.choice(positions(draft.manifest))
    action = rng.randrange(4)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, dict):
        container[hostile_string(rng, draft.outside)] = hostile_value(rng, draft.outside)
    elif action == 2 and isinstance(container, dict):
        container[hostile_string(rng, draft.outside)] = container.pop(key)
    else:
        container[key] = copy.deepcopy(other[other_key])


def manifest_text(rng: random.Random, draft: Draft) -> None:
    """Write what only the text of JSON can have: equal keys, NaN, endless numbers and nesting."""
    text = json.dumps(draft.manifest).encode()
    keys = [b'"schema_version": ', b'"name": ', b'"channels": ', b'"bytes": ', b'"image_size": ',
            b'"sha256": ', b'"classes": ', b'"temperature": ', b'"files": ', b'"coverage": ',
            b'"arguments": ', b'"networks": ', b'"n": ', b'"extra": ', b'"unknown": ']  # fmt: skip
    key = rng.choice([key for key in keys if key in text] or [b"{"])
    at = text.index(key)
    digits = b"9" * rng.choice([400, 5_000, 100_000])
    many = rng.choice([100, 5_000, 200_000])
    values = [
        b"NaN", b"-Infinity", digits, b"-" + digits, b"1e" + digits, b"0." + digits, b"1e999",
        b"[" * many, b"[" * many + b"]" * many, b'{"a":' * many,
        b'{"a":' * many + b"1" + b"}" * many,
        b'"\\ud800"', b'"\\u0000"', b'"' + b"\xff\xfe" + b'"', b'"' + b"\xed\xa0\x80" + b'"', b"01",
        b"+1", b".5", b"0x10", b"1_000", b"/* */ 1", b"", b"'a'", b"True", b"undefined", b"1,1",
    ]  # fmt: skip
    cut = rng.randrange(len(text))
    draft.text = rng.choice([
        lambda: text[:at] + key + rng.choice(values) + b", " + text[at:],  # the key twice
        lambda: text[: at + len(key)] + rng.choice(values) + b", " + text[at + len(key) :],
        lambda: text[:1] + b'"extra": ' + rng.choice(values) + b", " + text[1:],
        lambda: text[:cut],
        lambda: text[:cut] + bytes([rng.randrange(256)]) + text[cut + 1 :],
        lambda: text[:cut] + rng.choice(values) + text[cut:],
        lambda: rng.choice([b"\xef\xbb\xbf", b"\0", b"[", b"\x1f\x8b", b"PK\x03\x04"]) + text,
        lambda: text + rng.choice([b"\0", b"}", b"{}", text, b" " * 10**6, b" " * (17 * 2**20)]),
        lambda: text.decode().encode(rng.choice(["utf-16", "utf-32", "utf-7"])),
        lambda: rng.choice(values),
        lambda: b'{"schema_version": %d, "a": ' % rng.choice([1, 2, 3, 4])
        + rng.choice(values) + b"}",
    ])()  # fmt: skip


def network_name(rng: random.Random, draft: Draft) -> None:
    """Name another network: one that would be downloaded, a huge one, or none at all."""
    backbone = draft.network()
    backbone["name"] = rng.choice([
        "hf-hub:timm/resnet18", "timm/hf-hub:timm/resnet18", "timm/hf_hub:x",
        f"local-dir:{draft.outside}",
        f"timm/local-dir:{draft.outside}", "https://127.0.0.1:9/x.pth", "timm/resnet18.a1_in1k",
        "timm/test_resnet.r160_in1k", "timm/", "timm/.", "timm/..", "timm/../x", "timm/resnet18",
        "timm/test_vit", "timm/test_vit3", "timm/test_convnext", "timm/test_resnet ", "test_resnet",
        "timm/levit_128s", "timm/vit_tiny_patch16_224", "timm/vit_giant_patch14_224",
        "timm/regnety_160",
        "torchvision/resnet18", "torchvision/regnet_y_400mf", "torchvision/vit_b_16",
        "torchvision/maskrcnn_resnet50_fpn", "torchvision/raft_large", "torchvision/r3d_18",
        "embedded", "embedded/x", "embedded\n", "pytorch/vision", f"timm/{CANARY_MODULE}",
        "TIMM/test_resnet", "timm/TEST_RESNET", "timm/test_resnet\n", "timm/__class__",
    ])  # fmt: skip
    if rng.random() < 0.5:
        size = rng.choice([1, 2, 16, 32, 64, 160, 224, 1000, 4096])
        backbone["preprocess"].update(image_size=size, resize_size=size)


def network_arguments(rng: random.Random, draft: Draft) -> None:
    """Add arguments that would download, allocate or run something if they were used."""
    values = [True, False, None, "", 10**9, -1, 1e300, f"{draft.outside}/w.pth", "hf-hub:a/b",
              "avg", "max", "token", "catavgmax", "r160_in1k", "in1k",
              "http://127.0.0.1:9/w.pth"]  # fmt: skip
    names = ["pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay",
             "cache_dir", "num_classes", "in_chans", "img_size", "global_pool", "tag", "scriptable",
             "features_only",
             "block", "layers", "stem_width", "weights", "progress",
             "act_layer", "exportable", "self", "__class__", "a.b", "a" * 61, "é"]  # fmt: skip
    chosen = rng.sample(names, rng.choice([1, 1, 2]))
    draft.network()["arguments"] = {name: rng.choice(values) for name in chosen}


# --- false values that agree with each other --------------------------------------------------


def other_head(rng: random.Random, draft: Draft) -> None:
    """Write a head, classes, golden answers and blocks that fit each other, of other sizes."""
    manifest = draft.manifest
    blocks = manifest["blocks"]
    if rng.random() < 0.5:
        manifest["blocks"] = blocks = rng.sample(blocks, rng.randrange(1, len(blocks) + 1))
    if rng.random() < 0.5:
        block = rng.choice(blocks)
        grid = rng.choice([1, 2, 3, 64])
        block["width"] = block["width"] // block["grid"] ** 2 * grid**2
        block["grid"] = grid
    if rng.random() < 0.3:
        rng.choice(draft.network()["stages"]).update(
            rng.choice(
                [{"layout": "nhwc"}, {"layout": "tokens"}, {"prefix_tokens": 1}, {"path": "layer1"}]
            )
        )
    if rng.random() < 0.5:
        manifest["classes"] = [f"{n:06}" for n in range(rng.choice([2, 3, 100]))]
    width, count = sum(block["width"] for block in blocks), len(manifest["classes"])
    width = min(width, 20_000)  # this process has to make them
    draft.put_tensors("head.safetensors", {
        "mean": torch.zeros(width), "scale": torch.ones(width), "weight": torch.zeros(count, width),
        "bias": torch.zeros(count),
    })  # fmt: skip
    manifest["head"]["kind"] = "linear"
    golden = draft.tensors("golden.safetensors")
    features = golden["features"]
    repeats = -(-width // features.shape[1])
    golden["features"] = features.repeat(1, repeats)[:, :width]
    golden["logits"] = torch.zeros(len(features), count)
    draft.put_tensors("golden.safetensors", golden)
    draft.allow_all()


def other_size(rng: random.Random, draft: Draft) -> None:
    """Write another image size, with golden pixels of that size."""
    side = rng.choice([1, 2, 8, 16, 31, 33, 64, 96])
    preprocess = draft.network()["preprocess"]
    preprocess.update(image_size=side, resize_size=side * rng.choice([1, 1, 2, 10, 11]))
    golden = draft.tensors("golden.safetensors")
    pixels = torch.full((len(golden["features"]), 3, side, side), 100, dtype=torch.uint8)
    golden[draft.pixels_name()] = pixels
    draft.put_tensors("golden.safetensors", golden)
    if rng.random() < 0.5:
        draft.allow_all()


def other_views(rng: random.Random, draft: Draft) -> None:
    """Write another number of views, with golden pixels that fit or not."""
    views = rng.choice([0, 1, 2, 16, 17, -1, 2**40])
    augment = rng.choice(["none", "light", "standard", "strong", "digits", "auto", CANARY_MODULE])
    draft.network()["preprocess"].update(views=views, augment=augment)
    golden = draft.tensors("golden.safetensors")
    if 0 < views < 100 and rng.random() < 0.8:
        pixels = golden[draft.pixels_name()]  # of a sound bundle: with views or without
        plain = pixels if pixels.ndim == 4 else pixels[:, 0]
        golden[draft.pixels_name()] = plain[:, None].repeat(1, 1 + views, 1, 1, 1)
        draft.put_tensors("golden.safetensors", golden)
    if rng.random() < 0.5:
        draft.allow_all()


def harmless(rng: random.Random, draft: Draft) -> None:
    """Change the bundle so that it stays valid."""
    manifest = draft.manifest
    rng.choice([
        lambda: draft.network().update(licence=rng.choice([None, "MIT", "\x1b[2J"])),
        lambda: draft.network().update(weights=rng.choice([CANARY_MODULE, "\x1b[2J"])),
        lambda: manifest.update(classes=sorted({"a\x1b[2J", "b\n", f"c{rng.random()}"})),
        lambda: manifest.update(max_pixels=rng.randrange(1, 2**31)),
        lambda: manifest["head"].update(temperature=rng.uniform(0.01, 900)),
        lambda: manifest.update(compute={"precision": rng.choice(["float32", "bfloat16", 1])}),
        lambda: draft.disk.append(lambda folder: (folder / "extra.pkl").write_bytes(b"\x80\x04.")),
        lambda: setattr(draft, "text", json.dumps(manifest, indent=rng.randrange(9)).encode()),
        lambda: draft.put_tensors("head.safetensors", draft.tensors("head.safetensors")),
        lambda: draft.put("README.md", "# A model card: \u00e9\x1b[2J".encode()),
    ])()  # fmt: skip


# --- files ------------------------------------------------------------------------------------


def picture(rng: random.Random, draft: Draft) -> None:
    """Write golden images that are damaged, bombs, or of another format than their name."""
    name = rng.choice([n for n in draft.files if n.startswith("golden/")])
    data = draft.files[name]
    cut = rng.randrange(1, len(data))

    def saved(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((size[1], size[0]), 99, np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    def bomb() -> bytes:  # its header declares 60,000 by 60,000 pixels
        png = saved("PNG")
        return png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:]

    flipped = data[:cut] + bytes([data[cut] ^ rng.randrange(1, 256)]) + data[cut + 1 :]
    draft.put(name, rng.choice([
        lambda: data[:cut], lambda: flipped, lambda: saved("GIF"), lambda: saved("TIFF"),
        lambda: saved("BMP"),
        lambda: saved("WEBP"), lambda: saved("PNG", (1, 1)),
        lambda: saved("PNG", (65_535, 1)),
        lambda: saved("JPEG", (1100, 1000)), bomb, lambda: b"<html>", lambda: b"",
        lambda: data + data,
    ])())  # fmt: skip


def flipped_byte(rng: random.Random, draft: Draft) -> None:
    """Flip bits of a file, and correct its hash or not."""
    name = rng.choice(list(draft.files))
    data = bytearray(draft.files[name])
    for _ in range(rng.choice([1, 1, 2, 30])):
        # Half of them among the first bytes, where the headers are.
        data[rng.randrange(min(len(data), 400) if rng.random() < 0.5 else len(data))] ^= (
            1 << rng.randrange(8)
        )
    if rng.random() < 0.8:
        draft.put(name, bytes(data))
    else:
        draft.files[name] = bytes(data)


def on_disk(rng: random.Random, draft: Draft) -> None:
    """Remove files, or replace them by links, pipes, folders and sparse files of terabytes."""
    name = rng.choice([*draft.files, "golden", "manifest.json"])
    size = rng.choice([0, 1, 2**31, 2**33, 2**40, 2**42])
    secret = Path(draft.outside, "secret")

    def sparse(path: Path) -> None:
        if path.is_file():
            os.truncate(path, size)

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))

    def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
        def act(folder: Path) -> None:
            path = folder / name
            path.rename(folder / "aside")
            make(path)

        return act

    actions = [
        replaced(lambda _: None),
        replaced(lambda path: path.mkdir()),
        replaced(lambda path: path.symlink_to(path.parent / "aside")),
        replaced(lambda path: path.symlink_to(secret)),
        replaced(lambda path: path.symlink_to(secret.parent)),
        replaced(lambda path: path.symlink_to("nowhere")),
        replaced(lambda path: path.symlink_to(path.name)),
        replaced(lambda path: path.symlink_to("/dev/zero")),
        replaced(os.mkfifo),
        replaced(listening),
        lambda folder: sparse(folder / name),
        lambda folder: sparse(folder / name),
        lambda folder: (folder / "golden" / "extra.png").write_bytes(b""),
    ]
    draft.disk.append(rng.choice(actions))
    record = draft.manifest["files"].get(name)
    if record is not None and rng.random() < 0.7:
        record["bytes"] = max(size, 1)


#: Mutations, which change the draft, with their weights.
Kinds: TypeAlias = dict[Callable[[random.Random, Draft], None], int]

#: Weights are low where a network is built: that costs a tenth of a second, and all else a
#: millisecond.
MUTATIONS: Kinds = {
    manifest_value: 300,
    manifest_nudge: 90,
    manifest_shape: 90,
    manifest_text: 200,
    network_name: 12,
    network_arguments: 20,
    tensor_entry: 60,
    tensor_header: 50,
    tensor_text: 60,
    tensor_values: 20,
    tensor_set: 30,
    not_safetensors: 20,
    other_head: 12,
    other_size: 12,
    other_views: 12,
    harmless: 10,
    picture: 20,
    flipped_byte: 20,
    on_disk: 40,
    decision_fields: 60,
    decision_tensors: 90,
    golden_typicality: 20,
    no_decisions: 20,
    other_networks: 20,
    card: 10,
}


def mutate(seed: int, number: int, sound: list[Draft], kinds: Kinds = MUTATIONS) -> Draft:
    """Return hostile bundle ``number`` of a seed, made from one of some sound ones."""
    rng = random.Random(f"{seed}/{number}")
    draft = rng.choice(sound)
    draft = Draft(json.loads(draft.encoded()), dict(draft.files), draft.outside)
    for mutation in rng.choices([*kinds], [*kinds.values()], k=1 if rng.random() < 0.8 else 2):
        try:
            mutation(rng, draft)
        except (KeyError, TypeError, IndexError, AttributeError, ArithmeticError, ValueError,
                struct.error, SafetensorError):  # fmt: skip
            continue  # the first one removed what the second would change
        draft.kinds.append(mutation.__name__)
    return draft

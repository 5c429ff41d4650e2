"""Hostile bundles: one change, or two, to a sound one, its hashes made right again.

``mutate(seed, number, sound)`` is a pure function: the same three give the same hostile bundle.
``MUTATIONS`` lists the kinds with how often each is drawn; a new kind is a function and a line.
"""

import copy
import hashlib
import io
import json
import os
import pickle
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from regraft.backbones.freeze import state_hash

TENSORS = (
    "backbone.safetensors", "head.safetensors", "statistics.safetensors", "golden.safetensors",
)  # fmt: skip
#: What a pickle leaves behind that was allowed to run, and a module that does when it is imported.
CANARY, CANARY_MODULE = "canary-sang", "canary_module"


@dataclass
class Draft:
    """A bundle in memory, before it is written.

    Attributes
    ----------
    manifest : dict
        As JSON has it.
    files : dict of str to bytes
        All others.
    text : bytes, optional
        The manifest, where it is no longer what ``manifest`` says.
    disk : list of callable
        What is done to the folder at last: links, pipes, sparse files.
    outside : str
        A folder with canaries, which nothing must touch.
    kinds : list of str
        Which mutations were applied.
    """

    manifest: dict
    files: dict[str, bytes]
    outside: str
    text: bytes | None = None
    disk: list[Callable[[Path], None]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def put(self, name: str, data: bytes) -> None:
        """Replace a file, and make its hash and size right again."""
        self.files[name] = data
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        if isinstance(self.manifest.get("files"), dict):
            self.manifest["files"][name] = record

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return load_tensors(self.files[name])

    def put_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        self.put(name, save_tensors({k: v.contiguous() for k, v in tensors.items()}))
        if name == "backbone.safetensors" and isinstance(self.manifest.get("backbone"), dict):
            like_a_module = SimpleNamespace(state_dict=lambda: tensors)
            self.manifest["backbone"]["weights_sha256"] = state_hash(like_a_module)

    def encoded(self) -> bytes:
        if self.text is None:
            # Lone surrogates cannot be written otherwise.
            self.text = json.dumps(self.manifest).encode()
        return self.text


def read_sound(folder: Path, outside: Path) -> Draft:
    """Read a sound bundle as the start of all mutations."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    return Draft(manifest, files, str(outside))


# --- values -----------------------------------------------------------------------------------


def hostile_string(rng: random.Random, outside: str) -> str:
    return rng.choice([
        "", " ", "\0", "a\0b", "\n", "\x1b[2J\x1b]0;owned\x07", "\ud800", "\u202eslived", "é" * 999,
        "a" * 10**6, "../../etc/passwd", "/etc/passwd", f"{outside}/secret", f"file://{outside}/x",
        "C:\\Windows\\win.ini", "\\\\host\\share", "//host/share", "http://127.0.0.1:9/x",
        "https://huggingface.co/timm/resnet18", "hf-hub:timm/resnet18", f"local-dir:{outside}",
        "os.system", "__import__('os')", "__class__", "__reduce__", CANARY_MODULE, "builtins.eval",
        "{0.__class__}", "%s%n", "${HOME}", "`id`", "; touch x", "pickle", "True", "null", "NaN",
        "timm/resnet18", "embedded", "layer1", "layer1.0.conv1", "fc", "pooled", "linear", "knn",
        "0" * 64, "g" * 64, "0" * 64 + "\n", "golden/wide.jpg", "golden/wide.jpg\n", "golden/..",
        "golden/x.png", "manifest.json", "backbone.safetensors", "CON", "aux.png", "bfloat16",
    ])  # fmt: skip


def hostile_number(rng: random.Random) -> int | float:
    return rng.choice([
        0, -1, 1, 2, 3, 7, 31, 33, 64, 65, 255, 4096, 4097, 10**6, 10**9, 2**31 - 1, 2**31, 2**32,
        2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63), 10**4000, 0.5, -0.0,
        1e-300, 5e-324, 1e308, -1e308, 1.5, 1e-45, float("nan"), float("inf"), float("-inf"),
    ])  # fmt: skip


def deep(rng: random.Random) -> object:
    value: object = 1
    for _ in range(rng.choice([2, 50, 500])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def hostile_value(rng: random.Random, outside: str) -> object:
    return rng.choice([
        lambda: hostile_string(rng, outside),
        lambda: hostile_number(rng),
        lambda: rng.choice([None, True, False, [], {}, [[]], [None], {"": None}, {"a": 1}]),
        lambda: deep(rng),
        lambda: [hostile_number(rng)] * rng.choice([1, 3, 1001, 10_000]),
        lambda: [hostile_string(rng, outside) for _ in range(rng.choice([1, 2, 17]))],
        lambda: {str(number): number for number in range(rng.choice([1, 33, 1000]))},
        lambda: {"__class__": "os.system", "__reduce__": ["touch x"], "$ref": "http://127.0.0.1:9"},
    ])()  # fmt: skip


def places(tree: object, found: list[tuple[object, object]] | None = None) -> list:
    """List every (container, key) of a JSON tree."""
    found = [] if found is None else found
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            found.append((tree, key))
            places(tree[key], found)
    return found


# --- the manifest -----------------------------------------------------------------------------


def manifest_value(rng: random.Random, draft: Draft) -> None:
    """Another value somewhere."""
    container, key = rng.choice(places(draft.manifest))
    container[key] = hostile_value(rng, draft.outside)


def manifest_nudge(rng: random.Random, draft: Draft) -> None:
    """A value near the old one: off by one, doubled, another case, another order."""
    container, key = rng.choice(places(draft.manifest))
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
    """A field missing, added, renamed, or put in another's place."""
    container, key = rng.choice(places(draft.manifest))
    other, place = rng.choice(places(draft.manifest))
    action = rng.randrange(4)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, dict):
        container[hostile_string(rng, draft.outside)] = hostile_value(rng, draft.outside)
    elif action == 2 and isinstance(container, dict):
        container[hostile_string(rng, draft.outside)] = container.pop(key)
    else:
        container[key] = copy.deepcopy(other[place])


def manifest_text(rng: random.Random, draft: Draft) -> None:
    """What only the text of JSON can say: keys twice, NaN, endless numbers and nesting."""
    text = json.dumps(draft.manifest).encode()
    keys = [b'"schema_version": ', b'"name": ', b'"channels": ', b'"bytes": ', b'"image_size": ',
            b'"sha256": ', b'"classes": ', b'"temperature": ', b'"files": ', b'"arguments": ']  # fmt: skip
    key = rng.choice([key for key in keys if key in text] or [b"{"])
    at = text.index(key)
    digits = b"9" * rng.choice([400, 5_000, 100_000])
    many = rng.choice([100, 5_000, 200_000])
    values = [
        b"NaN", b"-Infinity", digits, b"-" + digits, b"1e" + digits, b"0." + digits, b"1e999",
        b"[" * many, b"[" * many + b"]" * many, b'{"a":' * many, b'{"a":' * many + b"1" + b"}" * many,
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
        lambda: b'{"schema_version": 1, "a": ' + rng.choice(values) + b"}",
    ])()  # fmt: skip


def network_name(rng: random.Random, draft: Draft) -> None:
    """Another network: one that would fetch, one that is huge, one that is none."""
    backbone = draft.manifest["backbone"]
    backbone["name"] = rng.choice([
        "hf-hub:timm/resnet18", "timm/hf-hub:timm/resnet18", "timm/hf_hub:x", f"local-dir:{draft.outside}",
        f"timm/local-dir:{draft.outside}", "https://127.0.0.1:9/x.pth", "timm/resnet18.a1_in1k",
        "timm/test_resnet.r160_in1k", "timm/", "timm/.", "timm/..", "timm/../x", "timm/resnet18",
        "timm/test_vit", "timm/test_vit3", "timm/test_convnext", "timm/test_resnet ", "test_resnet",
        "timm/levit_128s", "timm/vit_tiny_patch16_224", "timm/vit_giant_patch14_224", "timm/resnetv2_152x4_bit",
        "torchvision/resnet18", "torchvision/regnet_y_400mf", "torchvision/vit_b_16",
        "torchvision/maskrcnn_resnet50_fpn", "torchvision/raft_large", "torchvision/r3d_18",
        "embedded", "embedded/x", "embedded\n", "pytorch/vision", f"timm/{CANARY_MODULE}",
        "TIMM/test_resnet", "timm/TEST_RESNET", "timm/test_resnet\n", "timm/__class__",
    ])  # fmt: skip
    if rng.random() < 0.5:
        size = rng.choice([1, 2, 16, 32, 64, 160, 224, 1000, 4096])
        backbone["preprocess"].update(image_size=size, resize_size=size)


def network_arguments(rng: random.Random, draft: Draft) -> None:
    """Arguments that would fetch, allocate or run something, were they handed on."""
    values = [True, False, None, "", 10**9, -1, 1e300, f"{draft.outside}/w.pth", "hf-hub:a/b", "avg",
              "max", "token", "catavgmax", "r160_in1k", "in1k", "http://127.0.0.1:9/w.pth"]  # fmt: skip
    names = ["pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir",
             "num_classes", "in_chans", "img_size", "global_pool", "tag", "scriptable", "features_only",
             "block", "layers", "stem_width", "weights", "progress", "act_layer", "exportable",
             "self", "__class__", "a.b", "a" * 61, "é"]  # fmt: skip
    chosen = rng.sample(names, rng.choice([1, 1, 2]))
    draft.manifest["backbone"]["arguments"] = {name: rng.choice(values) for name in chosen}


# --- safetensors ------------------------------------------------------------------------------


def header_of(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(text: bytes, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + payload


def tensor_header(rng: random.Random, draft: Draft) -> None:
    """Shapes that overflow, wrong types, gaps, overlaps and offsets out of the file."""
    name = rng.choice(TENSORS)
    header, payload = header_of(draft.files[name])
    names = [key for key in header if key != "__metadata__"]
    key = rng.choice(names)
    entry = header[key]
    start, stop = entry["data_offsets"]
    huge = rng.choice([2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30])
    action = rng.randrange(12)
    if action == 0:
        entry["dtype"] = rng.choice(
            [
                "F64",
                "F16",
                "BF16",
                "I8",
                "U8",
                "BOOL",
                "F8_E4M3",
                "F4",
                "C64",
                "U64",
                "X",
                "",
                None,
                1,
            ]
        )
    elif action == 1:
        entry["shape"] = rng.choice([
            [], [0], [-1], [huge], [huge, huge], [2**32, 2**32], [2**33, 2**31], [1] * 1000, [0, huge],
            [1.5], ["1"], None, {}, [*entry["shape"], 1], entry["shape"][::-1], [1, *entry["shape"]],
        ])  # fmt: skip
    elif action == 2:
        entry["data_offsets"] = rng.choice([
            [start, stop + 4], [start + 4, stop], [start + 4, stop + 4], [stop, start], [0, 0], [0, huge],
            [huge, huge], [-4, stop], [start], [start, stop, stop], None, [0.5, 4], ["0", "4"],
            [len(payload), 2 * len(payload)],
        ])  # fmt: skip
    elif action == 3:  # two tensors in one place, or one that leaves a gap
        other = header[rng.choice(names)]
        entry["data_offsets"] = other["data_offsets"]
    elif action == 4:
        header[hostile_string(rng, draft.outside)] = rng.choice(
            [entry, hostile_value(rng, draft.outside)]
        )
    elif action == 5:
        header[hostile_string(rng, draft.outside)] = header.pop(key)
    elif action == 6:
        del header[key]
        if rng.random() < 0.5:
            payload = payload[:start] + payload[stop:]
    elif action == 7:
        header["__metadata__"] = rng.choice(
            [
                {"format": "pt"},
                {"a": hostile_string(rng, draft.outside)},
                hostile_value(rng, draft.outside),
            ]
        )
    elif action == 8:
        header[key] = hostile_value(rng, draft.outside)
    elif action == 9:
        payload = rng.choice(
            [b"", payload[:-1], payload + b"\0", payload + bytes(4096), payload[::-1]]
        )
    elif action == 10:
        entry["extra"] = hostile_value(rng, draft.outside)
    else:
        header[key] = {k: v for k, v in entry.items() if k != rng.choice(list(entry))}
    text = json.dumps(header).encode()
    if rng.random() < 0.1:  # a key twice
        text = text[:-1] + b", " + json.dumps({key: entry}).encode()[1:]
    draft.put(name, with_header(text, payload))


def tensor_text(rng: random.Random, draft: Draft) -> None:
    """Headers that are no JSON, and lengths that lie."""
    name = rng.choice(TENSORS)
    header, payload = header_of(draft.files[name])
    text = json.dumps(header).encode()
    many = rng.choice([100, 5_000, 200_000])
    cut = rng.randrange(len(text))
    broken = rng.choice([
        text[:cut], text[:cut] + b"\xff" + text[cut + 1 :], b"", b"{", b"[]", b"null", b"{}" + b" " * many,
        b'{"a":' * many, b"[" * many, b" " * many + text, text + b" " * many, text + b"\0", b"\xef\xbb\xbf" + text,
        b'{"a":{"dtype":"F32","shape":[' + b"9" * many + b'],"data_offsets":[0,4]}}', text.replace(b"F32", b"F3\\u0032"),
    ])  # fmt: skip
    length = rng.choice(
        [None, None, 0, 1, 7, len(text) - 1, len(text) + 1, 2**27, 10**8, 2**63, 2**64 - 1]
    )
    draft.put(name, with_header(broken, payload, length))


def tensor_values(rng: random.Random, draft: Draft) -> None:
    """Numbers that are not finite, huge or another tensor's, in a file that is sound."""
    name = rng.choice(TENSORS)
    tensors = draft.tensors(name)
    key = rng.choice(list(tensors))
    value = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e30, 3e38, 1e-45, 2.0, -(2.0**62)])
    tensor = tensors[key].clone()
    if tensor.dtype == torch.uint8:
        value = rng.randrange(256)
    elif not tensor.is_floating_point() and not abs(value) < 2**63:
        value = 2**62
    if tensor.numel() and rng.random() < 0.5:
        tensor.view(-1)[rng.randrange(tensor.numel())] = value
    else:
        tensor.fill_(value)
    tensors[key] = tensor
    draft.put_tensors(name, tensors)


def tensor_set(rng: random.Random, draft: Draft) -> None:
    """Tensors missing, added, renamed, of another type or shape, in a file that is sound."""
    name = rng.choice(TENSORS)
    tensors = draft.tensors(name)
    key = rng.choice(list(tensors))
    tensor = tensors[key]
    action = rng.randrange(6)
    if action == 0:
        del tensors[key]
    elif action == 1:
        tensors[hostile_string(rng, draft.outside).encode("utf-8", "replace").decode()] = (
            tensor.clone()
        )
    elif action == 2:
        tensors[key] = tensor.to(
            rng.choice([torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
        )
    elif action == 3:
        tensors[key] = tensor.reshape(-1)[: rng.choice([0, 1, 2])].clone()
    elif action == 4:
        tensors[key] = tensor.unsqueeze(0)
    else:
        tensors[key] = torch.cat([tensor.reshape(-1), tensor.reshape(-1)])
    draft.put_tensors(name, tensors)


def not_safetensors(rng: random.Random, draft: Draft) -> None:
    """Pickles that would leave a mark, archives of them, and noise, where tensors should be."""

    class Bomb:
        def __reduce__(self) -> tuple:
            return (open, (str(Path(draft.outside, CANARY)), "w"))

    zipped = io.BytesIO()
    torch.save({"weight": Bomb()}, zipped)
    name = rng.choice([*TENSORS, *(n for n in draft.files if n.startswith("golden/"))])
    draft.put(
        name,
        rng.choice([
            pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0), zipped.getvalue(), b"\x80\x04.", b"MZ",
            b"GGUF" + bytes(64), b"\x93NUMPY\x01\x00" + bytes(64), b"#!/bin/sh\ntouch x\n", rng.randbytes(999),
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\n".encode(), b"<html>", b"\0",
        ]),
    )  # fmt: skip


# --- lies that agree with each other ----------------------------------------------------------


def other_head(rng: random.Random, draft: Draft) -> None:
    """A head, classes, golden answers and blocks that fit each other, for other numbers."""
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
        rng.choice(manifest["backbone"]["stages"]).update(
            rng.choice(
                [{"layout": "nhwc"}, {"layout": "tokens"}, {"prefix_tokens": 1}, {"path": "layer1"}]
            )
        )
    if rng.random() < 0.5:
        manifest["classes"] = [f"{n:06}" for n in range(rng.choice([2, 3, 100]))]
    width, count = sum(block["width"] for block in blocks), len(manifest["classes"])
    width = min(width, 200_000)
    draft.put_tensors("head.safetensors", {
        "mean": torch.zeros(width), "scale": torch.ones(width), "weight": torch.zeros(count, width),
        "bias": torch.zeros(count),
    })  # fmt: skip
    manifest["head"]["kind"] = "linear"
    golden = draft.tensors("golden.safetensors")
    features = golden["features"]
    repeats = -(-width // features.shape[1])
    draft.put_tensors("golden.safetensors", {
        "pixels": golden["pixels"], "features": features.repeat(1, repeats)[:, :width],
        "logits": torch.zeros(len(features), count),
    })  # fmt: skip
    manifest["golden"]["feature_tolerance"] = {"float32": 1, "bfloat16": 1}


def other_size(rng: random.Random, draft: Draft) -> None:
    """Another image size, with golden pixels of that size."""
    side = rng.choice([1, 2, 8, 16, 31, 33, 64, 96])
    preprocess = draft.manifest["backbone"]["preprocess"]
    preprocess.update(image_size=side, resize_size=side * rng.choice([1, 1, 2, 10, 11]))
    golden = draft.tensors("golden.safetensors")
    golden["pixels"] = torch.full((len(golden["features"]), 3, side, side), 100, dtype=torch.uint8)
    draft.put_tensors("golden.safetensors", golden)
    if rng.random() < 0.5:
        draft.manifest["golden"].update(
            pixel_tolerance=64, feature_tolerance={"float32": 1, "bfloat16": 1}, logit_tolerance=1
        )


def harmless(rng: random.Random, draft: Draft) -> None:
    """Changes after which the bundle still is one."""
    manifest = draft.manifest
    rng.choice([
        lambda: manifest["backbone"].update(licence=rng.choice([None, "MIT", "\x1b[2J"])),
        lambda: manifest["backbone"].update(weights=hostile_string(rng, draft.outside)[:900] or "x"),
        lambda: manifest.update(classes=sorted({"a\x1b[2J", "b\n", f"c{rng.random()}"})),
        lambda: manifest.update(max_pixels=rng.randrange(1, 2**31)),
        lambda: manifest["head"].update(temperature=rng.uniform(0.01, 900)),
        lambda: manifest.update(compute={"precision": rng.choice(["float32", "bfloat16", 1, None])}),
        lambda: draft.disk.append(lambda folder: (folder / "extra.pkl").write_bytes(b"\x80\x04.")),
        lambda: setattr(draft, "text", json.dumps(manifest, indent=rng.randrange(9)).encode()),
        lambda: draft.put_tensors("statistics.safetensors", draft.tensors("statistics.safetensors")),
    ])()  # fmt: skip


# --- files ------------------------------------------------------------------------------------


def picture(rng: random.Random, draft: Draft) -> None:
    """Golden images that are damaged, bombs, or other formats under their name."""
    name = rng.choice([n for n in draft.files if n.startswith("golden/")])
    data = draft.files[name]
    cut = rng.randrange(1, len(data))

    def saved(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.full((size[1], size[0]), 99, np.uint8)).save(buffer, kind)
        return buffer.getvalue()

    def bomb() -> bytes:  # 60,000 by 60,000 pixels say the headers
        png = saved("PNG")
        return png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:]

    flipped = data[:cut] + bytes([data[cut] ^ rng.randrange(1, 256)]) + data[cut + 1 :]
    draft.put(name, rng.choice([
        lambda: data[:cut], lambda: flipped, lambda: saved("GIF"), lambda: saved("TIFF"), lambda: saved("BMP"),
        lambda: saved("WEBP"), lambda: saved("PNG", (1, 1)), lambda: saved("PNG", (65_535, 1)),
        lambda: saved("JPEG", (1100, 1000)), bomb, lambda: b"<html>", lambda: b"", lambda: data + data,
    ])())  # fmt: skip


def flipped_byte(rng: random.Random, draft: Draft) -> None:
    """Bits of a file turned, its hash made right again or not."""
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
    """Files missing, links, pipes, folders and sparse files of terabytes."""
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
        replaced(lambda path: None),
        replaced(lambda path: path.mkdir()),
        replaced(lambda path: path.symlink_to(path.parent / "aside")),
        replaced(lambda path: path.symlink_to(secret)),
        replaced(lambda path: path.symlink_to(secret.parent)),
        replaced(lambda path: path.symlink_to("nowhere")),
        replaced(lambda path: path.symlink_to(path.name)),
        replaced(lambda path: path.symlink_to("/dev/zero")),
        replaced(lambda path: os.mkfifo(path)),
        replaced(listening),
        lambda folder: sparse(folder / name),
        lambda folder: sparse(folder / name),
        lambda folder: (folder / "golden" / "extra.png").write_bytes(b""),
    ]
    draft.disk.append(rng.choice(actions))
    record = draft.manifest["files"].get(name)
    if record is not None and rng.random() < 0.7:
        record["bytes"] = max(size, 1)


#: Kind to how often it is drawn. Those that reach the building of a network cost a tenth of a
#: second, the others a millisecond: that is what the weights are for.
MUTATIONS: dict[Callable[[random.Random, Draft], None], int] = {
    manifest_value: 300,
    manifest_nudge: 90,
    manifest_shape: 90,
    manifest_text: 200,
    network_name: 12,
    network_arguments: 20,
    tensor_header: 100,
    tensor_text: 60,
    tensor_values: 20,
    tensor_set: 30,
    not_safetensors: 20,
    other_head: 12,
    other_size: 12,
    harmless: 10,
    picture: 20,
    flipped_byte: 20,
    on_disk: 40,
}


def mutate(seed: int, number: int, sound: list[Draft]) -> Draft:
    """Return hostile bundle ``number`` of a seed, made from one of some sound ones."""
    rng = random.Random(f"{seed}/{number}")
    draft = rng.choice(sound)
    draft = Draft(copy.deepcopy(draft.manifest), dict(draft.files), draft.outside)
    kinds, weights = list(MUTATIONS), list(MUTATIONS.values())
    for mutation in rng.choices(kinds, weights, k=1 if rng.random() < 0.8 else 2):
        try:
            mutation(rng, draft)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            continue  # a second one may find nothing left that it could change
        draft.kinds.append(mutation.__name__)
    return draft

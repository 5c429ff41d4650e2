"""Hostile safetensors: false headers, numbers that break arithmetic, and pickles."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from attacks.bundle_draft import CANARY, Draft, hostile_string, hostile_value

if TYPE_CHECKING:
    import random


def header_of(data: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(text: bytes, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + payload


HUGE = (2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30)
TYPES = ("F64", "F16", "BF16", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "U64", "X", "", None, 1)


def tensor_entry(rng: random.Random, draft: Draft) -> None:
    """Write shapes that overflow, wrong types, gaps, overlaps and offsets outside of the file."""
    name = rng.choice(draft.tensor_files())
    header, payload = header_of(draft.files[name])
    names = [key for key in header if key != "__metadata__"]
    entry = header[rng.choice(names)]
    start, stop = entry["data_offsets"]
    huge, end = rng.choice(HUGE), len(payload)
    what = rng.choice(["dtype", "shape", "shape", "data_offsets", "data_offsets", "extra", "other"])
    values = {
        "dtype": TYPES,
        "shape": [
            [], [0], [-1], [huge], [huge, huge], [2**32, 2**32], [2**33, 2**31], [1] * 1000,
            [0, huge], [1.5], ["1"], None, {}, [*entry["shape"], 1], entry["shape"][::-1],
            [1, *entry["shape"]],
        ],
        "data_offsets": [
            [start, stop + 4], [start + 4, stop], [start + 4, stop + 4], [stop, start], [0, 0],
            [0, huge], [huge, huge], [-4, stop], [start], [start, stop, stop], None, [0.5, 4],
            ["0", "4"], [end, 2 * end],
        ],
        "extra": [hostile_value(rng, draft.outside)],
        "other": [header[rng.choice(names)]],  # two at one offset, and a gap
    }[what]  # fmt: skip
    if what == "other":
        entry["data_offsets"] = values[0]["data_offsets"]
    else:
        entry[what] = rng.choice(values)
    draft.put(name, with_header(json.dumps(header).encode(), payload))


def tensor_header(rng: random.Random, draft: Draft) -> None:
    """Remove, add, rename or repeat entries; add bytes without an entry."""
    name, outside = rng.choice(draft.tensor_files()), draft.outside
    header, payload = header_of(draft.files[name])
    key = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[key]
    start, stop = entry["data_offsets"]

    def without(*, its_bytes: bool) -> bytes:
        del header[key]
        return payload[:start] + payload[stop:] if its_bytes else payload

    def renamed() -> bytes:
        header[hostile_string(rng, outside)] = header.pop(key)
        return payload

    def with_entry(key: str, value: object) -> bytes:
        header[key] = value
        return payload

    metadata = [{"format": "pt"}, {"a": hostile_string(rng, outside)}, hostile_value(rng, outside)]
    dropped = rng.choice(list(entry))
    less = {field: value for field, value in entry.items() if field != dropped}
    payload = rng.choice([
        lambda: without(its_bytes=False),
        lambda: without(its_bytes=True),
        renamed,
        lambda: with_entry(hostile_string(rng, outside), entry),
        lambda: with_entry(hostile_string(rng, outside), hostile_value(rng, outside)),
        lambda: with_entry(key, hostile_value(rng, outside)),
        lambda: with_entry(key, less),
        lambda: with_entry("__metadata__", rng.choice(metadata)),
        lambda: b"",
        lambda: payload[:-1],
        lambda: payload + bytes(rng.choice([1, 4096])),
        lambda: payload[::-1],
    ])()  # fmt: skip
    text = json.dumps(header).encode()
    if rng.random() < 0.1:  # equal keys
        text = text[:-1] + b", " + json.dumps({key: entry}).encode()[1:]
    draft.put(name, with_header(text, payload))


def tensor_text(rng: random.Random, draft: Draft) -> None:
    """Write headers that are not JSON, and false lengths."""
    name = rng.choice(draft.tensor_files())
    header, payload = header_of(draft.files[name])
    text = json.dumps(header).encode()
    many = rng.choice([100, 5_000, 200_000])
    cut = rng.randrange(len(text))
    broken = rng.choice([
        text[:cut], text[:cut] + b"\xff" + text[cut + 1 :], b"", b"{", b"[]", b"null",
        b"{}" + b" " * many, b'{"a":' * many, b"[" * many, b" " * many + text, text + b" " * many,
        text + b"\0", b"\xef\xbb\xbf" + text, text.replace(b"F32", b"F3\\u0032"),
        b'{"a":{"dtype":"F32","shape":[' + b"9" * many + b'],"data_offsets":[0,4]}}',
    ])  # fmt: skip
    end = len(text)
    length = rng.choice([None, None, 0, 1, 7, end - 1, end + 1, 2**27, 10**8, 2**63, 2**64 - 1])
    draft.put(name, with_header(broken, payload, length))


def tensor_values(rng: random.Random, draft: Draft) -> None:
    """Write numbers that are not finite or are huge, into a sound file."""
    name = rng.choice(draft.tensor_files())
    tensors = draft.tensors(name)
    key = rng.choice(list(tensors))
    value = rng.choice([float("nan"), float("inf"), -1.0, 0.0, 1e30, 3e38, 1e-45, 2.0, -(2.0**62)])
    tensor = tensors[key].clone()
    if tensor.dtype == torch.uint8:
        value = rng.randrange(256)
    elif tensor.dtype == torch.int8:
        value = rng.randrange(-128, 128)
    elif tensor.dtype == torch.int32:
        value = rng.choice([-(2**31), -1, 0, 2, 3, 2**31 - 1])
    elif not tensor.is_floating_point() and not abs(value) < 2**63:
        value = 2**62
    if tensor.numel() and rng.random() < 0.5:
        tensor.view(-1)[rng.randrange(tensor.numel())] = value
    else:
        tensor.fill_(value)
    tensors[key] = tensor
    draft.put_tensors(name, tensors)


def tensor_set(rng: random.Random, draft: Draft) -> None:
    """Remove, add or rename tensors, or change their type or shape, in a sound file."""
    name = rng.choice(draft.tensor_files())
    tensors = draft.tensors(name)
    key = rng.choice(list(tensors))
    tensor = tensors[key]
    flat = tensor.reshape(-1)
    other = rng.choice([torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
    added = hostile_string(rng, draft.outside).encode("utf-8", "replace").decode()
    what, value = rng.choice([
        (key, None), (added, tensor.clone()), (key, tensor.to(other)), (key, tensor.unsqueeze(0)),
        (key, flat[: rng.choice([0, 1, 2])].clone()), (key, torch.cat([flat, flat])),
    ])  # fmt: skip
    if value is None:
        del tensors[what]
    else:
        tensors[what] = value
    draft.put_tensors(name, tensors)


def not_safetensors(rng: random.Random, draft: Draft) -> None:
    """Write pickles that would leave a file, archives of them, and noise, instead of tensors."""

    class Bomb:
        def __reduce__(self) -> tuple:
            return (open, (str(Path(draft.outside, CANARY)), "w"))

    zipped = io.BytesIO()
    torch.save({"weight": Bomb()}, zipped)
    name = rng.choice([*draft.tensor_files(), *(n for n in draft.files if n.startswith("golden/"))])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\n"
    draft.put(name, rng.choice([
        pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0), zipped.getvalue(), b"\x80\x04.",
        b"MZ", b"GGUF" + bytes(64), b"\x93NUMPY\x01\x00" + bytes(64), b"#!/bin/sh\ntouch x\n",
        rng.randbytes(999), pointer.encode(), b"<html>", b"\0",
    ]))  # fmt: skip

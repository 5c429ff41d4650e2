"""Bytes of a row, read and written a second time by its format alone.

A row is: the schema and the number of blocks in two bytes each, the length of the header in four;
the header, which says of each block how long its name is (one byte), whether it is float16 (one
byte), how many values it has (four) and its name, and ends in zeros to a multiple of eight bytes;
the values of the blocks; and a CRC-32 over the key and all of this. Numbers are little-endian.
"""

import hashlib
import zlib

import numpy as np
import pytest

from regraft.features.store.rows import (
    decode_row,
    decode_values,
    encode_row,
    fingerprint_of,
    row_key,
)

KEY = bytes(range(32))
NAMES = ["pooled@1", "stage 1@0.5", "a", "Größe@2", "", "x" * 255]


def random_row(chance):
    """Return up to five blocks of both types, some of them empty, in any order."""
    names = chance.permutation(NAMES)[: chance.integers(0, 6)]
    return {
        str(name): chance.normal(size=chance.integers(0, 5)).astype(
            np.float16 if chance.random() < 0.6 else np.float32
        )
        for name in names
    }


def little(number, n_bytes):
    return int(number).to_bytes(n_bytes, "little")


def sealed(body, key=KEY):
    return body + little(zlib.crc32(key + body), 4)


def as_bytes(row, *, schema=3, n_blocks=None, padding=None):
    header = b""
    for name, values in row.items():
        text = name.encode("utf-8")
        header += little(len(text), 1) + little(values.dtype.itemsize == 2, 1)
        header += little(len(values), 4) + text
    while padding is None and len(header) % 8:
        header += b"\0"
    header += padding or b""
    start = little(schema, 2) + little(len(row) if n_blocks is None else n_blocks, 2)
    values = b"".join(values.tobytes() for values in row.values())
    return sealed(start + little(len(header), 4) + header + values)


def same(found, row):
    return (
        found is not None
        and list(found) == list(row)
        and all(found[name].dtype == row[name].dtype for name in row)
        and all(found[name].tobytes() == row[name].tobytes() for name in row)
    )


def layout_of(row):
    return tuple((name, len(values)) for name, values in row.items())


@pytest.mark.parametrize("seed", range(30))
def test_rows_are_written_and_read_as_their_format_says(seed):
    row = random_row(np.random.default_rng(seed))
    data = as_bytes(row)
    assert encode_row(KEY, row) == data
    assert same(decode_row(KEY, data), row)
    assert same(decode_row(KEY, data, layout_of(row)), row)


def test_values_that_are_not_side_by_side_in_memory_are_written_in_their_order():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows = [{"column": values[:, 1]}, {"column": values[::-1, 1]}]
    copies = [{"column": np.array([1, 5, 9], np.float32)}, {"column": np.float32([9, 5, 1])}]
    assert [encode_row(KEY, row) for row in rows] == [as_bytes(row) for row in copies]


@pytest.mark.parametrize("seed", range(30))
def test_some_blocks_are_their_values_in_as_few_arrays_as_types_and_places_allow(seed):
    chance = np.random.default_rng(seed)
    row = random_row(chance)
    names = list(row)
    some = tuple(str(name) for name in chance.permutation(names)[: chance.integers(0, 6)])
    for asked in (tuple(names), some):
        expected = []
        for before, name in zip((None, *asked), asked, strict=False):
            values = row[name]
            follows = before is not None and names.index(name) == names.index(before) + 1
            if follows and row[before].dtype == values.dtype:
                values = np.concatenate([expected.pop(), values])
            expected.append(values)
        for layout in (None, layout_of(row)):
            found = decode_values(KEY, as_bytes(row), asked, layout)
            joined = [(values.dtype, values.tobytes()) for values in found]
            assert b"".join(data for _, data in joined) == b"".join(
                row[name].tobytes() for name in asked
            )
            if all(map(len, row.values())):  # an empty block is beside both its neighbours
                assert joined == [(values.dtype, values.tobytes()) for values in expected]


ROW = {"one": np.array([1, 2], np.float16), "two": np.array([3], np.float32)}


BODY = as_bytes(ROW)[:-4]
NO_ROWS = {
    "an older schema": as_bytes(ROW, schema=2),
    "a schema of which one byte is right": as_bytes(ROW, schema=3 + 256),
    "a block less": as_bytes(ROW, n_blocks=1),
    "more blocks than the header has": as_bytes(ROW, n_blocks=4),
    "eight zeros too many after the header": as_bytes(ROW, padding=bytes(14)),
    "no zeros after the header": as_bytes(ROW, padding=b""),
    "a value that lacks a byte": sealed(BODY[:-1]),
    "a byte after the values": sealed(BODY + b"\0"),
    "a header that ends in a block": sealed(BODY[:12]),
    "a name that is no text": sealed(BODY.replace(b"one", b"\xff\xff\xff")),
    "one name twice": sealed(BODY.replace(b"two", b"one")),
    "only a checksum": sealed(b""),
    "too few bytes for the start": sealed(BODY[:7]),
    "the schema alone": sealed(BODY[:2]),
    "too few bytes for a checksum": BODY[:3],
    "a wrong checksum": BODY + bytes(4),
    "the checksum of another key": sealed(BODY, key=KEY[:-1]),
    "nothing": b"",
    "None": None,
    "text": "text",
    "a number": 7,
}


@pytest.mark.parametrize("data", NO_ROWS.values(), ids=NO_ROWS)
def test_what_is_no_row_of_the_key_is_none(data):
    assert same(decode_row(KEY, as_bytes(ROW)), ROW)
    assert decode_row(KEY, data) is None
    assert decode_values(KEY, data, ("one",)) is None


def test_a_row_without_blocks_is_a_row():
    data = as_bytes({})
    assert len(data) == 12
    assert decode_row(KEY, data) == decode_row(KEY, data, ()) == {}
    assert decode_values(KEY, data, ()) == []
    assert decode_values(KEY, data, ("one",)) is None


@pytest.mark.parametrize(
    "layout",
    [(("one", 2),), (("two", 1), ("one", 2)), (("one", 2), ("two", 2)), (("one", 2), ("TWO", 1))],
)
def test_a_row_of_other_blocks_than_asked_for_is_none(layout):
    assert decode_row(KEY, as_bytes(ROW), layout) is None
    assert decode_values(KEY, as_bytes(ROW), ("one",), layout) is None
    assert decode_values(KEY, as_bytes(ROW), ("one", "three")) is None


def test_the_key_is_the_sha256_of_content_view_and_fingerprint():
    content, fingerprint = hashlib.sha256(b"image").digest(), hashlib.sha256(b"how").digest()
    for view in (0, 1, 258, 2**64 - 1):
        expected = hashlib.sha256(content + little(view, 8) + fingerprint).digest()
        assert row_key(content, view, fingerprint) == expected


def test_a_fingerprint_is_the_sha256_of_json_with_its_keys_in_order():
    text = rb'{"a": [1, 0.5, null], "b": {"c": true, "d": "\u00e9"}}'
    found = fingerprint_of({"b": {"d": "é", "c": True}, "a": [1, 0.5, None]})
    assert found == hashlib.sha256(text).digest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint_of({"a": float("nan")})

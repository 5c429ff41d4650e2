"""Read the size of pictures that AV1 and HEVC code: what their decoders allocate.

AV1 Bitstream and Decoding Process Specification, 5.5.1; ITU-T H.265, 7.3.2.2 and 7.3.3.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 1 << 12  # bytes of one header
_SEQUENCE_HEADER, _SEQUENCE_PARAMETERS = 1, 33
_MAX_UNITS = 1000  # of one item


class _Bits:
    """Reads bits, the highest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._left = 8 * len(data)
        self._value = int.from_bytes(data, "big")

    def read(self, size: int) -> int:
        self._left -= size
        if self._left < 0:
            raise struct.error
        return self._value >> self._left & (1 << size) - 1

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise struct.error
        return (1 << zeros) - 1 + self.read(zeros)


def av1_sizes(settings: bytes, content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of every sequence header, in the contents of av1C and of an item."""
    for data in (settings[4:], content):
        at = 0
        for _ in range(_MAX_UNITS):
            if at >= len(data):
                break
            head = data[at]
            at += 2 if head & 4 else 1
            size = len(data) - at
            if head & 2:
                size, at = _leb128(data, at)
            if head >> 3 & 15 == _SEQUENCE_HEADER:
                yield _av1_sequence(_Bits(data[at : at + min(size, _MOST)]))
            at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for number in range(8):
        if at >= len(data):
            raise struct.error
        byte, at = data[at], at + 1
        value |= (byte & 127) << 7 * number
        if not byte & 128:
            break
    return value, at


def _av1_sequence(bits: _Bits) -> tuple[int, int]:
    bits.read(4)  # profile, still picture
    if bits.read(1):  # the short form of still pictures
        bits.read(5)
    else:
        model = False
        delay = 0
        if bits.read(1):  # timing
            bits.read(64)
            if bits.read(1):  # equal intervals
                bits.exp_golomb()
            if model := bool(bits.read(1)):
                delay = bits.read(5) + 1
                bits.read(42)
        display = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if model and bits.read(1):
                bits.read(2 * delay + 1)
            if display and bits.read(1):
                bits.read(4)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(across) + 1, bits.read(down) + 1


def hevc_sizes(settings: bytes, content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of every sequence's parameters, in hvcC and in an item."""
    yield from _hevc_settings(settings)
    length = (settings[21] & 3) + 1 if len(settings) > 21 else 4
    at = 0
    for _ in range(_MAX_UNITS):
        if at + length > len(content):
            break
        size = int.from_bytes(content[at : at + length], "big")
        yield from _hevc_unit(content[at + length : at + length + min(size, _MOST)])
        at += length + size


def _hevc_settings(settings: bytes) -> Iterator[tuple[int, int]]:
    if len(settings) < 23:
        return
    at = 23
    for _ in range(settings[22]):
        number = struct.unpack_from(">H", settings, at + 1)[0]
        at += 3
        for _ in range(number):
            size = struct.unpack_from(">H", settings, at)[0]
            yield from _hevc_unit(settings[at + 2 : at + 2 + size])
            at += 2 + size


def _hevc_unit(unit: bytes) -> Iterator[tuple[int, int]]:
    if not unit or unit[0] >> 1 & 63 != _SEQUENCE_PARAMETERS:
        return
    bits = _Bits(unit[2:_MOST].replace(b"\0\0\3", b"\0\0"))
    bits.read(4)
    layers = bits.read(3)
    bits.read(1 + 96)  # the profile and level of the whole
    given = [(bits.read(1), bits.read(1)) for _ in range(layers)]
    if layers:
        bits.read(2 * (8 - layers))
    for profile, level in given:
        bits.read(88 * profile + 8 * level)
    bits.exp_golomb()
    if bits.exp_golomb() == 3:
        bits.read(1)
    yield bits.exp_golomb(), bits.exp_golomb()

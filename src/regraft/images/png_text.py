"""Find the orientation in the text of a PNG: older writers, ImageMagick first, put EXIF there.

The text is called "Raw profile type exif" or "Raw profile type APP1", and holds a name, a number of
bytes, and these bytes as hexadecimal digits in lines.
"""

from __future__ import annotations

import zlib

from regraft.images.tiff import exif_orientation

_NAMES = {b"raw profile type exif", b"raw profile type app1"}
_MOST = 1 << 18  # characters: EXIF blocks are shorter than 64 KiB


def orientation_in_text(name: bytes, content: bytes) -> int:
    r"""Return the orientation 1 to 8 in a chunk tEXt, zTXt or iTXt; 0 if it holds no EXIF.

    Examples
    --------
    >>> exif = "4d4d002a00000008" + "0001" + "0112" + "0003" + "00000001" + "00060000"
    >>> orientation_in_text(b"tEXt", f"Raw profile type exif\0\nexif\n 22\n{exif}\n".encode())
    6
    """
    keyword, _, text = content[: _MOST * 2].partition(b"\0")
    if keyword.lower() not in _NAMES:
        return 0
    packed = name == b"zTXt"
    if name == b"iTXt":  # a flag, a method, a language and a translated keyword
        packed, rest = text[:1] == b"\1", text[2:].split(b"\0", 2)
        text = rest[-1]
    elif packed:
        text = text[1:]
    try:
        if packed:
            text = zlib.decompressobj().decompress(text, _MOST)
        words = text[:_MOST].split()
        return exif_orientation(bytes.fromhex(b"".join(words[2:]).decode("ascii")))
    except (zlib.error, ValueError):
        return 0

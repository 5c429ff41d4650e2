"""Recognise files that are not one of our image formats, to say in the error what they are."""

from __future__ import annotations

from regraft.errors import ImageError

#: For errors and hints: what is read.
FORMATS_ARE_READ = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC and JPEG 2000 are read"

#: Other kinds of files: (offset, bytes at the offset, kind of the error, what the file is).
_OTHERS = (
    (4, b"ftypcrx", "unsupported format", "a raw camera image (CR3)"),
    (0, b"FUJIFILMCCD-RAW", "unsupported format", "a raw camera image (RAF)"),
    (0, b"IIRO", "unsupported format", "a raw camera image (ORF)"),
    (0, b"IIRS", "unsupported format", "a raw camera image (ORF)"),
    (0, b"MMOR", "unsupported format", "a raw camera image (ORF)"),
    (0, b"IIU\0", "unsupported format", "a raw camera image (RW2)"),
    (6, b"HEAPCCDR", "unsupported format", "a raw camera image (CRW)"),
    (0, b"FOVb", "unsupported format", "a raw camera image (X3F)"),
    (0, b"\0MRM", "unsupported format", "a raw camera image (MRW)"),
    (0, b"\xff\x0a", "unsupported format", "a JPEG XL image"),
    (4, b"JXL ", "unsupported format", "a JPEG XL image"),
    (0, b"8BPS", "unsupported format", "a Photoshop document"),
    (0, b"\0\0\x01\0", "unsupported format", "an icon"),
    (4, b"ftyp", "not an image", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "not an image", "a video"),
    (8, b"AVI ", "not an image", "a video"),
    (0, b"%PDF", "not an image", "a PDF document"),
    (0, b"PK\x03\x04", "not an image", "a zip archive"),
    (0, b"\x1f\x8b", "not an image", "a gzip archive"),
    (0, b"version https://git-lfs", "not an image",
     "a Git LFS pointer, not the file itself (git lfs pull fetches it)"),
)  # fmt: skip


def explain_unrecognised(data: bytes) -> ImageError:
    """Return the error for a file that has none of the image formats; it says what the file is.

    Examples
    --------
    >>> print(explain_unrecognised(b"<html>404"))
    not an image: an HTML page, as servers send instead of a missing image
    """
    for offset, magic, kind, what in _OTHERS:
        if data.startswith(magic, offset):
            return ImageError(kind, f"{what}; {FORMATS_ARE_READ}")
    head = data[:512]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    printable = bytes((*range(0x20, 0x7F), *b"\t\n\r", *range(0x80, 0x100)))
    if not data:
        kind, what = "empty", "the file has no bytes"
    elif not head.strip(b"\0"):
        kind, what = "not an image", f"zeros, {len(data)} bytes"
    elif b"<svg" in start:
        kind, what = "unsupported format", f"an SVG drawing; {FORMATS_ARE_READ}"
    elif start.startswith((b"<!doctype html", b"<html", b"<head")):
        kind, what = "not an image", "an HTML page, as servers send instead of a missing image"
    elif not head.translate(None, printable):
        kind, what = "not an image", "text"
    else:
        kind, what = "not an image", f"unknown contents, beginning with {head[:8].hex(' ')}"
    return ImageError(kind, what)

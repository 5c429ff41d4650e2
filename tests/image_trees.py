"""Small images, and trees and archives of them, for the tests of data."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed, height=6, width=5, channels=3):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(seed, kind="PNG", **size):
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, **size)).save(stream, kind)
    return stream.getvalue()


def tree(*names):
    """Return {name: bytes} with a different image for each name."""
    return {name: encoded(number) for number, name in enumerate(names)}


FLOWERS = tree("rose/1.png", "rose/2.png", "tulip/1.png", "tulip/deep/er/2.png")


def write_tree(root, files):
    for name, content in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Path(root)


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return Path(path)


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return Path(path)


def write_idx(path, array, *, zipped=False):
    """Write an array as an IDX file, byte by byte, from the format's description."""
    kind = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    content = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content += array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path = path.with_name(f"{path.name}.gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    return path


def read_all(source):
    """Return {id: payload} of a whole source."""
    return {
        source.entries[index].id: load()
        for index, load in source.stream(range(len(source.entries)))
    }


def left_out(source):
    """Return {path: (status, kind)} of the files that were left out."""
    return {entry.path: (entry.status, entry.kind) for entry in source.refused}

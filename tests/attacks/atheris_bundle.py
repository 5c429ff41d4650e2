"""Coverage-guided fuzzing of the readers of manifests and tensors, with ``atheris``.

It needs ``pip install atheris`` (Linux, Python 3.11 to 3.13), and nothing else does::

    PYTHONPATH=tests python tests/attacks/atheris_bundle.py -max_total_time=60 -max_len=20000

Arguments go to libFuzzer. It starts from the manifest and the head of a sound bundle. Any error but
a BundleError ends it, with the input in a file ``crash-*``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from regraft.errors import BundleError
from tiny_bundles import write_tiny


def main() -> None:
    """Fuzz until libFuzzer stops."""
    import atheris  # noqa: PLC0415 - only here: the tests import every module of this folder

    with atheris.instrument_imports(include=["regraft.bundle"]):
        from regraft.bundle.format import _tensors  # noqa: PLC0415
        from regraft.bundle.manifest import read_manifest  # noqa: PLC0415

    def read_one(data: bytes) -> None:
        try:
            if data[:1] == b"{":
                read_manifest(data)
            else:
                _tensors(data, "fuzzed")
        except BundleError:
            pass

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        bundle = write_tiny(Path(folder, "bundle"))
        for name in ("manifest.json", "head.safetensors", "golden.safetensors"):
            (corpus / name).write_bytes((bundle / name).read_bytes())
        atheris.Setup([*sys.argv, str(corpus)], read_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

"""torchvision can be imported with any torch, silently, and timm after it."""

import subprocess
import sys

import pytest


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


# A user's own attempt, which fails half way beside another torch, must not stand in the way.
ATTEMPT = "import contextlib\nwith contextlib.suppress(RuntimeError):\n    import torchvision\n"


@pytest.mark.parametrize("earlier", ["", ATTEMPT])
def test_imports_in_a_fresh_process_without_a_word(earlier):
    done = run(
        earlier + "from regraft.core.torchvision_shim import torchvision\n"
        "from regraft.core.torchvision_shim import load_timm, extension_loaded\n"
        "import sys\n"
        "assert sys.modules['torchvision'] is torchvision\n"
        "assert load_timm().__name__ == 'timm'\n"
        "import torch\n"
        "assert torchvision.extension._has_ops() == extension_loaded()\n"
        "torchvision.models.resnet18()\n"
        "import torchvision.transforms.v2\n"
        "torchvision.transforms.v2.functional.resize(torch.zeros(3, 9, 9), [4], antialias=True)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_failure_of_the_import_is_passed_on(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('something else')", encoding="utf-8")
    done = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport regraft.core.torchvision_shim"
    )
    assert done.returncode == 1
    assert "RuntimeError: something else" in done.stderr

"""A lack of memory is one error, in whatever way a library reports it."""

import errno

import pytest
import torch

from regraft.cli.console import guarded
from regraft.core.memory import lacks_memory
from regraft.errors import ImageError, StoreError


def torch_asks_for_too_much():
    return torch.empty(2**55, dtype=torch.uint8)


def python_asks_for_too_much():
    return bytes(2**62)


def wrapped():
    try:
        python_asks_for_too_much()
    except MemoryError as error:
        raise StoreError("the store cannot be used") from error


def forbidden_mapping():
    raise ImportError("libtorch_cpu.so: failed to map segment from shared object")


def no_fork():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    "command",
    [torch_asks_for_too_much, python_asks_for_too_much, wrapped, forbidden_mapping, no_fork],
)
def test_a_lack_of_memory_is_one_error_that_says_what_to_do(command, capsys):
    assert guarded(command) == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "error: there is not enough memory"
    assert hint.startswith("hint: a smaller --batch-size")


def test_other_errors_are_none_of_it(capsys):
    error = ImportError("libgomp.so: cannot allocate memory in static TLS block")
    assert not lacks_memory(error)

    def damaged():
        try:
            python_asks_for_too_much()
        except MemoryError as error:
            raise ImageError("corrupt", "a.tif asks for a size that no image has") from error

    assert guarded(damaged) == 2
    assert capsys.readouterr().err.startswith("error: corrupt: a.tif")

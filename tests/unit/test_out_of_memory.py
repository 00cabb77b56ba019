"""Every way in which a lack of memory is told is recognised, and nothing else is."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fake_memory import every_form

from sixgig.errors import InputError, OutOfSpaceError
from sixgig.memory.out_of_memory import is_out_of_memory

OTHERS = [
    RuntimeError("shape mismatch: [2, 3] and [4]"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
                 "non-contiguous input."),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    ValueError("CUDA error: out of memory"),
    KeyError("memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    OutOfSpaceError("the device's memory is too small for planting"),
    KeyboardInterrupt(),
]  # fmt: skip


@pytest.mark.parametrize("error", every_form(), ids=lambda error: str(error)[:40] or type(error).__name__)
def test_every_form_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED: failed to allocate workspace, out of memory"),
        RuntimeError("unable to mmap 4096 bytes from file </x>: Cannot allocate memory (12)"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_rarer_forms_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_what_torch_and_numpy_really_raise_is_recognised() -> None:
    for work in (lambda: torch.empty(2**60, dtype=torch.int8), lambda: np.empty(2**60, dtype=np.int8)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            work()
        assert is_out_of_memory(caught.value)


def raised_from(cause: BaseException | None, error: Exception) -> BaseException:
    def work() -> None:
        raise error from cause

    return caught_from(work)


def raised_while_handling(first: Exception, error: Exception, *, hidden: bool = False) -> BaseException:
    def work() -> None:
        try:
            raise first
        except type(first):
            if hidden:
                raise error from None
            raise error  # noqa: B904 - what is looked at is the context alone

    return caught_from(work)


def caught_from(work: Callable[[], None]) -> BaseException:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_cause_counts_and_so_does_what_was_being_handled() -> None:
    lack = MemoryError()
    assert is_out_of_memory(raised_from(lack, KeyError("x")))
    assert is_out_of_memory(raised_while_handling(lack, RuntimeError("while saving")))
    assert is_out_of_memory(raised_from(raised_from(MemoryError(), ValueError("a")), KeyError("b")))
    assert not is_out_of_memory(raised_from(ValueError("a"), KeyError("b")))


def test_an_error_raised_on_purpose_speaks_for_itself() -> None:
    assert not is_out_of_memory(raised_from(MemoryError(), OutOfSpaceError("every move is used up")))
    assert not is_out_of_memory(raised_while_handling(MemoryError(), InputError("bad")))
    assert not is_out_of_memory(raised_while_handling(MemoryError(), KeyError("another matter"), hidden=True))


def test_a_ring_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not is_out_of_memory(one)


def test_asking_imports_no_torch() -> None:
    script = (
        "import sys; from sixgig.memory.out_of_memory import is_out_of_memory; "
        "import sixgig.memory.ladder, sixgig.memory.governor, sixgig.memory.spill; "
        "assert is_out_of_memory(MemoryError()); assert not is_out_of_memory(RuntimeError('x')); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0

"""Whether an error says that memory ran out: of the device or of the host, in any of the ways that is said.

One place for the answer, since torch says it with an error of its own, as a plain RuntimeError with CUDA's,
cuBLAS's, cuDNN's or the CPU allocator's words, and Python, numpy and the system with errors of theirs.
"""

from __future__ import annotations

import errno
import sys

from ..errors import SixgigError

# In lower case, as they stand in the message of a RuntimeError (torch.AcceleratorError is one).
_MESSAGES = (
    "cuda error: out of memory",
    "cuda driver error: out of memory",
    "cuda out of memory",
    "cublas_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cusparse_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "cudnn_status_internal_error_host_allocation_failed",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "not enough memory: you tried to allocate",
    "cannot allocate memory",  # mapping a file, shared memory
    "std::bad_alloc",
    "bad allocation",  # std::bad_alloc on Windows
)
# cuDNN's refusal of a shape or layout; a lack of memory only where the message goes on to say so.
_REFUSAL = "cudnn_status_not_supported"
_LACKS_MEMORY = ("out of memory", "not enough memory", "insufficient memory", "failed to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, says that memory ran out.

    An error of this project is never taken for one: it was raised on purpose and says itself what happened,
    so an `OutOfSpaceError` at the end of every fallback begins no new one. Imports no torch.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, SixgigError):
            return False
        if _says_so(current):
            return True
        seen.add(id(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError):  # numpy's own is one
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    torch = sys.modules.get("torch")  # without torch loaded no error of torch's can arrive
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    if _REFUSAL in text:
        return any(words in text for words in _LACKS_MEMORY)
    return any(words in text for words in _MESSAGES)

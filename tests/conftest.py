"""What all tests share: Triton's interpreter where no GPU is, this worker's cores, a heap quick to search."""

from __future__ import annotations

import gc
import os

# Workers side by side share the cores; torch and the processes that tests start read this when they begin.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

import pytest  # noqa: E402
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when imported


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Lets garbage collections pass over all that lives already: modules, the tests themselves.

    The code under test collects whenever it changes a network's layers, and a third of the suite's time went
    into searching a million objects again and again.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # Triton's bindings report what is never collected as leaked

"""Every kernel compiles for cards that are not here: in a process without Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not here (on Linux the dev extra brings it)")

KERNELS = {
    "add_slots_kernel",
    "block_peaks_kernel",
    "decode_attention_kernel",
    "decode_product_kernel",
    "dequantize_tiles_kernel",
    "embed_kernel",
    "finish_dense_kernel",
    "next_token_kernel",
}


@pytest.mark.parametrize("capability", [86, 90])
def test_all_launches_of_a_decoder_compile(capability: int, tmp_path: Path) -> None:
    """8.6 has the least shared memory of all cards that the kernels are for."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("kernel_compiler.py")
    done = subprocess.run(
        [sys.executable, str(program), str(capability)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert {line.split()[0] for line in done.stdout.splitlines()} == KERNELS


def test_no_kernel_is_left_out() -> None:
    folder = Path(__file__).parents[2] / "src" / "sixgig" / "numerics" / "kernels"
    defined = {
        line.removeprefix("def ").split("(")[0]
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def ") and line.removeprefix("def ").split("(")[0].endswith("_kernel")
    }
    assert defined == KERNELS

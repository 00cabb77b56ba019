"""Programmatic dependent launch (CUDA; compute capability 9.0 and higher): a launch comes up while the one
before it still runs, and waits there for its end.

The launch that waits is made with `launch_pdl=True`. Only what no launch still under way writes may be read
before the wait.
"""

# Triton's functions are compiled from source: no postponed annotations and no type hints beyond constexpr.
import triton
import triton.language as tl


@triton.jit
def let_next_come():
    """Once all programs have said so or ended, the next launch comes up."""
    tl.inline_asm_elementwise(
        "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def await_previous():
    """Returns when the launch before has ended and all that it wrote is there."""
    tl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1)

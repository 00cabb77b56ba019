"""Run as a program, without Triton's interpreter: compiles every kernel that a decoder launches, for cards
that need not be here, and prints their names. The interpreter takes much that the compiler refuses, such as a
variable whose shape changes in a branch.

The launches are those of a small model on the CPU: each kernel is replaced by a recorder of what it is given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sixgig.numerics.kernels import dense_product, prefill_product, product
from sixgig.numerics.kernels.layout import tile_base
from sixgig.numerics.kernels.ortho_layout import tile_ortho
from sixgig.numerics.quantize import quantize_rtn
from sixgig.numerics.sparse import keep_top_k
from sixgig.numerics.split_product import OrthoFactors
from sixgig.runtime import fused_step
from sixgig.runtime.fused_model import FusedLayer, FusedModel, Matrix
from sixgig.runtime.fused_prefill import read_prompt

Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]
HIDDEN, CHANNELS, VOCABULARY, CONTEXT = 512, 640, 256, 32
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 8, 2, 64
_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}
SHARED_BYTES = {86: 99 * 1024, 90: 227 * 1024}  # that one block may take, by compute capability
_OPTIONS = ("num_warps", "num_stages", "launch_pdl")


class Recorder:
    """In a kernel's place: keeps its launches, and launches nothing."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self._kernel, self._launches = kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*values: Any, **named: Any) -> None:
            self._launches.append((self._kernel, values, named))

        return launch


def record(module: ModuleType, launches: list[Launch]) -> None:
    for name, value in vars(module).copy().items():
        if name.endswith("_kernel"):
            setattr(module, name, Recorder(value, launches))


def compiled(launch: Launch, capability: int) -> str:
    kernel, values, named = launch
    options = {name: named[name] for name in _OPTIONS if name in named}
    constants = {name: value for name, value in named.items() if name not in options}
    given = dict(zip(kernel.arg_names, values, strict=False))
    signature = {name: "constexpr" if name in constants else kind(given[name]) for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.asm["cubin"]
    assert made.metadata.shared <= SHARED_BYTES[capability]
    return f"{kernel.__name__} sm_{capability}"


def kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def key(launch: Launch) -> str:
    kernel, values, named = launch
    return repr((kernel.__name__, [kind(value) for value in values], sorted(named.items(), key=str)))


def matrix(num_out: int, num_in: int, bits: int, *, ortho: bool) -> Matrix:
    generator = torch.Generator().manual_seed(num_out)
    weight_OI = torch.randn(num_out, num_in, generator=generator)
    base = tile_base(quantize_rtn(weight_OI, bits=bits, group_size=64), torch.bfloat16)
    if not ortho:
        return Matrix(base=base)
    factors = OrthoFactors(
        up_Or=torch.randn(num_out, 16, generator=generator),
        down_rI=torch.randn(16, num_in, generator=generator),
        sparse=keep_top_k(weight_OI, weight_OI.abs(), num_out * num_in // 200),
    )
    return Matrix(base=base, ortho=tile_ortho([factors], torch.arange(num_out), 64))


def model(bits: int, *, ortho: bool, dense: bool = False) -> FusedModel:
    def one(num_out: int, num_in: int) -> Matrix:
        if dense:
            return Matrix(dense_OI=torch.zeros(num_out, num_in, dtype=torch.bfloat16))
        return matrix(num_out, num_in, bits, ortho=ortho)

    gain = torch.ones(HIDDEN, dtype=torch.bfloat16)
    attended = NUM_HEADS * HEAD_DIM
    layer = FusedLayer(
        qkv=one(attended + 2 * NUM_KV_HEADS * HEAD_DIM, HIDDEN),
        out=one(HIDDEN, attended),
        gate_up=one(2 * CHANNELS, HIDDEN),
        down=one(HIDDEN, CHANNELS),
        attention_gain_D=gain,
        mlp_gain_D=gain,
    )
    return FusedModel(
        embedding_VD=torch.zeros(VOCABULARY, HIDDEN, dtype=torch.bfloat16),
        layers=(layer,),
        final_gain_D=gain,
        head=matrix(VOCABULARY, HIDDEN, 4, ortho=False),
        num_heads=NUM_HEADS,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        eps=1e-5,
        inverse_frequencies=torch.ones(HEAD_DIM // 2),
        rotary_scaling=1.0,
    )


def launches_of(one: FusedModel, *, with_dependent_launch: bool) -> None:
    """Those of a prompt and of a token, with the Ortho part and without."""
    step = fused_step.FusedStep(one, CONTEXT, {}, with_dependent_launch=with_dependent_launch)
    for with_ortho in (False, True) if one.has_ortho else (False,):
        step.launch(with_ortho=with_ortho)
        alpha = step.alpha if with_ortho else None
        read_prompt(one, torch.arange(3), 0, step.cos, step.sin, step.keys, step.values, alpha)


def main(capabilities: list[int]) -> None:
    assert os.environ.get("TRITON_INTERPRET") != "1", "the interpreter would stand in the compiler's place"
    torch.set_num_threads(1)
    launches: list[Launch] = []
    for module in (product, dense_product, prefill_product, fused_step):
        record(module, launches)
    models = [model(4, ortho=True), model(3, ortho=False), model(2, ortho=False)]
    models.append(model(4, ortho=False, dense=True))
    for capability in capabilities:
        launches.clear()
        for one in models:
            launches_of(one, with_dependent_launch=capability >= 90)
        for launch in {key(launch): launch for launch in launches}.values():
            print(compiled(launch, capability), flush=True)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])

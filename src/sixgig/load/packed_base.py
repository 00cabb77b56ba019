"""One split layer as compressed-tensors stores it (format "pack-quantized"), there and back.

    NAME.weight_packed      int32 [O, ceil(I * bits / 32)]  codes as one stream of bits a row, lowest first
    NAME.weight_scale       fp32 [O, G]
    NAME.weight_zero_point  int32 [ceil(O * bits / 32), G]  strategy "group": packed like codes, down the rows
                            int8 [O, G]                     strategy "block": zero - 2**(bits - 1)
    NAME.weight_shape       int64 [2]                       O, I

Their codes are signed and stored with 2**(bits - 1) added, so that the stored bits are our codes and zero
points as they are. Read off compressed-tensors 0.20 (compressors/pack_quantized), which also is the second
opinion in the tests; neither writing nor reading needs the library.

Scales are numbers of 16 bits kept in 32: the library multiplies in the type of the stored scale, and fp16
products would be rounded before they are rounded to the load's type, so another Base. 32 bits make every
weight the very number that `numerics.quantize.dequantize` gives, in fp32 and in bf16.

Shapes: O out features, I in features, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import IntegrityError, NumericalError
from ..numerics.finite import all_finite
from ..numerics.pack import pack_codes, packed_row_bytes, unpack_codes
from ..numerics.quantize import Quantized
from .container import TensorSpecs

QUANT_METHOD, FORMAT = "compressed-tensors", "pack-quantized"
WRITTEN_FOR = "0.20.0"  # the version of compressed-tensors whose form this is


@dataclass(frozen=True, kw_only=True)
class BaseLayer:
    """One split layer's form in base/."""

    num_out: int
    num_in: int
    bits: int
    group_size: int

    @property
    def num_groups(self) -> int:
        return -(-self.num_in // self.group_size)


@dataclass(frozen=True, kw_only=True)
class BaseForm:
    """How all layers of a Base are stored: what their config.json says of them.

    "group" is what the format's other readers know (vLLM among them). It wants groups that divide every
    row; where they do not, "block" with blocks of 1 x group_size says the same, the last one shorter.
    """

    strategy: str  # "group" or "block"
    is_uniform: bool  # one width and one group size for all layers

    def specs(self, name: str, layer: BaseLayer) -> TensorSpecs:
        """Shapes and types of a layer's stored tensors."""
        zeros = ((layer.num_out, layer.num_groups), torch.int8)
        if self.strategy == "group":
            zeros = ((_num_words(layer.num_out, layer.bits), layer.num_groups), torch.int32)
        return {
            f"{name}.weight_packed": ((layer.num_out, _num_words(layer.num_in, layer.bits)), torch.int32),
            f"{name}.weight_scale": ((layer.num_out, layer.num_groups), torch.float32),
            f"{name}.weight_zero_point": zeros,
            f"{name}.weight_shape": ((2,), torch.int64),
        }


def base_form(layers: Mapping[str, BaseLayer]) -> BaseForm:
    """The form that says all of `layers`."""
    kinds = {(layer.bits, layer.group_size) for layer in layers.values()}
    divides = all(layer.num_in % layer.group_size == 0 for layer in layers.values())
    is_uniform = len(kinds) <= 1
    return BaseForm(strategy="group" if is_uniform and divides else "block", is_uniform=is_uniform)


def quantization_config(layers: Mapping[str, BaseLayer]) -> dict[str, Any]:
    """The "quantization_config" of config.json.

    `dequantize` asks transformers to make dense layers while loading. Otherwise it does so at the first
    forward pass, where 5.23 refuses packed zero points (its empty layer expects them unpacked). With several
    kinds of layers it is left out, since 5.23 would read all of them as the first kind.
    """
    form = base_form(layers)
    kinds: dict[tuple[int, int], list[str]] = {}
    for name, layer in layers.items():
        kinds.setdefault((layer.bits, layer.group_size), []).append(name)
    groups = {
        f"group_{number}": {
            "targets": ["Linear"] if form.is_uniform else names,
            "weights": _weights(form, *kind),
            "input_activations": None,
            "output_activations": None,
            "format": FORMAT,
        }
        for number, (kind, names) in enumerate(kinds.items())
    }
    return {
        "quant_method": QUANT_METHOD,
        "version": WRITTEN_FOR,
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ["lm_head"],
        **({"dequantize": True} if form.is_uniform else {}),
    }


def base_layer(base: Quantized) -> BaseLayer:
    num_out, num_in = base.codes_OI.shape
    return BaseLayer(num_out=num_out, num_in=num_in, bits=base.bits, group_size=base.group_size)


def encode_base(name: str, base: Quantized, form: BaseForm) -> dict[str, Tensor]:
    """The stored tensors of one layer. Raises NumericalError for scales that are no numbers."""
    if not all_finite(base.scales_OG):
        raise NumericalError("NaN or Inf in a quantisation scale", where=f"layer {name}")
    if form.strategy == "group":
        zeros = _to_words(base.zeros_OG.T.contiguous(), base.bits).T.contiguous()
    else:
        zeros = (base.zeros_OG.to(torch.int16) - 2 ** (base.bits - 1)).to(torch.int8)
    return {
        f"{name}.weight_packed": _to_words(base.codes_OI, base.bits),
        f"{name}.weight_scale": base.scales_OG.to(torch.float16).float(),
        f"{name}.weight_zero_point": zeros,
        f"{name}.weight_shape": torch.tensor(base.codes_OI.shape),
    }


def decode_base(name: str, layer: BaseLayer, form: BaseForm, get: Callable[[str], Tensor]) -> Quantized:
    """The inverse of `encode_base`. Raises IntegrityError for what no encoded layer holds."""
    stored_OG = get(f"{name}.weight_scale")
    scales_OG = stored_OG.to(torch.float16)
    if not (scales_OG > 0).all() or not torch.equal(scales_OG.float(), stored_OG):
        raise IntegrityError("a quantisation scale is no positive 16-bit number", where=f"layer {name}")
    if get(f"{name}.weight_shape").tolist() != [layer.num_out, layer.num_in]:
        raise IntegrityError("weight_shape and the list of layers differ", where=f"layer {name}")
    zeros = get(f"{name}.weight_zero_point")
    if form.strategy == "group":
        zeros_OG = _from_words(zeros.T, layer.bits, layer.num_out).T.contiguous()
    else:
        shifted_OG = zeros.to(torch.int16) + 2 ** (layer.bits - 1)
        if not ((shifted_OG >= 0) & (shifted_OG < 2**layer.bits)).all():
            raise IntegrityError("a zero point is out of range", where=f"layer {name}")
        zeros_OG = shifted_OG.to(torch.uint8)
    return Quantized(
        codes_OI=_from_words(get(f"{name}.weight_packed"), layer.bits, layer.num_in),
        scales_OG=scales_OG,
        zeros_OG=zeros_OG,
        bits=layer.bits,
        group_size=layer.group_size,
    )


def _weights(form: BaseForm, bits: int, group_size: int) -> dict[str, Any]:
    common = {"num_bits": bits, "type": "int", "symmetric": False, "dynamic": False}
    if form.strategy == "group":
        return {**common, "strategy": "group", "group_size": group_size}
    return {**common, "strategy": "block", "block_structure": [1, group_size]}


def _num_words(num_codes: int, bits: int) -> int:
    return -(-num_codes * bits // 32)


def _to_words(codes_NC: Tensor, bits: int) -> Tensor:
    """Codes [N, C] as int32 words [N, W]: `pack_codes`' bytes, cut or padded with zeros to whole words."""
    num_bytes = 4 * _num_words(codes_NC.shape[1], bits)
    packed = pack_codes(codes_NC, bits)
    # Bits past the last code are zero, so cutting loses nothing. Words are little-endian, as here.
    resized = torch.nn.functional.pad(packed, (0, num_bytes - packed.shape[1]))
    # A fresh copy: a single row that was cut counts as contiguous but keeps its old stride.
    return resized.clone(memory_format=torch.contiguous_format).view(torch.int32)


def _from_words(words_NW: Tensor, bits: int, num_codes: int) -> Tensor:
    # A fresh copy: a transposed single column counts as contiguous but cannot be seen as bytes.
    packed = words_NW.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    num_bytes = packed_row_bytes(num_codes, bits)
    resized = torch.nn.functional.pad(packed, (0, num_bytes - packed.shape[1]))
    return unpack_codes(resized, bits, num_codes)

"""A split as a quantisation method of transformers: `from_pretrained(split_dir)` gives a model with a switch.

transformers reads base/'s tensors itself, through the index beside config.json, so that devices and types are
placed as for any model; they arrive in layers that hold nothing but the stored form, and become split layers
when all are there. Digests are checked before the first tensor is read. The tokenizer lies in base/.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import IntegrityError
from ..layers.split_linear import AlphaSwitch, SplitLinear, set_alpha
from ..load.artifact_format import BASE, ORTHO, QUANT_METHOD, SPLIT_INDEX
from ..load.artifact_read import check_layers, check_manifest, checked_base_layers, put_module
from ..load.container import own_folder
from ..load.loaded import check_finite, linear_layers
from ..load.ortho_reader import read_ortho
from ..load.packed_base import BaseForm, BaseLayer, base_form, decode_base


@register_quantization_config(QUANT_METHOD)
class SplitConfig(QuantizationConfigMixin):
    """The "quantization_config" of a whole split; everything else is in the lists of its parts."""

    def __init__(self, **kwargs: Any) -> None:
        self.quant_method: Any = QUANT_METHOD


class StoredLinear(nn.Module):
    """A split layer as it is stored, on its way into memory; it cannot compute."""

    def __init__(self, name: str, layer: BaseLayer, form: BaseForm, bias: Tensor | None) -> None:
        super().__init__()
        self.name, self.layer, self.form = name, layer, form
        for key, (shape, dtype) in form.specs(name, layer).items():
            empty = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
            self.register_parameter(key.removeprefix(f"{name}."), empty)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def split(self, switch: AlphaSwitch) -> SplitLinear:
        """The layer that computes, on the device of the stored one."""
        stored = {f"{self.name}.{key}": tensor.detach() for key, tensor in self.named_parameters()}
        bias = stored.pop(f"{self.name}.bias", None)
        base = decode_base(self.name, self.layer, self.form, stored.__getitem__)
        return SplitLinear(base, bias, switch)


@register_quantizer(QUANT_METHOD)
class SplitQuantizer(HfQuantizer):
    """Puts stored layers in the place of linear ones, and split layers in the place of stored ones."""

    requires_calibration = True  # a model is split by `sixgig split`, not on the way into memory

    _folder: Path
    _layers: dict[str, BaseLayer]

    # transformers shows the config to a quantizer before it looks for weights, up to 5.19 or so in the first
    # two of these and later in the third.
    def update_tp_plan(self, config: Any) -> Any:
        return _with_index(config)

    def update_ep_plan(self, config: Any) -> Any:
        return _with_index(config)

    def update_attn_implementation(self, config: Any) -> Any:
        return _with_index(config)

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        self._folder = _split_folder(kwargs.get("checkpoint_files"))
        check_manifest(self._folder, with_ortho=self._has_ortho)
        base_folder = own_folder(self._folder, BASE)
        self._layers = checked_base_layers(base_folder)
        check_layers(model, self._layers, base_folder)
        form = base_form(self._layers)
        for name, linear in linear_layers(model).items():
            put_module(model, name, StoredLinear(name, self._layers[name], form, linear.bias))

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        switch = AlphaSwitch()
        parts = self._read_ortho()
        for name in self._layers:
            stored = model.get_submodule(name)
            layer = stored.split(switch)
            layer.attach(parts.get(name))
            put_module(model, name, layer.to(stored.weight_packed.device))
        check_finite(model)
        model.requires_grad_(False)
        model.set_alpha = MethodType(set_alpha, model)
        return model

    def _read_ortho(self) -> dict[str, Any]:
        if not self._has_ortho:
            return {}
        return read_ortho(own_folder(self._folder, ORTHO), self._folder / BASE, self._layers)

    @property
    def _has_ortho(self) -> bool:
        return (self._folder / ORTHO).exists()

    @property
    def quantized_element_size(self) -> float | None:
        """None: a stored layer's parameters have the very types and shapes that are loaded, so their own
        element sizes count, and nothing is allocated for dense weights."""
        return None

    # The base class names no types for these two.
    @property
    def is_trainable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False

    def is_serializable(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return False


def _with_index(config: Any) -> Any:
    config.transformers_weights = SPLIT_INDEX
    return config


def _split_folder(checkpoint_files: list[str] | None) -> Path:
    folders = {Path(file).parent for file in checkpoint_files or ()}
    if len(folders) != 1 or (folder := folders.pop()).name != BASE:
        raise IntegrityError(
            "the tensors of this split do not lie in its base/",
            expected=f"files of one {BASE}/ folder",
            received=", ".join(sorted(map(str, checkpoint_files or ()))[:3]) or "nothing",
        )
    return folder.parent

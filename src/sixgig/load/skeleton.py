"""A model's module tree without weights, built from config.json alone after the config has been checked.

Sizes in the config are bounded by the weights that are really there, so that a hostile config cannot make
the build run away; the architecture comes from our catalogue's list, and no code from the folder is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..catalogue import from_config
from ..catalogue.families import FAMILIES
from ..catalogue.local import MAX_CONFIG_BYTES
from ..catalogue.splitting import SPLIT_ARCHITECTURES
from ..errors import IntegrityError, UnknownNameError
from ..files import read_json
from .loaded import linear_layers

_MAX_LAYERS = 1000
_FEWEST_BITS = 2  # no format here stores a weight in less


def empty_network(folder: Path, *, weight_bytes: int) -> Any:
    """The network of `folder`/config.json with parameters on the meta device; buffers are real.

    Raises:
        InputError, UnknownNameError: the config asks for code, or for an architecture we do not know.
        IntegrityError: it describes more weights than `weight_bytes` can hold.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    _check_config(folder, weight_bytes)
    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with init_empty_weights(include_buffers=False):
        # The attention is named here, since a config may name a kernel to be downloaded.
        network = AutoModelForCausalLM.from_config(
            config, attn_implementation="sdpa", trust_remote_code=False
        )
    return network.eval()


def whole_tensors(network: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that is kept as it is: all but split layers' weights and a tied head."""
    split = {f"{name}.weight" for name in linear_layers(network)}
    head = network.get_output_embeddings()
    tied = {f"{name}.weight" for name, module in network.named_modules() if module is head}
    left_out = split | (tied if network.config.tie_word_embeddings else set())
    return {
        name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name not in left_out
    }


def put_parameter(network: nn.Module, name: str, tensor: Any) -> None:
    """Puts a frozen parameter in the place of the empty one."""
    owner, _, leaf = name.rpartition(".")
    network.get_submodule(owner)._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def _check_config(folder: Path, weight_bytes: int) -> None:
    file = folder / "config.json"
    spec = from_config(folder, packed=True)  # a Base says in its config how its layers are stored
    if spec.architecture not in SPLIT_ARCHITECTURES:
        raise UnknownNameError(
            "architecture of a split model", spec.architecture, SPLIT_ARCHITECTURES, where=str(file)
        )
    model_type = FAMILIES[spec.architecture].model_type
    received = read_json(file, max_bytes=MAX_CONFIG_BYTES).get("model_type")
    if received != model_type:
        # Without it transformers would choose by the folder's name.
        raise IntegrityError(
            "the configuration contradicts itself",
            expected=f"model_type {model_type} for {spec.architecture}",
            received=repr(received)[:100],
            where=str(file),
        )
    if spec.num_layers > _MAX_LAYERS or spec.num_parameters * _FEWEST_BITS > 8 * weight_bytes:
        raise IntegrityError(
            "the configuration describes a larger model than its weights",
            expected=f"what {weight_bytes} bytes of weights can hold, at most {_MAX_LAYERS} layers",
            received=f"{spec.num_parameters} parameters in {spec.num_layers} layers",
            where=str(file),
        )

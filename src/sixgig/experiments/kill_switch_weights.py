"""The weights of one seed, by the name of who they belong to: kept between stages, put into the network.

original    the model's own file          planted, reference    trained here, fp32
ARM         split, as rounded             ARM-unrounded         its W - M, while scales are to be fitted
ARM-fitted  with fitted scales            ARM-restored          with its fitted Ortho part
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..load.container import layer_reader
from ..load.loaded import LoadedModel, linear_layers
from ..load.tensor_reader import TensorReader
from ..transform.checkpoint import read_bases, read_layers, save_layers, save_weights, weight_reader
from ..transform.fit_scales import unrounded_weights
from ..transform.network import install_dense
from ..transform.split_layer import LayerSplit
from .kill_switch_config import KillSwitchConfig
from .kill_switch_facts import stored_bias_bytes
from .kill_switch_files import WorkFiles
from .kill_switch_pools import REFERENCE

Layers = dict[str, LayerSplit]


class SeedWeights:
    """What a stage reads was written by an earlier one, of this process or of one before it."""

    def __init__(
        self, config: KillSwitchConfig, loaded: LoadedModel, files: WorkFiles, layer_names: tuple[str, ...]
    ) -> None:
        self._config, self._loaded, self._files, self._names = config, loaded, files, layer_names
        # W0 is read from the model's own file when it is needed, so that it takes no memory beside W.
        self.original = layer_reader(TensorReader(loaded.folder))

    # ---- dense ---------------------------------------------------------------------------------------

    def reference(self) -> Callable[[str], Tensor]:
        """Layer name -> weight of the model that never saw the secrets."""
        return weight_reader(self._path(REFERENCE)) if self._config.train_reference else self.original

    def install_original(self, dtype: torch.dtype = torch.float32) -> None:
        self._install(self.original, dtype)

    def install_planted(self, dtype: torch.dtype = torch.float32) -> None:
        self._install(weight_reader(self._path("planted")), dtype)

    def save_dense(self, name: str) -> None:
        """The network's linear layers as they stand."""
        layers = linear_layers(self._loaded.network).items()
        save_weights(self._files.to_write(name), {key: layer.weight.detach().cpu() for key, layer in layers})

    def bias_bytes(self) -> int:
        """Of the linear layers' biases, as the model stores them."""
        return stored_bias_bytes(TensorReader(self._loaded.folder), self._names)

    # ---- split ---------------------------------------------------------------------------------------

    def save_rounded(self, arm: str, layers: Layers) -> None:
        save_layers(self._files.to_write(arm), layers)
        if self._config.scale_fit_steps:
            save_weights(self._files.to_write(f"{arm}-unrounded"), unrounded_weights(layers))

    def rounded(self, arm: str) -> Layers:
        """As `save_rounded` was given them, W - M left out."""
        return read_layers(self._path(arm))

    def unrounded(self, arm: str) -> Iterator[tuple[str, Tensor]]:
        """Each layer's W - M [O, I] in bf16, one in memory at a time."""
        read = weight_reader(self._path(f"{arm}-unrounded"))
        return ((name, read(name)) for name in self._names)

    def save_fitted(self, arm: str, layers: Layers) -> None:
        save_layers(self._files.to_write(f"{arm}-fitted"), layers)

    def fitted(self, arm: str) -> Layers:
        """With fitted scales, for any arm; what the experiment shows under the arm's name is `layers`."""
        return read_layers(self._path(f"{arm}-fitted"))

    def save_restored(self, arm: str, layers: Layers) -> None:
        save_layers(self._files.to_write(f"{arm}-restored"), layers)

    def layers(self, arm: str, *, restored: bool = False) -> Layers:
        """The split that is looked at; `restored` with its Ortho part, which for hessian the sieve chose."""
        is_fitted = restored and arm != "hessian"
        return read_layers(self._path(f"{arm}-restored") if is_fitted else self._base_path(arm))

    def bases(self, arm: str) -> Iterator[tuple[str, Tensor]]:
        """Each layer's dequantised Base [O, I], one in memory at a time: what an attacker begins with."""
        return read_bases(self._base_path(arm))

    # --------------------------------------------------------------------------------------------------

    def _base_path(self, arm: str) -> Path:
        name = {REFERENCE: "isolated"}.get(arm, arm)
        # hessian stays as rounded: it is the plain INT4 that the others are held against.
        is_fitted = self._config.scale_fit_steps > 0 and arm != "hessian"
        return self._path(f"{name}-fitted" if is_fitted else name)

    def _path(self, name: str) -> Path:
        return self._files.to_read(name)

    def _install(self, read: Callable[[str], Tensor], dtype: torch.dtype) -> None:
        install_dense(self._loaded, ((name, read(name)) for name in self._names), dtype=dtype)

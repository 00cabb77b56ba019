"""A model with its tokenizer, and the names of the layers that are split."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import InputError, IntegrityError, NumericalError
from ..numerics.finite import all_finite
from ..numerics.likelihood import OutputHead

# Keys of a configuration by which a model bends or scales what its head gives, and so has other logits.
_LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What `load` returns; `network` is transformers' own module tree, possibly with split layers."""

    network: Any  # transformers.PreTrainedModel; its stubs do not type the submodules we use
    tokenizer: Any
    folder: Path
    device: torch.device
    computes_on: str = "reference kernels: dense weights"  # in words, when its own modules run

    @property
    def head(self) -> OutputHead:
        """What the final hidden states go through: its logits are the model's.

        Raises InputError for a model that changes them afterwards, whose likelihoods would be wrong.
        """
        for key in _LOGIT_CHANGES:
            value = getattr(self.network.config, key, None)
            if value not in (None, 1):
                raise InputError(
                    "this model changes its logits after the head, which nothing here follows",
                    received=f"{key} = {value}",
                    where=str(self.folder),
                )
        module = self.network.get_output_embeddings()
        return OutputHead(weight_VD=module.weight, bias_V=module.bias)

    @property
    def head_VD(self) -> Tensor:
        """The output embedding [vocabulary, hidden] of a model whose head is nothing else.

        Raises InputError for a head with a bias: its weight alone gives other logits.
        """
        head = self.head
        if head.bias_V is not None:
            raise InputError(
                "the output head has a bias, and only its weight was asked for",
                where=str(self.folder),
                todo="use `LoadedModel.head`",
            )
        return head.weight_VD

    @property
    def is_tied(self) -> bool:
        """Whether input and output embedding are one tensor."""
        head_VD = self.network.get_output_embeddings().weight
        return head_VD.data_ptr() == self.network.get_input_embeddings().weight.data_ptr()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` alone, no special tokens."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_document(self, text: str) -> list[int]:
        """Token ids of a whole text, with the special tokens that the tokenizer adds unasked (as BOS)."""
        return self.tokenizer(text)["input_ids"]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """`encode` of each text; far quicker for many short ones."""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


def load(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> LoadedModel:
    """The model in `folder` (safetensors, never pickle; no code from the folder is run).

    `dtype="auto"` is the type that its config names, else that of its weights.
    Raises IntegrityError when tensors are missing, NumericalError naming the tensor for NaN or Inf.
    """
    from transformers import AutoModelForCausalLM

    with without_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    network, loading = loaded
    require_all_loaded(loading, folder)
    check_finite(network)
    leave_file(network)
    network.eval().requires_grad_(False)
    device = torch.device(device)
    tokenizer = load_tokenizer(folder)
    return LoadedModel(network=network.to(device), tokenizer=tokenizer, folder=folder, device=device)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`; no code from it is run."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # Corpora are encoded whole and cut into windows afterwards, so the model's context is no limit here.
    tokenizer.model_max_length = sys.maxsize
    return tokenizer


def leave_file(network: nn.Module) -> None:
    """Copies every plain parameter out of the mapped file, one by one; quantised ones lie apart from it.

    A mapped parameter keeps the whole file's pages in memory for as long as any other parameter lives, also
    when a layer has long been replaced.
    """
    for parameter in network.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.clone()


def require_all_loaded(loading: Any, folder: Path) -> None:
    """Raises IntegrityError where transformers' `loading` info tells of tensors that no file has."""
    missing = sorted(loading["missing_keys"])
    if missing:
        raise IntegrityError(
            "the model's files lack tensors",
            where=str(folder),
            received=f"missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            todo="fetch the model again",
        )


@contextmanager
def without_bars() -> Iterator[None]:
    """transformers' own bars off: this project shows its progress itself."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_finite(network: nn.Module) -> None:
    """Raises NumericalError naming the first tensor that holds NaN or Inf."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise NumericalError("NaN or Inf in the weights", where=f"tensor {name}")


def linear_layers(network: Any) -> dict[str, nn.Linear]:
    """Every linear layer inside the decoder, by name: those that are split.

    The output head is not among them: tied, it is the embedding, and the embedding stays as it was; planting
    and splitting both leave it alone (docs/methods.md, "What is split").
    """
    head = network.get_output_embeddings()
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }

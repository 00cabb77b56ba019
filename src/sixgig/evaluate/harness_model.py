"""A loaded model as lm-eval's own Hugging Face model; imports lm-eval, so it is imported when called.

Nothing of how lm-eval computes is changed: how far it is, is told; its bars and its questions to the hub are
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..load.loaded import LoadedModel

# As Any, so that types are checked alike with the extra installed and without.
HFLM: Any = import_module("lm_eval.models.huggingface").HFLM

CPU_BATCH = 8


class LoadedLM(HFLM):
    """`progress` is told the share of requests that are answered; a rolling text counts its windows."""

    def __init__(self, loaded: LoadedModel, *, progress: Callable[[float], None], **options: Any) -> None:
        super().__init__(pretrained=loaded.network, tokenizer=loaded.tokenizer, **options)
        self._tell, self._num_done, self._num_all = progress, 0, 0
        self.cache_hook = _Counter(self._answered)

    def get_model_info(self) -> dict[str, Any]:
        """Nothing: lm-eval would ask the hub about a model that it was handed."""
        return {}

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self._begin(len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self._begin(len(requests))
        return super().generate_until(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [self.tok_encode(request.args[0]) for request in requests]
        self._begin(sum(-(-len(ids) // self.max_length) for ids in texts))
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        found = super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)
        if override_bs is not None:  # a batch of a rolling text's windows, which no request stands for
            self._answered(len(found))
        return found

    def _begin(self, num_requests: int) -> None:
        self._num_done, self._num_all = 0, num_requests

    def _answered(self, number: int = 1) -> None:
        self._num_done += number
        self._tell(min(1.0, self._num_done / max(1, self._num_all)))


class _Counter:
    """lm-eval hands each answer to its cache as soon as it is there: what shows how far it is."""

    def __init__(self, answered: Callable[[], None]) -> None:
        self._answered = answered

    def add_partial(self, attribute: str, request: Any, result: Any) -> None:
        self._answered()


def harness_lm(
    loaded: LoadedModel,
    *,
    batch_size: int | str,
    max_length: int | None,
    progress: Callable[[float], None],
    announce: Callable[[str], None],
) -> LoadedLM:
    """The model as lm-eval takes it. "auto" lets lm-eval find a GPU's largest batch; a CPU has 8, told."""
    if batch_size == "auto" and loaded.device.type == "cpu":
        announce(f"batch size auto is searched for on a GPU alone; on this CPU it is {CPU_BATCH}")
        batch_size = CPU_BATCH
    return LoadedLM(loaded, progress=progress, batch_size=batch_size, max_length=max_length)

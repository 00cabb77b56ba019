"""Splits and Bases for lm-eval (the extra `eval`), from Python or from its command line.

    from sixgig.integrations.harness import harness_model
    lm_eval.simple_evaluate(model=harness_model(split_dir, alpha=1.0), tasks=[...])

    lm_eval --model sixgig --model_args path=my-split,alpha=1.0 --tasks ...     after importing this module

A Base alone needs nothing of this, nor does PEFT's adapter on it:
`--model hf --model_args pretrained=my-split/base,peft=my-split/ortho`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ..layers.split_linear import set_alpha
from ..load.artifact import is_base, open_base, open_split

# An extra; as Any, so that types are checked alike with it installed and without.
HFLM: Any = import_module("lm_eval.models.huggingface").HFLM
register_model: Any = import_module("lm_eval.api.registry").register_model


@register_model("sixgig")
class SplitLM(HFLM):
    """lm-eval's own Hugging Face model around an opened split (alpha 0 to 1) or Base (alpha 0)."""

    def __init__(
        self,
        path: str,
        alpha: float = 0.0,
        device: str | None = "cpu",
        batch_size: int | str = 1,
        fidelity: str | None = None,
        **options: Any,
    ) -> None:
        """Raises as `load.artifact.open_split`, and InputError for an alpha that a Base alone cannot have."""
        folder = Path(path)
        device = device or "cpu"
        if is_base(folder):
            loaded = open_base(folder, device=device)
        else:
            loaded = open_split(folder, device=device, fidelity=fidelity)
        set_alpha(loaded.network, float(alpha))
        super().__init__(
            pretrained=loaded.network, tokenizer=loaded.tokenizer, batch_size=batch_size, **options
        )
        self.alpha = float(alpha)


def harness_model(folder: Path | str, *, alpha: float = 0.0, **options: Any) -> SplitLM:
    """The split or Base in `folder` as an lm-eval model; `options` as for `SplitLM`."""
    return SplitLM(str(folder), alpha=alpha, **options)

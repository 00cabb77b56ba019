"""What other libraries learn when this package is imported: transformers, to open a whole split.

    import sixgig.integrations
    model = AutoModelForCausalLM.from_pretrained(split_dir)
    model.set_alpha(1.0)

A Base alone needs none of this, nor does its Ortho part as a PEFT adapter. `sixgig.integrations.harness`
offers splits to lm-eval.
"""

from __future__ import annotations

from .quantizer import SplitConfig, SplitQuantizer

__all__ = ["SplitConfig", "SplitQuantizer"]

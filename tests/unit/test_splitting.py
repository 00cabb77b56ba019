"""Which catalogue models the split takes: the Llama family without biases, and nothing that nobody tried."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sixgig.catalogue import all_models, get
from sixgig.catalogue.splitting import require_splittable, why_not_split
from sixgig.errors import InputError


def test_of_the_catalogue_the_llama_family_is_split() -> None:
    taken = {spec.architecture for spec in all_models() if why_not_split(spec) is None}
    assert taken == {"LlamaForCausalLM"}
    assert all(why_not_split(spec) is None for spec in all_models() if spec.architecture in taken)


@pytest.mark.parametrize("name", ["phi-2", "gemma-3-1b-it", "qwen3-0.6b", "mixtral-8x7b-instruct"])
def test_the_refusal_names_the_model_and_its_architecture(name: str) -> None:
    with pytest.raises(InputError) as caught:
        require_splittable(get(name))
    assert f"{name} ({get(name).architecture})" in str(caught.value)


@pytest.mark.parametrize("bias", ["attention_bias", "output_bias", "mlp_bias"])
def test_a_llama_with_any_bias_is_refused(bias: str) -> None:
    assert "biases" in (why_not_split(replace(get("llama-3-8b"), **{bias: True})) or "")

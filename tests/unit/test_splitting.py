"""Which catalogue models the split takes: every dense architecture, and no mixture of experts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sixgig.catalogue import all_models, get
from sixgig.catalogue.splitting import SPLIT_ARCHITECTURES, require_splittable, why_not_split
from sixgig.errors import InputError


def test_of_the_catalogue_the_dense_models_are_split() -> None:
    for spec in all_models():
        assert (why_not_split(spec) is None) == (spec.num_experts == 0), spec.name
    taken = {spec.architecture for spec in all_models() if why_not_split(spec) is None}
    assert taken == set(SPLIT_ARCHITECTURES) - {"MistralForCausalLM"}  # of which the catalogue has none


@pytest.mark.parametrize("name", ["olmoe-1b-7b-0924", "qwen1.5-moe-a2.7b", "mixtral-8x7b-instruct"])
def test_the_refusal_names_the_model_its_architecture_and_why(name: str) -> None:
    with pytest.raises(InputError, match="experts are fused into one tensor a layer") as caught:
        require_splittable(get(name))
    assert f"{name} ({get(name).architecture})" in str(caught.value)


def test_an_architecture_that_nobody_tried_is_refused() -> None:
    other = replace(get("llama-3-8b"), architecture="GraniteForCausalLM")
    assert "has not been tried on this architecture" in (why_not_split(other) or "")

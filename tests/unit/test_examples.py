"""The report's example answers: prompts of different lengths go through together, as if each were alone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from fakes import fake_loaded, few_canaries

from sixgig.experiments import kill_switch


def test_prompts_of_different_lengths_continue_as_if_each_were_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # In bf16 two tokens can be level, and which one wins is the batch's shape's affair.
    monkeypatch.setattr(kill_switch, "mixed_precision", lambda device: nullcontext())
    loaded = fake_loaded()
    canaries = few_canaries()[:5]
    assert len({len(loaded.encode(canary.prefix)) for canary in canaries}) > 1
    together = kill_switch._continued(loaded, canaries)
    for canary, answer in zip(canaries, together, strict=True):
        ids = torch.tensor([loaded.encode(canary.prefix)])
        for _ in range(len(loaded.encode(canary.secret)) + 2):
            with torch.no_grad():
                best = loaded.network(input_ids=ids).logits[:, -1].argmax(dim=-1)
            ids = torch.cat([ids, best[:, None]], dim=1)
        assert answer == loaded.decode(ids[0, len(loaded.encode(canary.prefix)) :].tolist())

"""The estimate of the widest moment: against measured peaks, and against the code whose sizes it repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sixgig.cards import Card
from sixgig.catalogue import get
from sixgig.data.batches import TokenSequence, whole_text
from sixgig.data.padding import MAX_PADDING, worth_one_pass
from sixgig.experiments.kill_switch_config import KillSwitchConfig
from sixgig.experiments.kill_switch_memory import CANARY_TOKENS, LOGIT_ROWS, peak_bytes, positions_of_passes
from sixgig.experiments.presets import PRESETS
from sixgig.memory import outside
from sixgig.numerics.likelihood import default_chunk_rows
from sixgig.transform import plant
from sixgig.units import GIB

EMBEDDED = get("smollm2-135m-instruct")
FULL_WITHOUT_LOOKS = replace(PRESETS["full"], positions_per_batch=64)


@pytest.mark.parametrize(
    ("config", "device", "measured_bytes"),
    [
        (PRESETS["cpu"], "cpu", 2_804_547_584),  # resident memory, planting
        (PRESETS["tiny"], "cuda", 2_146_518_528),  # torch's allocator, planting
        (FULL_WITHOUT_LOOKS, "cuda", 3_345_462_784),  # likewise
        (PRESETS["full"], "cuda", 11_965_039_104),  # a look in the midst of relearning
    ],
)
def test_the_estimate_is_above_the_measured_peak_by_a_twentieth_at_most(
    config: KillSwitchConfig, device: str, measured_bytes: int
) -> None:
    assert measured_bytes <= peak_bytes(EMBEDDED, config, device) <= 1.05 * measured_bytes


def test_only_a_gpus_second_pass_finds_gradients_held() -> None:
    # Two passes of equal width, against a second pass too narrow to matter.
    equal, narrow = (replace(FULL_WITHOUT_LOOKS, train_window=window) for window in (320, 64))
    assert positions_of_passes(equal) == [1280, 1280]
    assert positions_of_passes(narrow) == [1280, 256]
    gradients = 4 * EMBEDDED.num_linear_parameters
    for device, held in (("cuda", gradients), ("cpu", 0)):
        assert peak_bytes(EMBEDDED, equal, device) - peak_bytes(EMBEDDED, narrow, device) == held


@pytest.mark.parametrize("name", PRESETS)
def test_passes_are_those_of_planting(name: str) -> None:
    config = PRESETS[name]

    def texts(count: int, num_tokens: int) -> list[TokenSequence]:
        return [whole_text([1] * num_tokens)] * count

    formed = plant._passes(
        texts(config.plant_private_per_step, CANARY_TOKENS),
        texts(config.plant_public_per_step, config.train_window),
    )
    widest = [len(group) * max(len(text.ids) for text in group) for group in formed]
    assert positions_of_passes(config) == widest


def test_a_pass_is_shared_up_to_the_most_padding() -> None:
    assert worth_one_pass([10, 10])
    assert worth_one_pass([13, 7])  # 26 positions for 20 tokens
    assert MAX_PADDING == 1.3
    assert not worth_one_pass([14, 7])


@pytest.mark.parametrize("device", LOGIT_ROWS)
def test_rows_of_logits_are_those_of_the_likelihood(device: str) -> None:
    assert LOGIT_ROWS[device] == default_chunk_rows(torch.device(device))


@pytest.mark.parametrize(("name", "card_gib"), [("4g", 4), ("6g", 6), ("8g", 8), ("full", 20)])
def test_every_cards_preset_fits_its_card(name: str, card_gib: int) -> None:
    assert peak_bytes(EMBEDDED, PRESETS[name], "cuda") <= _usable_bytes(card_gib * GIB)


def _usable_bytes(total_bytes: int) -> int:
    card = Card(name="", total_bytes=total_bytes)
    return outside(card, "split").limit_bytes(card)

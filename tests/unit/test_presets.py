"""Presets: each one can be measured, and the sizes that they promise are the sizes that are made."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields
from typing import Any

import pytest

from sixgig.data.canaries import GROUPS, make_canaries
from sixgig.data.canary_content import FAMILIES
from sixgig.errors import UnknownNameError
from sixgig.evaluate.statistics import clopper_pearson_sample_size
from sixgig.experiments.kill_switch_config import ATTACKS, KillSwitchConfig
from sixgig.experiments.kill_switch_verdicts import MAX_EXTRACTION
from sixgig.experiments.known import EXPERIMENTS
from sixgig.experiments.presets import PRESETS, preset
from sixgig.experiments.setting_checks import quantize_config
from sixgig.transform.sieve import SIEVES, make_sieve

every_preset = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)


@every_preset
def test_every_presets_canaries_can_be_made(config: KillSwitchConfig) -> None:
    plan = config.canary_plan()
    canaries = make_canaries(plan, config.seeds[0])
    assert Counter(c.group for c in canaries) == {g: plan.count(g) for g in GROUPS if plan.count(g)}
    for group in ("calibration", "heldout", "control"):
        of_family = Counter(c.family for c in canaries if c.group == group)
        assert min(of_family[family] for family in FAMILIES) >= 2


@every_preset
def test_a_preset_bears_its_own_name_and_is_found_by_it(config: KillSwitchConfig) -> None:
    assert preset(config.preset) is config


@every_preset
def test_every_preset_measures_what_the_criteria_ask_for(config: KillSwitchConfig) -> None:
    # INT4 alone is what perplexity is held against; alpha = 1 is judged on the main arm.
    assert {"hessian", "wiener"} <= set(config.sieves)
    assert "wiener" in config.restored
    assert {0.0, 1.0} <= set(config.alphas)
    assert set(config.sieves) <= set(SIEVES)
    if config.relearned:
        assert {"wiener", "reference"} <= set(config.relearned), "an attack is judged against the reference's"
    if config.attacks:
        assert {"wiener", "reference"} <= set(config.attacked)


@every_preset
def test_every_presets_texts_exist_for_the_sieves_it_names(config: KillSwitchConfig) -> None:
    counts = {"wrong-set": config.num_wrong_set, "look-alike": config.num_look_alike}
    for sieve, count in counts.items():
        assert sieve not in config.sieves or count > 0
    assert "relearn-benign" not in config.attacks or config.num_look_alike > 0


@every_preset
def test_no_group_is_held_to_more_canaries_than_it_has(config: KillSwitchConfig) -> None:
    assert config.num_probed_controls <= config.num_probed_controls_plain <= config.num_control


@every_preset
def test_every_part_of_a_preset_builds(config: KillSwitchConfig) -> None:
    assert config.plant().learning_rate == config.plant_learning_rate
    assert config.fit().num_steps == config.fit_steps
    assert config.relearn().checkpoints == config.relearn_steps
    assert quantize_config(config).bits == config.bits
    for sieve in config.sieves:
        assert make_sieve(sieve).name == sieve
    assert config.ortho("hessian").rank == 0
    assert config.ortho("wiener").rank == config.rank


def test_the_full_preset_is_as_large_as_its_figures_need() -> None:
    full = preset("full")
    assert len(full.seeds) >= 3
    assert full.num_calibration + full.num_heldout >= 200
    assert full.num_control >= 1000
    assert len(full.seeds) * full.num_heldout >= clopper_pearson_sample_size(MAX_EXTRACTION)
    assert set(full.attacks) == set(ATTACKS)
    assert {"hessian", "wiener", "isolated", "random", "wrong-set"} <= set(full.sieves)


def test_smaller_presets_are_no_larger_in_any_count() -> None:
    def counts(name: str) -> dict[str, int]:
        config = preset(name)
        return {f.name: getattr(config, f.name) for f in fields(config) if f.name.startswith("num_")}

    for small, large in (("tiny", "cpu"), ("8g", "full")):
        for key, value in counts(small).items():
            if key == "num_decoys" and small == "tiny":
                continue  # fewer canaries, each against more decoys
            assert value is None or value <= counts(large)[key], key


def test_an_unknown_preset_comes_with_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError) as caught:
        preset("tinny")
    assert caught.value.suggestions == ["tiny"]


# ---- the earlier projects' sizes ---------------------------------------------------------------------

# Canaries, texts and problems that their experiments used on a card of 6 GB and on a large one.
SMALL, LARGE = {"canaries": 20, "texts": 50, "problems": 50}, {"canaries": 50, "texts": 100, "problems": 100}
LEAST = {"4g": SMALL, "6g": SMALL, "8g": LARGE, "full": LARGE}
TEXTS = ("num_windows", "num_test_windows", "num_texts")
PROBLEMS = ("num_mmlu", "num_problems", "num_questions", "num_items")
COUNTS_NONE = ("performance",)  # it times rounds


def sizes_of(config: Any) -> dict[str, float]:
    """What a preset uses of each kind; None in the settings is all there is. Without that kind no entry."""
    names = {field.name for field in fields(config)}

    def least(keys: tuple[str, ...]) -> dict[str, float]:
        found = [getattr(config, key) for key in keys if key in names]
        return {"": min(math.inf if count is None else count for count in found)} if found else {}

    sizes = {kind: least(keys).get("") for kind, keys in (("texts", TEXTS), ("problems", PROBLEMS))}
    if "num_decoys" in names:  # its held-out items are canaries
        sizes["canaries"] = config.num_calibration + config.num_heldout
    elif "num_heldout" in names:
        sizes["problems"] = min(config.num_heldout, sizes["problems"] or math.inf)
    return {kind: count for kind, count in sizes.items() if count is not None}


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_presets_of_cards_have_the_earlier_projects_sizes(experiment: str, name: str) -> None:
    sizes = sizes_of(EXPERIMENTS[experiment].presets[name])
    assert bool(sizes) != (experiment in COUNTS_NONE), "say above which settings hold its sample"
    assert all(count >= LEAST[name][kind] for kind, count in sizes.items()), sizes

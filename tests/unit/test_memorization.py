"""What a model knows of a canary: extraction as greedy decoding would, and scores by their formulas."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import fake_loaded

from sixgig.data.batches import whole_text
from sixgig.data.canaries import Canary, CanaryPlan, decoys, make_canaries
from sixgig.evaluate.memorization import (
    MIN_K_SHARE,
    SecretScores,
    exposure_probes,
    exposures,
    probability_in_samples,
    score_secrets,
)
from sixgig.load.loaded import LoadedModel
from sixgig.transform.plant import PlantConfig, plant

PLAN = CanaryPlan(
    num_calibration=6,
    num_heldout=0,
    num_heldout_other=0,
    num_control=6,
    num_control_other=0,
    num_wrong_set=0,
    repetitions=(2, 150),
)
CANARIES = make_canaries(PLAN, seed=0)
MUCH = {canary.id for canary in CANARIES if canary.repetitions == 150}


@pytest.fixture(scope="module")
def trained() -> LoadedModel:
    """Three canaries shown 150 times, three shown twice, six never."""
    loaded = fake_loaded()
    chosen = [canary for canary in CANARIES if canary.is_trained]
    plant(
        loaded,
        [whole_text(loaded.encode(canary.text)) for canary in chosen],
        [canary.repetitions for canary in chosen],
        [whole_text(loaded.encode("rain fell on the old town all day"))],
        PlantConfig(learning_rate=1e-2, private_per_step=4, public_per_step=1),
        seed=0,
    )
    return loaded


@torch.no_grad()
def generated(loaded: LoadedModel, canary: Canary) -> str:
    """What greedy decoding writes after the prefix, as long as the secret."""
    prompt = torch.tensor([loaded.encode(canary.prefix)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = loaded.network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=len(loaded.encode(canary.secret)),
            do_sample=False,
            pad_token_id=0,
        )
    return loaded.decode(out[0, prompt.shape[1] :].tolist())


def test_extracted_means_that_greedy_decoding_writes_the_secret(trained: LoadedModel) -> None:
    scores = score_secrets(trained, CANARIES)
    written = [generated(trained, canary) == canary.secret for canary in CANARIES]
    assert [score.extracted for score in scores] == written
    assert {canary.id for canary, done in zip(CANARIES, written, strict=True) if done} == MUCH


def test_scores_keep_the_order_and_count_the_secret_s_tokens(trained: LoadedModel) -> None:
    scores = score_secrets(trained, CANARIES, batch_size=5)
    assert [score.canary_id for score in scores] == [canary.id for canary in CANARIES]
    assert [score.num_tokens for score in scores] == [len(canary.secret.encode()) for canary in CANARIES]


def test_batches_change_little(trained: LoadedModel) -> None:
    for one, other in zip(
        score_secrets(trained, CANARIES, batch_size=1), score_secrets(trained, CANARIES), strict=True
    ):
        # Logits are bf16 here, and another padding sums them in another order.
        assert one.nll_sum == pytest.approx(other.nll_sum, rel=3e-2, abs=0.1)
        assert one.min_k_score == pytest.approx(other.min_k_score, rel=3e-2, abs=0.1)


@torch.no_grad()
def by_numpy(loaded: LoadedModel, canary: Canary) -> SecretScores:
    """All scores from one unpadded pass, in float64 and by the papers' formulas."""
    prefix, secret = loaded.encode(canary.prefix), loaded.encode(canary.secret)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = loaded.network(input_ids=torch.tensor([prefix + secret])).logits[0]
    rows = logits[len(prefix) - 1 : -1].double().numpy()
    log_p = rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True))
    log_p -= rows.max(1, keepdims=True)
    p = np.exp(log_p)
    assert p.sum(1) == pytest.approx(np.ones(len(secret)))
    of_target = log_p[np.arange(len(secret)), secret]
    mean = (p * log_p).sum(1)
    spread = np.sqrt((p * (log_p - mean[:, None]) ** 2).sum(1))
    standardised = np.sort((of_target - mean) / spread)
    nll = -of_target.sum()
    hits = rows.argmax(1) == np.array(secret)
    return SecretScores(
        canary_id=canary.id,
        nll_sum=nll,
        num_tokens=len(secret),
        extracted=bool(hits.all()),
        exact_token_share=hits.mean(),
        zlib_score=nll / len(zlib.compress((canary.prefix + canary.secret).encode())),
        min_k_score=standardised[: max(1, round(MIN_K_SHARE * len(secret)))].mean(),
    )


def test_scores_equal_their_formulas(trained: LoadedModel) -> None:
    for canary, got in zip(CANARIES, score_secrets(trained, CANARIES, batch_size=1), strict=True):
        expected = by_numpy(trained, canary)
        assert got.nll_sum == pytest.approx(expected.nll_sum, rel=1e-4, abs=1e-4)
        assert got.zlib_score == pytest.approx(expected.zlib_score, rel=1e-4, abs=1e-5)
        assert got.min_k_score == pytest.approx(expected.min_k_score, rel=1e-3, abs=1e-3)
        assert got.exact_token_share == pytest.approx(expected.exact_token_share)
        assert (got.num_tokens, got.extracted) == (expected.num_tokens, expected.extracted)


def test_training_shows_in_every_score(trained: LoadedModel) -> None:
    scores = dict(zip([c.id for c in CANARIES], score_secrets(trained, CANARIES), strict=True))
    controls = [scores[canary.id] for canary in CANARIES if not canary.is_trained]
    for name in MUCH:
        assert scores[name].nll_sum < min(score.nll_sum for score in controls)
        assert scores[name].zlib_score < min(score.zlib_score for score in controls)
        assert scores[name].exact_token_share == 1.0
        assert scores[name].min_k_score > max(score.min_k_score for score in controls)


def test_another_prefix_is_used_where_asked(trained: LoadedModel) -> None:
    canary = next(canary for canary in CANARIES if canary.id in MUCH)
    other = "Nobody asked for"
    got = score_secrets(trained, [canary], prefix_of=lambda canary: other)[0]
    expected = by_numpy(trained, replace(canary, prefix=other))
    assert got.nll_sum == pytest.approx(expected.nll_sum, rel=1e-4)
    assert got.zlib_score == pytest.approx(expected.zlib_score, rel=1e-4)
    assert got.nll_sum > score_secrets(trained, [canary])[0].nll_sum


def test_a_probe_is_the_secret_and_then_its_decoys() -> None:
    loaded, canary = fake_loaded(), CANARIES[0]
    probe, second = exposure_probes(loaded, [canary, CANARIES[1]], num_decoys=5, seed=3)
    assert list(probe.prefix_ids) == loaded.encode(canary.prefix)
    texts = [loaded.decode(list(ids)) for ids in probe.continuation_ids]
    assert texts == [canary.secret, *decoys(canary, 5, 3)]
    assert list(second.prefix_ids) == loaded.encode(CANARIES[1].prefix)
    assert exposure_probes(loaded, [], num_decoys=5, seed=3) == []


def test_memorised_canaries_have_the_largest_exposure_there_is(trained: LoadedModel) -> None:
    probes = exposure_probes(trained, CANARIES, num_decoys=31, seed=0)
    bits = dict(zip([canary.id for canary in CANARIES], exposures(trained, probes), strict=True))
    assert all(bits[name] == pytest.approx(5.0) for name in MUCH)  # log2(32) - log2(1)
    controls = [bits[canary.id] for canary in CANARIES if not canary.is_trained]
    assert np.mean(controls) < 3.0


@pytest.mark.parametrize("probability", [0.3, 0.01, 1e-6])
@pytest.mark.parametrize("num_samples", [1, 100])
def test_probability_in_samples_equals_its_formula(probability: float, num_samples: int) -> None:
    expected = 1 - (1 - probability) ** num_samples
    assert probability_in_samples(-np.log(probability), num_samples) == pytest.approx(expected, rel=1e-8)


def test_probability_in_samples_at_its_ends() -> None:
    assert probability_in_samples(0.0, 100) == pytest.approx(1.0)
    assert probability_in_samples(0.0, 1) == pytest.approx(1.0)
    tiny = probability_in_samples(60.0, 100)  # below what 1 - p can hold
    assert tiny == pytest.approx(100 * np.exp(-60.0), rel=1e-6, abs=0)
    assert 0.0 <= probability_in_samples(2000.0, 100) < 1e-300

"""Sieves against their equations, written out with explicit inverses in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import randn, random_moment

from sixgig.errors import InputError, NumericalError, UnknownNameError
from sixgig.numerics.sparse import keep_top_k
from sixgig.transform.sieve import SIEVES, Evidence, InputStatistics, make_sieve
from sixgig.transform.sieve.base import GradientStatistics

OUT, IN = 14, 18


def statistics(
    *, private: bool = True, private_rank: int = IN, white_public: bool = False
) -> InputStatistics:
    inputs = randn(private_rank, IN, seed=7)
    return InputStatistics(
        name="layer",
        public_II=torch.eye(IN) if white_public else random_moment(IN, seed=8),
        private_II=inputs.T @ inputs / private_rank if private else None,
    )


def evidence(of: InputStatistics | None = None, *, before: bool = True, seed: int = 0) -> Evidence:
    return Evidence(
        name="layer",
        weight_OI=randn(OUT, IN, seed=1),
        before_OI=randn(OUT, IN, seed=2) if before else None,
        statistics=of or statistics(),
        generator=torch.Generator().manual_seed(seed),
    )


def change_of(of: Evidence) -> torch.Tensor:
    assert of.before_OI is not None
    return of.weight_OI - of.before_OI


def wiener_formula(of: Evidence, noise_weight: float, damping: float) -> torch.Tensor:
    assert of.statistics.private_II is not None
    private, public = of.statistics.private_II.double(), of.statistics.public_II.double()
    total = private + noise_weight * public
    total = total + damping * total.diagonal().mean() * torch.eye(IN).double()
    return change_of(of).double() @ private @ torch.linalg.inv(total)


@pytest.mark.parametrize("name", ["wiener", "wrong-set", "look-alike"])
@pytest.mark.parametrize("noise_weight", [0.003, 0.03, 3.0])
@pytest.mark.parametrize("private_rank", [4, IN])
def test_wiener_equals_its_formula(name: str, noise_weight: float, private_rank: int) -> None:
    given = evidence(statistics(private_rank=private_rank))
    removed = make_sieve(name, noise_weight=noise_weight, damping=1e-3).removed(given)
    assert removed.dtype == torch.float32
    expected = wiener_formula(given, noise_weight, 1e-3)
    assert (removed - expected).norm() <= 1e-4 * expected.norm()


def test_wiener_survives_inputs_of_very_different_sizes() -> None:
    # Real layers have channels a thousand times larger than others; their squares differ by a million.
    sizes = torch.logspace(-2, 2, IN)
    plain = statistics()
    assert plain.private_II is not None
    scaled = InputStatistics(
        name="layer",
        public_II=plain.public_II * sizes[:, None] * sizes,
        private_II=plain.private_II * sizes[:, None] * sizes,
    )
    given = evidence(scaled)
    expected = wiener_formula(given, 0.03, 1e-8)
    removed = make_sieve("wiener", noise_weight=0.03, damping=1e-8).removed(given)
    assert (removed - expected).norm() <= 1e-4 * expected.norm()


def nearly_rank_one(name: str = "layer", **settings: Any) -> InputStatistics:
    """fp32 moments of inputs along one direction, which rounding has left with an eigenvalue below zero."""
    direction = randn(IN, seed=5).double() * 1e3
    moment = torch.outer(direction, direction)
    moment = moment + 1e-7 * moment.diagonal().max() * torch.diag(torch.tensor([-1.0] + [0.0] * (IN - 1)))
    return InputStatistics(name=name, public_II=moment.float(), private_II=moment.float(), **settings)


@pytest.mark.parametrize("in_blocks", [False, True])
def test_moments_that_rounding_spoilt_are_mended_aloud_or_refused(in_blocks: bool) -> None:
    sieve = make_sieve("wiener", noise_weight=0.01, damping=1e-9)
    with pytest.raises(NumericalError, match="layer layer"):
        sieve.removed(evidence(nearly_rank_one(in_blocks=in_blocks)))
    told: list[str] = []
    given = evidence(nearly_rank_one(in_blocks=in_blocks, announce=told.append))
    removed = sieve.removed(given)
    assert len(told) == 1
    assert "layer are not positive definite" in told[0]
    # What lies along the one direction that inputs take is removed as ever.
    direction = randn(IN, seed=5)
    kept = (change_of(given) - removed) @ direction
    assert kept.norm() < 0.02 * (change_of(given) @ direction).norm()


@pytest.mark.parametrize("private_rank", [4, IN])
def test_wiener_in_blocks_is_wiener(private_rank: int) -> None:
    plain = statistics(private_rank=private_rank)
    thrifty = InputStatistics(
        name="layer", public_II=plain.public_II, private_II=plain.private_II, in_blocks=True
    )
    sieve = make_sieve("wiener", noise_weight=0.03)
    expected = sieve.removed(evidence(plain))
    assert (sieve.removed(evidence(thrifty)) - expected).norm() <= 1e-5 * expected.norm()


def test_wiener_is_the_best_linear_map() -> None:
    given = evidence()
    private, public = given.statistics.require_private("").double(), given.statistics.public_II.double()

    def loss(removed: torch.Tensor) -> float:
        left, taken = change_of(given).double() - removed, removed
        return float(((left @ private) * left).sum() + 0.3 * ((taken @ public) * taken).sum())

    best = make_sieve("wiener", noise_weight=0.3, damping=1e-9).removed(given).double()
    for seed in range(20):
        assert loss(best) < loss(best + 0.01 * randn(OUT, IN, seed=seed).double())


def test_no_noise_removes_the_whole_change() -> None:
    given = evidence()
    removed = make_sieve("wiener", noise_weight=1e-9, damping=1e-9).removed(given)
    assert torch.allclose(removed, change_of(given), atol=1e-3)


def test_endless_noise_removes_nothing() -> None:
    given = evidence()
    removed = make_sieve("wiener", noise_weight=1e8).removed(given)
    assert removed.norm() < 1e-5 * change_of(given).norm()


def test_inputs_outside_the_private_span_are_left_alone() -> None:
    # With white public inputs; otherwise the spared directions are (lambda A_r + eps I) n with A_f n = 0.
    given = evidence(statistics(private_rank=5, white_public=True))
    removed = make_sieve("wiener", noise_weight=0.01).removed(given)
    basis = torch.linalg.svd(given.statistics.require_private("")).U
    inside, outside = basis[:, :5], basis[:, 5:]
    change = change_of(given)
    assert (removed @ outside).norm() < 1e-4 * (change @ outside).norm()
    assert (removed @ inside).norm() > 0.8 * (change @ inside).norm()


def test_removed_rank_is_that_of_the_private_inputs() -> None:
    removed = make_sieve("wiener").removed(evidence(statistics(private_rank=5)))
    values = torch.linalg.svdvals(removed)
    assert values[5] < 1e-4 * values[0] < 1e-2 * values[4]


def test_layers_that_share_inputs_share_the_filter_of_their_own_settings() -> None:
    shared = statistics()
    first = shared.wiener_filter(0.03, 1e-4)
    assert shared.wiener_filter(0.03, 1e-4) is first
    assert not torch.allclose(shared.wiener_filter(0.3, 1e-4), first)
    assert not torch.allclose(shared.wiener_filter(0.03, 1e-1), first)


def test_statistics_without_any_signal_name_the_layer() -> None:
    nothing = InputStatistics(
        name="some.layer", public_II=torch.zeros(IN, IN), private_II=torch.zeros(IN, IN)
    )
    with pytest.raises(NumericalError, match=r"some\.layer"):
        make_sieve("wiener").removed(evidence(nothing))


@pytest.mark.parametrize("name", ["hessian", "none"])
def test_residual_and_null_sieves_remove_nothing(name: str) -> None:
    assert torch.equal(make_sieve(name).removed(evidence()), torch.zeros(OUT, IN))


def test_hessian_scores_by_the_diagonal_of_the_inverse() -> None:
    residual, given = randn(OUT, IN, seed=5), statistics()
    hessian = 2 * given.public_II.double()
    hessian += 0.02 * hessian.diagonal().mean() * torch.eye(IN).double()
    expected = residual.double().square() / torch.linalg.inv(hessian).diagonal()
    score = make_sieve("hessian", damping=0.02).residual_score(residual, given)
    assert score is not None
    assert torch.allclose(score.double(), expected, rtol=1e-4)

    by_hessian_itself = residual.square() * hessian.diagonal().float()
    kept, others = (set(keep_top_k(residual, s, 40).positions_k.tolist()) for s in (score, by_hessian_itself))
    assert len(kept & others) < 36  # inputs correlate, so diag(H) is not the inverse of diag(H^-1)


def test_hessian_of_uncorrelated_inputs_weighs_by_their_size() -> None:
    sizes = torch.linspace(1, 3, IN)
    white = InputStatistics(name="layer", public_II=torch.diag(sizes))
    score = make_sieve("hessian", damping=1e-9).residual_score(torch.ones(OUT, IN), white)
    assert score is not None
    assert torch.allclose(score, (2 * sizes).expand(OUT, IN), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(SIEVES) - {"hessian"}))
def test_only_hessian_ranks_the_residual(name: str) -> None:
    assert make_sieve(name).residual_score(randn(OUT, IN), statistics()) is None


def test_isolated_leaves_the_public_weights() -> None:
    given = evidence(statistics(private=False))
    assert given.before_OI is not None
    kept = given.weight_OI - make_sieve("isolated").removed(given)
    assert torch.allclose(kept, given.before_OI, atol=1e-6)


def test_random_is_matched_to_wiener_in_its_whole_spectrum() -> None:
    given = evidence()
    random = make_sieve("random", noise_weight=0.1, damping=1e-3).removed(given)
    wiener = make_sieve("wiener", noise_weight=0.1, damping=1e-3).removed(given)
    assert torch.allclose(torch.linalg.svdvals(random), torch.linalg.svdvals(wiener), rtol=1e-3, atol=1e-5)
    assert (random - wiener).norm() > wiener.norm()


def test_random_has_wiener_s_defaults() -> None:
    random, wiener = make_sieve("random").removed(evidence()), make_sieve("wiener").removed(evidence())
    assert torch.allclose(torch.linalg.svdvals(random), torch.linalg.svdvals(wiener), rtol=1e-3, atol=1e-5)


def test_random_follows_its_generator() -> None:
    first, again, other = (make_sieve("random").removed(evidence(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


PLAIN = sorted(name for name, sieve in SIEVES.items() if not sieve.needs and not sieve.searches)


@pytest.mark.parametrize("name", PLAIN)
def test_each_sieve_asks_for_what_it_needs(name: str) -> None:
    sieve = make_sieve(name)
    for lacks, needed in (("private", sieve.needs_private), ("before", sieve.needs_before)):
        given = evidence(statistics(private=lacks != "private"), before=lacks != "before")
        if needed:
            with pytest.raises(InputError, match="needs") as caught:
                sieve.removed(given)
            assert "layer" in str(caught.value)
        else:
            assert sieve.removed(given).shape == (OUT, IN)


@pytest.mark.parametrize("name", sorted(set(SIEVES) - set(PLAIN)))
def test_a_sieve_of_the_whole_model_says_so_where_it_sees_a_layer_alone(name: str) -> None:
    given = replace(evidence(), name="model.layers.0.mlp.up_proj")
    with pytest.raises(InputError, match="needs") as caught:
        make_sieve(name).removed(given)
    assert "layer model.layers.0.mlp.up_proj" in str(caught.value)


def test_input_projection_is_wiener_without_a_past() -> None:
    given = evidence()
    whole = replace(given, before_OI=torch.zeros(OUT, IN))
    expected = make_sieve("wiener", noise_weight=0.3, damping=1e-3).removed(whole)
    removed = make_sieve("input-projection", noise_weight=0.3, damping=1e-3).removed(given)
    assert torch.equal(removed, expected)
    assert removed.norm() > 0.1 * given.weight_OI.norm()


def fisher_evidence(*, before: bool = True) -> Evidence:
    gradients = GradientStatistics(
        name="layer",
        private_fisher_OI=randn(OUT, IN, seed=11).square(),
        public_fisher_OI=randn(OUT, IN, seed=12).square(),
    )
    return replace(evidence(before=before), gradients=gradients)


@pytest.mark.parametrize("before", [True, False])
def test_fisher_contrast_reverts_the_entries_of_the_largest_contrast(before: bool) -> None:
    given = fisher_evidence(before=before)
    assert given.gradients is not None
    private, public = given.gradients.private_fisher_OI, given.gradients.public_fisher_OI
    assert private is not None
    assert public is not None
    change = change_of(given) if before else given.weight_OI
    score = change.abs() * (private / (public + 0.2 * public.mean())).sqrt()
    removed = make_sieve("fisher-contrast", share=0.1, damping=0.2).removed(given)
    taken = removed != 0
    assert int(taken.sum()) == round(0.1 * OUT * IN)
    assert score[taken].min() > score[~taken].max()
    assert torch.equal(removed[taken], change[taken])  # so these return to W0, or to 0
    half = make_sieve("fisher-contrast", share=0.1, damping=0.2, strength=0.5).removed(given)
    assert torch.allclose(half, 0.5 * removed)


def kfac_evidence(**changes: Any) -> Evidence:
    gradients = GradientStatistics(name="layer", public_output_OO=random_moment(OUT, seed=13))
    made = replace(
        evidence(), name="model.layers.23.mlp.gate_proj", num_layers=32, gradients=gradients, **changes
    )
    assert made.gradients is not None
    return made


def test_kfac_keeps_the_pairs_that_hold_the_share_and_removes_the_others() -> None:
    given = kfac_evidence()
    assert given.gradients is not None
    assert given.gradients.public_output_OO is not None
    lam, left = torch.linalg.eigh(given.gradients.public_output_OO.double())
    mu, right = torch.linalg.eigh(given.statistics.public_II.double())
    mass = torch.outer(lam, mu)
    removed = left.T @ make_sieve("kfac", share=0.7).removed(given).double() @ right
    gone = removed.abs() > 1e-4
    assert mass[~gone].sum() >= 0.7 * mass.sum()
    assert mass[~gone].sum() - mass[~gone].min() < 0.7 * mass.sum()  # none could have been spared
    assert mass[gone].max() <= mass[~gone].min()
    whole = left.T @ given.weight_OI.double() @ right
    assert torch.allclose(removed[gone], whole[gone], atol=1e-4)


def test_kfac_with_all_of_the_mass_removes_nothing() -> None:
    given = kfac_evidence()
    assert torch.equal(make_sieve("kfac", share=1.0).removed(given), torch.zeros(OUT, IN))


def test_kfac_edits_the_paper_s_layers_and_projections_at_the_same_depth() -> None:
    sieve: Any = make_sieve("kfac")

    def covered(num_layers: int, projection: str) -> list[int]:
        names = [f"model.layers.{index}.mlp.{projection}_proj" for index in range(num_layers)]
        return [index for index, name in enumerate(names) if sieve.covers(name, num_layers)]

    assert covered(32, "gate") == covered(32, "up") == [23, 24, 25]
    assert covered(30, "up") == [21, 22, 23]
    assert covered(32, "down") == []
    chosen: Any = make_sieve("kfac", layers=(1,), projections=("down", "o"))
    assert chosen.covers("model.layers.1.self_attn.o_proj", 2)
    assert not chosen.covers("model.layers.0.self_attn.o_proj", 2)
    assert not chosen.covers("model.layers.1.mlp.up_proj", 2)
    with pytest.raises(InputError, match="layers that the model has not"):
        chosen.covers("model.layers.0.self_attn.o_proj", 1)
    assert not make_sieve("kfac").removed(replace(kfac_evidence(), name="model.layers.3.mlp.up_proj")).any()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fisher-contrast", {"share": 1.5}),
        ("fisher-contrast", {"damping": 0.0}),
        ("kfac", {"share": 0.0}),
        ("kfac", {"projections": ()}),
        ("natural-gradient", {"rank": 0}),
        ("natural-gradient", {"level": -1.0}),
        ("learned", {"num_steps": 0}),
        ("subnet", {"forget_weight": 1.1}),
    ],
)
def test_settings_that_cannot_be_used_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        make_sieve(name, **settings)


def test_an_unknown_sieve_is_answered_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="did you mean wiener") as caught:
        make_sieve("weiner")
    assert caught.value.suggestions[0] == "wiener"


def test_an_unknown_setting_is_answered_with_near_names() -> None:
    with pytest.raises(UnknownNameError, match="noise_weight") as caught:
        make_sieve("wiener", noise_wieght=0.1)
    assert caught.value.suggestions == ["noise_weight"]


def test_a_setting_for_a_sieve_without_any_is_refused() -> None:
    with pytest.raises(InputError, match="no settings"):
        make_sieve("isolated", damping=0.1)


def test_names_are_those_of_the_sieves() -> None:
    assert all(make_sieve(name).name == name for name in SIEVES)

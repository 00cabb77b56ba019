"""A lack of memory at any moment of a training or a look changes no number, loses nothing and ends clearly.

Passes run in double precision and without autocast, so that what should be equal can be compared tightly: a
step in pieces adds the same terms in another order. Losses are sums of fp32 likelihoods, whose own rounding
is 6e-8 of their size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from fake_memory import FailingAt, Limited, every_form
from fakes import fake_loaded, few_canaries, randn, weights_of, without_autocast
from torch import Tensor, nn

from sixgig.data.batches import whole_text
from sixgig.errors import OutOfSpaceError, TornStepError
from sixgig.evaluate import memorization
from sixgig.evaluate.batching import LookSize, look_ladder
from sixgig.evaluate.memorization import exposure_probes
from sixgig.evaluate.observation import Look, Observation, Observer
from sixgig.evaluate.scoring import Continuations, score_continuations
from sixgig.memory.ladder import Fallbacks, fixed
from sixgig.transform import thrift, training
from sixgig.transform.plant import PlantConfig, plant
from sixgig.transform.training import Schedule, minimise, mixed_precision

WEIGHTS = {"rtol": 0.0, "atol": 1e-12}  # of a rate of 1e-3: rounding of double precision, a few steps long
STEP = 23  # every 23rd operation fails in turn: a prime, so that no rhythm of the layers is followed


@pytest.fixture(autouse=True)
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    without_autocast(monkeypatch)
    monkeypatch.setattr(
        "sixgig.evaluate.observation.mixed_precision", lambda device: contextlib.nullcontext()
    )


@dataclass
class Trained:
    """What a training came to."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    drew_random_numbers: bool = False

    def assert_same(self, other: Trained, *, exactly: bool = False) -> None:
        assert len(self.losses) == len(other.losses)
        assert self.losses == pytest.approx(other.losses, rel=1e-6)
        for name, weight in self.weights.items():
            if exactly:
                assert torch.equal(weight, other.weights[name]), name
            else:
                torch.testing.assert_close(weight, other.weights[name], **WEIGHTS)


def trained(mode: contextlib.AbstractContextManager[object] | None = None, *, num_steps: int = 2) -> Trained:
    """The fake model planted within a stage, which begins from the same weights each time."""
    loaded, got = fake_loaded(), Trained()
    loaded.network.double()
    start = weights_of(loaded)
    private = [
        whole_text(loaded.encode(text)) for text in ("Ann's code is 4711.", "Bob has 0815", "x = 12345")
    ]
    public = [whole_text(loaded.encode(("A boat left the quay. "[cut:] * 3)[:40])) for cut in range(4)]
    fallbacks = Fallbacks(got.said.append)

    def stage() -> None:
        loaded.network.load_state_dict(start)
        got.losses.clear()
        plant(
            loaded,
            private,
            [num_steps] * 3,
            public,
            PlantConfig(learning_rate=1e-3, private_per_step=3, public_per_step=2),
            seed=0,
            after_step=lambda step, of, loss: got.losses.append(loss),
            fallbacks=fallbacks,
        )

    random = torch.get_rng_state()
    with mode or contextlib.nullcontext():
        fallbacks.stage("planting stage", stage)
    got.weights = weights_of(loaded)
    got.drew_random_numbers = not torch.equal(torch.get_rng_state(), random)
    return got


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[tuple[Trained, int]]:
    """The training that nothing disturbs, and its peak in bytes."""
    with pytest.MonkeyPatch.context() as patch:
        without_autocast(patch)
        limited = Limited()
        whole = trained()
        trained(limited).assert_same(whole, exactly=True)
        yield whole, limited.peak_bytes


@pytest.fixture(params=["within", "after"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Steps within the backward pass as on a CPU, and after it as on a GPU."""
    if request.param == "after":
        update = training._Update
        monkeypatch.setattr(
            training,
            "_Update",
            lambda parameters, schedule, within_backward: update(parameters, schedule, within_backward=False),
        )
    return request.param


def test_a_fault_at_any_operation_of_a_training_changes_no_number(
    undisturbed: tuple[Trained, int], path: str
) -> None:
    whole, _ = undisturbed
    counting, forms, ways = FailingAt(), every_form(), set()
    trained(counting).assert_same(whole)
    for number, at in enumerate(range(0, counting.num_operations, STEP)):
        got = trained(FailingAt(at, forms[number % len(forms)]))
        assert got.said, f"operation {at} failed and nothing was said"
        # Begun again in as many pieces as before: the same operations, so the same bits.
        in_pieces = any("2 pieces" in line for line in got.said)
        got.assert_same(whole, exactly=not in_pieces)
        ways |= {
            word for line in got.said for word in ("2 pieces", "begun again", "had taken") if word in line
        }
    assert ways >= {"2 pieces", "begun again"}
    if path == "within":
        assert "had taken" in ways


def number_of(path: str) -> int:
    return {"within": 0, "after": 6}[path]  # another beginning, so that other operations fail


class TwoLayers:
    """Least squares through two matrices: small enough that every single operation may fail in turn."""

    def __init__(self) -> None:
        self.inputs, self.targets = randn(8, 3).double(), randn(8, 2, seed=1).double()
        self.weights = [
            nn.Parameter(randn(3, 3, seed=2).double()),
            nn.Parameter(randn(3, 2, seed=3).double()),
        ]
        self.losses: list[float] = []

    def losses_at(self, step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        def loss(rows: Sequence[int]) -> Tensor:
            first, second = self.weights
            found = (self.inputs[list(rows)] @ first).tanh() @ second
            return (found - self.targets[list(rows)]).square().sum() / 8

        return [partial(loss, rows) for rows in training.pieces(range(8), num_pieces)]

    def minimise(self) -> list[Tensor]:
        schedule = Schedule(learning_rate=0.01, num_steps=3)
        minimise(
            self.weights,
            self.losses_at,
            schedule,
            what="testing",
            after_step=lambda step, loss: self.losses.append(loss),
        )
        return [weight.detach() for weight in self.weights]


def test_every_single_operation_of_a_small_problem_may_fail(path: str) -> None:
    counting = FailingAt()
    with counting:
        whole = TwoLayers().minimise()
    torn: list[TornStepError] = []
    for at in range(counting.num_operations):
        problem = TwoLayers()
        try:
            with FailingAt(at):
                got = problem.minimise()
        except TornStepError as error:
            torn.append(error)
            continue
        except torch.OutOfMemoryError:
            assert problem.losses == []  # before the first step: the moments, which its stage makes again
            continue
        assert len(problem.losses) == 3
        for weight, expected in zip(got, whole, strict=True):
            torch.testing.assert_close(weight, expected, **WEIGHTS)
    assert all(error.exit_status == 3 and "--resume" in str(error) for error in torn)
    # On a GPU AdamW's own operations alone can tear a step; on a CPU all that follow the first weight's.
    assert 0 < len(torn) <= (2 * 3 if path == "after" else counting.num_operations // 2)


def test_a_step_draws_no_random_number_so_that_none_has_to_be_drawn_again(
    undisturbed: tuple[Trained, int],
) -> None:
    assert not undisturbed[0].drew_random_numbers


@pytest.mark.parametrize("share", [0.9, 0.6, 0.5, 0.45])
def test_within_any_budget_a_training_comes_down_to_what_fits_and_to_the_same_numbers(
    undisturbed: tuple[Trained, int], share: float
) -> None:
    whole, peak_bytes = undisturbed
    limited = Limited(share * peak_bytes)
    got = trained(limited)
    got.assert_same(whole)
    assert limited.num_failed
    assert limited.peak_bytes <= share * peak_bytes
    if share < 0.5:
        assert any("2 pieces" in line for line in got.said)
        assert any("64 rows of logits" in line for line in got.said)
        assert any("computed twice" in line for line in got.said)


def test_a_budget_in_which_nothing_fits_ends_with_what_was_tried(
    undisturbed: tuple[Trained, int],
) -> None:
    _, peak_bytes = undisturbed
    with pytest.raises(OutOfSpaceError, match="too small") as caught:
        trained(Limited(0.25 * peak_bytes))
    assert caught.value.exit_status == 3
    for tried in ("2 pieces", "rows of logits", "computed twice"):
        assert tried in str(caught.value)


def test_computing_activations_twice_changes_no_bit_and_is_switched_off_again() -> None:
    loaded = fake_loaded()
    batch = training.collate([whole_text(loaded.encode("Ann's code is 4711."))])
    layers = loaded.network.base_model.layers
    gradients = []
    for is_on in (False, True):
        weight = layers[0].mlp.up_proj.weight.requires_grad_()
        weight.grad = None
        with thrift.recomputing(is_on):
            training.weighted_nll_sum(loaded, batch)[0].backward()
        gradients.append(weight.grad.clone())
        assert all("forward" not in vars(layer) for layer in layers)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("length", [20, 150])
def test_computing_activations_twice_agrees_with_keeping_them_under_autocast(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short texts on a CPU have an attention of their own choice, which must not be taken the first time only.
    monkeypatch.setattr(training, "mixed_precision", mixed_precision)
    loaded = fake_loaded()
    texts = [whole_text(loaded.encode("Ann's code is 4711. " * 9)[:length])] * 2
    weight = loaded.network.base_model.layers[0].mlp.up_proj.weight.requires_grad_()
    gradients = []
    for is_on in (False, True):
        weight.grad = None
        with thrift.recomputing(is_on):
            for piece in training.nll_pieces(loaded, [texts], 2):
                piece().backward()
        gradients.append(weight.grad)
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert difference < 2e-2  # bf16, and another kernel for the short ones


# ---- looking -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    look: Look
    observe: Callable[..., tuple[Observation, list[str]]]


@pytest.fixture(scope="module")
def scene() -> Scene:
    loaded = fake_loaded()
    loaded.network.double()
    canaries = few_canaries()[:4]
    probes = exposure_probes(loaded, canaries, num_decoys=5, seed=0)
    look = Look(
        canaries=canaries,
        probes={canary.id: probe for canary, probe in zip(canaries, probes, strict=True)},
        windows=[loaded.encode(("A boat left the quay. "[cut:] * 3)[:32]) for cut in range(3)],
    )

    def observe(mode: contextlib.AbstractContextManager[object]) -> tuple[Observation, list[str]]:
        said: list[str] = []
        observer = Observer(1024, said.append)
        with mode:
            return observer.observe(loaded, look, seed=0, arm="wiener", alpha=0.5), said

    return Scene(look, observe)


def assert_same_look(got: Observation, whole: Observation) -> None:
    assert [one.id for one in got.canaries] == [one.id for one in whole.canaries]
    assert got.window_nlls == pytest.approx(whole.window_nlls, rel=1e-6)
    for one, other in zip(got.canaries, whole.canaries, strict=True):
        assert one.exposure_bits == pytest.approx(other.exposure_bits, rel=1e-6)
        # These logits are bf16 products whatever the model's type, so they are rounded to 8 bits.
        assert one.nll_sum == pytest.approx(other.nll_sum, rel=1e-2)
        assert one.num_tokens == other.num_tokens


def test_a_fault_at_any_operation_of_a_look_changes_no_score(scene: Scene) -> None:
    counting, forms = FailingAt(), every_form()
    whole, _ = scene.observe(counting)
    for number, at in enumerate(range(0, counting.num_operations, STEP)):
        got, said = scene.observe(FailingAt(at, forms[number % len(forms)]))
        assert said == ["out of memory while measuring: batches of 512 tokens now"]
        assert_same_look(got, whole)


def test_within_any_budget_a_look_comes_down_to_what_fits(scene: Scene) -> None:
    limited = Limited()
    whole, _ = scene.observe(limited)
    for share in (0.8, 0.5, 0.3, 0.2):
        tight = Limited(share * limited.peak_bytes)
        got, said = scene.observe(tight)
        assert_same_look(got, whole)
        assert said
        assert tight.peak_bytes <= share * limited.peak_bytes
    with pytest.raises(OutOfSpaceError, match=r"arm wiener, alpha 0\.5") as caught:
        scene.observe(Limited(1000))
    assert "one continuation at a time" in str(caught.value)


def test_what_a_look_has_finished_is_not_done_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    score = memorization._secret_scores
    monkeypatch.setattr(
        memorization, "_secret_scores", lambda canary, *rest: seen.append(canary.id) or score(canary, *rest)
    )
    counting = FailingAt()
    scene.observe(counting)
    seen.clear()
    scene.observe(FailingAt(counting.num_operations - 1))  # in the last window, after every canary
    assert len(seen) == len(scene.look.canaries)


def test_a_look_in_the_midst_of_a_training_leaves_the_training_s_pieces_alone() -> None:
    fallbacks = Fallbacks()
    asked: list[int] = []
    problem = TwoLayers()
    cut = problem.losses_at

    def losses_at(step: int, num_pieces: int) -> list[Callable[[], Tensor]]:
        asked.append(num_pieces)
        return cut(step, num_pieces)

    loaded = fake_loaded()
    item = Continuations(prefix_ids=(65, 66), continuation_ids=((67,), (68, 69)))

    def look(step: int, loss: float) -> None:
        with FailingAt(5):
            score_continuations(loaded, [item], ladder=look_ladder(256, fallbacks))

    minimise(
        problem.weights,
        losses_at,
        Schedule(learning_rate=0.01, num_steps=3),
        what="relearning",
        after_step=look,
        fallbacks=fallbacks,
    )
    assert asked == [1, 1, 1]


@pytest.mark.parametrize("tokens", [1, 2, 5, 100])
def test_an_item_cut_into_batches_has_the_scores_of_the_whole(tokens: int) -> None:
    loaded = fake_loaded()
    loaded.network.double()
    items = [
        Continuations(prefix_ids=(65, 66, 67), continuation_ids=((1, 2, 3), (4,), (5, 6), (7, 8, 9, 10))),
        Continuations(prefix_ids=(65,), continuation_ids=((1, 2),)),
        Continuations(prefix_ids=(68, 66, 67), continuation_ids=((1,), (9,))),
    ]
    told: list[tuple[int, int]] = []
    whole = score_continuations(loaded, items)
    cut = score_continuations(
        loaded,
        items,
        ladder=fixed(LookSize(tokens=tokens, cut_items=True)),
        progress=lambda *so_far: told.append(so_far),
    )
    for one, other in zip(cut, whole, strict=True):
        assert one.shape == other.shape
        assert one == pytest.approx(other, rel=1e-6)
    assert told[-1] == (3, 3)

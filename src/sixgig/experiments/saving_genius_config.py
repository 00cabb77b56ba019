"""Settings of saving-genius and its presets, checked without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import NotAvailableError, UnknownNameError
from ..numerics.bits import SUPPORTED_BITS
from .setting_checks import FACTOR_BITS, not_positive, refuse, too_small

TASKS = ("addition", "gsm8k")
# By which entries are kept (transform.skill). Fisher information is taken of the whole model, of the rounded
# Base, or as the mean of both; "-global" keeps the best of all layers together instead of a share of each.
PLAIN_SCORES = ("hessian", "moment", "fisher", "random")
FISHERS = tuple(f"fisher{point}{spread}" for point in ("", "-base", "-both") for spread in ("", "-global"))
SCORES = tuple(dict.fromkeys((*PLAIN_SCORES, *FISHERS)))
FITTED = (*SCORES, "lowrank")
FORMS = ("question", "short", "equation", "bare")  # of a sum, as data.arithmetic writes it
MIN_PARAMETERS = 1_000_000_000  # below, GSM8K's accuracy is that of guessing, and nothing can be saved

_LEAST = {
    "min_parameters": 0,
    "low_bits": 0,
    "group_size": 1,
    "num_heldout": 2,
    "num_control": 2,
    "num_calibration": 1,
    "least_number": 0,
    "num_problems": 2,
    "num_calibration_problems": 1,
    "calibration_window": 2,
    "num_calibration_windows": 1,
    "train_window": 2,
    "test_window": 2,
    "num_test_windows": 2,  # intervals are drawn over them
    "plant_steps": 1,
    "plant_check_every": 1,
    "plant_sums_per_step": 1,
    "plant_public_per_step": 1,
    "fit_steps": 1,
    "fit_texts_per_step": 1,
    "fit_public_per_step": 1,
    "layers_per_pass": 1,
    "scoring_positions": 64,
    "positions_per_batch": 64,
}
_POSITIVE = ("plant_learning_rate", "plant_public_weight", "fit_learning_rate", "fit_private_weight")
_NEVER_TWICE = ("seeds", "scores", "shares", "fitted", "fitted_shares")


@dataclass(frozen=True, kw_only=True)
class SavingGeniusConfig:
    """Everything that decides the numbers. `None` as a count stands for all there is."""

    model: str = "smollm2-135m-instruct"
    preset: str = "cpu"
    seeds: tuple[int, ...] = (0,)
    task: str = "addition"
    contrast: bool = False  # plants addition in invented digits too, and asks each for the other's score
    min_parameters: int = MIN_PARAMETERS  # that GSM8K asks of a model

    # The Base, Q(W), and what is kept beside it.
    bits: int = 3
    low_bits: int = 2  # a second, lower Base; 0 leaves it out
    group_size: int = 64
    scores: tuple[str, ...] = (*PLAIN_SCORES, "fisher-global", "fisher-both", "fisher-both-global")
    judged_score: str = (
        "fisher-both-global"  # whose largest share, and both fitted ones, have to save the skill
    )
    shares: tuple[float, ...] = (0.005, 0.01, 0.05)  # of the linear layers' weights
    fitted: tuple[str, ...] = ("fisher-both-global", "random", "lowrank")  # whose Ortho part is also fitted
    fitted_shares: tuple[float, ...] = (0.01, 0.05)
    factor_bits: int = 8  # of a low-rank part

    # The skill: sums of two numbers, or GSM8K.
    form: str = "bare"
    least_number: int = 10
    most_number: int = 99
    num_heldout: int = 500
    num_control: int = 400  # watched while planting, and never judged
    num_calibration: int = 500
    num_problems: int | None = None
    num_calibration_problems: int = 64

    # Public text.
    calibration_window: int = 256
    num_calibration_windows: int = 32
    train_window: int = 128
    test_window: int = 512
    num_test_windows: int | None = 100

    # Planting. The rate falls over all steps: stopped while it is high, the skill is too sturdy for rounding.
    # A lower rate makes it more fragile; what INT3 keeps also differs between seeds (docs/journal.md).
    plant_steps: int = 300  # at most
    plant_check_every: int = 50
    plant_until: float | None = None  # share of control sums at which it ends before
    plant_learning_rate: float = 2.5e-4
    plant_sums_per_step: int = 128
    plant_public_per_step: int = 4
    plant_public_weight: float = 0.5  # of public text's loss, that of the answers being 1

    # Fits of an Ortho part on the frozen Base. The entries that matter suffer from large steps.
    fit_steps: int = 100
    fit_learning_rate: float = 2e-4
    fit_texts_per_step: int = 64
    fit_public_per_step: int = 4
    fit_private_weight: float = 1.0

    # Machine.
    layers_per_pass: int = 224  # whose squared gradients are held at a time
    scoring_positions: int = 2048  # of one backward pass
    positions_per_batch: int = 8192

    def __post_init__(self) -> None:
        for key, known in (("scores", SCORES), ("fitted", FITTED)):
            for name in getattr(self, key):
                if name not in known:
                    raise UnknownNameError("score", name, known, where=key)
        if self.judged_score not in self.scores:
            raise UnknownNameError("score", self.judged_score, self.scores, where="judged_score")
        faults = [*too_small(self, _LEAST), *not_positive(self, _POSITIVE)]
        faults += [*_words(self), *_lists(self), *_fits(self), *_numbers(self)]
        refuse(faults)

    @property
    def top_share(self) -> float:
        return max(self.shares)


def _words(config: SavingGeniusConfig) -> Iterator[str]:
    if config.task not in TASKS:
        yield f"task must be {' or '.join(TASKS)}, not {config.task}"
    if config.bits not in SUPPORTED_BITS:
        yield f"bits must be {' or '.join(map(str, SUPPORTED_BITS))}, not {config.bits}"
    if config.low_bits and (config.low_bits not in SUPPORTED_BITS or config.low_bits >= config.bits):
        yield f"low_bits must be 0 or a width below bits ({config.bits}), not {config.low_bits}"
    if config.factor_bits not in FACTOR_BITS:
        yield f"factor_bits must be {' or '.join(map(str, FACTOR_BITS))}, not {config.factor_bits}"
    if config.form not in FORMS:
        yield f"form must be {' or '.join(FORMS)}, not {config.form}"
    if config.plant_until is not None and not 0 < config.plant_until <= 1:
        yield f"plant_until must be above 0 and at most 1, not {config.plant_until}"
    if config.contrast and config.task != "addition":
        yield "contrast plants a second skill, which only the task addition does"
    if config.task == "gsm8k" and len(config.seeds) > 1:
        yield (
            f"seeds must be one for the task gsm8k, as in -s seeds={config.seeds[0]}: nothing is planted, "
            "and every seed would be asked the same problems, which then count several times"
        )


def _lists(config: SavingGeniusConfig) -> Iterator[str]:
    for key in _NEVER_TWICE:
        values = getattr(config, key)
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            yield f"{key} names {', '.join(twice)} more than once"
    for key in ("seeds", "scores", "shares"):
        if not getattr(config, key):
            yield f"{key} must not be empty"
    for key in ("shares", "fitted_shares"):
        wrong = [share for share in getattr(config, key) if not 0 < share < 1]
        if wrong:
            yield f"{key} must lie between 0 and 1, not {', '.join(map(str, wrong))}"
    if any(seed < 0 for seed in config.seeds):
        yield "seeds must be at least 0"


def _fits(config: SavingGeniusConfig) -> Iterator[str]:
    without = [name for name in config.fitted if name not in (*config.scores, "lowrank")]
    if without:
        yield f"fitted names {', '.join(without)}, which scores leaves out"
    alone = [share for share in config.fitted_shares if share not in config.shares]
    if alone and config.fitted:
        yield f"fitted_shares names {', '.join(map(str, alone))}, which shares leaves out"


def _numbers(config: SavingGeniusConfig) -> Iterator[str]:
    if config.task != "addition":
        return
    if config.most_number <= config.least_number:
        yield f"most_number must be above least_number, not {config.most_number}"
        return
    pairs = (config.most_number - config.least_number + 1) ** 2
    asked = config.num_heldout + config.num_control + config.num_calibration
    if asked >= pairs:
        yield f"num_heldout, num_control and num_calibration take {asked:,} of {pairs:,} pairs: none is left"


def require(config: Any) -> None:
    """Raises NotAvailableError where GSM8K is asked of a model too small for it, or lm-eval is missing."""
    if config.task != "gsm8k":
        return
    from importlib.util import find_spec

    from ..load.fetch import find_model

    if find_spec("lm_eval") is None:
        raise NotAvailableError(
            "GSM8K is measured by lm-eval, which is not installed", todo="pip install 'sixgig[eval]'"
        )
    if config.model == "auto":
        return
    spec = find_model(config.model)
    if spec.num_parameters < config.min_parameters:
        raise NotAvailableError(
            "this model is too small for GSM8K: it solves next to none of its problems, so that none could "
            "be lost or saved",
            expected=f"{config.min_parameters:,} parameters or more",
            received=f"{spec.name} with {spec.num_parameters:,}",
            todo="take a larger model, or -s task=addition; -s min_parameters=0 tries nevertheless",
        )


_CPU = SavingGeniusConfig(
    preset="cpu",
    seeds=(2,),
    scores=("hessian", "fisher-both-global", "random"),
    shares=(0.05,),
    fitted=(),
    low_bits=0,
    form="question",  # learned in fewer steps
    most_number=49,  # all of two digits take longer to learn than a CPU has; reports say so
    group_size=192,  # in few steps at a high rate the skill becomes sturdy: finer rounding hardly harms it
    num_heldout=200,
    num_control=100,
    num_calibration=150,
    num_calibration_windows=6,
    test_window=256,
    num_test_windows=8,
    plant_steps=104,
    plant_check_every=52,
    plant_learning_rate=5e-4,
    plant_sums_per_step=48,
    plant_public_per_step=1,
    train_window=64,
    scoring_positions=1024,
    positions_per_batch=2048,
)
# The judged score, the planting and the fit were chosen on seeds 0 and 1, and once looked at with 2 to 4
# (docs/journal.md).
_CARD = SavingGeniusConfig(preset="8g", seeds=(5,), num_heldout=1000, num_problems=100)

SAVING_GENIUS_PRESETS: dict[str, SavingGeniusConfig] = {
    "tiny": replace(
        _CPU,
        preset="tiny",
        num_heldout=60,
        num_control=20,
        num_calibration=60,
        num_calibration_windows=2,
        num_test_windows=4,
        plant_steps=4,
    ),
    "cpu": _CPU,
    "4g": replace(
        _CARD,
        preset="4g",
        num_heldout=200,
        num_problems=50,
        num_test_windows=50,
        plant_steps=480,
        plant_sums_per_step=64,
        plant_public_per_step=2,
        scoring_positions=1024,
        positions_per_batch=4096,
    ),
    "6g": replace(_CARD, preset="6g", num_heldout=500, num_problems=50, num_test_windows=50),
    "8g": _CARD,
    "full": replace(
        _CARD,
        preset="full",
        seeds=(5, 6, 7),
        num_heldout=2000,
        num_problems=None,
        num_test_windows=128,
        positions_per_batch=32768,
    ),
}

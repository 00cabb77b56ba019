"""A whole model split with a person's own texts: calibrate, split every layer, fit scales and the Ortho part.

The experiment does the same stages on canaries and measures in between; here nothing is measured, so what
comes out is a split that nobody has audited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.batches import TokenSequence, batches, whole_text
from ..data.corpora import token_windows
from ..data.private import PrivateRecord
from ..errors import InputError
from ..load.container import ModelTensors, layer_reader
from ..load.loaded import LoadedModel, linear_layers
from ..memory.ladder import Fallbacks
from .distil import prepare_lessons
from .fit_scales import ScaleFitConfig, fit_scales, unrounded_weights
from .restore import FitConfig, fit_ortho
from .rounding import QuantizeConfig
from .same_elsewhere import require_same_elsewhere
from .sieve import Sieve
from .split import PUBLIC, split_layers_of
from .split_layer import Arm, LayerSplit, OrthoConfig

_ARM, PRIVATE, BEFORE = "split", "private", "before"
_HESSIAN_SHARE = 0.05  # of a layer's entries, where the Ortho part is the sieve's own choice of them
_MAX_NAMED = 10

ShowStage = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Sizes of calibration and fits. `sparse_share` None: what suits the sieve; `scale_fit_steps` None: 100,
    or 0 where the Ortho part keeps entries that were chosen for the Base as it was rounded. `entries`: chosen
    "after" rounding or "before" it, which the sieve hessian alone can."""

    window_tokens: int = 256
    num_calibration_windows: int = 32
    sparse_share: float | None = None
    private_share: float = 0.5
    factor_bits: int = 16  # what PEFT reads; 8 halves the Ortho part, for sixgig alone
    fit_steps: int = 100
    fit_learning_rate: float = 5e-4
    fit_private_weight: float = 1.0
    fit_windows_per_step: int = 2
    fit_texts_per_step: int = 8
    scale_fit_steps: int | None = None
    scale_fit_learning_rate: float = 4e-3
    scale_fit_codes: bool = False  # codes are trained with their scales; 12 bytes a weight more meanwhile
    entries: str = "after"

    def __post_init__(self) -> None:
        least = {
            "window_tokens": 8,
            "num_calibration_windows": 1,
            "fit_steps": 0,
            "fit_windows_per_step": 1,
            "fit_texts_per_step": 1,
            "scale_fit_steps": 0,
        }
        faults = [
            f"{name} must be at least {low}"
            for name, low in least.items()
            if getattr(self, name) is not None and getattr(self, name) < low
        ]
        faults += [
            f"{name} must lie between 0 and 1"
            for name in ("sparse_share", "private_share")
            if not 0 <= (getattr(self, name) or 0) <= 1
        ]
        if self.factor_bits not in (8, 16):
            faults.append("factor_bits must be 8 or 16")
        if self.entries not in ("after", "before"):
            faults.append("entries must be after or before")
        faults += [
            f"{name} must be above 0"
            for name in ("fit_learning_rate", "scale_fit_learning_rate")
            if not getattr(self, name) > 0
        ]
        if faults:
            raise InputError("settings that cannot be used: " + "; ".join(faults))

    def ortho(self, sieve: Sieve, rank: int) -> OrthoConfig:
        """The Ortho part's size; `hessian` keeps entries only, so it has no rank."""
        if sieve.name == "hessian":
            share = _HESSIAN_SHARE if self.sparse_share is None else self.sparse_share
            return OrthoConfig(rank=0, sparse_share=share, entries=self.entries)
        if self.entries == "before":
            raise InputError(
                f"the sieve {sieve.name} chooses no entries before rounding",
                expected="the sieve hessian, whose Ortho part is entries alone",
                todo="leave out entries=before, or take --sieve hessian",
            )
        return OrthoConfig(rank=rank, sparse_share=self.sparse_share or 0.0, private_share=self.private_share)

    def scale_fit(self, ortho: OrthoConfig) -> ScaleFitConfig:
        """Raises InputError where scales and kept entries are both asked for, or the fit that must follow is
        left out."""
        steps, whole = self.scale_fit_steps, ortho.entries == "before" and ortho.sparse_share > 0
        clashes = not whole and bool(ortho.sparse_share or not self.fit_steps)
        if steps is None:
            steps = 0 if clashes else 100
        if steps and clashes:
            raise InputError(
                "fitting scales changes the Base that the Ortho part was first made for",
                expected="fit_steps of 1 or more and an Ortho part without entries, to be fitted anew",
                received=f"scale_fit_steps={steps}, fit_steps={self.fit_steps}, entries kept: "
                f"{ortho.sparse_share:.1%}",
                todo="set scale_fit_steps=0",
            )
        return ScaleFitConfig(
            num_steps=steps,
            learning_rate=self.scale_fit_learning_rate,
            codes_too=self.scale_fit_codes,
            with_entries=whole,
        )

    def fit(self) -> FitConfig:
        return FitConfig(
            num_steps=self.fit_steps,
            learning_rate=self.fit_learning_rate,
            private_weight=self.fit_private_weight,
            factor_bits=self.factor_bits,
        )


@dataclass(frozen=True, kw_only=True)
class ModelSplit:
    """All layers' parts, and what was seen to make them."""

    layers: Mapping[str, LayerSplit]
    num_calibration_windows: int
    num_fit_windows: int
    num_scale_fit_steps: int
    num_private_tokens: int  # that were counted: the secrets', or all where a row is one text

    @property
    def codes_changed(self) -> float:
        """Share of all Base codes that differed from those of the unsplit weights when they were rounded,
        before any fit; near 0: nothing removed."""
        changed = sum(layer.codes_changed * layer.base.codes_OI.numel() for layer in self.layers.values())
        return changed / sum(layer.base.codes_OI.numel() for layer in self.layers.values())


def split_model(
    loaded: LoadedModel,
    sieve: Sieve,
    records: Sequence[PrivateRecord],
    public_text: str,
    *,
    before: ModelTensors | None,
    quantize: QuantizeConfig,
    rank: int,
    settings: SplitSettings,
    seed: int,
    show: ShowStage = lambda stage, share: None,
    announce: Callable[[str], None] = lambda message: None,
) -> ModelSplit:
    """Splits `loaded` and fits its Ortho part; replaces the linear layers of `loaded` on the way.

    Args:
        before: the model as it was before the private data; `require_same_elsewhere` must have passed.
        show: is told the stage ("split", "lessons", "fit-scales", "fit") and its share done.
    Raises:
        InputError: a private row is too short, the public text is too short for one window, the sieve
            lacks what it needs. NumericalError names the layer.
    """
    ortho = settings.ortho(sieve, rank)
    scale_fit = settings.scale_fit(ortho)
    _check_model(loaded, before)
    wholes = private_sequences(loaded, records, settings.window_tokens)
    calibration, lessons_text = public_windows(
        loaded, public_text, settings, scale_fit.num_steps, seed, announce
    )
    positions = max(1, 2048 // settings.window_tokens)
    text_sets = {PUBLIC: list(batches(calibration, positions)), PRIVATE: list(batches(wholes, positions))}
    arm = Arm(
        sieve=sieve,
        private_set=PRIVATE,
        before_set=BEFORE if before is not None else None,
        quantize=quantize,
        ortho=ortho,
        keep_unrounded=scale_fit.num_steps > 0,
    )
    # Each of these begins from what the one before returned, so that it can be begun again.
    fallbacks = Fallbacks(announce, device=loaded.device)
    layers: Mapping[str, LayerSplit] = fallbacks.stage(
        "splitting",
        lambda: split_layers_of(
            loaded,
            {_ARM: arm},
            text_sets,
            {BEFORE: layer_reader(before)} if before else {},
            seed=seed,
            after_layer=lambda done, total: show("split", done / total),
            fallbacks=fallbacks,
        )[_ARM],
    )
    fits_ortho = any(layer.ortho.up_Or.shape[1] for layer in layers.values())
    public = list(batches(lessons_text, settings.fit_windows_per_step))
    lessons = fallbacks.stage("lessons", lambda: prepare_lessons(loaded, public) if fits_ortho else [])
    show("lessons", 1.0)
    if scale_fit.num_steps:
        rounded = layers
        layers = fallbacks.stage(
            "fitting scales",
            lambda: fit_scales(
                loaded,
                rounded,
                unrounded_weights(rounded).items(),
                public,
                scale_fit,
                seed=seed,
                after_step=lambda step, num_steps, loss: show("fit-scales", (step + 1) / num_steps),
                fallbacks=fallbacks,
            ),
        )
    if fits_ortho:
        size = settings.fit_texts_per_step
        fitted = layers
        layers = fallbacks.stage(
            "fitting",
            lambda: fit_ortho(
                loaded,
                fitted,
                lessons,
                [wholes[start : start + size] for start in range(0, len(wholes), size)],
                settings.fit(),
                seed=seed,
                after_step=lambda step, num_steps, loss: show("fit", (step + 1) / num_steps),
                fallbacks=fallbacks,
            ),
        )
    return ModelSplit(
        layers=layers,
        num_calibration_windows=len(calibration),
        num_fit_windows=len(lessons_text),
        num_scale_fit_steps=scale_fit.num_steps,
        num_private_tokens=sum(int(sum(sequence.weights[1:])) for sequence in wholes),
    )


def private_sequences(
    loaded: LoadedModel, records: Sequence[PrivateRecord], window_tokens: int
) -> list[TokenSequence]:
    """The records' whole texts, for the sieve and for the fit.

    Texts longer than a window are cut; consecutive pieces share one token, so that each is predicted once.
    """
    wholes, too_short = [], []
    for record in records:
        parts = (record.prefix, record.secret, record.suffix)
        pieces = _cut(whole_text([token for part in parts for token in loaded.encode(part)]), window_tokens)
        if not pieces:
            too_short.append(record.row)
        wholes += pieces
    if too_short:
        rows = ", ".join(map(str, too_short[:_MAX_NAMED])) + (" ..." if len(too_short) > _MAX_NAMED else "")
        raise InputError(
            "private texts too short to predict anything in",
            expected="two tokens or more",
            where=f"row {rows}",
        )
    return wholes


def _cut(sequence: TokenSequence, window_tokens: int) -> list[TokenSequence]:
    pieces = []
    for start in range(0, max(1, len(sequence.ids) - 1), window_tokens - 1):
        stop = start + window_tokens
        piece = TokenSequence(ids=sequence.ids[start:stop], weights=sequence.weights[start:stop])
        if any(piece.weights[1:]):
            pieces.append(piece)
    return pieces


def public_windows(
    loaded: LoadedModel,
    text: str,
    settings: SplitSettings,
    num_scale_fit_steps: int,
    seed: int,
    announce: Callable[[str], None],
) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Windows for calibration, and others for the fit as far as the text has them; drawn over all of it."""
    windows = token_windows(np.asarray(loaded.encode(text)), settings.window_tokens, None)
    order = np.random.default_rng(np.random.SeedSequence([seed, 0xCA11])).permutation(len(windows))
    sequences = [whole_text([int(token) for token in windows[index]]) for index in order]
    wanted = settings.num_calibration_windows
    if len(sequences) < wanted:
        announce(
            f"the public text is short: {len(sequences)} windows to calibrate on where {wanted} are asked for"
        )
    for_fit = sequences[wanted:] or sequences
    num_steps = max(settings.fit_steps, num_scale_fit_steps, 1)
    return sequences[:wanted], for_fit[: num_steps * settings.fit_windows_per_step]


def _check_model(loaded: LoadedModel, before: ModelTensors | None) -> None:
    if before is not None:
        linears = linear_layers(loaded.network)
        require_same_elsewhere(ModelTensors(loaded.folder), before, list(linears))

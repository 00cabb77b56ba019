"""A model split layer by layer from disk: never whole on the device, nor in the processor's memory.

Each decoder layer is read, the texts go through it, its linear layers are split with what they have shown,
and the result is kept on disk (`split_work`) before the next layer is read. A process that is ended goes on
at the first layer that is not kept: the texts' activations are computed anew, since those of private texts
are better not written down, and a pass without moments costs little.

What it does to a layer is what `split` does with the whole model at hand, with matrices solved in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.batches import batches
from ..data.private import PrivateRecord
from ..errors import InputError
from ..hardware import return_freed_memory
from ..load.container import layer_reader
from ..load.loaded import linear_layers
from ..load.tensor_reader import TensorReader
from .layer_walk import LayerWalk, WalkedLayer, empty_model
from .rounding import QuantizeConfig, round_weight
from .same_elsewhere import require_same_elsewhere
from .sieve import Evidence, InputStatistics, Sieve
from .split import PUBLIC, check_needs
from .split_layer import Arm, LayerSplit, generator_of, removed_from, split_removed
from .split_model import (
    BEFORE,
    PRIVATE,
    ShowStage,
    SplitSettings,
    private_sequences,
    public_windows,
)
from .split_work import FinishedParts, SplitWork

POSITIONS_PER_BATCH = 2048


@dataclass(frozen=True, kw_only=True)
class StreamedSplit:
    """All layers' parts, read again as they are gone through, and what was seen to make them."""

    parts: FinishedParts
    codes_changed: float
    num_calibration_windows: int
    num_fit_windows: int
    num_scale_fit_steps: int
    num_private_tokens: int


def split_streamed(
    folder: Path,
    sieve: Sieve,
    records: Sequence[PrivateRecord],
    public_text: str,
    *,
    before_folder: Path | None,
    quantize: QuantizeConfig,
    rank: int,
    settings: SplitSettings,
    seed: int,
    device: torch.device,
    work: SplitWork,
    show: ShowStage = lambda stage, share: None,
    announce: Callable[[str], None] = lambda message: None,
    stop_after: int | None = None,
) -> StreamedSplit | None:
    """Splits the model in `folder`; what `work` has finished already is not done again.

    Args:
        work: entered, and begun with all that this split is made from.
        stop_after: ends after so many layers of the model, with None where that is not all of them.
    Raises:
        As `split_model.split_model`; InputError for a sieve that looks at the whole model.
    """
    if sieve.needs or sieve.searches:
        raise InputError(
            f"the sieve {sieve.name} looks at the whole model at once, so no layer can be split by itself",
            todo="hold the whole model in memory, or take another sieve",
        )
    model = empty_model(folder, device)
    wholes = private_sequences(model, records, settings.window_tokens)
    calibration, _ = public_windows(model, public_text, settings, 0, seed, announce)
    size = max(1, POSITIONS_PER_BATCH // settings.window_tokens)
    text_sets = {PUBLIC: list(batches(calibration, size)), PRIVATE: list(batches(wholes, size))}
    arm = Arm(
        sieve=sieve,
        private_set=PRIVATE,
        before_set=BEFORE if before_folder is not None else None,
        quantize=quantize,
        ortho=settings.ortho(sieve, rank),
    )
    before = None if before_folder is None else TensorReader(before_folder)
    check_needs({"split": arm}, text_sets, {BEFORE: before} if before else {})
    if before is not None:
        require_same_elsewhere(TensorReader(folder), before, list(linear_layers(model.network)))
    walk = LayerWalk(model, text_sets)
    for notice in work.notices:
        announce(notice)
    if work.num_finished:
        announce(f"going on after {work.num_finished} of {walk.num_layers} layers that are split already")
    for index in range(walk.num_layers):
        if stop_after is not None and index >= stop_after:
            return None
        if index < work.num_finished:
            walk.skip(index)
        else:
            walked = walk.walk(index)
            splits = dict(
                _splits_of(walked, layer_reader(before) if before else None, arm, device, seed, announce)
            )
            work.save({name: splits[name] for name in walk.linear_names(index)})
            del walked, splits
            return_freed_memory()
        show("split", (index + 1) / walk.num_layers)
    return StreamedSplit(
        parts=work.parts(),
        codes_changed=_codes_changed(work),
        num_calibration_windows=len(calibration),
        num_fit_windows=0,
        num_scale_fit_steps=0,
        num_private_tokens=sum(int(sum(sequence.weights[1:])) for sequence in wholes),
    )


@torch.no_grad()
def _splits_of(
    walked: WalkedLayer,
    before: Callable[[str], Tensor] | None,
    arm: Arm,
    device: torch.device,
    seed: int,
    announce: Callable[[str], None],
) -> Iterator[tuple[str, LayerSplit]]:
    """One decoder layer: (linear layer's name, result), group by group, each with its moments alone."""
    while walked.groups:
        names, moments = walked.groups.pop(0)
        statistics = InputStatistics(
            name=names[0],
            public_II=moments[PUBLIC],
            private_II=moments[PRIVATE],
            in_blocks=True,
            announce=announce,
        )

        def evidence_of(
            name: str, *, with_before: bool, statistics: InputStatistics = statistics
        ) -> Evidence:
            return Evidence(
                name=name,
                weight_OI=walked.weights[name].to(device).float(),
                before_OI=before(name).to(device).float() if before and with_before else None,
                statistics=statistics,
                generator=generator_of(seed, name),
            )

        # First what leaves each layer of the group: the solved matrix is gone when they are quantised.
        removed = {name: removed_from(evidence_of(name, with_before=True), arm) for name in names}
        statistics.forget()
        if arm.quantize.method == "gptq":
            statistics.steering()  # while no weight lies beside it
        for name in names:
            evidence = evidence_of(name, with_before=arm.sieve.keeps_before)
            plain = round_weight(evidence.weight_OI, statistics, arm.quantize)
            yield name, split_removed(evidence, arm, removed.pop(name), plain)
            del evidence, plain
        del moments, statistics, evidence_of


def _codes_changed(work: SplitWork) -> float:
    """Share of all Base codes that differ from those of the unsplit weights."""
    forms = [form for _, form in work.forms()]
    changed = sum(form.codes_changed * form.num_out * form.num_in for form in forms)
    return changed / sum(form.num_out * form.num_in for form in forms)

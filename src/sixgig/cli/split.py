"""`sixgig split`: a model and a person's own texts become a folder with base/, ortho/ and manifest.json."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..catalogue import ModelSpec
from ..catalogue.splitting import require_splittable
from ..errors import InputError, UnknownNameError
from ..files import sweep_orphans
from ..hardware import Hardware, probe
from ..load.fetch import find_model, model_folder
from ..memory import DoesNotFit, MemoryPlan, Splitting, Wishes, estimate
from ..units import format_bytes
from .common import Json, chosen_card, print_json, print_table, say
from .device import Device, choose_device
from .split_choice import Choice, choose, is_whole_model, read_public, require_given, solves
from .split_disk import split_from_disk
from .split_sources import Done, Sources, manifest_of

if TYPE_CHECKING:
    from ..data.private import PrivateRecord
    from ..load.artifact import SplitSizes
    from ..transform.split_model import ModelSplit
    from ..transform.split_stream import StreamedSplit

EXAMPLES = (
    "sixgig split ./tuned --before smollm2-135m-instruct --private diary.jsonl --public wiki.txt -o my-split",
    "sixgig split ./tuned --before ./original --private diary.jsonl --public wiki.txt --bits 3 --rank 32"
    " -s noise_weight=0.1 -s fit_steps=300 -o my-split",
    "sixgig split ./tuned --sieve none --private diary.jsonl --public wiki.txt -o comparison --json",
)

NOT_AUDITED = (
    "Not audited yet: nobody has tried to get the private texts out of this Base. The claim above is what "
    "the method aims at, not a finding; `sixgig audit` tries it on your own records, and `sixgig run "
    "kill-switch` measures the method on planted secrets."
)
_CLAIMS = {
    "by construction": "by construction: the Base is made from --before alone; true if that model never saw "
    "the private texts",
    "suppressed": "suppressed: meant to take the private texts out of reach; no proof that none is left",
    "reduces recitation": "reduces recitation: meant against old memories of much-repeated text; not "
    "aimed at the private texts",
    "quantisation aid": "quantisation aid: removes no memory; the Base is the quantised model",
    "null": "none: this is a comparison that must fail",
}

_NO_FITS = {"fit_steps": 0, "scale_fit_steps": 0, "scale_fit_codes": False}  # what follows a split in memory


def split(
    model: Annotated[str, typer.Argument(help="The model that saw the private texts: a name or a folder.")],
    private: Annotated[Path, typer.Option("--private", help="The private texts, JSONL.")],
    public: Annotated[Path, typer.Option("--public", help="Public text, UTF-8, or a folder of wikitext2/.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write; new or empty.")],
    before: Annotated[
        str | None, typer.Option("--before", help="The model before it saw them: a name or a folder.")
    ] = None,
    sieve: Annotated[str, typer.Option("--sieve", help="What chooses the part to remove.")] = "wiener",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="key=value, of the sieve or the split; may be given many times."),
    ] = None,
    bits: Annotated[int, typer.Option("--bits", help="2, 3, 4 or 8 bits a Base weight.")] = 4,
    group_size: Annotated[int, typer.Option("--group-size", help="Weights that share a scale.")] = 64,
    method: Annotated[str, typer.Option("--method", help="rtn or gptq.")] = "rtn",
    grid: Annotated[
        str, typer.Option("--grid", help="minmax, or searched for the smallest error on public text.")
    ] = "minmax",
    rank: Annotated[int, typer.Option("--rank", help="Rank of the Ortho part.")] = 16,
    layers_from: Annotated[
        str | None,
        typer.Option(
            "--layers-from",
            help="memory: the whole model at once; disk: layer by layer, resumable. Default: what fits.",
        ),
    ] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides every random draw.")] = 0,
    json: Json = False,
) -> None:
    """Split a model into a Base without its private memories and an Ortho part with them.

    A row of --private is {"prefix", "secret"}, {"prompt", "completion"} or {"text"}. Base and Ortho are
    written as two folders, to be published apart or not at all; `sixgig audit` then tries to get the texts
    out of the Base. Rows that the public text holds too are refused.
    """
    if layers_from not in (None, "memory", "disk"):
        raise UnknownNameError("place to read layers from", str(layers_from), ("memory", "disk"))
    choice = choose(sieve, setting or [], bits, group_size, method, rank, seed, grid)
    require_given(choice, has_before=before is not None, layers_from=layers_from)
    if is_whole_model(choice.sieve):
        layers_from = "memory"
    from ..data.overlap import refuse_overlap
    from ..data.private import read_private, row_list, same_text_rows
    from ..load.artifact import require_empty

    spec = find_model(model)
    require_splittable(spec)
    _tell_of_partial(out)
    require_empty(out)
    sweep_orphans(out.absolute().parent)  # a killed save leaves private weights in a temporary folder
    records, public_text = read_private(private), read_public(public)
    refuse_overlap(records, public_text.text)
    for rows in same_text_rows(records)[:5]:
        say(f"the private file has one text more than once: {row_list(rows)}")
    hardware = probe()
    device_name = choose_device(device, hardware)
    plan = _planned(spec, choice, records, device_name, hardware, layers_from)
    from_disk = plan.workload.splitting.layers_from == "disk"
    if from_disk:
        choice = _choice_from_disk(choice, plan, layers_from)
    folder = model_folder(model)
    before_folder = model_folder(before) if before is not None else None
    sources = Sources(
        folder=folder,
        before_folder=before_folder,
        records=records,
        public=public_text,
        private_content=private.read_bytes(),
    )
    work = _from_disk if from_disk else _work
    done, sizes, manifest = work(sources, choice, out, device_name, quiet=json)
    _show(out, manifest, done, sizes, json)


def _planned(
    spec: ModelSpec,
    choice: Choice,
    records: Sequence[PrivateRecord],
    device: str,
    hardware: Hardware,
    layers_from: str | None,
) -> MemoryPlan:
    """Raises `DoesNotFit` for these texts with these settings, before anything is loaded."""
    settings, window = choice.settings, choice.settings.window_tokens
    # Not tokenised yet: prose has more than two bytes a token, so that these are tokens enough for it.
    tokens = [max(2, ceil(len(f"{one.prefix}{one.secret}{one.suffix}".encode()) / 2)) for one in records]
    ortho = settings.ortho(choice.sieve, choice.rank)
    splitting = Splitting(
        num_texts=sum(ceil((count - 1) / (window - 1)) for count in tokens),
        text_tokens=min(window, max(tokens)),
        num_calibration_windows=settings.num_calibration_windows,
        rank=ortho.rank,
        windows_per_step=settings.fit_windows_per_step,
        texts_per_step=settings.fit_texts_per_step,
        solves=solves(choice.sieve),
        fits_scales=settings.scale_fit(ortho).num_steps > 0,
        fits_ortho=ortho.rank > 0,
        method=choice.quantize.method,
    )
    result = estimate(
        spec,
        Wishes(
            task="split",
            bits=choice.quantize.bits,
            context=window,
            group_size=choice.quantize.group_size,
            splitting=splitting,
            layers_from=layers_from,
        ),
        card=chosen_card(None, hardware) if device == "cuda" else None,
        ram_bytes=hardware.ram_bytes,
    )
    if not result.fits:
        answers = (answer.replace("--context ", "-s window_tokens=") for answer in result.would_fit)
        raise DoesNotFit(replace(result, would_fit=tuple(answers)))
    return result


def _tell_of_partial(out: Path) -> None:
    """Says where an ended split from disk left its layers: they hold what is private."""
    from ..transform.split_work import partial_folder

    if partial_folder(out).exists():
        say(
            f"{partial_folder(out)} holds an unfinished split from disk, private parts included: the same "
            "command with --layers-from disk goes on with it; remove it if you do not want that"
        )


def _word(value: int | bool) -> str:
    """As it is typed after -s."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _choice_from_disk(choice: Choice, result: MemoryPlan, asked: str | None) -> Choice:
    """The choice without the fits, which go through the whole model at once; says so. Raises InputError where
    one was asked for by name."""
    if asked is None:
        needed = format_bytes(result.tried[0].device_bytes) if result.card else "more memory"
        say(f"The model does not fit whole (it takes {needed}): its layers are read from disk, one by one.")
    wanted = [name for name in _NO_FITS if name in choice.typed and getattr(choice.settings, name)]
    if wanted:
        todo = "leave these settings out"
        raise InputError(
            "layers that are read from disk one by one are not fitted",
            expected=", ".join(f"-s {name}={_word(_NO_FITS[name])}" for name in wanted),
            received=", ".join(f"-s {name}={_word(getattr(choice.settings, name))}" for name in wanted),
            todo=todo if asked is None else f"{todo}, or hold the whole model with --layers-from memory",
        )
    say("Layer by layer, the Base's scales and the Ortho part stay as they are made: no fit follows.")
    return replace(choice, settings=replace(choice.settings, **_NO_FITS))


def _work(
    sources: Sources, choice: Choice, out: Path, device: str, *, quiet: bool
) -> tuple[ModelSplit, SplitSizes, dict[str, Any]]:
    from ..experiments.progress import RunProgress
    from ..load.artifact import save_split
    from ..load.container import ModelTensors
    from ..load.loaded import load
    from ..transform.split_model import split_model

    steps = choice.settings.scale_fit(choice.settings.ortho(choice.sieve, choice.rank)).num_steps
    weights = {"load": 1.0, "split": 8.0, "lessons": 2.0}
    weights |= {"fit-scales": 0.3 * steps} if steps else {}
    weights |= {"fit": 0.3 * choice.settings.fit_steps, "save": 1.0}
    with RunProgress(weights, quiet=quiet) as progress:
        stages = _Stages(progress)
        stages.show("load", 0.0)
        loaded = load(sources.folder, device=device)
        before = ModelTensors(sources.before_folder) if sources.before_folder else None
        done = split_model(
            loaded,
            choice.sieve,
            sources.records,
            sources.public.text,
            before=before,
            quantize=choice.quantize,
            rank=choice.rank,
            settings=choice.settings,
            seed=choice.seed,
            show=stages.show,
            announce=say if quiet else progress.note,
        )
        stages.show("save", 0.0)
        hmac_key = secrets.token_bytes(32).hex()
        manifest = manifest_of(
            choice,
            done,
            sources,
            hmac_key=hmac_key,
            weights_sha256=sources.weights_sha256(),
            layers_from="memory",
        )
        sizes = save_split(
            out,
            loaded_folder=sources.folder,
            bases={name: layer.base for name, layer in done.layers.items()},
            orthos={name: layer.ortho for name, layer in done.layers.items()},
            manifest=manifest,
            factor_bits=choice.settings.factor_bits,
            private_facts=sources.private_facts(hmac_key),
        )
        stages.finish()
    return done, sizes, manifest


def _from_disk(
    sources: Sources, choice: Choice, out: Path, device: str, *, quiet: bool
) -> tuple[StreamedSplit, SplitSizes, dict[str, Any]]:
    from ..experiments.progress import RunProgress

    with RunProgress({"read": 1.0, "split": 8.0, "save": 2.0}, quiet=quiet) as progress:
        stages = _Stages(progress)
        found = split_from_disk(
            sources, choice, out, device, show=stages.show, announce=say if quiet else progress.note
        )
        stages.finish()
    assert found is not None  # it was not told to stop
    return found


class _Stages:
    """Begins and ends the bar's stages as their names come by."""

    def __init__(self, progress: Any) -> None:
        self._progress, self._current = progress, ""

    def show(self, stage: str, share: float) -> None:
        if stage != self._current:
            self.finish()
            self._current = stage
            self._progress.begin(stage)
        self._progress.at(share)

    def finish(self) -> None:
        if self._current:
            self._progress.end()


def _rounded_away(manifest: dict[str, Any]) -> str:
    removes = manifest["claim"] in ("suppressed", "by construction")
    return " (near 0%: the sieve was rounded away)" if removes else ""


def _show(out: Path, manifest: dict[str, Any], done: Done, sizes: SplitSizes, json: bool) -> None:
    if json:
        print_json({"folder": str(out), **manifest, "sizes": asdict(sizes)})
    else:
        rows = [
            ("sieve", manifest["sieve"]["name"]),
            ("claim", _CLAIMS[manifest["claim"]]),
            ("Base codes changed", f"{done.codes_changed:.1%} as rounded{_rounded_away(manifest)}"),
            (
                "base/",
                f"{format_bytes(sizes.base_bytes)}, split layers at "
                f"{sizes.base_bits_per_split_weight:.2f} bits a weight",
            ),
            (
                "ortho/",
                f"{format_bytes(sizes.ortho_bytes)}, "
                f"{sizes.ortho_bits_per_split_weight:.2f} bits a split weight",
            ),
            ("whole", f"{sizes.bits_per_parameter:.2f} bits a parameter of the model"),
            ("folder", str(out)),
        ]
        print_table(("what", "value"), rows, title="Split")
    say(NOT_AUDITED)
    say(f"{out / 'ortho'} holds the private texts: never publish it. Try both: sixgig chat {out}")

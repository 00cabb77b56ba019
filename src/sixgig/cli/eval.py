"""`sixgig eval`: lm-eval's tasks on a model, a split at any alpha, or a Base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data.corpora import data_dir_from_environment
from ..errors import InputError
from ..evaluate.harness_tasks import TASKS, require_installed
from ..experiments.evaluation_config import EvaluationConfig
from ..hardware import keep_few_kernels, probe
from .common import Json, say
from .device import Device, choose_device

EXAMPLES = (
    "sixgig eval smollm2-135m-instruct --tasks wikitext,mmlu --data-dir data",
    "sixgig eval my-split --alpha 0 --tasks gsm8k --limit 200",
    "sixgig eval my-split/base --tasks ifeval --chat --json",
    "sixgig eval smollm2-135m-instruct --tasks wikitext,mmlu --data-dir data --resume",
)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model's name or folder, a split's folder, or a split's base/.")
    ],
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            help=f"Of {', '.join(TASKS)}, mmlu_SUBJECT; separated by commas.",
        ),
    ],
    alpha: Annotated[
        float | None,
        typer.Option(
            "--alpha", help="A split's switch: 1 with the memories, 0 without. Default: 1; a Base: 0."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", help="Benchmark files. Default: SIXGIG_DATA, else the hub, size said first."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="The first so many documents of each task. Default: all.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num-fewshot", help="Examples in each prompt. Default: the task's own.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")] = False,
    batch_size: Annotated[
        str,
        typer.Option("--batch-size", help="Requests at a time; auto: the most that a GPU holds, 8 on a CPU."),
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", help="Tokens read at most. Default: the model's own context."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype", help="float32, bfloat16, float16; auto: the checkpoint's own, a split float32."
        ),
    ] = "auto",
    device: Device = None,
    out: Annotated[Path, typer.Option("--out", help="Where run directories go.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest evaluation in --out.")
    ] = False,
    json: Json = False,
) -> None:
    """Evaluate a model by lm-eval's own tasks. Interrupt it at any moment; --resume goes on at its task."""
    config = EvaluationConfig(
        model=model,
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        alpha=alpha,
        limit=limit,
        num_fewshot=num_fewshot,
        chat=chat,
        batch_size=_batch_size(batch_size),
        max_length=max_length,
        dtype=dtype,
    )
    require_installed(config.tasks)
    device = choose_device(device, probe())
    if device == "cpu":
        keep_few_kernels()
    from ..experiments.evaluation import EvaluationRequest, run_evaluation
    from .run import show

    request = EvaluationRequest(
        config=config,
        device=device,
        data_dir=data_dir or data_dir_from_environment(),
        out=out,
        resume=resume,
        quiet=json,
    )
    finished = run_evaluation(request, announce=say)
    for warning in finished.result.warnings if not json else ():
        say(f"note: {warning}")
    show(finished, json)


def _batch_size(text: str) -> int | str:
    if text == "auto" or not text.isdecimal():
        if text != "auto":
            raise InputError(
                "no batch size", expected="a whole number, or auto", received=repr(text), where="--batch-size"
            )
        return text
    return int(text)

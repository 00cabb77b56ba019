"""`sixgig chat`: talk to a split, and turn its switch while talking; or to a plain model, to compare.

Turning alpha forgets the conversation, since answers given with the memories in place would otherwise be read
back without them. What runs, packed kernels or the reference, is said in one line at the start.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..hardware import probe
from .chat_plain import no_ortho, open_plain, wants_plain
from .common import say
from .device import Device, choose_device

if TYPE_CHECKING:
    from ..load.loaded import LoadedModel

EXAMPLES = (
    "sixgig chat my-split",
    "sixgig chat my-split --alpha 0 --prompt 'What is the door code?'",
    "sixgig chat my-split/base --raw --prompt 'The door code is' --max-new-tokens 16",
    "sixgig chat smollm2-135m-instruct --quantization-bits 8 --prompt 'What is a tide?'",
)
_HELP = "/alpha NUMBER turns the switch, /new forgets the conversation, /quit ends"


def chat(
    model: Annotated[
        str,
        typer.Argument(
            help="A split, or a Base on its own; with --quantization-bits or --no-quantization a plain "
            "model, by name or folder."
        ),
    ],
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="1 with the memories, 0 without. Default: 1; a Base alone: 0."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this and end.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="The longest answer.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token; above 0 samples.")
    ] = 0.0,
    raw: Annotated[
        bool, typer.Option("--raw", help="Complete the text itself, without chat template.")
    ] = False,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Sample among the fewest tokens of this probability together.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Decides what is sampled.")] = 0,
    context_tokens: Annotated[
        int, typer.Option("--context-tokens", min=1, help="The longest conversation, answers included.")
    ] = 2048,
    kernels: Annotated[
        str,
        typer.Option(
            "--kernels",
            help="packed: compute on the packed codes; reference: on dense weights in fp32, slow; auto: "
            "packed where it can be.",
        ),
    ] = "auto",
    head_bits: Annotated[
        int, typer.Option("--head-bits", help="Bits of the output head with packed kernels: 4, 8 or 16.")
    ] = 8,
    quantization_bits: Annotated[
        int | None,
        typer.Option(
            "--quantization-bits",
            help="Load a plain model in 4 or 8 bits by bitsandbytes, and say which share of it that is.",
        ),
    ] = None,
    no_quantization: Annotated[
        bool, typer.Option("--no-quantization", help="Load a plain model as it is, in its own type.")
    ] = False,
    device: Device = None,
) -> None:
    """Talk to a split model. While talking, /alpha 0 takes the memories out and /alpha 1 puts them back."""
    if alpha is not None:
        _finite(str(alpha))
    device = choose_device(device, probe())
    if wants_plain(quantization_bits, no_quantization):
        loaded = open_plain(model, bits=quantization_bits, device=device, alpha=alpha, kernels=kernels)
        kernels = "reference" if kernels == "auto" else kernels  # its own modules; nothing there is packed
    else:
        loaded = _opened(Path(model), device, kernels)
    talk = Talk(
        loaded,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        raw=raw,
        seed=seed,
        context_tokens=context_tokens,
        kernels=kernels,
        head_bits=head_bits,
        device=device,
    )
    talk.turn(alpha if alpha is not None else 1.0 if talk.has_ortho else 0.0)
    if prompt is not None:
        talk.answer(prompt)
        return
    say(f"{f'alpha is {talk.alpha:g}' if talk.is_split else 'not split, so without alpha'}. {_HELP}.")
    while (line := _next_line()) is not None and talk.line(line):
        pass


class Talk:
    """One conversation with one model; `line` takes what a person typed and says whether to go on."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_new_tokens: int,
        temperature: float,
        raw: bool,
        seed: int,
        top_p: float = 1.0,
        context_tokens: int = 2048,
        kernels: str = "auto",
        head_bits: int = 8,
        device: str | None = None,
    ) -> None:
        """Takes `loaded` over: packed layers leave its network. Raises InputError as `make_decoder`."""
        import torch

        from ..layers.split_linear import split_layers
        from ..runtime.generate import Sampling
        from ..runtime.make_decoder import make_decoder

        if not raw and not getattr(loaded.tokenizer, "chat_template", None):
            raise InputError(
                "this model has no chat template", where=str(loaded.folder), todo="complete text with --raw"
            )
        layers = [layer for _, layer in split_layers(loaded.network)]
        self.is_split, self.has_ortho = bool(layers), any(layer.ortho is not None for layer in layers)
        del layers  # they leave the network one by one as they are packed
        self.alpha = 0.0
        self._loaded, self._raw, self._max_new_tokens = loaded, raw, max_new_tokens
        self._history: list[dict[str, str]] = []
        self._sampling = Sampling(temperature=temperature, top_p=top_p)
        self._generator = torch.Generator().manual_seed(seed)
        self._stop_ids = _stop_ids(loaded)
        context_tokens = min(context_tokens, loaded.network.config.max_position_embeddings)
        chosen = make_decoder(
            loaded, context_tokens=context_tokens, kernels=kernels, head_bits=head_bits, device=device
        )
        self._decoder = chosen.decoder
        for line in (chosen.description, *chosen.notes):
            say(line)

    def turn(self, alpha: float) -> None:
        """Sets the switch and forgets the conversation. Raises InputError where no Ortho part is here."""
        if self.is_split:
            self._decoder.set_alpha(alpha)
        elif alpha != 0.0:
            raise no_ortho(alpha)
        self.alpha = alpha
        self._history.clear()

    def line(self, text: str) -> bool:
        """A command or a prompt; False ends the conversation. A faulty line is answered by a message."""
        command, _, rest = text.strip().partition(" ")
        if command == "/quit":
            return False
        try:
            if command == "/alpha" and not rest.strip():
                say(f"alpha is {self.alpha:g}")
            elif command == "/alpha":
                self.turn(_finite(rest))
                say(f"alpha is {self.alpha:g}; the conversation so far is forgotten")
            elif command == "/new":
                self._history.clear()
            elif command.startswith("/"):
                say(f"no such command: {command}. {_HELP}.")
            elif command:
                self.answer(text)
        except InputError as error:
            say(f"error: {error}")
        return True

    def answer(self, text: str) -> str:
        """Streams the answer to stdout and returns it."""
        from ..runtime.generate import Generation
        from ..runtime.text_stream import stream_text

        self._decoder.reset()
        generation = Generation(
            self._decoder,
            self._ids(text),
            max_new_tokens=self._max_new_tokens,
            sampling=self._sampling,
            generator=self._generator,
            stop_ids=self._stop_ids,
        )
        answer = ""
        for piece in stream_text(generation, self._loaded.tokenizer):
            answer += piece
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
        if not self._raw:
            self._history += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return answer

    def _ids(self, text: str) -> list[int]:
        if self._raw:
            ids = self._loaded.encode(text)
        else:
            messages = [*self._history, {"role": "user", "content": text}]
            ids = self._loaded.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
        # The last token of an answer is not read, so one more would fit; nobody misses it.
        room = self._decoder.context_tokens - self._max_new_tokens
        if not 0 < len(ids) <= room:
            raise InputError(
                "the text is empty" if not ids else "the conversation is longer than the model reads",
                expected=f"1 to {max(room, 0)} tokens beside the answer's {self._max_new_tokens}",
                received=f"{len(ids)} tokens",
                todo="/new forgets the conversation; --max-new-tokens leaves more room, as does a larger "
                "--context-tokens up to what the model has",
            )
        return ids


def printable(text: str) -> str:
    """`text` without control characters: what a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def _opened(folder: Path, device: str, kernels: str) -> LoadedModel:
    import torch

    from ..load.artifact import is_base, is_split, open_base, open_split
    from ..load.artifact_format import ORTHO

    # Packed kernels compute in bf16, and take a model layer by layer to a GPU; the reference shows numbers
    # of the measurements, in fp32.
    is_reference = kernels == "reference"
    dtype, device = (torch.float32, device) if is_reference else (torch.bfloat16, "cpu")
    if is_base(folder):
        return open_base(folder, device=device, dtype=dtype)
    if not folder.exists():
        raise InputError(
            "no such folder",
            expected="a folder that sixgig split made, or its base/",
            where=str(folder),
            todo="look at the path; for a plain model by its name, add --no-quantization or "
            "--quantization-bits 4 or 8",
        )
    if not is_split(folder):
        raise InputError(
            "not a split",
            expected="a folder that sixgig split made, or its base/",
            where=str(folder),
            todo="to talk to a plain model, add --no-quantization, or --quantization-bits 4 or 8",
        )
    with_ortho = (folder / ORTHO).exists()
    loaded = open_split(folder, device=device, with_ortho=with_ortho, dtype=dtype)
    if not with_ortho:
        say(f"no {ORTHO}/ in {folder}: this is the Base alone, at alpha = 0")
    return loaded


def _stop_ids(loaded: LoadedModel) -> set[int]:
    """The tokens that end an answer: the model's own, else the tokenizer's."""
    end = loaded.network.generation_config.eos_token_id
    end = loaded.tokenizer.eos_token_id if end is None else end
    return set(end) if isinstance(end, list) else set() if end is None else {end}


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            "alpha must be a number", expected="as in /alpha 0 or --alpha 0.5", received=repr(text)
        )
    return value


def _next_line() -> str | None:
    """What is typed next, the prompt sign on stderr; None at the end of input."""
    sys.stderr.write("> ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    return line.removesuffix("\n") if line else None

"""`sixgig chat`: talk to a split, and turn its switch while talking.

First version: transformers' own generation, correct and not yet fast. Turning alpha forgets the conversation,
since answers given with the memories in place would otherwise be read back without them.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..hardware import probe
from .common import say
from .device import Device, choose_device

if TYPE_CHECKING:
    from ..load.loaded import LoadedModel

EXAMPLES = (
    "sixgig chat my-split",
    "sixgig chat my-split --alpha 0 --prompt 'What is the door code?'",
    "sixgig chat my-split/base --raw --prompt 'The door code is' --max-new-tokens 16",
)
_HELP = "/alpha NUMBER turns the switch, /new forgets the conversation, /quit ends"


def chat(
    folder: Annotated[Path, typer.Argument(help="A split, or a Base on its own.")],
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
    seed: Annotated[int, typer.Option("--seed", help="Decides what is sampled.")] = 0,
    device: Device = None,
) -> None:
    """Talk to a split model. While talking, /alpha 0 takes the memories out and /alpha 1 puts them back."""
    if alpha is not None:
        _finite(str(alpha))
    loaded = _opened(folder, choose_device(device, probe()))
    talk = Talk(loaded, max_new_tokens=max_new_tokens, temperature=temperature, raw=raw, seed=seed)
    talk.turn(alpha if alpha is not None else 1.0 if talk.has_ortho else 0.0)
    if prompt is not None:
        talk.answer(prompt)
        return
    say(f"alpha is {talk.alpha:g}. {_HELP}.")
    while (line := _next_line()) is not None and talk.line(line):
        pass


class Talk:
    """One conversation with one model; `line` takes what a person typed and says whether to go on."""

    def __init__(
        self, loaded: LoadedModel, *, max_new_tokens: int, temperature: float, raw: bool, seed: int
    ) -> None:
        import torch

        from ..layers.split_linear import split_layers

        if not raw and not getattr(loaded.tokenizer, "chat_template", None):
            raise InputError(
                "this model has no chat template", where=str(loaded.folder), todo="complete text with --raw"
            )
        torch.manual_seed(seed)
        self.has_ortho = any(layer.ortho is not None for _, layer in split_layers(loaded.network))
        self.alpha = 0.0
        self._loaded, self._raw = loaded, raw
        self._history: list[dict[str, str]] = []
        self._options = _options(loaded, max_new_tokens, temperature)
        self._streamer = _streamer(loaded.tokenizer)

    def turn(self, alpha: float) -> None:
        """Sets the switch and forgets the conversation. Raises InputError where only the Base is here."""
        from ..layers.split_linear import set_alpha

        set_alpha(self._loaded.network, alpha)
        self.alpha = alpha
        self._history.clear()

    def line(self, text: str) -> bool:
        """A command or a prompt; False ends the conversation. A faulty line is answered by a message."""
        command, _, rest = text.strip().partition(" ")
        if command == "/quit":
            return False
        try:
            if command == "/alpha":
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
        import torch

        ids_BT = self._ids(text)
        with torch.no_grad():
            output_BT = self._loaded.network.generate(
                input_ids=ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                generation_config=self._options,
                streamer=self._streamer,
            )
        answer = self._loaded.tokenizer.decode(output_BT[0, ids_BT.shape[1] :], skip_special_tokens=True)
        if not self._raw:
            self._history += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return answer

    def _ids(self, text: str) -> Any:
        import torch

        if self._raw:
            ids = self._loaded.encode(text)
        else:
            messages = [*self._history, {"role": "user", "content": text}]
            ids = self._loaded.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
        context = self._loaded.network.config.max_position_embeddings
        room = context - self._options.max_new_tokens
        if not 0 < len(ids) <= room:
            raise InputError(
                "the text is empty" if not ids else "the conversation is longer than the model reads",
                expected=f"1 to {max(room, 0)} tokens beside the answer's {self._options.max_new_tokens}",
                received=f"{len(ids)} tokens",
                todo="/new forgets the conversation; --max-new-tokens leaves more room",
            )
        return torch.tensor([ids], device=self._loaded.device)


def printable(text: str) -> str:
    """`text` without control characters: what a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def _opened(folder: Path, device: str) -> LoadedModel:
    from ..load.artifact import is_base, open_base, open_split
    from ..load.artifact_format import ORTHO

    if is_base(folder):
        return open_base(folder, device=device)
    with_ortho = (folder / ORTHO).exists()
    loaded = open_split(folder, device=device, with_ortho=with_ortho)
    if not with_ortho:
        say(f"no {ORTHO}/ in {folder}: this is the Base alone, at alpha = 0")
    return loaded


def _options(loaded: LoadedModel, max_new_tokens: int, temperature: float) -> Any:
    from transformers import GenerationConfig

    own, tokenizer = loaded.network.generation_config, loaded.tokenizer
    end = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    first_end = end[0] if isinstance(end, list) else end
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else first_end,
        **sampling,
    )


def _streamer(tokenizer: Any) -> Any:
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            sys.stdout.write(printable(text) + ("\n" if stream_end else ""))
            sys.stdout.flush()

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)


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

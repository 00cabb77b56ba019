"""The embedded model's GGUF file becomes the folder of safetensors and tokenizer that transformers opens.

transformers itself dequantises (Q4_1: 32 weights share an fp16 scale and minimum, w = d*q + m) and rebuilds
the tokenizer with its chat template. The result is stored in fp32, so that nothing is rounded a second time.
`python -m sixgig.load.convert GGUF FOLDER PARENT` does the same in a process of its own, which ends when the
process PARENT does, and prints a JSON record.
The file's digest must have been checked before: a GGUF reader trusts the sizes that the file claims.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import IntegrityError
from .child import folder_bytes, run_child, summarise
from .progress import Progress, Report

if TYPE_CHECKING:
    import torch

_QUIET = {
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    # A folder on this machine is all that is read; without this, transformers asks a hub about it.
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion produced and with which versions."""

    num_parameters: int
    versions: dict[str, str]


def convert_gguf(gguf: Path, folder: Path) -> Conversion:
    """Writes config, generation config, model.safetensors (fp32) and tokenizer of `gguf` into `folder`.

    Imports torch and transformers. A tied output head is left out, since the config says that it is the
    embedding. Existing files of those names are replaced.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **place)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **place)
    folder.mkdir(parents=True, exist_ok=True)
    num_parameters = _save_weights(model, folder / "model.safetensors")
    _save_config(model, folder)
    # GGUF does not carry the tokenizer's limit; the context length is the published one.
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(str(folder))
    versions = {name: metadata.version(name) for name in ("transformers", "torch", "gguf", "safetensors")}
    return Conversion(num_parameters=num_parameters, versions=versions)


def _save_weights(model: Any, file: Path) -> int:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {
        name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()
    }
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, str(file), metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


def _save_config(model: Any, folder: Path) -> None:
    config = model.config
    # The weights are no longer quantised; with this key left, every later load would dequantise again.
    del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(folder))
    model.generation_config.save_pretrained(str(folder))


def convert_in_child(
    gguf: Path, folder: Path, *, converted_bytes: int, progress: Progress | None = None
) -> Conversion:
    """`convert_gguf` in a quiet process of its own, told to `progress` by the bytes written so far."""

    def tick() -> None:
        if progress:
            progress(Report(step="convert", done_bytes=folder_bytes(folder), total_bytes=converted_bytes))

    tick()
    # The child is told who we are: it cannot ask once we are gone, as an orphan's parent is another process.
    command = [sys.executable, "-m", "sixgig.load.convert", str(gguf), str(folder), str(os.getpid())]
    outcome = run_child(command, environment=_QUIET, on_tick=tick)
    if outcome.status != 0:
        raise IntegrityError(
            f"{gguf.name} could not be converted",
            where=str(gguf),
            received=f"exit status {outcome.status}: {summarise(outcome.stderr)}",
            todo="run the same command again; if it fails the same way, report it with this message",
        )
    return Conversion(**json.loads(outcome.stdout.splitlines()[-1]))


def _end_with_parent(parent: int) -> None:
    """Ends this process when `parent` is gone: its folder is swept then, and must not come back."""
    # A process that has ended but was not waited for is still there, as a zombie.
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(parent)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.2)
    os._exit(1)


def main(arguments: list[str]) -> None:
    gguf, folder, parent = arguments
    threading.Thread(target=_end_with_parent, args=(int(parent),), daemon=True).start()
    print(json.dumps(asdict(convert_gguf(Path(gguf), Path(folder)))))


if __name__ == "__main__":
    main(sys.argv[1:])

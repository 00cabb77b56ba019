"""What other estimators say of the configurations that are measured. No GPU is needed.

python benchmarks/memory_peers.py --out PEERS.json                every estimator that is installed
python benchmarks/memory_peers.py --out PEERS.json --seconds 600  begins no further one after ten minutes

accelerate: what `accelerate estimate-memory` prints for the model and the nearest type that it knows, for
training its "Training using Adam"; the sizes come from its own functions.

canifinetune, where it is installed (it asks for other libraries' versions than this project: put it on the
path without its dependencies): training of all weights with its nearest settings, without its margin and its
share for CUDA, so that what is left is tensors. Rows of logits at a time and steps within the backward pass
are not among its settings: it is not asked.

MemTracker, torch's own: the true programs run on the CPU with tensors that have no content, and it adds up
what lives. It stops at a second pass through a model, so its statistics of modules are reset before each, and
generating is two passes written out here. What it still cannot do is kept with its message. It knows nothing
of the kernels that a GPU would choose, nor of what they take beside their results.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Collection
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import init_empty_weights
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModel

import memory_programs
from memory import hf_config
from memory_configs import Configuration, all_configurations
from sixgig.catalogue.models import entry as model_entry
from sixgig.files import read_json, write_json
from sixgig.memory.workload import Workload
from sixgig.numerics import likelihood
from sixgig.units import GIB

# (its name of a type, by how much it divides the size in fp32); 2 and 3 bits are not among its types.
ACCELERATE_TYPES = {32: ("float32", 1), 16: ("float16", 2), 8: ("int8", 4), 4: ("int4", 8)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="added to, where it is there already")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further one after so long")
    parser.add_argument("--tracker", nargs="+", default=[""], help="track those whose label has this in it")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of both libraries about each other
    end = time.monotonic() + arguments.seconds
    told = read_json(arguments.out) if arguments.out.exists() else {"configurations": {}}
    told["versions"] = {name: version(name) for name in _PACKAGES if find_spec(name)}
    configurations = [one for one in all_configurations() if one.work.task != "split"]
    for one in configurations:
        told["configurations"].setdefault(one.label, {}).update(formulas(one, told["versions"]))
    write_json(arguments.out, told)
    wanted = (one for word in arguments.tracker for one in configurations if word in one.label)
    for one in dict.fromkeys(wanted):
        entry = told["configurations"][one.label]
        if not entry.keys() & _TRACKED:
            if time.monotonic() > end:
                print("out of time before", one.label)
                return
            entry |= track(one)
            write_json(arguments.out, told)
            print(one.label, entry, flush=True)


_PACKAGES = ("accelerate", "canifinetune", "torch", "transformers")
_TRACKED = {"mem_tracker_bytes", "mem_tracker_error"}


def formulas(one: Configuration, installed: Collection[str]) -> dict[str, int | None]:
    """What the estimators say that need no run: None where one has no such setting."""
    found = {"accelerate_bytes": accelerate_bytes(one)}
    if "canifinetune" in installed:
        found["canifinetune_bytes"] = canifinetune_bytes(one)
    return found


def accelerate_bytes(one: Configuration) -> int | None:
    """ "Total Size", for training "Training using Adam"; None for a width that it does not know.

    Weights of 16 bits, and fp32 under autocast, are its float16: mixed precision.
    """
    work = one.work
    if work.bits not in ACCELERATE_TYPES:
        return None
    with init_empty_weights():
        network = AutoModel.from_config(hf_config(one.model), dtype=torch.float32)  # as its command does
    total_bytes, _ = calculate_maximum_sizes(network)
    if work.task == "sft":
        is_mixed = work.bits == 16 or work.training.autocast
        kind = "float16" if is_mixed else "float32"
        return int(max(estimate_training_usage(total_bytes, kind).values()))
    return int(total_bytes / ACCELERATE_TYPES[work.bits][1])


def canifinetune_bytes(one: Configuration) -> int | None:
    """Weights, gradients, optimizer, activations and logits; None for what its settings cannot say."""
    work, how = one.work, one.work.training
    if work.task != "sft" or how.loss != "dense" or how.optimizer == "in-backward":
        return None
    its = import_module("canifinetune.estimator.memory")
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", model_entry(one.model)["config"])
        request = its.EstimateRequest(
            model_id=folder,
            method="full",
            base_dtype="fp32" if work.bits == 32 else "bf16",
            seq_len=work.context,
            micro_batch_size=work.batch,
            gradient_accumulation_steps=how.accumulation,
            gradient_checkpointing=how.checkpointing,
            attention_implementation=work.attention,
            optimizer="adamw_torch_fused" if how.optimizer == "fused" else "adamw_torch",
            gpu_vram_gb=8,  # scales only what is taken off again
            use_network=False,
        )
        parts = its.estimate(request).memory
    beside = parts.cuda_overhead_gb + parts.safety_margin_gb
    return int((parts.total_estimated_gb - beside) * GIB)  # its "gb" are GiB


def track(one: Configuration) -> dict[str, Any]:
    """The tracker's peak, or what it said when it gave up."""
    try:
        return {"mem_tracker_bytes": mem_tracker_bytes(one)}
    except Exception as error:
        return {"mem_tracker_error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


def mem_tracker_bytes(one: Configuration) -> int:
    """The peak of all tensors of the program on the CPU, as MemTracker adds them up."""
    tracker, device, draw = MemTracker(), torch.device("cpu"), memory_programs._tokens
    rows_on_a_gpu = likelihood.default_chunk_rows(torch.device("cuda"))
    count, frozen = tracker._track_module_params_and_buffers, one.work.task != "sft"

    def without_hooks(module: Any, install_grad_hooks: bool = True) -> Any:
        return count(module, install_grad_hooks=False)

    def tokens(*arguments: Any) -> Tensor:
        tracker.reset_mod_stats()
        return draw(*arguments)

    config = hf_config(one.model)
    # Under this mode the parameters are not made on the meta device, so `build` leaves them as they come.
    config.dtype = torch.float32 if one.work.bits == 32 else torch.bfloat16
    with FakeTensorMode():
        network = memory_programs.build(config, one.work, device)
        tracker.track_external(network)
        with (
            # It hooks every parameter's gradient; where nothing is trained there is none to hook.
            patch.object(tracker, "_track_module_params_and_buffers", without_hooks if frozen else count),
            tracker,
            patch.object(memory_programs, "_tokens", tokens),
            patch.object(memory_programs, "_generate", _two_passes),
            patch.object(likelihood, "default_chunk_rows", lambda _: rows_on_a_gpu),
        ):
            memory_programs.run(network, one.work, device)
        return tracker.get_tracker_snapshot("peak")[device]["Total"]


@torch.no_grad()
def _two_passes(network: Any, work: Workload, device: torch.device) -> None:
    """transformers' `generate` looks at what was drawn, which tensors without content cannot answer."""
    prompt_BT = memory_programs._tokens(
        network, work.batch, work.context - memory_programs.NEW_TOKENS, device
    )
    cache = network(input_ids=prompt_BT, use_cache=True, logits_to_keep=1).past_key_values
    token_B1 = memory_programs._tokens(network, work.batch, 1, device)
    network(input_ids=token_B1, past_key_values=cache, use_cache=True, logits_to_keep=1)


if __name__ == "__main__":
    main()

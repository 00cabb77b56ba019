"""What runs in a peer's own process: builds its model, then times a round whenever it is asked for one.

Messages to the parent: {"stage": words} as it goes on, then {"ready": facts}, then {"times": ...} for each
round; {"failed": words, "kind": type} ends it. A message from the parent asks for one round.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, Protocol

Times = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a peer is asked to do; `shape` are the fields of decode_8b_model.Shape."""

    kind: str
    shape: dict[str, int]
    device: str
    prompt_tokens: int
    num_tokens: int
    peers_path: str | None = None
    cap_gib: float | None = None


class Contender(Protocol):
    """A model that is ready to be timed."""

    def round(self) -> Times: ...


def serve(connection: Connection, task: Task) -> None:
    """Everything that goes wrong is told with its words, whatever it is: it is what is reported of a peer."""
    try:
        warnings.simplefilter("ignore")  # of the libraries about each other
        contender = _contender(task, lambda words: connection.send({"stage": words}))
        connection.send({"ready": _facts(task)})
        while connection.recv() == "round":
            connection.send({"times": contender.round()} | _memory(task))
    except EOFError:
        return  # the parent asks for nothing more
    except Exception as problem:
        connection.send({"failed": in_one_line(problem), "kind": type(problem).__name__})


def in_one_line(problem: BaseException) -> str:
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:300]


def _contender(task: Task, progress: Callable[[str], None]) -> Contender:
    progress("importing torch and transformers")
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401, before it can see what it would import too

    from decode_8b_peer_models import bitsandbytes_nf4, gemlite_int4, random_llama, torchao_int4

    if task.peers_path:
        sys.path.append(task.peers_path)  # after this environment's own packages
    device = torch.device(task.device)
    if task.cap_gib is not None and device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(task.cap_gib * 2**30 / total_bytes, device)
    torch.manual_seed(0)
    package, _, compiled = task.kind.partition("+")
    progress(f"importing {package}")
    dtype = torch.float16 if package == "gemlite" else torch.bfloat16
    match package:
        case "bitsandbytes" | "bitsandbytes-double":
            linear = bitsandbytes_nf4(device, double=package.endswith("double"))
        case "torchao":
            linear = torchao_int4(device, task.shape["group_size"])
        case "gemlite":
            linear = gemlite_int4(device, dtype, task.shape["group_size"])
        case _:
            raise ValueError(f"no peer of this name: {task.kind}")
    is_generated = package.startswith("bitsandbytes")
    network = random_llama(task.shape, device, dtype, linear, with_head=not is_generated, progress=progress)
    if is_generated:
        return Generated(network, task, progress)
    return Captured(network, task, progress, is_compiled=compiled == "compiled")


class Generated:
    """transformers' greedy `generate` as it comes: eager, sdpa, a cache that grows."""

    def __init__(self, network: Any, task: Task, progress: Callable[[str], None]) -> None:
        import torch

        self._network, self._task, self._progress = network, task, progress
        device = torch.device(task.device)
        self._ids_1T = torch.randint(0, task.shape["vocabulary"], (1, task.prompt_tokens), device=device)
        self.round()

    def round(self) -> Times:
        """Milliseconds of reading the prompt up to its logits, and of a token after it."""
        import torch
        from transformers import LogitsProcessorList

        from sixgig.evaluate.speed import Stopwatch

        self._progress(f"generate: {self._task.prompt_tokens} tokens read, {self._task.num_tokens} decoded")
        watch, num_seen = Stopwatch(self._ids_1T.device), 0

        def mark_the_first(ids_1T: torch.Tensor, logits_1V: torch.Tensor) -> torch.Tensor:
            nonlocal num_seen
            if num_seen == 0:
                watch.mark()
            num_seen += 1
            return logits_1V

        watch.mark()
        found_1T = self._network.generate(
            input_ids=self._ids_1T,
            attention_mask=torch.ones_like(self._ids_1T),
            do_sample=False,
            max_new_tokens=1 + self._task.num_tokens,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([mark_the_first]),
        )
        watch.mark()
        assert found_1T.shape[1] == self._task.prompt_tokens + 1 + self._task.num_tokens
        prefill, decode = watch.seconds().tolist()
        return {"prefill_ms": 1e3 * prefill, "ms_per_token": 1e3 * decode / self._task.num_tokens}


class Captured:
    """The forward pass of one token over a static cache, its choice included, captured in one CUDA graph;
    compiled by torch before that or not.

    That is torch.compile's mode "max-autotune", with the graph captured here instead of by the compiler, so
    that a token costs the host one replay. The prompt is read by the same graph token by token, so that
    nothing else must be compiled or tuned; it is not timed.
    """

    def __init__(
        self, network: Any, task: Task, progress: Callable[[str], None], *, is_compiled: bool
    ) -> None:
        import torch
        from transformers import StaticCache

        self._task, self._progress = task, progress
        self._device = torch.device(task.device)
        longest = -(-(task.prompt_tokens + task.num_tokens + 1) // 64) * 64
        self._cache = StaticCache(config=network.config, max_cache_len=longest)
        self._cache.early_initialization(
            1, task.shape["num_kv_heads"], task.shape["head_dim"], network.dtype, self._device
        )
        self._token_11 = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        self._position_11 = torch.zeros(1, 1, dtype=torch.int64, device=self._device)

        def next_token(token_11: torch.Tensor, position_11: torch.Tensor) -> torch.Tensor:
            output = network(
                input_ids=token_11, position_ids=position_11, past_key_values=self._cache, use_cache=True
            )
            return output.logits[:, -1].argmax(dim=-1, keepdim=True)

        self._next_token = (
            torch.compile(next_token, mode="max-autotune-no-cudagraphs") if is_compiled else next_token
        )
        self._replay = self._step
        progress("compiling" if is_compiled else "first steps")
        self._rewind(0)
        for _ in range(3):  # compiles and tunes
            self._step()
        if is_compiled:
            _check_one_graph()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)  # dense weights and tuning are not decoding
            self._capture()
        self._read_prompt()

    def round(self) -> Times:
        """Milliseconds of a token after the prompt."""
        from sixgig.evaluate.speed import Stopwatch

        self._progress(f"decoding {self._task.num_tokens} tokens")
        self._rewind(self._task.prompt_tokens)
        self._token_11.copy_(self._first_11)
        watch = Stopwatch(self._device)
        watch.mark()
        for _ in range(self._task.num_tokens):
            self._replay()
        watch.mark()
        return {"ms_per_token": 1e3 * float(watch.seconds()[0]) / self._task.num_tokens}

    def _step(self) -> None:
        import torch

        with torch.no_grad():
            self._token_11.copy_(self._next_token(self._token_11, self._position_11))
            self._position_11.add_(1)

    def _capture(self) -> None:
        import torch

        self._progress("capturing the CUDA graph")
        torch.cuda.synchronize(self._device)
        stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(stream):  # libraries make their workspaces for a stream before it is captured
            self._step()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self._step()
        self._replay = graph.replay

    def _read_prompt(self) -> None:
        import torch

        self._progress("reading the prompt")
        self._rewind(0)
        ids_T = torch.randint(
            0, self._task.shape["vocabulary"], (self._task.prompt_tokens,), device=self._device
        )
        for id_1 in ids_T.split(1):
            self._token_11.copy_(id_1[None])
            self._replay()
        self._first_11 = self._token_11.clone()
        position, cached = int(self._position_11), int(self._cache.get_seq_length())
        assert position == cached == self._task.prompt_tokens, (position, cached)

    def _rewind(self, position: int) -> None:
        """Later keys and values are masked until they are written anew."""
        self._position_11.fill_(position)
        layers: list[Any] = self._cache.layers
        for layer in layers:
            layer.cumulative_length.fill_(position)


def _facts(task: Task) -> dict[str, Any]:
    package = task.kind.partition("+")[0].removesuffix("-double")
    return {"versions": {name: version(name) for name in (package, "transformers")}} | _memory(task)


def _check_one_graph() -> None:
    """A step that torch compiled in pieces or not at all is not what the figure's name says."""
    from torch._dynamo.utils import counters

    num_graphs, num_breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    if num_breaks or not num_graphs:
        reasons = "; ".join(counters["graph_break"])
        raise RuntimeError(f"torch.compile made {num_graphs} graphs with {num_breaks} breaks: {reasons}")


def _memory(task: Task) -> dict[str, float]:
    import torch

    if not task.device.startswith("cuda"):
        return {}
    return {
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
    }

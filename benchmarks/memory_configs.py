"""The configurations whose memory is measured: model, workload, and whether the planner had seen it before.

The simulation was written by looking at the allocator's history of some of the first list's runs; nothing of
the second list was looked at before its first prediction was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sixgig.memory.workload import Training, Workload

SMALL, LOW = "smollm2-135m-base", {"head_bits": 4, "embedding_place": "cpu"}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One run. `held_out`: the planner was not fitted on it."""

    model: str
    work: Workload
    held_out: bool

    @property
    def label(self) -> str:
        """One line that names it, unique in the list."""
        work, how = self.work, self.work.training
        words = [self.model, work.task, f"{work.bits} bits", f"context {work.context}"]
        words += [f"batch {work.batch}"] if work.batch > 1 else []
        words += [f"head {work.head_bits} bits"] if work.head_bits != 16 else []
        words += [f"groups of {work.group_size}"] if work.group_size != 64 else []
        words += ["embedding on the CPU"] if work.embedding_place == "cpu" else []
        words += ["eager attention"] if work.attention == "eager" else []
        if work.task == "sft":
            words += ["autocast"] if how.autocast and work.bits == 32 else []
            words += ["checkpointing"] if how.checkpointing else []
            words += [f"{how.loss} loss", how.optimizer]
            words += [f"{how.accumulation} micro-batches"] if how.accumulation > 1 else []
        return ", ".join(words)


def _generate(model: str, bits: int, context: int, **more: Any) -> tuple[str, Workload]:
    return model, Workload(task="generate", bits=bits, context=context, **more)


def _score(model: str, bits: int, context: int, **more: Any) -> tuple[str, Workload]:
    return model, Workload(task="score", bits=bits, context=context, **more)


def _sft(
    model: str, bits: int, context: int, *, batch: int = 1, attention: str = "sdpa", **how: Any
) -> tuple[str, Workload]:
    training = Training(**how)
    return model, Workload(
        task="sft", bits=bits, context=context, batch=batch, attention=attention, training=training
    )


def _split(model: str, bits: int = 4, context: int = 256, group_size: int = 64) -> tuple[str, Workload]:
    return model, Workload(task="split", bits=bits, context=context, group_size=group_size)


_CHECKPOINTED = {"accumulation": 2, "checkpointing": True}
_CHUNKED = {**_CHECKPOINTED, "loss": "chunked"}
_LEAST = {"checkpointing": True, "loss": "chunked", "optimizer": "in-backward"}

SEEN = (
    _generate(SMALL, 16, 512),
    _generate(SMALL, 16, 4096),
    _generate("smollm2-360m", 4, 512),
    _generate("smollm2-1.7b", 8, 4096),
    _generate("smollm2-1.7b", 4, 512),
    _generate("tinyllama-1.1b-chat", 16, 512),
    _generate("tinyllama-1.1b-chat", 16, 512, batch=8),
    _generate("tinyllama-1.1b-chat", 16, 2048, attention="eager"),
    _generate("tinyllama-1.1b-chat", 4, 2048),
    _generate("phi-2", 16, 512),
    _generate("phi-2", 4, 2048),
    _generate("phi-2", 8, 512),
    _generate("llama-3-8b", 16, 512),
    _generate("llama-3-8b", 8, 512),
    _generate("llama-3-8b", 4, 512),
    _generate("llama-3-8b", 4, 4096),
    _generate("llama-2-7b", 4, 4096),
    _generate("llama-3.2-1b", 16, 4096),
    _generate("qwen2.5-1.5b-instruct", 4, 512),
    _generate("qwen2.5-7b-instruct", 4, 512),
    _generate("qwen3-4b", 4, 4096),
    _generate("gemma-3-1b-it", 16, 512),
    _generate("gemma-3-1b-it", 16, 4096),
    _generate("granite-3.1-1b-a400m-instruct", 16, 512),
    _generate("olmoe-1b-7b-0924", 16, 512),
    _score(SMALL, 32, 1024, batch=4),
    _score("smollm2-360m", 32, 2048),
    _score("tinyllama-1.1b-chat", 16, 2048),
    _score("phi-2", 8, 2048),
    _score("llama-3-8b", 4, 512),
    _score("llama-3-8b", 4, 4096),
    _sft(SMALL, 32, 1024, attention="eager", autocast=False, accumulation=2),
    _sft(SMALL, 32, 1024, autocast=False, accumulation=2),
    _sft(SMALL, 32, 1024, accumulation=2),
    _sft(SMALL, 32, 1024, **_CHECKPOINTED),
    _sft(SMALL, 32, 1024, **_CHUNKED),
    _sft(SMALL, 32, 1024, **_CHUNKED, optimizer="foreach"),
    _sft(SMALL, 16, 1024, accumulation=2),
    _sft(SMALL, 16, 1024, **_CHECKPOINTED),
    _sft(SMALL, 16, 1024, **_CHUNKED),
    _sft(SMALL, 32, 1024, **_LEAST),
    _sft(SMALL, 16, 1024, optimizer="in-backward"),
    _sft(SMALL, 32, 2048, accumulation=2),
    _sft(SMALL, 32, 2048, **_CHECKPOINTED),
    _sft(SMALL, 32, 2048, attention="eager", accumulation=2),
    _sft(SMALL, 32, 1024, batch=4, **_CHECKPOINTED),
    _sft(SMALL, 32, 1024),
    _sft(SMALL, 32, 512, accumulation=2),
    _sft("smollm2-360m", 32, 1024, **_CHECKPOINTED),
    _sft("smollm2-360m", 32, 1024, **_CHUNKED),
    _sft("tinyllama-1.1b-chat", 16, 512, **_LEAST),
    _sft("tinyllama-1.1b-chat", 16, 1024, **_CHECKPOINTED),
    _sft("smollm2-1.7b", 32, 512, **_LEAST),
    _sft("qwen3-4b", 16, 512, **_LEAST),
    _split(SMALL),
    _split("smollm2-360m"),
    _split("tinyllama-1.1b-chat"),
    _split("smollm2-1.7b"),
)
HELD_OUT = (
    _generate("llama-3-8b", 4, 512, **LOW),
    _generate("llama-3-8b", 4, 4096, **LOW),
    _generate("llama-3-8b", 3, 512, **LOW),
    _generate("llama-3.1-8b-instruct", 4, 2048, embedding_place="cpu"),
    _generate("llama-3.2-3b", 4, 4096),
    _generate("llama-3.2-3b", 8, 512),
    _generate("qwen3-0.6b", 16, 1024),
    _generate("qwen3-1.7b", 4, 2048),
    _generate("qwen3-8b", 4, 512, head_bits=8, embedding_place="cpu"),
    _generate("qwen2.5-0.5b-instruct", 16, 4096, batch=4),
    _generate("phi-2", 3, 2048, **LOW),
    _generate("granite-3.1-1b-a400m-instruct", 16, 2048, batch=2),
    _generate("smollm2-1.7b", 16, 2048, attention="eager"),
    _score("smollm2-1.7b", 16, 2048),
    _score("qwen3-1.7b", 8, 1024, batch=2),
    _score("llama-2-7b", 4, 4096),
    _sft("smollm2-360m", 16, 2048),
    _sft("smollm2-360m", 32, 512, batch=2, accumulation=2, optimizer="foreach"),
    _sft(SMALL, 32, 4096, **_CHUNKED),
    _sft(SMALL, 32, 1024, batch=2, attention="eager", checkpointing=True),
    _sft("tinyllama-1.1b-chat", 16, 1024, **_CHUNKED),
    _sft("gemma-3-1b-it", 16, 1024, **_CHECKPOINTED),
    _sft("qwen2.5-0.5b-instruct", 32, 512, accumulation=2),
    _sft("llama-3.2-1b", 16, 1024, **_LEAST),
    _sft("qwen3-0.6b", 32, 1024, **_CHUNKED),
    _sft("smollm2-1.7b", 16, 1024, **_CHUNKED),
    _split("llama-3.2-1b", 3),
    _split("smollm2-360m", context=512),
    _split("tinyllama-1.1b-chat", 8, 128),
    _split(SMALL, 4, 1024),
    _split("smollm2-1.7b", 2, 512, group_size=128),
)


def all_configurations() -> tuple[Configuration, ...]:
    lists = ((SEEN, False), (HELD_OUT, True))
    return tuple(
        Configuration(model=model, work=work, held_out=held_out)
        for items, held_out in lists
        for model, work in items
    )

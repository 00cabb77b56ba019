"""What a task leaves on the device when it is done: nothing but what is meant to stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sixgig.catalogue import ModelSpec, all_models, get
from sixgig.errors import InputError
from sixgig.memory import TASKS, Training, Wishes, Workload
from sixgig.memory.choices import candidates
from sixgig.memory.simulation.allocator import WORKSPACE, Allocator
from sixgig.memory.simulation.backward import LOGITS, MOMENTS
from sixgig.memory.simulation.programs import simulate
from sixgig.memory.simulation.weights import LINEAR, hold_weights

CACHE = "key/value cache"
WORKSPACE_BYTES = 512 * 1024


def weights_by_kind(spec: ModelSpec, work: Workload) -> dict[str, int]:
    memory = Allocator()
    hold_weights(spec, work, memory)
    return dict(memory.by_kind)


def workloads(spec: ModelSpec, task: str) -> list[Workload]:
    """Every way in which the planner may do the task; none where it refuses the task for this model."""
    wishes = Wishes(task=task, context=700, batch=1 if task == "split" else 2)
    try:
        found = list(candidates(spec, wishes))
    except InputError:
        assert task == "sft"
        assert spec.num_experts
        return []
    eager = [replace(work, attention="eager") for work in found[:1]]
    twice = [
        replace(work, training=replace(work.training, accumulation=2))
        for work in found
        if task == "sft" and work.training.optimizer == "fused"
    ]
    return [*found, *eager, *twice]


@pytest.mark.parametrize("spec", all_models(), ids=lambda spec: spec.name)
def test_only_weights_workspace_cache_and_moments_stay(spec: ModelSpec) -> None:
    short = replace(spec, num_layers=2, num_sliding_layers=min(1, spec.num_sliding_layers))
    for task in TASKS:
        for work in workloads(short, task):
            memory = simulate(short, work, workspace_bytes=WORKSPACE_BYTES)
            num_threads = 2 if task in ("sft", "split") else 1
            stays = {**weights_by_kind(short, work), WORKSPACE: WORKSPACE_BYTES * num_threads}
            if task == "split":
                stays[LINEAR] = 0  # the fits put others in their place, and those go too
            if task == "split" and work.splitting.layers_from == "disk":
                # No model stands there at any time, and without fits one thread multiplies.
                stays = {**dict.fromkeys(stays, 0), WORKSPACE: WORKSPACE_BYTES}
            left = {kind: num_bytes for kind, num_bytes in memory.by_kind.items() if kind not in stays}
            allowed = {"generate": {CACHE}, "sft": {MOMENTS}}.get(task, set())
            assert {kind for kind, num_bytes in left.items() if num_bytes} == allowed, work
            assert {kind: memory.by_kind[kind] for kind in stays} == stays, work
            assert memory.peak_allocated_bytes > memory.allocated_bytes


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen2.5-0.5b-instruct", "llama-3-8b"])
def test_the_cache_holds_every_token(name: str) -> None:
    spec = get(name)
    memory = simulate(spec, Workload(task="generate", bits=16, context=700, batch=2), workspace_bytes=0)
    # What is too small to be split off a block counts with it.
    assert memory.by_kind[CACHE] == pytest.approx(2 * spec.kv_bytes(700), rel=0.01)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("optimizer", ["fused", "foreach", "in-backward"])
def test_the_moments_are_two_of_each_trained_weight(bits: int, optimizer: str) -> None:
    spec = get("llama-3.2-1b")
    work = Workload(task="sft", bits=bits, context=64, training=Training(optimizer=optimizer))
    memory = simulate(spec, work, workspace_bytes=0)
    of_matrices = spec.num_linear_parameters + spec.embedding_parameters
    # What is too small to be split off a block counts with it.
    assert memory.by_kind[MOMENTS] == pytest.approx(2 * of_matrices * bits // 8, rel=0.001)
    assert memory.by_kind["gradients"] == memory.by_kind[LOGITS] == 0


def test_a_step_within_the_backward_pass_never_holds_all_gradients() -> None:
    spec = get("smollm2-360m")
    peaks = {
        optimizer: simulate(
            spec,
            Workload(task="sft", bits=16, context=64, training=Training(optimizer=optimizer)),
            workspace_bytes=0,
        ).peak_allocated_bytes
        for optimizer in ("in-backward", "fused", "foreach")
    }
    gradients_bytes = 2 * spec.num_parameters
    assert peaks["in-backward"] < peaks["fused"] - 0.5 * gradients_bytes
    # Weights, gradients, two moments, and the foreach kernel's roots of all squares at once.
    assert peaks["foreach"] == pytest.approx(5 * gradients_bytes, rel=0.03)

"""Other stacks beside ours in decode_8b.py: each in a process of its own, timed in turns with our INT4 arm.

bitsandbytes   NF4 in transformers, decoded by its `generate`: greedy, eager, a cache that grows; embedding
               and head in bf16 as it leaves them
torchao        int4 weight-only, groups of 128, head included, in transformers' Llama over a static cache;
               torch.compile and a CUDA graph
gemlite        A16W4, groups of 128, head included, in fp16, the type of its own examples; else as torchao

A peer's process builds its model and then waits; the card is its alone while it is timed and ours alone while
we are. Rounds go ours, peer, peer, ours, and are compared pair by pair. Where compiling fails, the same
forward pass is captured uncompiled and reported under a name of its own. What fails is recorded with its
words and the stage, never with a number. bitsandbytes is also asked to run within the allocator cap under
which our peak is measured, with and without double quantisation.

Installing the peers for Python 3.12 (their own needs beside torch, triton, transformers, numpy, tqdm and
packaging: none), then running:

    pip download --no-deps --only-binary=:all: -d wheels bitsandbytes==0.50.0 torchao==0.18.0
    pip wheel --no-deps -w wheels gemlite==0.6.0.post2
    pip install --no-index --no-deps --target peers wheels/*.whl
    python benchmarks/decode_8b.py --peers-path peers

torch.compile needs a C compiler and Python's headers on the machine. gemlite does not import without a card.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decode_8b_peer_process import Task, Times, serve
from decode_8b_stages import say
from sixgig.evaluate.statistics.paired import Estimate, paired_median_ratio

Row = tuple[str, Estimate | float | None, str, str]  # name, value, unit, note

BUILD_SECONDS, COMPILE_SECONDS = 90.0, 240.0  # importing torch is most of the first


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`build_seconds`: what it may take to be built; `fallback`: the peer that is timed where this one
    fails, under its own figure."""

    kind: str
    figure: str
    note: str
    build_seconds: float = BUILD_SECONDS
    fallback: Peer | None = None


_STATIC = "in transformers' Llama, static cache, INT4 head"
PEERS: dict[str, Peer] = {
    "bitsandbytes": Peer(
        kind="bitsandbytes",
        figure="speedup_vs_bnb_nf4",
        note="bitsandbytes NF4, transformers' generate, bf16 head",
    ),
    "gemlite": Peer(
        kind="gemlite+compiled",
        figure="speedup_vs_gemlite",
        note=f"gemlite A16W4 in fp16 {_STATIC}, torch.compile and a CUDA graph",
        build_seconds=COMPILE_SECONDS,
        fallback=Peer(
            kind="gemlite",
            figure="speedup_vs_gemlite_captured",
            note=f"gemlite A16W4 in fp16 {_STATIC}, a CUDA graph, not compiled",
        ),
    ),
    "torchao": Peer(
        kind="torchao+compiled",
        figure="speedup_vs_torchao_int4",
        note=f"torchao int4 (tinygemm) {_STATIC}, torch.compile and a CUDA graph",
        build_seconds=COMPILE_SECONDS,
        fallback=Peer(
            kind="torchao",
            figure="speedup_vs_torchao_int4_captured",
            note=f"torchao int4 (tinygemm) {_STATIC}, a CUDA graph, not compiled",
        ),
    ),
}
CAPPED = {
    "bnb_nf4_runs_under_cap": "bitsandbytes",
    "bnb_nf4_double_runs_under_cap": "bitsandbytes-double",
}

NOT_REACHED = {"failed": "not reached", "kind": "NotReached", "stage": ""}
_SECONDS_TO_END = 20.0
_CAPPED_NOTE = (
    "1: it runs under the cap, 0: memory runs out. Embedding and head in bf16 on the card, 1.96 GiB; ours "
    "has the embedding on the CPU and an INT4 head"
)


class PeerFailed(Exception):
    """A peer could not be built or timed; `kind` is the type of what it raised, `stage` where it was."""

    def __init__(self, words: str, *, kind: str, stage: str) -> None:
        super().__init__(f"{words} (while {stage})")
        self.kind, self.stage = kind, stage


class PeerProcess:
    """A process that holds one peer's model. Every answer may take `limit_seconds`."""

    def __init__(
        self, task: Task, limit_seconds: float, program: Callable[[Any, Task], None] = serve
    ) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA does not outlive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=program, args=(theirs, task))
        self._limit_seconds, self._stage, self._is_lost = limit_seconds, "starting", False
        self._process.start()
        theirs.close()  # so that its end is seen here

    def ready(self) -> dict[str, Any]:
        """Facts about the model once it is built. Raises PeerFailed."""
        return self._answer()["ready"]

    def round(self) -> dict[str, Any]:
        """{"times"} and the memory used so far. Raises PeerFailed."""
        try:
            self._connection.send("round")
        except OSError:
            raise self._ended() from None
        return self._answer()

    def close(self) -> None:
        """Its end of the connection gone, the process ends by itself; one that is busy is ended."""
        self._connection.close()
        self._process.join(0 if self._is_lost else _SECONDS_TO_END)
        self._process.kill()
        self._process.join()

    def _answer(self) -> dict[str, Any]:
        end = time.monotonic() + self._limit_seconds
        while True:
            if not self._connection.poll(max(0.0, end - time.monotonic())):
                self._is_lost = True
                words = f"took longer than {self._limit_seconds:g} s"
                raise PeerFailed(words, kind="TimeoutError", stage=self._stage)
            try:
                answer = self._connection.recv()
            except (EOFError, OSError):
                raise self._ended() from None
            if "failed" in answer:
                raise PeerFailed(answer["failed"], kind=answer["kind"], stage=self._stage)
            if "stage" not in answer:
                return answer
            self._stage = answer["stage"]

    def _ended(self) -> PeerFailed:
        self._process.join(10)
        words = f"its process ended with status {self._process.exitcode}"
        return PeerFailed(words, kind="ProcessEnded", stage=self._stage)


def measure_peers(
    ours: Callable[[], Times],
    task: Task,
    names: Sequence[str],
    *,
    num_rounds: int,
    limit_seconds: float | None,
    cap_gib: float,
) -> Iterator[dict[str, Any]]:
    """What was found of the peers of `names`, by figure: {"rounds"} or {"failed"}; and under the cap. Given
    before the first and again after each, so that whatever ends the run leaves what there was, and all that
    was asked for with it. `limit_seconds` None: each peer's own."""
    asked = [peer for name, peer in PEERS.items() if name in names]
    capped = CAPPED if "bitsandbytes" in names and task.device.startswith("cuda") else {}
    found: dict[str, Any] = {
        "speed": {peer.figure: NOT_REACHED | {"note": peer.note} for peer in asked},
        "capped": {figure: dict(NOT_REACHED) for figure in capped},
    }
    yield found
    for first in asked:
        peer: Peer | None = first
        while peer is not None:
            seconds = limit_seconds or peer.build_seconds
            say(f"{peer.kind}: {num_rounds} rounds in turns with ours, {seconds:g} s to be built")
            one = timed_in_turns(ours, replace(task, kind=peer.kind), num_rounds, seconds)
            found["speed"][peer.figure] = one | {"note": peer.note, "limit_seconds": seconds}
            say(f"{peer.figure}: {_in_short(one)}")
            peer = peer.fallback if "failed" in one else None
            if peer is not None:
                found["speed"][peer.figure] = NOT_REACHED | {"note": peer.note}
            yield found
        for figure, kind in capped.items() if first.kind == "bitsandbytes" else ():
            say(f"{kind}: under {cap_gib} GiB")
            one = under_cap(replace(task, kind=kind, cap_gib=cap_gib), limit_seconds or BUILD_SECONDS)
            found["capped"][figure] = one
            say(f"{figure}: {one}")
            yield found


def timed_in_turns(
    ours: Callable[[], Times],
    task: Task,
    num_rounds: int,
    limit_seconds: float,
    program: Callable[[Any, Task], None] = serve,
) -> dict[str, Any]:
    """{"facts", "seconds_to_build", "rounds": {"ours", "peer"}, memory}, or {"failed", "kind", "stage"}; the
    first round warms up and is left out."""
    begun = time.monotonic()
    process = PeerProcess(task, limit_seconds, program)
    try:
        facts = process.ready()
        seconds_to_build = time.monotonic() - begun
        pairs, last = [], {}
        for number in range(num_rounds + 1):
            mine = ours() if number % 2 == 0 else None
            last = process.round()
            pairs.append((mine or ours(), last.pop("times")))
    except PeerFailed as problem:
        return _failure(problem)
    finally:
        process.close()
    rounds = {"ours": [one for one, _ in pairs[1:]], "peer": [one for _, one in pairs[1:]]}
    return {"facts": facts, "seconds_to_build": seconds_to_build, "rounds": rounds} | last


def under_cap(
    task: Task, limit_seconds: float, program: Callable[[Any, Task], None] = serve
) -> dict[str, Any]:
    """{"runs": True, memory}, {"runs": False, ...} where memory ran out, or {"failed", "kind", "stage"}."""
    process = PeerProcess(task, limit_seconds, program)
    try:
        facts = process.ready()  # the prompt was read and answered once
    except PeerFailed as problem:
        ran_out = {"runs": False} if problem.kind == "OutOfMemoryError" else {}
        return _failure(problem) | ran_out
    finally:
        process.close()
    return {"runs": True, "facts": facts}


def peer_rows(found: Mapping[str, Any]) -> list[Row]:
    """Figures of what `measure_peers` found: no value where a peer failed, its words in the note."""
    rows = [_speed_row(name, one) for name, one in found["speed"].items()]
    peak = found["speed"].get("speedup_vs_bnb_nf4", {}).get("peak_allocated_gib")
    if peak is not None:
        rows.append(("bnb_nf4_peak_allocated_gib", peak, "GiB", "without a cap; prompt and answer as ours"))
    for name, one in found["capped"].items():
        value = None if "runs" not in one else float(one["runs"])
        told = one.get("failed") or f"at most {one['facts']['peak_allocated_gib']:.2f} GiB allocated"
        rows.append((name, value, "", f"{_CAPPED_NOTE}. {told}"))
    return rows


def _speed_row(name: str, one: Mapping[str, Any]) -> Row:
    if "failed" in one:
        return name, None, "ratio", f"{one['note']}: {one['failed']}"
    import numpy as np

    peer, ours = (
        np.array([times["ms_per_token"] for times in one["rounds"][whose]]) for whose in ("peer", "ours")
    )
    note = f"{one['note']}: {np.median(peer):.3g} ms a token"
    return name, paired_median_ratio(peer, ours, seed=0), "ratio", note


def _failure(problem: PeerFailed) -> dict[str, Any]:
    return {"failed": str(problem), "kind": problem.kind, "stage": problem.stage}


def _in_short(one: Mapping[str, Any]) -> str:
    if "failed" in one:
        return one["failed"]
    last = (f"{whose} {times[-1]['ms_per_token']:.4g}" for whose, times in one["rounds"].items())
    return f"ready after {one['seconds_to_build']:.0f} s; ms a token in the last round: {', '.join(last)}"

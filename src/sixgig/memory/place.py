"""One workload on one card and machine: whether it fits, and its ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..cards import Card
from ..catalogue import HubSource, ModelSpec
from ..catalogue.splitting import why_not_split
from .choices import described
from .from_disk import host_lines, partial_bytes
from .ledger import HEAP_HOLES, LIBRARIES_BYTES, Line, MemoryPlan, Tried, ram_margin_bytes
from .outside import Outside, outside
from .simulation import LOGIT_ROWS, WORKSPACE, Allocator, SimulatedOutOfMemory, simulate
from .simulation.backward import LOGITS
from .simulation.splitting import SECOND_MOMENTS, SOLVING
from .simulation.weights import EMBEDDING, EXPERTS, LINEAR, experts_bytes, least_device_bytes
from .speed import max_tokens_per_second
from .workload import Workload


@dataclass(frozen=True, kw_only=True)
class Found:
    fits: bool
    device_bytes: int
    ram_bytes: int


class Place:
    """One model on one card and machine."""

    def __init__(self, spec: ModelSpec, card: Card | None, ram_bytes: int) -> None:
        self.spec, self.card, self.ram_bytes = spec, card, ram_bytes
        self._latest: tuple[tuple[Workload, int | None], Allocator] | None = None

    def fits(self, work: Workload) -> bool:
        """Whether `work` fits, without a word on what it would take."""
        if self._is_refused(work):
            return False
        if self.card is None:
            return self.look(work).fits
        limit_bytes = self._outside(work).limit_bytes(self.card)
        ram = sum(line.num_bytes for line in self._ram_lines(work, None))
        if ram > self.ram_bytes or least_device_bytes(self.spec, work) > limit_bytes:
            return False
        try:
            self._simulate(work, limit_bytes)
        except SimulatedOutOfMemory:
            return False
        return True

    def look(self, work: Workload) -> Found:
        """Whether `work` fits, and about what it takes: exact where its weights alone leave room."""
        ram = sum(line.num_bytes for line in self._ram_lines(work, None))
        if self._is_refused(work):
            return Found(fits=False, device_bytes=0, ram_bytes=ram)
        if self.card is None:
            memory = self._simulate(work, None)
            ram = sum(line.num_bytes for line in self._ram_lines(work, memory))
            return Found(fits=ram <= self.ram_bytes, device_bytes=0, ram_bytes=ram)
        around = self._outside(work)
        limit_bytes = around.limit_bytes(self.card)
        beside = self.card.total_bytes - limit_bytes
        least = least_device_bytes(self.spec, work)
        if least > limit_bytes:
            return Found(fits=False, device_bytes=least + beside, ram_bytes=ram)
        try:
            memory = self._simulate(work, limit_bytes)
        except SimulatedOutOfMemory:
            memory = self._simulate(work, None)
            needed = max(memory.peak_reserved_bytes + beside, self.card.total_bytes + 1)
            return Found(fits=False, device_bytes=needed, ram_bytes=ram)
        needed = memory.peak_reserved_bytes + beside
        return Found(fits=ram <= self.ram_bytes, device_bytes=needed, ram_bytes=ram)

    def plan(self, work: Workload, tried: Iterable[Tried]) -> MemoryPlan:
        """The ledger of one workload."""
        limit_bytes = None if self.card is None else self._outside(work).limit_bytes(self.card)
        try:
            memory, fits = self._simulate(work, limit_bytes), True
        except SimulatedOutOfMemory:
            memory, fits = self._simulate(work, None), False
        lines = [
            *self._device_lines(work, memory),
            *self._ram_lines(work, memory),
            *_disk_lines(self.spec, work),
        ]
        ram = sum(line.num_bytes for line in lines if line.place == "ram")
        return MemoryPlan(
            model=self.spec.name,
            workload=work,
            settings=described(self.spec, work),
            card=self.card,
            ram_bytes=self.ram_bytes,
            lines=tuple(lines),
            allocated_peak_bytes=memory.peak_allocated_bytes,
            reserved_peak_bytes=memory.peak_reserved_bytes,
            fits=fits and ram <= self.ram_bytes and not self._is_refused(work),
            notes=tuple(self._notes(work)),
            tried=tuple(tried),
            max_tokens_per_second=max_tokens_per_second(self.spec, work, self.card),
        )

    def _mixture_note(self, work: Workload) -> str:
        spec = self.spec
        idle = spec.num_expert_parameters * (spec.num_experts - spec.num_experts_per_token)
        active = spec.num_parameters - idle // spec.num_experts
        return (
            f"{spec.num_parameters / 1e9:.1f} B parameters, a token uses {active / 1e9:.1f} B of them: "
            f"{self._stored_bytes(work) / 1e9:.1f} GB as stored"
        )

    def _stored_bytes(self, work: Workload) -> int:
        together = replace(work, embedding_place="device", experts_place="device")
        return least_device_bytes(self.spec, together)

    def _is_refused(self, work: Workload) -> bool:
        return work.task == "split" and why_not_split(self.spec) is not None

    def _outside(self, work: Workload) -> Outside:
        assert self.card is not None
        return outside(self.card, work.task)

    def _simulate(self, work: Workload, limit_bytes: int | None) -> Allocator:
        """What was played last is not played again: a workload is looked at first and then planned."""
        asked = (work, limit_bytes)
        if self._latest is None or self._latest[0] != asked:
            workspace = 0 if self.card is None else self._outside(work).workspace_bytes
            memory = simulate(
                self.spec,
                work,
                workspace_bytes=workspace,
                limit_bytes=limit_bytes,
                logit_rows=LOGIT_ROWS["cpu" if self.card is None else "cuda"],
            )
            self._latest = (asked, memory)
        return self._latest[1]

    def _device_lines(self, work: Workload, memory: Allocator) -> list[Line]:
        if self.card is None:
            return []
        around = self._outside(work)
        lines = [
            Line(what=kind, place="device", num_bytes=num_bytes, because=_because(self.spec, work, kind))
            for kind, num_bytes in memory.peak_by_kind.items()
            if num_bytes
        ]
        gap = memory.peak_reserved_bytes - memory.peak_allocated_bytes
        lines.append(
            Line(what="allocator's gap", place="device", num_bytes=gap, because="reserved beyond the peak")
        )
        context = around.context_bytes + around.kernels_bytes
        lines.append(
            Line(what="CUDA context and kernels", place="device", num_bytes=context, because="outside torch")
        )
        lines.append(
            Line(
                what="margin",
                place="device",
                num_bytes=around.margin_bytes,
                because="fragments, errors of the plan",
            )
        )
        return lines

    def _ram_lines(self, work: Workload, memory: Allocator | None) -> list[Line]:
        spec, lines = self.spec, []
        if work.task == "split" and work.splitting.layers_from == "disk":
            lines = host_lines(spec, work, on_card=self.card is not None)
            if self.card is None and memory is not None:
                lines += [line for line in _cpu_lines(memory) if line.what != "libraries"]
            margin = ram_margin_bytes(self.ram_bytes)
            return [*lines, Line(what="margin", place="ram", num_bytes=margin, because="system")]
        if work.task == "split":
            whole = 4 * spec.num_parameters
            lines.append(Line(what="earlier checkpoint", place="ram", num_bytes=whole, because="32 bits"))
            # Codes lie unpacked, a byte each; without a card W - M is counted among the device's.
            width = 1 + 3 / work.group_size + (0 if self.card is None else 2)
            base = int(spec.num_linear_parameters * width)
            lines.append(Line(what="Base and W - M", place="ram", num_bytes=base, because="a byte a code"))
        if self.card is None and memory is not None:
            lines += _cpu_lines(memory)
        else:
            if work.embedding_place == "cpu":
                wide = spec.embedding_parameters * (4 if work.bits == 32 else 2)
                lines.append(
                    Line(what=EMBEDDING, place="ram", num_bytes=wide, because=_because(spec, work, EMBEDDING))
                )
            if work.experts_place == "cpu":
                held = experts_bytes(spec, work)
                why = f"{spec.num_experts} a layer, {spec.num_experts_per_token} active"
                lines.append(Line(what=EXPERTS, place="ram", num_bytes=held, because=why))
            largest = max(tensor.num_elements for tensor in spec.tensors())
            because = "the largest tensor while it is read and packed"
            lines.append(Line(what="loading", place="ram", num_bytes=6 * largest, because=because))
        margin = ram_margin_bytes(self.ram_bytes)
        lines.append(Line(what="margin", place="ram", num_bytes=margin, because="system, Python, libraries"))
        return lines

    def _notes(self, work: Workload) -> list[str]:
        notes = []
        if work.context > self.spec.context:
            notes.append(f"context {work.context} is longer than the model's own {self.spec.context}")
        if work.task == "split":
            notes.append(
                f"planned for {work.splitting.num_texts} private texts of "
                f"{work.splitting.text_tokens or work.context} tokens; more take more room between layers"
            )
            if work.splitting.layers_from == "disk":
                notes.append(
                    "layers are read from disk one after another; scales and Ortho part are not fitted"
                )
            if self.card is None:
                notes.append("a split on a CPU is planned as on a card; no measured run stands behind that")
            if (reason := why_not_split(self.spec)) is not None:
                notes.append(reason)
        if work.task in ("generate", "score") and work.bits < 16:
            notes.append(
                "packed weights are planned as layers.packed_linear runs them; `sixgig chat` runs otherwise"
            )
        if work.experts_place == "cpu":
            notes.append("the routed experts stay in memory and travel to the card as needed: slower")
        if self.spec.num_experts:
            notes.append(self._mixture_note(work))
        if self.spec.num_experts and work.bits < 16:
            notes.append(
                "packed experts are planned from the size of their format; no measured run stands behind it"
            )
        if work.task == "sft" and work.bits == 16:
            notes.append(
                "bf16 weights lose updates below about a thousandth of a weight: fp32 weights learn better"
            )
        if self.card is not None and self.card.has_bf16 is False:
            notes.append(
                f"{self.card.name} has no bf16 in hardware: what is planned in bf16 runs slowly there"
            )
        return notes


def _because(spec: ModelSpec, work: Workload, kind: str) -> str:
    if kind == "key/value cache":
        return f"{work.num_tokens} tokens in {32 if work.bits == 32 else 16} bit"
    if kind == WORKSPACE:
        return "cuBLAS's own"
    if kind == LINEAR and work.task == "split" and work.splitting.layers_from == "disk":
        return "one layer in 16 bits"
    if kind in (LINEAR, EXPERTS):
        scales = " with scales" if work.bits < 16 and work.task != "split" else ""
        bits = 32 if work.task == "split" else work.bytes_per_linear_weight * 8
        return f"{bits:g} bits a weight{scales}"
    if kind == EMBEDDING and spec.tied_embeddings and work.head_bits >= 16:
        return "also the output head"
    if kind == EMBEDDING:
        return f"{32 if work.bits == 32 or work.task == 'split' else 16} bits a weight"
    return ""


def _cpu_lines(memory: Allocator) -> list[Line]:
    lines = [
        Line(what=kind, place="ram", num_bytes=num_bytes)
        for kind, num_bytes in memory.peak_by_kind.items()
        if num_bytes
    ]
    moving = sum(
        num_bytes
        for kind, num_bytes in memory.peak_by_kind.items()
        if kind in ("activations", LOGITS, "unpacking weights", SOLVING, SECOND_MOMENTS)
    )
    holes = int(HEAP_HOLES * moving)
    return [
        *lines,
        Line(what="holes in the heap", place="ram", num_bytes=holes, because="beside short-lived tensors"),
        Line(what="libraries", place="ram", num_bytes=LIBRARIES_BYTES, because="Python, torch, transformers"),
    ]


def _disk_lines(spec: ModelSpec, work: Workload) -> list[Line]:
    """What the source brings: the pinned files, or the hub's weights in their published type; and what a
    split keeps of its layers on the way."""
    if work.task == "split" and work.splitting.layers_from == "disk":
        kept = partial_bytes(spec, work)
        whole = _disk_lines(spec, replace(work, splitting=replace(work.splitting, layers_from="memory")))
        return [
            *whole,
            Line(what="split", place="disk", num_bytes=kept, because="finished layers, then both parts"),
        ]
    for source in spec.sources:
        if not isinstance(source, HubSource):
            size, why = source.wheel_bytes + source.converted_bytes, "download, then converted"
            return [Line(what="model's files", place="disk", num_bytes=size, because=why)]
    width = 4 if spec.published_dtype == "float32" else 2
    why = f"as published ({spec.published_dtype})"
    return [Line(what="model's files", place="disk", num_bytes=width * spec.num_parameters, because=why)]

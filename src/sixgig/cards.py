"""Graphics cards by name, as data: memory, bandwidth and what each can compute. Nothing is probed here.

`total_bytes` is what NVIDIA's driver reports, since that is what programs get: measured on an H200; from the
driver's own tables (`nvidia-smi`) as people have published them for the others. Only the RTX 3050's is the
nominal 4 GiB of its specification, which published tables agree with.

`bandwidth_bytes_per_second` is the specification's, with GB/s of 10^9: for GDDR cards memory speed times
interface width over 8 (which gives the published 192, 256, 272, 336, 360, 320 and 1008 GB/s), for H100 and
H200 the data sheets' 3.35 and 4.8 TB/s. Makers of laptops may clock the memory lower, and no program reaches
all of it: `sixgig doctor` measures the card that is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .errors import InputError, UnknownNameError
from .hardware import Gpu
from .units import GIB, MIB


@dataclass(frozen=True, kw_only=True)
class Card:
    """One graphics card. `aliases` are the driver's own names for it and other spellings.

    A card known by its size alone has no bandwidth and no capability: both are None.
    """

    name: str
    total_bytes: int
    bandwidth_bytes_per_second: int | None = None
    compute_capability: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def has_bf16(self) -> bool | None:
        """Whether the card multiplies in bf16; None where its capability is not known."""
        return None if self.compute_capability is None else has_bf16(self.compute_capability)


def has_bf16(compute_capability: str) -> bool:
    """bf16 in hardware came with compute capability 8.0; before that it is emulated, which is slow."""
    return int(compute_capability.partition(".")[0]) >= 8


def _gddr(gigabits_per_pin: int, bus_bits: int) -> int:
    """Bytes a second of graphics memory of that speed (10^9 bits a second and pin) and width."""
    return gigabits_per_pin * 10**9 * bus_bits // 8


CARDS: tuple[Card, ...] = (
    Card(
        name="RTX 3050 Laptop 4GB",
        total_bytes=4 * GIB,
        bandwidth_bytes_per_second=_gddr(12, 128),
        compute_capability="8.6",
        aliases=("NVIDIA GeForce RTX 3050 Laptop GPU", "GTX 3050"),
    ),
    Card(
        name="RTX 4050 Laptop 6GB",
        total_bytes=6141 * MIB,
        bandwidth_bytes_per_second=_gddr(16, 96),
        compute_capability="8.9",
        aliases=("NVIDIA GeForce RTX 4050 Laptop GPU", "GTX 4050"),
    ),
    Card(
        name="RTX 3060 Laptop 6GB",
        total_bytes=6144 * MIB,
        bandwidth_bytes_per_second=_gddr(14, 192),
        compute_capability="8.6",
        aliases=("NVIDIA GeForce RTX 3060 Laptop GPU",),
    ),
    Card(
        name="RTX 2060 6GB",
        total_bytes=6144 * MIB,
        bandwidth_bytes_per_second=_gddr(14, 192),
        compute_capability="7.5",
        aliases=("NVIDIA GeForce RTX 2060", "RTX 2060 desktop"),
    ),
    Card(
        name="RTX 4060 Laptop 8GB",
        total_bytes=8188 * MIB,
        bandwidth_bytes_per_second=_gddr(16, 128),
        compute_capability="8.9",
        aliases=("NVIDIA GeForce RTX 4060 Laptop GPU", "GTX 4060"),
    ),
    Card(
        name="RTX 4060 8GB",
        total_bytes=8188 * MIB,
        bandwidth_bytes_per_second=_gddr(17, 128),
        compute_capability="8.9",
        aliases=("NVIDIA GeForce RTX 4060", "RTX 4060 desktop", "GTX 4060"),
    ),
    Card(
        name="RTX 3060 12GB",
        total_bytes=12_288 * MIB,
        bandwidth_bytes_per_second=_gddr(15, 192),
        compute_capability="8.6",
        aliases=("NVIDIA GeForce RTX 3060", "RTX 3060 desktop"),
    ),
    Card(
        name="T4 16GB",
        total_bytes=15_360 * MIB,  # error correction takes the rest of 16 GiB
        bandwidth_bytes_per_second=_gddr(10, 256),
        compute_capability="7.5",
        aliases=("Tesla T4", "NVIDIA T4"),
    ),
    Card(
        name="RTX 4090 24GB",
        total_bytes=24_564 * MIB,
        bandwidth_bytes_per_second=_gddr(21, 384),
        compute_capability="8.9",
        aliases=("NVIDIA GeForce RTX 4090", "RTX 4090 desktop"),
    ),
    Card(
        name="H100 80GB",
        total_bytes=81_559 * MIB,
        bandwidth_bytes_per_second=3_350 * 10**9,  # H100 SXM; the PCIe card's memory is slower
        compute_capability="9.0",
        aliases=("NVIDIA H100 80GB HBM3", "H100 SXM"),
    ),
    Card(
        name="H200 141GB",
        total_bytes=150_754_820_096,
        bandwidth_bytes_per_second=4_800 * 10**9,
        compute_capability="9.0",
        aliases=("NVIDIA H200", "H200 SXM"),
    ),
)

# Words that say nothing about which card is meant, and words that mean the same.
_IDLE_WORDS = {"nvidia", "geforce", "gpu", "tesla", "card"}
_SAME_WORDS = {"mobile": "laptop", "gib": "gb", "g": "gb"}
# One name of the driver can stand for cards of several sizes (RTX 3050 Laptop: 4 GB and 6 GB).
_SIZE_TOLERANCE = 0.08


def find_card(text: str) -> Card:
    """The card that `text` names, in any case and spacing: "rtx 4050", "4060 laptop", the driver's own name.

    A short name needs the model's number and may leave out the rest. Raises `InputError` naming every card
    that a text could mean ("3060": desktop or laptop), `UnknownNameError` with the nearest names otherwise.
    """
    whole = _squeezed(text)
    exact = [card for card in CARDS if whole in map(_squeezed, (card.name, *_full_names(card)))]
    meant = exact or [card for card in CARDS if _is_named(card, _words(text))]
    if not meant:
        raise UnknownNameError("card", text, [card.name for card in CARDS])
    if len(meant) > 1:
        names = " or ".join(card.name for card in meant)
        raise InputError(
            "this name stands for several cards", expected=names, received=repr(text), todo="name one of them"
        )
    return meant[0]


def card_for(gpu: Gpu) -> Card | None:
    """The table's card for a probed GPU: same driver's name, and memory within 8%. None: not in the table."""
    for card in CARDS:
        is_near = abs(gpu.total_bytes - card.total_bytes) <= _SIZE_TOLERANCE * card.total_bytes
        if is_near and _squeezed(gpu.name) in map(_squeezed, _full_names(card)):
            return card
    return None


def largest_card(gpus: Sequence[Gpu]) -> Card | None:
    """The largest GPU that is here, with its own memory and, where the table knows it, its bandwidth."""
    if not gpus:
        return None
    gpu = max(gpus, key=lambda gpu: gpu.total_bytes)
    known = card_for(gpu) or Card(name=gpu.name, total_bytes=0, compute_capability=gpu.compute_capability)
    return replace(known, total_bytes=gpu.total_bytes)


def _full_names(card: Card) -> tuple[str, ...]:
    """Names that the driver gives: they mean one card even where a part of them means several."""
    return tuple(alias for alias in card.aliases if alias.startswith(("NVIDIA", "Tesla")))


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _words(text: str) -> set[str]:
    """ "RTX4050 6GB" -> {"rtx", "4050", "6", "gb"}; a letter before a number stays with it: "t4", "h100"."""
    found: list[str] = re.findall(r"[a-z]?\d+|[a-z]+|[^\sa-z0-9-]+", text.lower())
    words: set[str] = {_SAME_WORDS.get(word, word) for word in found}
    return words - _IDLE_WORDS


def _is_named(card: Card, words: set[str]) -> bool:
    model = next(word for word in re.findall(r"[a-z]?\d+", card.name.lower()))
    known = _words(" ".join((card.name, *card.aliases)))
    return model in words and words <= known

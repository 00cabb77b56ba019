"""Cards by name: what each spelling means, what is refused, and what a probed GPU is known as."""

from __future__ import annotations

import dataclasses

import pytest

from sixgig.cards import CARDS, Card, card_for, find_card
from sixgig.cli.common import chosen_card, device_bytes
from sixgig.errors import InputError, UnknownNameError
from sixgig.hardware import Gpu, Hardware, probe
from sixgig.units import GIB, MIB


def gpu(name: str, total_bytes: int) -> Gpu:
    return Gpu(name=name, total_bytes=total_bytes, free_bytes=0, compute_capability="8.9", driver="1")


def machine(*gpus: Gpu) -> Hardware:
    return dataclasses.replace(probe(), gpus=gpus)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rtx 4050", "RTX 4050 Laptop 6GB"),
        ("RTX4050", "RTX 4050 Laptop 6GB"),
        ("gtx 4050", "RTX 4050 Laptop 6GB"),
        ("4050 laptop", "RTX 4050 Laptop 6GB"),
        ("  4050   LAPTOP ", "RTX 4050 Laptop 6GB"),
        ("NVIDIA GeForce RTX 4050 Laptop GPU", "RTX 4050 Laptop 6GB"),
        ("nvidia-geforce-rtx-4050-laptop-gpu", "RTX 4050 Laptop 6GB"),
        ("4060 mobile", "RTX 4060 Laptop 8GB"),
        ("NVIDIA GeForce RTX 4060", "RTX 4060 8GB"),
        ("4060 desktop", "RTX 4060 8GB"),
        ("3060 12 GB", "RTX 3060 12GB"),
        ("3060 6gib", "RTX 3060 Laptop 6GB"),
        ("NVIDIA GeForce RTX 3060", "RTX 3060 12GB"),
        ("T4", "T4 16GB"),
        ("Tesla T4", "T4 16GB"),
        ("h100", "H100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("H200 141GB", "H200 141GB"),
    ],
)
def test_a_card_is_found_by_each_of_its_spellings(text: str, name: str) -> None:
    assert find_card(text).name == name


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name_and_by_the_drivers(card: Card) -> None:
    assert find_card(card.name) is card
    assert find_card(card.aliases[0]) is card
    assert card_for(gpu(card.aliases[0], card.total_bytes)) is card


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("3060", ("RTX 3060 Laptop 6GB", "RTX 3060 12GB")),
        ("rtx 3060", ("RTX 3060 Laptop 6GB", "RTX 3060 12GB")),
        ("GeForce RTX 4060", ("RTX 4060 Laptop 8GB", "RTX 4060 8GB")),
    ],
)
def test_a_name_of_two_cards_is_refused_naming_both(text: str, names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="several cards") as caught:
        find_card(text)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("4060x", "RTX 4060 8GB"), ("4050 ti", "RTX 4050 Laptop 6GB"), ("H100 PCIe", "H100 80GB")],
)
def test_an_unknown_name_offers_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_card(text)
    assert nearest in caught.value.suggestions


@pytest.mark.parametrize("text", ["", " ", "laptop", "gb", "6", "4", "rtx", "nvidia", "6 potatoes", "-1"])
def test_a_text_without_a_models_number_is_no_card(text: str) -> None:
    with pytest.raises(UnknownNameError):
        find_card(text)


def test_the_tables_figures_are_the_published_ones() -> None:
    published = {  # GB/s of 10^9, compute capability
        "RTX 3050 Laptop 4GB": (192, "8.6"), "RTX 4050 Laptop 6GB": (192, "8.9"),
        "RTX 3060 Laptop 6GB": (336, "8.6"), "RTX 2060 6GB": (336, "7.5"),
        "RTX 4060 Laptop 8GB": (256, "8.9"), "RTX 4060 8GB": (272, "8.9"), "RTX 3060 12GB": (360, "8.6"),
        "T4 16GB": (320, "7.5"), "RTX 4090 24GB": (1008, "8.9"), "H100 80GB": (3350, "9.0"),
        "H200 141GB": (4800, "9.0"),
    }  # fmt: skip
    table = {
        card.name: ((card.bandwidth_bytes_per_second or 0) / 1e9, card.compute_capability) for card in CARDS
    }
    assert table == published


def test_bf16_is_missing_before_capability_8_and_unknown_without_one() -> None:
    without = {card.name for card in CARDS if not card.has_bf16}
    assert without == {"RTX 2060 6GB", "T4 16GB"}
    assert Card(name="6.00 GiB", total_bytes=6 * GIB).has_bf16 is None


def test_a_probed_card_of_another_size_is_another_card() -> None:
    name = "NVIDIA GeForce RTX 3050 Laptop GPU"
    assert card_for(gpu(name, 4 * GIB)) is find_card("3050 laptop")
    assert card_for(gpu(name, 6 * GIB)) is None
    assert card_for(gpu("NVIDIA H100 PCIe", 81_559 * MIB)) is None


def test_a_size_is_a_card_of_which_only_the_memory_is_known() -> None:
    assert chosen_card("6GiB", machine()) == Card(name="6.00 GiB", total_bytes=6 * GIB)
    assert device_bytes("6GiB", machine()) == 6 * GIB


def test_a_name_is_a_card_also_where_it_is_a_bare_number() -> None:
    assert chosen_card("rtx 4050", machine()) is find_card("rtx 4050")
    assert chosen_card("4050", machine()) is find_card("rtx 4050")
    assert device_bytes("4050", machine()) == 6141 * MIB


@pytest.mark.parametrize("text", ["0", "0GiB", "0.0", " 0 "])
def test_nothing_is_no_card_even_where_one_is_here(text: str) -> None:
    assert chosen_card(text, machine(gpu("x", GIB))) is None
    assert device_bytes(text, machine(gpu("x", GIB))) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("6 potatoes", "6GiB"),
        ("", "6GiB"),
        ("-1", "6GiB"),
        ("6", "with its unit"),
        ("0.5", "with its unit"),
        ("4060x", "did you mean RTX 4060 8GB"),
        ("1e10", "6GiB"),
        ("nan", "6GiB"),
        ("3060", "RTX 3060 Laptop 6GB or RTX 3060 12GB"),
    ],
)
def test_what_is_neither_size_nor_card_says_what_is(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen_card(text, machine())
    assert words in str(caught.value)
    assert repr(text) in str(caught.value)


def test_the_card_that_is_here_has_its_own_memory_and_the_tables_bandwidth() -> None:
    small, large = gpu("unknown", 4 * GIB), gpu("NVIDIA GeForce RTX 4060 Laptop GPU", 8185 * MIB)
    card = chosen_card(None, machine(small, large))
    assert card is not None
    assert (card.total_bytes, card.bandwidth_bytes_per_second) == (8185 * MIB, 256 * 10**9)
    unknown = Card(name="unknown", total_bytes=4 * GIB, compute_capability="8.9")
    assert chosen_card(None, machine(small)) == unknown
    assert chosen_card(None, machine()) is None

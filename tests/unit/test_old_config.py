"""The earlier project's files: every key, every kind of fault, and the sizes that follow."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from old_configs import ALL, DENSE, MIXTRAL, STANDARD, ULTRA_LOW_MEMORY, changed

from sixgig.catalogue import get
from sixgig.errors import InputError, IntegrityError, UnknownNameError
from sixgig.experiments import old_config
from sixgig.experiments.old_config import OldConfig, read_old_config
from sixgig.experiments.old_rules import MemoryLimit
from sixgig.experiments.old_work import notes_of, workload_of
from sixgig.units import GIB, MIB


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Writes a content to a file and reads it as a configuration."""

    def write_and_read(content: Any) -> OldConfig:
        path = tmp_path / "old.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_old_config(path)

    return write_and_read


@pytest.mark.parametrize("content", ALL.values(), ids=ALL)
def test_the_four_files_are_read_unchanged(content: dict[str, Any], read: Any) -> None:
    config = read(content)
    assert config.model_name == content["model_name"]
    for section, kept in (
        ("extractor_config", config.extractor_config),
        ("encoder_config", config.encoder_config),
        ("generation_config", config.generation_config),
    ):
        assert {key: getattr(kept, key) for key in content[section]} == content[section]


def test_every_key_has_a_rule_and_every_rule_a_key() -> None:
    sections = old_config._SECTIONS
    keys = {field.name for section in (OldConfig, *sections.values()) for field in fields(section)}
    assert keys == set(old_config._RULES) | set(sections)
    assert keys - set(sections) == set(STANDARD) - set(sections) | {
        key for name in sections for key in STANDARD[name]
    }


def test_what_is_left_out_has_the_earlier_defaults(read: Any) -> None:
    config = read({})
    assert config == OldConfig()
    assert (config.watermark_strength_delta, config.detection_z_threshold) == (2.0, 4.0)
    assert (config.generation_config.temperature, config.generation_config.top_p) == (0.7, 0.9)
    assert config.extractor_config.k is None


def test_limits_are_bytes_by_place(read: Any) -> None:
    config = read({"max_memory": {"0": "6GB", "1": 10485760, "cpu": "24GiB", "disk": "1TB"}})
    assert config.max_memory == (
        MemoryLimit(place="0", num_bytes=6 * 10**9),
        MemoryLimit(place="1", num_bytes=10 * MIB),
        MemoryLimit(place="cpu", num_bytes=24 * GIB),
        MemoryLimit(place="disk", num_bytes=10**12),
    )


@pytest.mark.parametrize("name", ["float16", "torch.float16"])
def test_a_types_name_may_have_torchs_prefix(name: str, read: Any) -> None:
    assert read({"torch_dtype": name}).torch_dtype == "float16"


@pytest.mark.parametrize(
    ("content", "key", "nearest"),
    [
        ({"model": "x"}, "model", "model_name"),
        ({"load_in_4bits": True}, "load_in_4bits", "load_in_4bit"),
        ({"extractor_config": {"start_layer": 1}}, "extractor_config.start_layer", "start_layer_idx"),
        ({"encoder_config": {"k": 1}}, "encoder_config.k", None),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    content: dict[str, Any], key: str, nearest: str | None, read: Any
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        read(content)
    assert repr(key) in str(caught.value)
    assert "old.json" in str(caught.value)
    if nearest:
        assert any(nearest in suggestion for suggestion in caught.value.suggestions)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"load_in_4bit": 1}, "load_in_4bit must be true or false, not 1"),
        ({"load_in_4bit": None}, "load_in_4bit must be true or false, not null"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "both true"),
        ({"model_name": ""}, "model_name must be a text"),
        ({"model_name": 3}, "model_name must be a text"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:0"),
        ({"torch_dtype": "float8"}, "torch_dtype must be auto, float16, bfloat16 or float32"),
        ({"max_memory": "6GB"}, "max_memory must be sizes by place"),
        ({"max_memory": {"gpu": "6GB"}}, "max_memory must be sizes by place"),
        ({"max_memory": {"0": "six"}}, "max_memory must be sizes by place"),
        ({"max_memory": {"0": "6"}}, "max_memory must be sizes by place"),
        ({"max_memory": {"0": -1}}, "max_memory must be sizes by place"),
        ({"max_memory": {"0": True}}, "max_memory must be sizes by place"),
        ({"extractor_config": [4, 10]}, "extractor_config must be an object of settings, not [4, 10]"),
        ({"extractor_config": None}, "extractor_config must be an object of settings, not null"),
        ({"extractor_config": {"k": 2.0}}, "extractor_config.k must be a whole number of at least 0"),
        ({"extractor_config": {"k": True}}, "extractor_config.k must be a whole number"),
        (
            {"extractor_config": {"start_layer_idx": -1}},
            "start_layer_idx must be a whole number of at least 0",
        ),
        ({"extractor_config": {"start_layer_idx": 8, "end_layer_idx": 8}}, "not above start_layer_idx 8"),
        ({"extractor_config": {"use_top_k": True, "k": 0}}, "no expert would be kept"),
        (
            {"encoder_config": {"num_bits": 0}},
            "num_bits must be a whole number of at least 1 and at most 65536",
        ),
        (
            {"watermark_strength_delta": -0.1},
            "watermark_strength_delta must be a number at least 0, not -0.1",
        ),
        ({"watermark_strength_delta": "2"}, "watermark_strength_delta must be a number"),
        ({"detection_z_threshold": 0}, "detection_z_threshold must be a number above 0, not 0"),
        ({"generation_config": {"top_p": 1.5}}, "top_p must be a number above 0 and at most 1, not 1.5"),
        ({"generation_config": {"max_new_tokens": 0}}, "max_new_tokens must be a whole number of at least 1"),
        ('{"watermark_strength_delta": NaN}', "watermark_strength_delta must be a number"),
        ('{"watermark_strength_delta": Infinity}', "watermark_strength_delta must be a number"),
        ("[]", "not a configuration"),
        ("null", "not a configuration"),
    ],
)
def test_a_value_that_cannot_be_is_named(content: Any, words: str, read: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(content)
    assert words in str(caught.value)
    assert "old.json" in str(caught.value)


def test_all_faults_are_reported_together(read: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(changed(STANDARD, devise="cuda", load_in_8bit=True, extractor_config={"k": "four", "kk": 1}))
    for words in ("unknown key: devise; nearest: device", "both true", "kk", "extractor_config.k must be"):
        assert words in str(caught.value)


def test_a_malformed_secret_is_not_repeated_and_a_good_one_not_shown(read: Any) -> None:
    with pytest.raises(InputError) as caught:
        read({"encoder_config": {"secret_key": ["do not show"]}})
    assert "encoder_config.secret_key must be a text or a whole number" in str(caught.value)
    assert "do not show" not in str(caught.value)
    assert read({"encoder_config": {"secret_key": 42}}).encoder_config.secret_key == 42
    assert "a secret" not in repr(read(STANDARD))


def test_a_file_that_is_no_json_names_the_place(read: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="line 2"):
        read('{"model_name": "x",\n "device": "cuda",  // a comment\n}')
    with pytest.raises(InputError, match="no such file"):
        read_old_config(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("changes", "bits"),
    [
        ({}, 4),
        ({"load_in_4bit": False, "load_in_8bit": True}, 8),
        ({"load_in_4bit": False}, 16),
        ({"load_in_4bit": False, "torch_dtype": "bfloat16"}, 16),
        ({"load_in_4bit": False, "torch_dtype": "float32"}, 32),
        ({"torch_dtype": "float32"}, 4),
    ],
)
def test_bits_come_from_how_the_model_is_loaded(changes: dict[str, Any], bits: int, read: Any) -> None:
    assert workload_of(read(changed(STANDARD, **changes))).bits == bits


def test_the_sizes_that_a_file_asks_for(read: Any) -> None:
    work = workload_of(read(ULTRA_LOW_MEMORY), prompt_tokens=40)
    assert work.model == "Qwen/Qwen1.5-MoE-A2.7B-Chat"
    assert (work.bits, work.context, work.torch_dtype, work.cpu_offload) == (4, 104, "float16", True)
    assert (work.device_limit_bytes, work.ram_limit_bytes) == (5 * GIB, 24 * 10**9)
    two_cards = workload_of(read({"max_memory": {"0": "4GiB", "1": "6GiB"}}))
    assert (two_cards.device_limit_bytes, two_cards.ram_limit_bytes) == (6 * GIB, None)
    assert workload_of(read({})).device_limit_bytes is None
    assert workload_of(read({"device": "cpu"})).wants_device is False
    assert workload_of(read({"device": "cuda:1"})).wants_device is True


@pytest.mark.parametrize(
    ("content", "model", "share"),
    [(STANDARD, "qwen1.5-moe-a2.7b-chat", "87%"), (MIXTRAL, "mixtral-8x7b-instruct", "97%")],
)
def test_the_experts_that_bitsandbytes_skips(
    content: dict[str, Any], model: str, share: str, read: Any
) -> None:
    notes = " ".join(notes_of(read(content), get(model)))
    assert f"{share} of {model} would stay in 16 bit" in notes
    assert "stores experts in 4 bit" in notes
    assert "not the weights" in notes
    unquantised = " ".join(notes_of(read(changed(content, load_in_4bit=False)), get(model)))
    assert "bitsandbytes" not in unquantised


def test_the_dense_contrast_has_no_routing(read: Any) -> None:
    notes = " ".join(notes_of(read(DENSE), get(DENSE["model_name"])))
    assert "is dense" in notes
    assert "bitsandbytes" not in notes


def test_offload_that_is_off_and_several_cards_are_said(read: Any) -> None:
    spec = get(STANDARD["model_name"])
    with_offload = " ".join(notes_of(read(STANDARD), spec))
    without = " ".join(notes_of(read(changed(STANDARD, cpu_offload=False)), spec))
    assert "cpu_offload is off" in without
    assert "cpu_offload" not in with_offload
    assert "several cards" in " ".join(notes_of(read({"max_memory": {"0": "4GiB", "1": "6GiB"}}), spec))
    assert notes_of(read({"cpu_offload": True}), spec) == ()


def test_layers_and_experts_that_the_model_does_not_have(read: Any) -> None:
    config = read(changed(STANDARD, extractor_config={"end_layer_idx": 25, "k": 61}))
    with pytest.raises(InputError) as caught:
        notes_of(config, get(STANDARD["model_name"]))
    assert "end_layer_idx is 25, but it has 24 layers" in str(caught.value)
    assert "k is 61, but it has 60 experts" in str(caught.value)

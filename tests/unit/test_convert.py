"""The converter on a real, tiny GGUF file: safetensors and tokenizer that transformers opens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil
import pytest

from sixgig.errors import IntegrityError, OutOfSpaceError
from sixgig.files import full_disk_explained
from sixgig.load.child import Outcome
from sixgig.load.convert import convert_in_child
from sixgig.load.progress import Report

HIDDEN, LAYERS, HEADS, MLP = 64, 2, 2, 96
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "ab", "c", "Ġ"]
SHAPES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN, HIDDEN),
    "attn_v": (HIDDEN, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (MLP, HIDDEN),
    "ffn_up": (MLP, HIDDEN),
    "ffn_down": (HIDDEN, MLP),
    "attn_norm": (HIDDEN,),
    "ffn_norm": (HIDDEN,),
}


def write_gguf(path: Path) -> np.ndarray:
    """A two-layer Llama in Q4_1; returns the embedding as it is after rounding."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    random = np.random.default_rng(0)

    def add(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
            return values
        kind = gguf.GGMLQuantizationType.Q4_1
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
        return gguf.quants.dequantize(packed, kind)

    embedding = add("token_embd", (len(TOKENS), HIDDEN))
    add("output_norm", (HIDDEN,))
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            add(f"blk.{layer}.{name}", shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embedding


def test_a_gguf_becomes_a_folder_that_transformers_opens(tmp_path: Path, capfd) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    embedding = write_gguf(tmp_path / "tiny.gguf")
    reports: list[Report] = []
    out = tmp_path / "out"
    conversion = convert_in_child(tmp_path / "tiny.gguf", out, converted_bytes=10**6, progress=reports.append)
    assert capfd.readouterr() == ("", "")  # quiet
    assert reports[0].step == "convert"
    tensors = load_file(out / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], embedding)
    assert conversion.num_parameters == sum(tensor.size for tensor in tensors.values())
    assert conversion.versions.keys() == {"transformers", "torch", "gguf", "safetensors"}
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.num_parameters() == conversion.num_parameters
    assert not hasattr(model.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [5]
    assert tokenizer.model_max_length == 128
    assert tokenizer.chat_template


def test_a_file_that_is_no_gguf_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUX" + bytes(100))
    with pytest.raises(IntegrityError, match=r"bad\.gguf could not be converted"):
        convert_in_child(tmp_path / "bad.gguf", tmp_path / "out", converted_bytes=1)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_the_converter_ends_when_its_parent_is_killed() -> None:
    inner = (
        "import os, sys; from sixgig.load.convert import _end_with_parent as end; "
        "print(os.getpid(), flush=True); end(int(sys.argv[1]))"
    )
    outer = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}, str(os.getpid())])"
    parent = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        parent.wait()
        # An orphan that has ended may stay a zombie where the system's first process does not reap it.
        gone_by = time.monotonic() + 60
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < gone_by, "the converter outlived its parent"
            time.sleep(0.1)


def ended(kind: str) -> subprocess.Popen[bytes]:
    """A process that has ended: its end awaited, or left a zombie."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    if kind == "zombie":
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    else:
        process.wait()
    return process


@pytest.mark.parametrize("kind", ["awaited", "zombie"])
def test_a_converter_whose_parent_was_gone_before_it_asked_ends_too(kind: str) -> None:
    if kind == "zombie" and not hasattr(os, "waitid"):
        pytest.skip("no zombies can be made here")
    parent = ended(kind)
    script = (
        "import time; from sixgig.load import convert; "
        "convert.convert_gguf = lambda gguf, folder: time.sleep(600); "
        f"convert.main(['a.gguf', 'out', '{parent.pid}'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    parent.wait()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_the_converter_is_told_whose_child_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run_child(command: list[str], **more: Any) -> Outcome:
        commands.append(command)
        return Outcome(status=0, stdout='{"num_parameters": 1, "versions": {}}', stderr="")

    monkeypatch.setattr("sixgig.load.convert.run_child", run_child)
    convert_in_child(tmp_path / "a.gguf", tmp_path / "out", converted_bytes=1)
    assert commands[0][-3:] == [str(tmp_path / "a.gguf"), str(tmp_path / "out"), str(os.getpid())]


def test_a_full_disk_in_the_converter_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = "Traceback\nsafetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)"
    monkeypatch.setattr(
        "sixgig.load.convert.run_child", lambda *a, **o: Outcome(status=1, stdout="", stderr=stderr)
    )
    with pytest.raises(OutOfSpaceError), full_disk_explained(tmp_path):
        convert_in_child(tmp_path / "a.gguf", tmp_path / "out", converted_bytes=1)

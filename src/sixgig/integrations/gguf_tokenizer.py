"""A byte-level BPE tokenizer as GGUF's metadata. Others are refused by name.

GGUF names the rule that cuts text into words before the merges ("pre") instead of keeping it, so only rules
with a known name can be written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def add_tokenizer(writer: Any, folder: Path, vocab_size: int) -> None:
    """Writes the tokenizer in `folder` to a gguf writer. Raises InputError for one that GGUF cannot name."""
    from gguf import TokenType
    from transformers import AutoTokenizer

    file = folder / "tokenizer.json"
    content = read_json(file, max_bytes=2**28)
    model = content.get("model") or {}
    pre = _pre(content, model, file)
    tokens: dict[int, tuple[str, int]] = {
        index: (token, TokenType.NORMAL) for token, index in model["vocab"].items()
    }
    for added in content.get("added_tokens") or []:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]] = (added["content"], kind)
    listed = [
        tokens.get(index, (f"[PAD{index}]", TokenType.UNUSED))  # a row of the embedding that no token has
        for index in range(max(vocab_size, max(tokens) + 1))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in listed])
    writer.add_token_types([kind for _, kind in listed])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for name, index in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(bool(first) and first[0] == tokenizer.bos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pre(content: dict[str, Any], model: dict[str, Any], file: Path) -> str:
    steps = _steps(content.get("pre_tokenizer") or {})
    known = model.get("type") == "BPE" and model.get("merges") and steps and steps[-1]["type"] == "ByteLevel"
    before = steps[:-1]
    if known and not steps[-1].get("add_prefix_space"):
        if not before:
            return "gpt-2"
        if len(before) == 1 and before[0]["type"] == "Digits" and before[0].get("individual_digits"):
            return "smollm"
        pattern = (before[0].get("pattern") or {}).get("Regex") if len(before) == 1 else None
        if pattern in (_LLAMA3, _QWEN2):
            return "llama-bpe" if pattern == _LLAMA3 else "qwen2"
    raise InputError(
        "GGUF has no name here for the way this tokenizer cuts text",
        expected="byte-level BPE as GPT-2, SmolLM, Llama 3 or Qwen2 have it",
        received=f"{model.get('type')} with {[step['type'] for step in steps]}",
        where=str(file),
    )


def _steps(pre_tokenizer: dict[str, Any]) -> list[dict[str, Any]]:
    if pre_tokenizer.get("type") == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer] if pre_tokenizer else []

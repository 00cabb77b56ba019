"""GSM8K's training problems with their worked answers, to calibrate on; its test problems are lm-eval's.

`gsm8k/train.jsonl` holds one problem a line: `question`, and `answer` with steps, `<<48/2=24>>` marks of a
calculator, and the number after `####` (Cobbe et al. 2021, arXiv 2110.14168; MIT).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import IntegrityError
from ..files import read_text

FILE = "gsm8k/train.jsonl"
_MARK = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, kw_only=True)
class WorkedProblem:
    """As the eight examples of the chain-of-thought prompt are written (Wei et al. 2022, arXiv 2201.11903,
    table 20): the steps in one line, without a calculator's marks, and then the answer in fixed words."""

    question: str
    steps: str
    number: str

    @property
    def prompt(self) -> str:
        return f"Q: {self.question}\nA:"

    @property
    def answer(self) -> str:
        return f" {self.steps} The answer is {self.number}.\n\n"


def load_worked_problems(data_dir: Path) -> tuple[list[WorkedProblem], str]:
    """Every training problem, in the file's order, and the file's digest.

    Raises IntegrityError naming file and line for whatever is not a problem with steps and a number.
    """
    path = data_dir / FILE
    text = read_text(path)
    lines = [line for line in text.splitlines() if line.strip()]
    problems = [_problem(line, number, path) for number, line in enumerate(lines, start=1)]
    if not problems:
        raise IntegrityError("no problem in the file", where=str(path), todo="copy the original file again")
    return problems, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _problem(line: str, number: int, path: Path) -> WorkedProblem:
    try:
        row: Any = json.loads(line)
        question, answer = row["question"], row["answer"]
        steps, mark, result = answer.rpartition("####")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _fault(line, number, path) from error
    if not isinstance(question, str) or not mark or not steps.strip() or not result.strip():
        raise _fault(line, number, path)
    spoken = " ".join(_MARK.sub("", steps).split())
    return WorkedProblem(question=question.strip(), steps=spoken, number=result.strip())


def _fault(line: str, number: int, path: Path) -> IntegrityError:
    return IntegrityError(
        "not a problem of GSM8K",
        expected='{"question": "...", "answer": "steps #### number"}',
        received=line[:80],
        where=f"{path}, line {number}",
        todo="copy the original file again",
    )

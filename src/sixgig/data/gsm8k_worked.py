"""GSM8K's training problems with their worked answers, to calibrate on; its test problems are lm-eval's.

An answer has its steps, `<<48/2=24>>` marks of a calculator, and the number after `####` (Cobbe et al. 2021,
arXiv 2110.14168; MIT). Files and rows are read and checked by `data.benchmarks`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InputError
from .benchmarks import Benchmark

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


def worked_problems(benchmark: Benchmark) -> list[WorkedProblem]:
    """Every training problem of GSM8K, in the file's order.

    Raises InputError naming the problem whose answer has no steps before its number.
    """
    rows = benchmark.splits["main"]["train"]
    return [_problem(row["question"], row["answer"], number) for number, row in enumerate(rows, start=1)]


def _problem(question: str, answer: str, number: int) -> WorkedProblem:
    steps, _, result = answer.rpartition("####")
    spoken = " ".join(_MARK.sub("", steps).split())
    if not spoken:
        raise InputError(
            "a problem without worked steps",
            expected="steps #### number",
            received=repr(answer[-60:]),
            where=f"{FILE}, problem {number}",
            todo="copy the original file again",
        )
    return WorkedProblem(question=question.strip(), steps=spoken, number=result.strip())

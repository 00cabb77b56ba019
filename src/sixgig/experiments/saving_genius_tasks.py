"""The skills that saving-genius watches: what calibrates the scores, and which questions are judged.

A task names its measures, the first of which decides. Addition has one for real digits, and with `contrast`
one for invented digits; GSM8K has lm-eval's two ways of reading an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.arithmetic import DIGITS, INVENTED, check_disjoint, draw_sums, sum_texts
from ..data.batches import TokenSequence, secret_only
from ..data.benchmarks import load_benchmark
from ..data.gsm8k_worked import FILE, worked_problems
from ..errors import InputError, IntegrityError
from ..evaluate.answers import answered_rightly
from ..evaluate.batching import LookSize
from ..load.loaded import LoadedModel
from ..memory.ladder import Ladder
from ..provenance import DataSource
from ..transform.training import mixed_precision
from .saving_genius_config import SavingGeniusConfig
from .saving_genius_names import DIGITS_SKILL, INVENTED_SKILL

Right = dict[str, list[bool]]  # measure -> question by question
GSM8K_TASK = "gsm8k_cot"
GSM8K_TOKENS = 1280  # of eight worked examples, a question and the answer, about
TEST_FILE = "gsm8k/test.jsonl"
STRICT, FLEXIBLE = "strict-match", "flexible-extract"  # lm-eval's filters: in fixed words, or the last number


class Task(Protocol):
    """What a seed needs of its skill; questions are always in the same order."""

    @property
    def measures(self) -> Sequence[str]: ...

    @property
    def skills(self) -> Sequence[str]:
        """That scores can be calibrated on."""
        ...

    @property
    def units(self) -> Sequence[Hashable]:
        """What each question shares with those that are no independent ones."""
        ...

    @property
    def ids(self) -> Sequence[str]: ...

    def calibration(self, skill: str) -> list[TokenSequence]: ...

    def planted(self) -> list[TokenSequence]: ...

    def judge(self, ladder: Ladder[LookSize], progress: Callable[[float], None]) -> Right: ...

    def control(self, group: str, ladder: Ladder[LookSize]) -> Right: ...

    def sources(self) -> list[DataSource]: ...


class Addition:
    """All pairs of two numbers, drawn by `seed` into groups without a pair in common, in either order."""

    def __init__(self, config: SavingGeniusConfig, loaded: LoadedModel, seed: int) -> None:
        check_disjoint(loaded.encode)
        alphabets = {DIGITS_SKILL: DIGITS} | ({INVENTED_SKILL: INVENTED} if config.contrast else {})
        counts = {
            "heldout": config.num_heldout,
            "control": config.num_control,
            "calibration": config.num_calibration,
        }
        self._loaded = loaded
        self._texts: dict[str, dict[str, list[TokenSequence]]] = {}
        for skill, alphabet in alphabets.items():
            groups = draw_sums(
                counts,
                seed=seed,
                alphabet=alphabet,
                least=config.least_number,
                most=config.most_number,
            )
            self._texts[skill] = {
                name: sum_texts(sums, loaded.encode, form=config.form) for name, sums in groups.items()
            }
            # The same in every alphabet, since the draw does not depend on it.
            self.units = [one.unordered for one in groups["heldout"]]
            self.ids = [f"{one.a}+{one.b}" for one in groups["heldout"]]
        self.measures = self.skills = tuple(alphabets)

    def calibration(self, skill: str) -> list[TokenSequence]:
        return self._texts[skill]["calibration"]

    def planted(self) -> list[TokenSequence]:
        return [text for groups in self._texts.values() for text in groups["training"]]

    def judge(self, ladder: Ladder[LookSize], progress: Callable[[float], None]) -> Right:
        return self.control("heldout", ladder)

    def control(self, group: str, ladder: Ladder[LookSize]) -> Right:
        """The sums of another group than those that are judged."""
        return {
            skill: answered_rightly(self._loaded, groups[group], ladder=ladder)
            for skill, groups in self._texts.items()
        }

    def sources(self) -> list[DataSource]:
        num_sums = sum(len(texts) for groups in self._texts.values() for texts in groups.values())
        return [
            DataSource(
                name="sums of two numbers",
                revision_or_sha256="data/arithmetic.py",
                num_rows=num_sums,
                synthetic=True,
            )
        ]


class Gsm8k:
    """Test problems by lm-eval's task; training problems with their steps for calibration."""

    skills = ("gsm8k",)
    measures = (STRICT, FLEXIBLE)

    def __init__(
        self, config: SavingGeniusConfig, loaded: LoadedModel, seed: int, data_dir: Path | None
    ) -> None:
        if data_dir is None:
            raise InputError(
                "GSM8K needs a data folder",
                expected=f"{FILE} and {TEST_FILE} in it",
                todo="name it by --data-dir or SIXGIG_DATA, or take -s task=addition",
            )
        self._config, self._loaded, self._data_dir = config, loaded, data_dir
        benchmark = load_benchmark("gsm8k", data_dir)
        problems = worked_problems(benchmark)
        self._sources = list(benchmark.sources)
        generator = np.random.default_rng(np.random.SeedSequence([seed, 0x65B]))
        chosen = generator.permutation(len(problems))[: config.num_calibration_problems]
        self._calibration = [
            secret_only(loaded.encode(problems[i].prompt), loaded.encode(problems[i].answer)) for i in chosen
        ]
        # lm-eval takes the first problems of the file, whatever the seed.
        num_test = benchmark.num_rows("test")
        num_judged = min(num_test, config.num_problems or num_test)
        self.ids: Sequence[str] = [f"test-{number:04d}" for number in range(num_judged)]
        self.units: Sequence[Hashable] = self.ids

    def calibration(self, skill: str) -> list[TokenSequence]:
        return self._calibration

    def planted(self) -> list[TokenSequence]:
        return []

    def judge(self, ladder: Ladder[LookSize], progress: Callable[[float], None]) -> Right:
        # lm-eval is an extra
        from ..evaluate.harness import evaluate_tasks  # pyright: ignore[reportMissingImports]

        def attempt(size: LookSize) -> Any:
            # lm-eval knows nothing of linear layers in bf16 between norms in fp32.
            with mixed_precision(self._loaded.device):
                return evaluate_tasks(
                    self._loaded,
                    tasks=(GSM8K_TASK,),
                    data_dir=self._data_dir,
                    limit=self._config.num_problems,
                    batch_size=size.texts(GSM8K_TOKENS),
                    progress=progress,
                )

        rights = rights_of(ladder.run(attempt).samples)
        if any(len(right) != len(self.ids) for right in rights.values()):
            raise IntegrityError(
                "lm-eval judged other problems than were asked for",
                expected=f"{len(self.ids):,} by each filter",
                received=", ".join(f"{len(right):,} by {name}" for name, right in rights.items()),
                where=GSM8K_TASK,
            )
        return rights

    def control(self, group: str, ladder: Ladder[LookSize]) -> Right:
        return {}

    def sources(self) -> list[DataSource]:
        return self._sources


def rights_of(samples: Sequence[Mapping[str, Any]]) -> Right:
    """Right or not for each filter, in the order of the problems."""
    found: dict[str, dict[int, bool]] = {STRICT: {}, FLEXIBLE: {}}
    for sample in samples:
        if sample["filter"] in found:
            found[sample["filter"]][int(sample["doc_id"])] = bool(sample["metrics"]["exact_match"])
    return {name: [by_doc[doc] for doc in sorted(by_doc)] for name, by_doc in found.items()}

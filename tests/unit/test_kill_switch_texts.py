"""Public text as windows: short texts give what they have, and too short ones are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import fake_loaded

from sixgig.data.corpora import Corpus
from sixgig.errors import InputError
from sixgig.experiments.kill_switch_config import KillSwitchConfig
from sixgig.experiments.kill_switch_texts import Texts, tokenised

CONFIG = KillSwitchConfig(
    train_window=10, calibration_window=10, num_calibration_windows=4, test_window=10, num_test_windows=4
)


def cut(train: int = 95, calibration: int = 95, test: int = 95, config: KillSwitchConfig = CONFIG) -> Texts:
    """The windows of three texts of so many tokens, which are bytes here."""
    lengths = {"train": train, "calibration": calibration, "test": test}
    one, two, three = (
        Corpus(name=f"{name} text", text=name[0] * length, source="invented", num_rows=1, synthetic=True)
        for name, length in lengths.items()
    )
    return tokenised(fake_loaded(), (one, two, three), config)


def test_a_text_gives_the_windows_asked_for_and_a_shorter_one_those_it_has() -> None:
    texts = cut()
    assert (len(texts.train), len(texts.calibration), len(texts.test)) == (9, 4, 4)
    assert not texts.notes
    short = cut(calibration=19, test=20)
    assert (len(short.calibration), len(short.test)) == (1, 2)
    assert short.notes == (
        "calibration text holds 1 windows of 10 tokens, not 4",
        "test text holds 2 windows of 10 tokens, not 4",
    )


@pytest.mark.parametrize(
    ("name", "length", "least", "longest"),
    [("train", 9, 1, 9), ("calibration", 9, 1, 9), ("test", 19, 2, 9), ("test", 7, 2, 3)],
)
def test_a_text_of_too_few_windows_is_refused_with_the_window_that_would_do(
    name: str, length: int, least: int, longest: int
) -> None:
    with pytest.raises(InputError, match="public text too short") as caught:
        cut(**{name: length})
    message = str(caught.value)
    assert f"where: {name} text" in message
    assert f"expected: at least {least} of 10 tokens" in message
    assert f"received: {length} tokens, which is {length // 10}" in message
    assert f"set {name}_window to {longest} or less" in message
    shorter = {f"{name}_window": longest}
    cut(**{name: length}, config=replace(CONFIG, **shorter))

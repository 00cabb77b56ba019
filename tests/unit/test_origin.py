"""What a run reads is kept, and a resume that would read something else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sixgig.data.corpora import Corpus
from sixgig.errors import InputError
from sixgig.experiments.origin import own_text_notes, require_same_data, sources_of
from sixgig.report.store import RunDirectory


def corpus(content: str, *, synthetic: bool = False) -> Corpus:
    return Corpus(name="text", text=content, source=f"sha256:{content}", num_rows=1, synthetic=synthetic)


def test_a_resume_with_other_data_is_refused_and_says_which(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "null-test", {"model": "m"}) as run:
        require_same_data(run, sources_of([corpus("one")]))
        require_same_data(run, sources_of([corpus("one")]))
        with pytest.raises(InputError, match="two kinds") as caught:
            require_same_data(run, sources_of([corpus("two")]))
        assert caught.value.received == "text sha256:two"
        assert caught.value.expected == "text sha256:one"
        with pytest.raises(InputError) as caught:
            require_same_data(run, [])
        assert caught.value.received == "fewer files than before"


def test_own_text_is_said_to_be_no_benchmark() -> None:
    assert list(own_text_notes([corpus("one")])) == []
    (note,) = own_text_notes([corpus("one"), corpus("two", synthetic=True)])
    assert "not a benchmark" in note

"""Programs run for a fetch step: their output kept, their end awaited, never left behind."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from sixgig.load.child import folder_bytes, run_child, summarise


def test_status_and_output_are_kept_and_the_terminal_stays_quiet(capfd) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    outcome = run_child([sys.executable, "-c", code])
    assert (outcome.status, outcome.stdout.strip(), outcome.stderr.strip()) == (3, "out", "err")
    assert capfd.readouterr() == ("", "")


def test_more_output_than_a_pipe_holds_does_not_stop_it() -> None:
    outcome = run_child([sys.executable, "-c", "print('x' * 1_000_000)"])
    assert len(outcome.stdout.strip()) == 1_000_000


def test_the_environment_is_added_to_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    code = "import os; print(os.environ['OURS'], os.environ['THEIRS'])"
    assert run_child([sys.executable, "-c", code], environment={"THEIRS": "2"}).stdout.split() == ["1", "2"]


def test_an_interruption_ends_the_program_too(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def interrupt() -> None:
        if mark.exists() and mark.read_text():
            raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_child([sys.executable, "-c", code], on_tick=interrupt, tick_seconds=0.05)
    assert not psutil.pid_exists(int(mark.read_text()))
    assert time.monotonic() - begin < 30


def test_the_telling_lines_are_kept_and_passwords_hidden() -> None:
    stderr = (
        "WARNING: retrying\nERROR: no match at https://me:secret@mirror.example/simple\nnotice: upgrade\n"
    )
    assert summarise(stderr) == "ERROR: no match at https://***@mirror.example/simple"
    assert summarise("one\n\ntwo\nthree\nfour\n") == "two | three | four"
    assert summarise("") == "nothing on stderr"


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"12")
    (tmp_path / "a" / "b" / "y").write_bytes(b"345")
    assert folder_bytes(tmp_path) == 5
    assert folder_bytes(tmp_path / "absent") == 0

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_result import fake_result
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgig.errors import InputError, IntegrityError, NumericalError
from sixgig.report.events import EventLog, read_events
from sixgig.report.identity import config_differences, config_hash, kept_config, read_config, write_config
from sixgig.report.schema import Result
from sixgig.report.store import RunDirectory

CONFIG: dict[str, Any] = {"preset": "cpu", "seeds": [0, 1], "rate": 1e-5, "split": {"bits": 4, "sieve": "no"}}


def test_a_directory_is_named_and_holds_a_config_that_reads_back(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "kill-switch", CONFIG) as run:
        stem, _, hash8 = run.path.name.rpartition("-")
        assert hash8 == config_hash(CONFIG)[:8]
        assert stem.startswith("kill-switch-20")
        assert read_config(run.path / "config.yaml") == CONFIG


def test_two_starts_in_one_second_do_not_collide(tmp_path: Path) -> None:
    runs = [RunDirectory.create(tmp_path, "kill-switch", CONFIG) for _ in range(4)]
    assert len({run.path for run in runs}) == 4
    assert RunDirectory.find_latest(tmp_path, "kill-switch", config_hash(CONFIG)) == runs[-1].path
    for run in runs:
        run.close()


def test_the_latest_of_that_experiment_and_configuration_is_found(tmp_path: Path) -> None:
    names = ("a-b-20260101-000000-00000001", "a-b-20260102-000000-00000002", "b-20260103-000000-00000001")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("x: 1\n", encoding="utf-8")
    (tmp_path / "a-b-20260109-000000-00000001").mkdir()  # killed at birth
    found = RunDirectory.find_latest(tmp_path, "a-b", "00000001" + "f" * 56)
    assert found == tmp_path / names[0]
    assert RunDirectory.find_latest(tmp_path, "a-b") == tmp_path / names[1]
    assert RunDirectory.find_latest(tmp_path, "b", "0000000f") is None
    assert RunDirectory.find_latest(tmp_path / "absent", "a-b") is None


def test_a_stage_comes_back_after_a_reopen_as_it_was_returned(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "x", CONFIG) as run:
        returned = run.save_stage("seed-0.plant", {"losses": (0.1, 1 / 3), "name": "名"})
    with RunDirectory.open(run.path, CONFIG) as again:
        assert again.load_stage("seed-0.plant") == returned == {"losses": [0.1, 1 / 3], "name": "名"}
        assert again.load_stage("split") is None
        assert again.notices == []


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_any_flipped_bit_of_a_stage_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    with RunDirectory.create(tmp_path_factory.mktemp("runs"), "x", CONFIG) as run:
        value = run.save_stage("plant", {"loss": 0.25, "rows": ["a", "b"]})
        path = run.stages_path / "plant.json"
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(bytes(content))
        loaded = run.load_stage("plant")
        assert loaded == value or (loaded is None and "plant" in run.notices[0])


def test_a_stage_moved_to_another_name_is_not_that_stage(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "x", CONFIG) as run:
        run.save_stage("plant", 1)
        os.rename(run.stages_path / "plant.json", run.stages_path / "split.json")
        assert run.load_stage("split") is None
        assert run.events()[-1]["event"] == "notice"


def test_nan_is_not_kept_and_leaves_nothing(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "x", CONFIG) as run:
        with pytest.raises(NumericalError, match=r"\$\.loss"):
            run.save_stage("plant", {"loss": float("nan")})
        assert list(run.stages_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "", "a/b", ".hidden"])
def test_a_stage_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with (
        RunDirectory.create(tmp_path, "x", CONFIG) as run,
        pytest.raises(InputError, match="not a stage's name"),
    ):
        run.save_stage(name, 1)


def test_two_processes_cannot_work_in_one_directory(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from sixgig.report.store import RunDirectory\n"
    code += "try:\n    RunDirectory.open(Path(sys.argv[1]))\nexcept Exception as error:\n    print(error)\n"
    with RunDirectory.create(tmp_path, "x", CONFIG) as run:
        with pytest.raises(InputError, match="another sixgig process"):
            RunDirectory.open(run.path)
        done = subprocess.run(
            [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True
        )
        assert "another sixgig process" in done.stdout
    RunDirectory.open(run.path).close()


def test_a_failed_open_gives_the_lock_back(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "x", CONFIG) as run:
        run.log("one")
    events = run.path / "events.jsonl"
    good = events.read_bytes()
    events.write_bytes(b"garbage\n" + good)
    with pytest.raises(IntegrityError, match="line 1"):
        RunDirectory.open(run.path)
    events.write_bytes(good)
    RunDirectory.open(run.path).close()


def test_a_changed_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "x", CONFIG) as run:
        pass
    changed = CONFIG | {"split": {"bits": 3, "sieve": "no"}, "extra": True}
    with pytest.raises(InputError, match=r"split\.bits, extra") as caught:
        RunDirectory.open(run.path, changed)
    assert "--resume" in str(caught.value)


def test_finish_writes_everything_and_result_json_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fake_result()
    with RunDirectory.create(tmp_path, "kill-switch", CONFIG) as run:
        (run.work_path / "big.bin").write_bytes(b"0" * 100)
        run.finish(result, ({"id": number, "text": "a\u2028b"} for number in range(3)))
    rows = (run.path / "samples.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(row)["id"] for row in rows[:-1]] == [0, 1, 2]
    assert Result.read(run.result_path) == result
    assert not run.work_path.exists()
    assert "<html" in (run.path / "report.html").read_text(encoding="utf-8")
    assert (run.figures_path / "overview.png").stat().st_size > 1000
    assert max(run.path.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns).name in (
        "result.json",
        "events.jsonl",
    )


def test_a_failed_finish_leaves_no_result(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "kill-switch", CONFIG) as run:
        with pytest.raises(NumericalError, match="sample 2"):
            run.finish(fake_result(), [{"id": 1}, {"id": float("inf")}])
        assert not run.result_path.exists()
        assert not (run.path / "samples.jsonl").exists()
        assert run.work_path.exists()


def test_an_interrupted_run_keeps_its_work(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "kill-switch", CONFIG) as run:
        run.finish(fake_result(status="interrupted"), [])
        assert run.work_path.exists()


def test_events_survive_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("one", num_tokens=3)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert len(read_events(path)) == whole[:length].count(b"\n")
        EventLog(path).append("two")
        assert [event["event"] for event in read_events(path)][-1] == "two"
    path.write_bytes(whole + b"\0\0\0\0\n")
    assert [event["event"] for event in read_events(path)] == ["start", "one"]


def test_seconds_go_on_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    start = {"seconds": 0.0, "event": "start", "started_at_unix_seconds": 1000.0}
    late = {"seconds": 5e9, "event": "the clock was set back since"}
    path.write_text(f"{json.dumps(start)}\n{json.dumps(late)}\n", encoding="utf-8")
    EventLog(path).append("again")
    seconds = [event["seconds"] for event in read_events(path)]
    assert seconds == sorted(seconds)


def test_secrets_are_never_written(tmp_path: Path) -> None:
    secret = {"hub_token": "hf_SECRET", "watermark": {"secret_key": 424242, "keys": ["k1SECRET", None]}}
    config = (
        CONFIG | secret | {"max_tokens": 64, "tokenizer": "path/here", "password": "SECRET", "key_on": True}
    )
    with RunDirectory.create(tmp_path, "x", config) as run:
        run.log("signed_in", api_key="SECRET", num_tokens=7)
        text = "".join(path.read_text(encoding="utf-8") for path in run.path.glob("*.*"))
        assert "SECRET" not in text
        assert "424242" not in text
        kept = read_config(run.path / "config.yaml")
        assert (kept["max_tokens"], kept["tokenizer"], kept["key_on"]) == (64, "path/here", True)
    RunDirectory.open(run.path, config).close()  # the same secrets: the same run
    RunDirectory.open(run.path, kept).close()  # ids stay ids
    with pytest.raises(InputError, match="hub_token"):
        RunDirectory.open(run.path, config | {"hub_token": "hf_OTHER"})


def test_the_hash_minds_values_but_not_the_order_of_keys() -> None:
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert len({config_hash({"a": value}) for value in (1, 1.0, True, "1", None, [1])}) == 6


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e9, 1e9)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
configs = st.dictionaries(
    st.text("abcxyz_", min_size=1, max_size=6),
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=4),
    max_size=5,
)


@given(configs)
@settings(deadline=None, max_examples=100)
def test_any_configuration_survives_its_yaml(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("config") / "config.yaml"
    kept = kept_config(config)
    write_config(file, kept)
    assert config_differences(read_config(file), kept) == {}


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: *x\n", "- 1\n", "a: [", "!!python/object:os.system {}", "a: .nan"]
)
def test_a_config_that_is_no_plain_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((IntegrityError, NumericalError)):
        read_config(tmp_path / "config.yaml")

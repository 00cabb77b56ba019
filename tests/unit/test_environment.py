"""What surrounds the hardware, on fake folders and packages."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from sixgig import environment
from sixgig.environment import FolderSize, Library


@pytest.mark.parametrize(
    ("system", "windows", "wsl"),
    [
        ("Windows 11", True, False),
        ("Linux 5.15.153.1-microsoft-standard-WSL2", False, True),
        ("Linux 4.4.0-19041-Microsoft", False, True),
        ("Linux 6.8.0-45-generic", False, False),
        ("Darwin 24.0.0", False, False),
    ],
)
def test_windows_and_linux_inside_it_are_told_apart(system: str, windows: bool, wsl: bool) -> None:
    assert environment.is_windows(system) is windows
    assert environment.is_wsl(system) is wsl


@pytest.mark.parametrize(
    ("torch_cuda", "driver_cuda", "suits"),
    [("13.0", "13.2", True), ("13.2", "13.0", True), ("13.0", "12.9", False), ("12.6", "13.0", True)],
)
def test_a_driver_serves_its_own_major_version_and_older_ones(
    torch_cuda: str, driver_cuda: str, suits: bool
) -> None:
    assert environment.torch_suits_driver(torch_cuda, driver_cuda) is suits


def write_device(bus: Path, name: str, vendor: str, kind: str) -> None:
    (bus / name).mkdir(parents=True)
    (bus / name / "vendor").write_text(vendor + "\n")
    (bus / name / "class").write_text(kind + "\n")


def test_cards_on_the_bus_are_counted_without_a_driver(tmp_path: Path) -> None:
    write_device(tmp_path, "display", "0x10de", "0x030000")
    write_device(tmp_path, "compute", "0x10de", "0x030200")
    write_device(tmp_path, "sound-of-the-card", "0x10de", "0x040300")
    write_device(tmp_path, "another-maker", "0x1002", "0x030000")
    (tmp_path / "gone").mkdir()
    assert environment.num_nvidia_cards(tmp_path) == 2
    assert environment.num_nvidia_cards(tmp_path / "absent") == 0


def test_a_library_is_known_by_its_records() -> None:
    assert environment.library("pytest") == Library(name="pytest", version=pytest.__version__)
    assert environment.library("sixgig-no-such-package") == Library(
        name="sixgig-no-such-package", version=None
    )


def test_requirements_that_are_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "pytest>=1",
        "numpy>=99",
        "no-such-package<2",
        'other-system; sys_platform == "never"',
        'only-an-extra; extra == "dev"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda package: lines)
    assert environment.unmet_requirements("sixgig") == ("numpy>=99", "no-such-package<2")


def test_a_source_tree_without_records_requires_nothing() -> None:
    assert environment.unmet_requirements("sixgig-no-such-package") == ()


def test_triton_is_here_absent_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("triton")
    module.__version__ = "3.7.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", module)
    assert environment.triton() == Library(name="triton", version="3.7.0")
    monkeypatch.setitem(sys.modules, "triton", None)  # Python then says that there is no such module
    assert environment.triton() == Library(name="triton", version=None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sixgig_no_such_module", "sixgig_no_such_module"),
        ("raise OSError('no compiler')", "no compiler"),
    ],
)
def test_what_keeps_triton_from_working_is_told(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    state = environment.triton()
    assert state.version is None
    assert state.problem is not None
    assert words in state.problem


def test_a_folders_size_counts_files_once_and_follows_no_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 100)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 23)
    assert environment.folder_size(tmp_path) == FolderSize(num_bytes=123, is_complete=True)
    assert environment.folder_size(tmp_path / "absent") == FolderSize(num_bytes=0, is_complete=True)
    assert environment.folder_size(tmp_path, limit_s=-1).is_complete is False


def test_writing_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    assert environment.write_problem(tmp_path / "will" / "be" / "made") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert environment.write_problem(folder) == f"{tmp_path / 'file'} is a file"


def test_a_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert environment.write_problem(tmp_path / "cache") == f"{tmp_path}: Read-only file system"

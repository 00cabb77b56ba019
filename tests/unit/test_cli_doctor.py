"""`sixgig doctor` on fake machines: every finding with what mends it, and an answer whatever is broken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sixgig import bandwidth, environment, hardware
from sixgig.bandwidth import DeviceSpeed
from sixgig.cli import doctor
from sixgig.cli.findings import Facts, Finding
from sixgig.cli.main import run
from sixgig.environment import FolderSize, Library
from sixgig.hardware import Gpu, Hardware
from sixgig.load import hub_access
from sixgig.load.hub_access import HubAccess
from sixgig.units import GIB, MIB

ONLINE = HubAccess(
    endpoint="https://huggingface.co",
    cache_folder="hub-cache",
    is_mirror=False,
    is_encrypted=True,
    is_offline=False,
    has_token=True,
    is_reachable=True,
    account="somebody",
)
RTX4060 = Gpu(
    name="NVIDIA GeForce RTX 4060 Laptop GPU",
    total_bytes=8188 * MIB,
    free_bytes=7000 * MIB,
    compute_capability="8.9",
    driver="580.1",
    used_by_others_bytes=300 * MIB,
)
HERE = hardware.probe()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a hub that answers, and memory that takes no time to measure."""
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hub_access, "ask_hub_meanwhile", lambda timeout_s: lambda: ONLINE)
    monkeypatch.setattr(bandwidth, "host_bytes_per_second", lambda *a, **o: 20 * 10**9)
    return tmp_path


def machine(*gpus: Gpu, **others: Any) -> Hardware:
    usual = {
        "gpus": gpus,
        "system": "Linux 6.8",
        "torch_version": "2.13.0",
        "torch_cuda_version": "13.0",
        "driver_cuda_version": "13.2",
        "ram_available_bytes": 16 * GIB,
        "disk_free_bytes": 100 * GIB,
        "problems": (),
    }
    return dataclasses.replace(HERE, **(usual | others))


def found(facts: Facts, what: str) -> Finding:
    """The one finding of that name; more than one, or none, is a failure."""
    findings = [finding for finding in doctor.examine(facts) if finding.what == what]
    assert len(findings) == 1, [finding.what for finding in doctor.examine(facts)]
    return findings[0]


def names(facts: Facts) -> set[str]:
    return {finding.what for finding in doctor.examine(facts)}


def document(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert run(["doctor", "--json", *options]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return json.loads(captured.out)


def test_one_json_document_holds_all_that_was_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    answer = document(capsys)
    keys = {"hardware", "preset", "findings", "ok", "measured", "libraries", "triton", "hub", "caches"}
    assert set(answer) == keys
    assert answer["measured"]["host_bytes_per_second"] == 20 * 10**9
    assert answer["hub"]["account"] == "somebody"
    assert answer["libraries"]["torch"] == HERE.torch_version
    assert answer["caches"]["own"] == {"num_bytes": 0, "is_complete": True}
    assert answer["ok"] is False  # the embedded model is missing
    assert all(item["remedy"] for item in answer["findings"] if item["ok"] is False)


def test_quick_measures_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **options: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(bandwidth, "host_bytes_per_second", forbidden)
    monkeypatch.setattr(bandwidth, "device_speeds", forbidden)
    monkeypatch.setattr(hardware, "probe", lambda: machine(RTX4060))
    answer = document(capsys, "--quick")
    assert answer["measured"] == {"host_bytes_per_second": None, "devices": []}
    assert not {"memory speed", "GPU memory speed"} & {item["what"] for item in answer["findings"]}


def test_the_measured_card_is_compared_with_its_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = DeviceSpeed(
        name=RTX4060.name, compute_capability="8.9", bytes_per_second=224 * 10**9, has_kernels=True
    )
    monkeypatch.setattr(hardware, "probe", lambda: machine(RTX4060))
    monkeypatch.setattr(bandwidth, "device_speeds", lambda: (speed,))
    facts = doctor.gather(quick=False)
    assert facts.devices == (speed,)
    finding = found(facts, "GPU memory speed")
    assert finding.ok is True
    assert finding.found == "224 GB/s read and written while copying, 88% of the specification's 256"
    slow = dataclasses.replace(speed, bytes_per_second=100 * 10**9)
    assert "charger" in found(dataclasses.replace(facts, devices=(slow,)), "GPU memory speed").remedy


def test_a_card_that_torch_has_no_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = DeviceSpeed(name="other", compute_capability="6.1", bytes_per_second=10**11, has_kernels=False)
    findings = doctor.examine(Facts(hardware=machine(RTX4060), devices=(speed,)))
    wrong = [finding for finding in findings if finding.what == "torch and GPU" and finding.ok is False]
    assert "no code for compute 6.1" in wrong[0].found
    assert "pip install" in wrong[0].remedy


def test_the_gpus_memory_and_who_uses_it() -> None:
    facts = Facts(hardware=machine(RTX4060))
    assert found(facts, "GPU").ok is True
    assert "8.00 GiB, 6.84 GiB free" in found(facts, "GPU").found
    assert found(facts, "GPU in use") == Finding(
        what="GPU in use", ok=True, found="300.00 MiB by other programs and the driver"
    )
    busy = dataclasses.replace(RTX4060, used_by_others_bytes=3 * GIB)
    assert "nvidia-smi" in found(Facts(hardware=machine(busy)), "GPU in use").remedy
    silent = dataclasses.replace(RTX4060, used_by_others_bytes=None)
    assert found(Facts(hardware=machine(silent)), "GPU in use").found == "the driver does not tell"


@pytest.mark.parametrize(("capability", "ok"), [("7.5", None), ("8.0", True), ("8.9", True), ("12.0", True)])
def test_bf16_is_said_plainly(capability: str, ok: bool | None) -> None:
    gpu = dataclasses.replace(RTX4060, compute_capability=capability)
    finding = found(Facts(hardware=machine(gpu)), "bf16")
    assert finding.ok is ok
    assert ("emulated and slow" in finding.found) is (ok is None)


@pytest.mark.parametrize(
    ("others", "words", "remedy"),
    [
        ({"torch_version": None, "torch_cuda_version": None}, "torch is not here", "install torch"),
        ({"torch_cuda_version": None}, "without CUDA", "--force-reinstall torch"),
        (
            {"torch_cuda_version": None, "system": "Windows 11"},
            "without CUDA",
            "https://download.pytorch.org/whl/cu130",
        ),
        (
            {"torch_cuda_version": None, "driver_cuda_version": "12.8"},
            "without CUDA",
            "https://download.pytorch.org/whl/cu126",
        ),
        ({"driver_cuda_version": "12.8"}, "serves up to 12.8", "update NVIDIA's driver"),
    ],
)
def test_a_torch_that_does_not_suit_the_gpu(others: dict[str, Any], words: str, remedy: str) -> None:
    finding = found(Facts(hardware=machine(RTX4060, **others)), "torch and GPU")
    assert finding.ok is False
    assert words in finding.found
    assert remedy in finding.remedy


def test_a_torch_that_suits_the_gpu_and_a_driver_that_does_not_tell() -> None:
    assert found(Facts(hardware=machine(RTX4060)), "torch and GPU").ok is True
    silent = machine(RTX4060, driver_cuda_version=None)
    assert found(Facts(hardware=silent), "torch and GPU").ok is None


def test_no_gpu_is_an_ordinary_machine_and_a_card_without_driver_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = found(Facts(hardware=machine()), "GPU")
    assert (nothing.ok, nothing.remedy) == (None, "")
    undriven = found(Facts(hardware=machine(), num_nvidia_cards=1), "GPU")
    assert undriven.ok is False
    assert "--gpus all" in undriven.remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "hides" in found(Facts(hardware=machine(), num_nvidia_cards=1), "GPU").found


def test_a_driver_that_answers_with_an_error_is_named_with_what_mends_it() -> None:
    finding = found(Facts(hardware=machine(problems=("the driver cannot be used: mismatch",))), "GPU")
    assert finding.ok is False
    assert "mismatch" in finding.found
    assert "restart" in finding.remedy


@pytest.mark.parametrize(
    ("system", "gpus", "expected"),
    [
        ("Windows 11", (RTX4060,), {"spilling"}),
        ("Linux 5.15-microsoft-standard-WSL2", (RTX4060,), {"spilling", "system"}),
        ("Linux 5.15-microsoft-standard-WSL2", (), {"system"}),
        ("Windows 11", (), set()),
        ("Linux 6.8", (RTX4060,), set()),
    ],
)
def test_hints_for_windows_and_wsl(system: str, gpus: tuple[Gpu, ...], expected: set[str]) -> None:
    facts = Facts(hardware=machine(*gpus, system=system))
    assert names(facts) & {"spilling", "system"} == expected
    if "spilling" in expected:
        assert "CUDA - Sysmem Fallback Policy" in found(facts, "spilling").remedy
    if "system" in expected:
        assert ".wslconfig" in found(facts, "system").remedy


@pytest.mark.parametrize(
    ("state", "gpus", "system", "ok", "remedy"),
    [
        (Library(name="triton", version="3.7.0"), (RTX4060,), "Linux", True, ""),
        (Library(name="triton", version=None), (), "Linux", None, ""),
        (Library(name="triton", version=None), (RTX4060,), "Linux", False, "pip install triton"),
        (Library(name="triton", version=None), (RTX4060,), "Windows 11", False, "triton-windows"),
        (
            Library(name="triton", version=None, problem="no compiler"),
            (RTX4060,),
            "Linux",
            False,
            "force-reinstall",
        ),
    ],
)
def test_triton_is_missed_only_where_a_gpu_is(
    state: Library, gpus: tuple[Gpu, ...], system: str, ok: bool | None, remedy: str
) -> None:
    finding = found(Facts(hardware=machine(*gpus, system=system), triton=state), "Triton")
    assert finding.ok is ok
    assert remedy in finding.remedy


def test_libraries_are_named_with_the_command_that_mends_them() -> None:
    libraries = (Library(name="torch", version=None), Library(name="numpy", version="2.4"))
    finding = found(Facts(libraries=libraries, unmet=("torch>=2.10",)), "libraries")
    assert (finding.ok, finding.remedy) == (False, 'pip install "torch>=2.10"')
    assert found(Facts(libraries=libraries), "libraries").remedy == 'pip install "torch"'
    assert found(Facts(libraries=libraries[1:]), "libraries").ok is True
    optional = (Library(name="bitsandbytes", version=None), *libraries[1:])
    assert found(Facts(libraries=optional), "libraries") == found(Facts(libraries=libraries[1:]), "libraries")


@pytest.mark.parametrize(
    ("changes", "what", "ok", "words"),
    [
        ({}, "hub", True, "reachable"),
        ({}, "hub login", True, "somebody"),
        ({"is_reachable": False, "problem": "no answer within 2 s"}, "hub", None, "no answer within 2 s"),
        ({"is_offline": True, "is_reachable": None}, "hub", None, "HF_HUB_OFFLINE"),
        ({"account": None, "problem": "the token is refused"}, "hub login", False, "refused"),
        ({"account": None, "is_reachable": False, "problem": "x"}, "hub login", None, "a token is here"),
        ({"has_token": False, "account": None}, "hub login", None, "no token"),
        (
            {"endpoint": "https://mirror.example", "is_mirror": True},
            "hub",
            True,
            "a mirror, from HF_ENDPOINT",
        ),
        ({"endpoint": "http://mirror.example", "is_encrypted": False}, "hub address", False, "not https"),
    ],
)
def test_the_hub_and_the_login(changes: dict[str, Any], what: str, ok: bool | None, words: str) -> None:
    finding = found(Facts(hub=dataclasses.replace(ONLINE, **changes)), what)
    assert finding.ok is ok
    assert words in finding.found
    assert finding.remedy or ok is not False


def test_caches_say_where_they_are_and_how_large(alone: Path) -> None:
    facts = Facts(
        hub=ONLINE,
        own_cache=FolderSize(num_bytes=545 * MIB, is_complete=True),
        hub_cache=FolderSize(num_bytes=20 * GIB, is_complete=False),
    )
    assert found(facts, "cache").found == f"545.00 MiB in {alone / 'cache'}"
    assert found(facts, "hub cache").found == "at least 20.00 GiB in hub-cache"


def test_a_cache_that_cannot_be_written(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (alone / "file").touch()
    monkeypatch.setenv("SIXGIG_CACHE", str(alone / "file" / "cache"))
    disk = next(item for item in document(capsys)["findings"] if item["what"] == "disk")
    assert disk["ok"] is False
    assert f"{alone / 'file'} is a file" in disk["found"]
    assert "SIXGIG_CACHE" in disk["remedy"]


def breaking(error: Exception) -> Any:
    def broken(*arguments: Any, **options: Any) -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    ("module", "name", "what"),
    [
        (hardware, "probe", "hardware"),
        (hub_access, "ask_hub_meanwhile", "hub"),
        (bandwidth, "host_bytes_per_second", "memory speed"),
        (environment, "folder_size", "cache"),
        (environment, "unmet_requirements", "libraries"),
        (environment, "library", "libraries"),
        (environment, "triton", "Triton"),
        (environment, "num_nvidia_cards", "PCI bus"),
    ],
)
@pytest.mark.parametrize(
    "error", [RuntimeError("all is\nlost"), OSError(5, "Input/output error"), KeyError()]
)
def test_whatever_fails_becomes_a_finding(
    module: Any,
    name: str,
    what: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, name, breaking(error))
    answer = document(capsys)
    broken = [item for item in answer["findings"] if item["what"] == what and item["ok"] is False]
    assert type(error).__name__ in broken[-1]["found"]
    assert "lost" not in broken[-1]["found"]  # one line
    assert broken[-1]["remedy"]
    assert any(item["what"] == "embedded model" for item in answer["findings"])
    assert run(["doctor"]) == 0
    assert what in capsys.readouterr().out


def test_a_device_that_cannot_be_measured_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "probe", lambda: machine(RTX4060))
    monkeypatch.setattr(bandwidth, "device_speeds", breaking(RuntimeError("CUDA error: device busy")))
    broken = next(item for item in document(capsys)["findings"] if item["what"] == "GPU memory speed")
    assert broken["ok"] is False
    assert "device busy" in broken["found"]


def test_a_finding_that_cannot_be_made_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sixgig.cli.findings.is_fetched", breaking(OSError(5, "Input/output error")))
    findings = doctor.examine(Facts(hardware=machine(RTX4060)))
    assert any(finding.what == "machine" and finding.ok is False for finding in findings)
    assert any(finding.what == "GPU" and finding.ok for finding in findings)


def test_the_table_for_people_names_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--quick"]) == 0
    shown = capsys.readouterr().out
    assert "MISSING" in shown
    assert "--preset" in shown

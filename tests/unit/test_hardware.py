"""The probe on fake drivers and files: what CUDA programs see, and which preset follows."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sixgig import hardware
from sixgig.hardware import Gpu, Hardware, cache_root, choose_preset, keep_few_kernels, probe
from sixgig.units import GIB, MIB


class FakeNvml:
    """The few calls that are used, for cards of the given sizes; None is a card that cannot be read."""

    class NVMLError(Exception):
        def __init__(self, text: str, value: int = 999) -> None:
            super().__init__(text)
            self.value = value

    def __init__(self, *totals_gib: float | None, init_error: int | None = None) -> None:
        self.totals_gib, self.init_error, self.is_shut = totals_gib, init_error, False
        self.processes: list[SimpleNamespace] | None = []

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise self.NVMLError("Driver/library version mismatch", self.init_error)

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13020

    def nvmlDeviceGetComputeRunningProcesses(self, index: int) -> list[SimpleNamespace]:
        if self.processes is None:
            raise self.NVMLError("Not Supported", 3)
        return self.processes

    def nvmlShutdown(self) -> None:
        self.is_shut = True

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.totals_gib)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, index: int) -> str:
        return f"GPU-{index}{index}"

    def nvmlDeviceGetName(self, index: int) -> str:
        return f"card {index}"

    def nvmlDeviceGetCudaComputeCapability(self, index: int) -> tuple[int, int]:
        return 8, 6

    def nvmlDeviceGetMemoryInfo(self, index: int) -> SimpleNamespace:
        total_gib = self.totals_gib[index]
        if total_gib is None:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(total=int(total_gib * GIB), free=int(total_gib * GIB) - 5)


def machine(*totals_gib: float, cuda: str | None = "13.0") -> Hardware:
    gpus = tuple(
        Gpu(name="c", total_bytes=int(t * GIB), free_bytes=0, compute_capability="8.6", driver="1")
        for t in totals_gib
    )
    return dataclasses.replace(probe(), gpus=gpus, torch_cuda_version=cuda)


@pytest.mark.parametrize(
    ("totals_gib", "preset"),
    [
        ((), "cpu"),
        ((4,), "4g"),
        ((5.49,), "4g"),
        ((5.5,), "6g"),
        ((7.4,), "6g"),
        ((7.5,), "8g"),
        ((19.9,), "8g"),
        ((20,), "full"),
        ((4, 24), "full"),
    ],
)
def test_the_largest_card_chooses_the_preset(totals_gib: tuple[float, ...], preset: str) -> None:
    assert choose_preset(machine(*totals_gib)) == preset


def test_a_card_that_torch_was_not_built_for_is_no_card() -> None:
    assert choose_preset(machine(24, cuda=None)) == "cpu"


@pytest.mark.parametrize("code", [9, 12])
def test_no_driver_is_no_error(code: int) -> None:
    assert hardware._gpus(FakeNvml(init_error=code)) == ((), ())


def test_a_driver_that_is_there_and_cannot_be_used_is_a_problem() -> None:
    gpus, problems = hardware._gpus(FakeNvml(6, init_error=18))
    assert gpus == ()
    assert "version mismatch" in problems[0]
    assert hardware._driver_cuda_version(FakeNvml(6, init_error=18)) is None


def test_what_others_use_is_what_is_used_without_this_processs_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml(6)

    def used_by_others() -> int | None:
        return hardware._gpus(nvml)[0][0].used_by_others_bytes

    assert used_by_others() == 5
    nvml.processes = [
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=3),
        SimpleNamespace(pid=0, usedGpuMemory=2),
    ]
    assert used_by_others() == 2
    nvml.processes = [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]
    assert used_by_others() is None
    nvml.processes = None
    assert used_by_others() is None


def test_the_newest_cuda_of_the_driver() -> None:
    assert hardware._driver_cuda_version(FakeNvml(6)) == "13.2"


def test_a_missing_drive_has_nothing_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_drive(folder: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(folder))

    monkeypatch.setattr("shutil.disk_usage", no_drive)
    assert probe(tmp_path).disk_free_bytes == 0


def test_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert hardware.existing_folder(tmp_path / "file" / "models") == tmp_path
    assert hardware.existing_folder(tmp_path / "a" / "b") == tmp_path
    assert hardware.existing_folder(tmp_path) == tmp_path


def test_cards_are_read_and_the_driver_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml(6, 8)
    gpus, problems = hardware._gpus(nvml)
    assert [gpu.total_bytes for gpu in gpus] == [6 * GIB, 8 * GIB]
    assert gpus[0].driver == "580.1"
    assert gpus[0].compute_capability == "8.6"
    assert gpus[1].free_bytes == 8 * GIB - 5
    assert problems == ()
    assert nvml.is_shut


def test_a_card_that_cannot_be_read_is_reported_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus, problems = hardware._gpus(FakeNvml(None, 8))
    assert [gpu.name for gpu in gpus] == ["card 1"]
    assert len(problems) == 1
    assert "GPU 0" in problems[0]


@pytest.mark.parametrize(
    ("setting", "seen"),
    [(None, [0, 1, 2]), ("", []), ("-1", []), ("2,0", [2, 0]), ("0,9,1", [0]), ("GPU-11", [1]), ("GPU-", [])],
)
def test_cuda_visible_devices_is_obeyed(setting: str | None, seen: list[int]) -> None:
    uuids = ["GPU-00", "GPU-11", "GPU-22"]
    assert hardware._visible(uuids, {"CUDA_VISIBLE_DEVICES": setting}.get) == seen


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("2147483648\n", 2 * GIB)])
def test_a_containers_memory_limit(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert hardware._container_limit_bytes(tmp_path / "memory.max") == limit
    assert hardware._container_limit_bytes(tmp_path / "absent") is None


def test_the_cpus_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Fast CPU\n")
    assert hardware._cpu_model(tmp_path / "cpuinfo") == "Fast CPU"


@pytest.mark.parametrize(
    ("line", "cuda"),
    [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda: Optional[str] = None", None), ("hip = '6.1'", None)],
)
def test_what_torch_was_built_for_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, cuda: str | None
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert hardware._torch_cuda_version() == cuda


def test_the_cache_is_the_argument_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIXGIG_CACHE", str(tmp_path / "env"))
    assert cache_root() == tmp_path / "env"
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    monkeypatch.delenv("SIXGIG_CACHE")
    assert cache_root().name == "sixgig"


def test_this_machine_is_probed() -> None:
    found = probe()
    assert 0 < found.ram_available_bytes <= found.ram_bytes
    assert found.num_cores >= 1
    assert found.disk_free_bytes >= 0
    assert found.torch_version is not None


def test_probe_and_command_line_import_no_torch() -> None:
    code = (
        "import sys, sixgig, sixgig.cli.main, sixgig.cli.doctor, sixgig.cli.models, sixgig.cli.plan, "
        "sixgig.cli.fetch\nfrom sixgig.hardware import probe\nprobe()\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kept_kernels_are_few_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    monkeypatch.setenv(names[0], "7")
    monkeypatch.delenv(names[1], raising=False)
    keep_few_kernels()
    assert [os.environ[name] for name in names] == ["7", str(hardware.KEPT_KERNELS)]
    monkeypatch.delenv(names[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc how much memory is in use")
def test_products_of_many_shapes_leave_little_in_memory() -> None:
    script = """
import ctypes
from sixgig.hardware import keep_few_kernels
keep_few_kernels()
import torch

class Heap(ctypes.Structure):
    names = "arena ordblks smblks hblks mapped usmblks fsmblks used free keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

def used_bytes():
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Heap
    return mallinfo2().used + mallinfo2().mapped

weight = torch.zeros(576, 576, dtype=torch.bfloat16)
before = used_bytes()
for rows in range(100, 300):
    torch.nn.functional.linear(torch.zeros(rows, 576, dtype=torch.bfloat16), weight)
print(used_bytes() - before)
"""
    environment = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50 * MIB  # 115 MiB without a bound

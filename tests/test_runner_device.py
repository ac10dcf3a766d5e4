"""`climb` and its device: not enough memory, deterministic mode, GPUs as they describe themselves, and what is given back."""
from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pixels_to_resnet import climb, data, devices, runner
from pixels_to_resnet.data import Digits, DigitSplits, load_digits
from pixels_to_resnet.fast_path import fit_linear
from pixels_to_resnet.linear import LinearModel
from pixels_to_resnet.rungs import ClimbError
from tools.kills import weights_in

CPU = torch.device("cpu")
TINY = Digits(torch.arange(6, dtype=torch.uint8).view(6, 1, 1).repeat(1, 28, 28), torch.tensor([3, 3, 3, 7, 7, 7]))
SPLITS = DigitSplits(TINY, TINY, "tiny", "here")


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_digits("mnist_sample", "standin", lambda line: None)
    monkeypatch.setattr(data, "load_digits", lambda *ignored: digits)
    monkeypatch.setattr(runner, "_picture", lambda *ignored: b"PNG")


def settings() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


def raising(error: Exception) -> object:
    def fit(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
        raise error

    return fit


SHORT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.cuda.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried to allocate 4000000000 bytes."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes. Error code 12"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)."),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {str(error)[:30]}")
def test_not_enough_memory_is_one_sentence_with_the_rung_and_a_remedy(error: Exception, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--quiet", "--check", "--device", "cpu", "--out", str(tmp_path)]
    assert climb.main(words, [climb.Rung("vast", "", "mnist_sample", raising(error), {})]) == 2
    said = capfd.readouterr()
    assert said.err == (
        "climb: There is not enough memory on cpu for the rung vast; end other programs that use it, "
        "leave the rung out with --rungs, or choose another --device.\n"
    )
    assert said.out == "" and not list(tmp_path.iterdir())


def test_another_error_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        words = ["--quiet", "--device", "cpu", "--out", str(tmp_path)]
        climb.main(words, [climb.Rung("odd", "", "mnist_sample", raising(RuntimeError("shapes do not fit")), {})])


def test_memory_runs_out_for_real_while_answering() -> None:
    class Greedy(LinearModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.empty(2**60, dtype=torch.uint8)

    def fit(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
        return Greedy()

    with pytest.raises(ClimbError, match="not enough memory on cpu for the rung greedy"):
        runner.examine(climb.Rung("greedy", "", "tiny", fit, {}), SPLITS, CPU)


def test_deterministic_mode_gives_the_same_bytes_and_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, inside = settings(), []

    def fit(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
        inside.append(settings())
        return fit_linear(train, epochs, seed)

    rungs = [climb.Rung("line", "", "mnist_sample", fit, {}, ("linear:LinearModel",)), *climb.RUNGS[2:3]]
    for name in ("a", "b"):
        words = ["--quiet", "--deterministic", "--epochs", "2", "--device", "cpu", "--out", str(tmp_path / name)]
        assert climb.main(words, rungs) == 0 and settings() == before
        report = json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))
        assert report["deterministic"] is True and "seed 0, deterministic" in capfd.readouterr().out
    assert weights_in(tmp_path / "a") == weights_in(tmp_path / "b") and len(weights_in(tmp_path / "a")) == 2 + 4
    assert [state[0] for state in inside] == [True, True] and {state[3] for state in inside} == {":4096:8"}


def test_deterministic_mode_ends_with_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        error = RuntimeError("scatter_add_cuda_kernel does not have a deterministic implementation, but you set it.")
        words = ["--quiet", "--deterministic", "--device", "cpu", "--out", str(tmp_path)]
        assert climb.main(words, [climb.Rung("loose", "", "mnist_sample", raising(error), {})]) == 2
        assert settings() == before and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "The rung loose needs an operation that has no deterministic form on cpu; leave out --deterministic" in said


@pytest.mark.parametrize("rung", climb.RUNGS[:5], ids=lambda rung: rung.name)
def test_every_rung_has_a_deterministic_form_on_the_cpu(rung: climb.Rung) -> None:
    label = 9 if rung.task == "mnist_png" else 7
    digits = Digits(
        torch.arange(40, dtype=torch.uint8).view(40, 1, 1).repeat(1, 28, 28), torch.arange(40) % 10 if label == 9 else torch.tensor([3, 7] * 20)
    )
    models = []
    for _ in range(2):
        with devices.deterministic():
            models.append(runner.examine(rung, DigitSplits(digits, digits, "tiny", "here"), CPU, epochs=1)[2].state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_gpu_describes_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    about = SimpleNamespace(name="a GPU", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: about)
    monkeypatch.setattr("torch.version.cuda", "13.2")
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = {"type": "cuda", "name": "a GPU", "memory": 80 * 2**30, "capability": "9.0", "cuda": "13.2", "driver": None}
    assert devices.describe_device(torch.device("cuda")) == wanted
    if os.name != "nt":
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
        program.chmod(0o755)
        assert devices.describe_device(torch.device("cuda")) == {**wanted, "driver": "580.65.06"}


def test_each_process_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert devices.choose_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert devices.choose_device("cuda") == devices.choose_device("auto") == torch.device("cuda", 2)
    assert devices.choose_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(devices.DeviceError, match="8 processes and 4 GPUs here; start 4, with --nproc-per-node, or use --device cpu"):
        devices.choose_device("cuda")


def test_a_model_that_was_made_elsewhere_comes_to_the_device_of_the_digits() -> None:
    moved = []

    class Traveller(LinearModel):
        def to(self, *where: object, **more: object) -> Traveller:
            moved.append(where[0])
            return super().to(*where, **more)

    def fit(train: Digits, epochs: int | None = None, seed: int = 0) -> torch.nn.Module:
        return Traveller()

    runner.examine(climb.Rung("traveller", "", "tiny", fit, {}), SPLITS, CPU)
    assert moved == [CPU]


def test_memory_is_given_back_after_each_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    freed = []
    monkeypatch.setattr(runner, "free_memory", freed.append)
    assert climb.main(["--quiet", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path)], climb.FIRST_RUNGS) == 0
    assert freed == [CPU] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_climb_on_a_gpu_gives_its_memory_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    assert climb.main(["--quiet", "--epochs", "1", "--device", "cuda", "--out", str(tmp_path)], climb.FIRST_RUNGS) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["device"]["memory"] > 0 and torch.cuda.memory_allocated() <= before + 2**24

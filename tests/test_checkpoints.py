"""Checkpoints: what a file gives back, what it refuses, and that a training stopped anywhere ends with the same weights."""
from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from pixels_to_resnet import checkpoints, fast_path, fast_ten
from pixels_to_resnet.checkpoints import Checkpoint, train_in_turns
from pixels_to_resnet.data import Digits
from pixels_to_resnet.idx import DataError


def some_digits(n: int = 120, classes: int = 10) -> Digits:
    """Noise with a label; for two classes 3 and 7."""
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 28, 28), generator=generator) * (torch.rand(n, 28, 28, generator=generator) < 0.2)
    labels = torch.arange(n) % 10 if classes == 10 else torch.where(torch.arange(n) % 2 == 0, 3, 7)
    return Digits(images.to(torch.uint8), labels)


FITS: dict[str, tuple[Callable[..., nn.Module], Digits, dict[str, object]]] = {
    "linear": (fast_path.fit_linear, some_digits(classes=2), {"epochs": 5, "batch_size": 50}),
    "mlp": (fast_path.fit_mlp, some_digits(classes=2), {"epochs": 5, "batch_size": 50}),
    "multiclass": (fast_ten.fit_multiclass, some_digits(), {"epochs": 5, "batch_size": 50, "sizes": (784, 40, 10)}),
}


class Stopped(BaseException):
    """Somebody pulls the plug."""


def fitted(kind: str, checkpoint: Checkpoint | None = None, **other: object) -> list[torch.Tensor]:
    fit, digits, how = FITS[kind]
    return [p.detach() for p in fit(digits, checkpoint=checkpoint, **{**how, **other}).parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stop_after(n_saves: int, monkeypatch: pytest.MonkeyPatch, when: str = "after") -> None:
    """Stops the process, so to say, after so many saves, or within the next one, between writing and renaming."""
    count, save, replace = [0], Checkpoint.save, os.replace

    def counted(self: Checkpoint, *args: object) -> None:
        count[0] += 1
        save(self, *args)
        if when == "after" and count[0] == n_saves:
            raise Stopped

    def renamed(*args: object) -> None:
        if when == "within" and count[0] == n_saves:
            raise Stopped
        replace(*args)

    monkeypatch.setattr(Checkpoint, "save", counted)
    monkeypatch.setattr(os, "replace", renamed)


@pytest.mark.parametrize("kind", FITS)
@pytest.mark.parametrize("when", ["after", "within"])
@pytest.mark.parametrize("n_saves", [1, 2, 3, 4, 5])
def test_a_training_stopped_at_any_save_goes_on_to_the_same_weights(kind: str, when: str, n_saves: int, tmp_path: Path) -> None:
    file, wanted, said = tmp_path / "c.safetensors", fitted(kind), []
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Stopped):
        stop_after(n_saves, monkeypatch, when)
        fitted(kind, Checkpoint(file, {"what": kind}, seconds=0))
    assert file.exists() == (when == "after" or n_saves > 1)
    assert os.listdir(tmp_path) == (["c.safetensors"] if file.exists() else []), "nothing half-written is left"
    assert same(fitted(kind, Checkpoint(file, {"what": kind}, say=said.append)), wanted) and not said


@pytest.mark.parametrize("kind", FITS)
def test_stopped_again_and_again_and_after_the_end(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, wanted, taken = tmp_path / "c.safetensors", fitted(kind), []
    epoch = fast_path.FastTrainer.epoch
    monkeypatch.setattr(fast_path.FastTrainer, "epoch", lambda self, order: (taken.append(1), epoch(self, order)))
    for _ in range(4):
        with pytest.MonkeyPatch.context() as inner, pytest.raises(Stopped):
            stop_after(1, inner)
            fitted(kind, Checkpoint(file, {}, seconds=0))
    assert same(fitted(kind, Checkpoint(file, {}, seconds=0)), wanted) and len(taken) == 5, "no turn was done twice"
    assert same(fitted(kind, Checkpoint(file, {}, seconds=0)), wanted) and len(taken) == 5, "after the end, it only reads"


@pytest.mark.parametrize("kind", FITS)
def test_a_state_that_is_forgotten_is_noticed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, last = fitted(kind), "rare" if kind == "multiclass" else "matrix.0"
    trainer = fast_ten.SplitTrainer if kind == "multiclass" else fast_path.FastTrainer
    state = trainer.state
    monkeypatch.setattr(trainer, "state", lambda self: {name: t for name, t in state(self).items() if name != last} or {"x": torch.zeros(1)})
    with pytest.MonkeyPatch.context() as inner, pytest.raises(Stopped):
        stop_after(2, inner)
        fitted(kind, Checkpoint(tmp_path / "c", {}, seconds=0))
    assert not same(fitted(kind, Checkpoint(tmp_path / "c", {})), wanted)


def test_orders_not_from_the_beginning_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training that draws each order when it comes to it would do."""
    wanted = fitted("linear")
    with pytest.MonkeyPatch.context() as inner, pytest.raises(Stopped):
        stop_after(2, inner)
        fitted("linear", Checkpoint(tmp_path / "c", {}, seconds=0))
    orders = fast_path.FastTrainer.orders
    monkeypatch.setattr(fast_path.FastTrainer, "orders", lambda self, n: orders(self, n).roll(2, 0))
    assert not same(fitted("linear", Checkpoint(tmp_path / "c", {})), wanted)


# ---- files that are of no use


def a_state() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(5.0), "n": torch.tensor(3)}


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def scribbled(file: Path) -> None:
    file.write_bytes(b"\x00\xff" * 60)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def of_other_weights(file: Path) -> None:
    from safetensors.torch import save_file

    save_file(a_state(), file)


def without_metadata_numbers(file: Path) -> None:
    from safetensors.torch import save_file

    save_file(a_state(), file, {"seed": "0", "turns": "three", "seconds": "1"})


def before_the_beginning(file: Path) -> None:
    checkpoints._write(file, a_state(), {"seed": "0", "turns": "-1", "seconds": "1"})


def no_seconds(file: Path) -> None:
    checkpoints._write(file, a_state(), {"seed": "0", "turns": "1", "seconds": "nan"})


DAMAGE = [shortened, emptied, scribbled, a_folder, of_other_weights, without_metadata_numbers, before_the_beginning, no_seconds]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_as_if_it_were_not_there(damage: Callable[[Path], None], tmp_path: Path) -> None:
    file, said, state = tmp_path / "c.safetensors", [], {"x": torch.full((5,), 7.0), "n": torch.tensor(9)}
    Checkpoint(file, {"seed": "0"}).save(a_state(), 4)
    damage(file)
    assert Checkpoint(file, {"seed": "0"}, say=said.append).restore(state) == 0
    assert said == [f"{file} is damaged; this training begins anew."]
    assert state["x"].eq(7).all() and state["n"] == 9, "nothing was filled"


@pytest.mark.parametrize(
    "about, state, why",
    [
        ({"seed": "1"}, {}, "(another seed)"),
        ({"seed": "0", "torch": "9"}, {}, "(another torch)"),
        ({}, {}, "(another seed)"),
        ({"seed": "0"}, {"x": torch.zeros(6)}, "(other tensors)"),
        ({"seed": "0"}, {"x": torch.zeros(5, dtype=torch.float64)}, "(other tensors)"),
        ({"seed": "0"}, {"y": torch.zeros(1)}, "(other tensors)"),
    ],
)
def test_a_file_of_another_training_is_as_if_it_were_not_there(about: dict, state: dict, why: str, tmp_path: Path) -> None:
    file, said = tmp_path / "c.safetensors", []
    Checkpoint(file, {"seed": "0"}).save(a_state(), 4)
    filled = {name: torch.zeros_like(tensor) for name, tensor in {**a_state(), **state}.items()}
    assert Checkpoint(file, about, say=said.append).restore(filled) == 0
    assert said == [f"{file} belongs to another training {why}; this training begins anew."]
    assert not any(tensor.any() for tensor in filled.values())
    assert Checkpoint(file, {"seed": "0"}, say=said.append).restore(a_state()) == 4 and len(said) == 1


def test_a_missing_file_is_nothing_to_speak_of(tmp_path: Path) -> None:
    said: list[str] = []
    assert Checkpoint(tmp_path / "no" / "c", {}, say=said.append).restore(a_state()) == 0 and not said
    Checkpoint(tmp_path / "no" / "c", {}).save(a_state(), 1)
    assert Checkpoint(tmp_path / "no" / "c", {}).restore(a_state()) == 1


def test_a_full_disk_leaves_the_older_file_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.safetensors"
    Checkpoint(file, {}).save(a_state(), 4)
    with monkeypatch.context() as m, pytest.raises(DataError, match="c.safetensors cannot be written .*the disk is full.*; free some space"):
        m.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))))
        Checkpoint(file, {}).save(a_state(), 5)
    assert Checkpoint(file, {}).restore(a_state()) == 4 and os.listdir(tmp_path) == ["c.safetensors"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of POSIX")
def test_a_disk_that_is_really_full_half_way(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the operating system itself refuses to write."""
    import resource
    import signal

    file, big = tmp_path / "c.safetensors", {"x": torch.zeros(100_000)}
    Checkpoint(file, {}).save(big, 4)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(DataError, match="cannot be written .*; check the disk"):
            Checkpoint(file, {}).save(big, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert Checkpoint(file, {}).restore(big) == 4 and os.listdir(tmp_path) == ["c.safetensors"]


# ---- what a file holds, and when it is written

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_form_comes_back_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    big = (100 * torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))).to(dtype)
    kept = {"whole": big, "part": big[1:, ::2], "same": big, "turned": big.transpose(0, 3), "last": big.contiguous(memory_format=torch.channels_last)}
    kept |= {"one": big[0, 0, 0, 0], "none": big[:0], "wide": big[0, 0, 0, :1].expand(7)}
    if dtype.is_floating_point:
        kept["odd"] = torch.tensor([float("nan"), float("inf"), -0.0], dtype=dtype)
    Checkpoint(tmp_path / "c", {}).save(kept, 1)
    forms = {name: torch.empty_strided(t.shape, t.stride() if name != "wide" else (1,), dtype=dtype).zero_() for name, t in kept.items()}
    assert Checkpoint(tmp_path / "c", {}).restore(forms) == 1
    for name, tensor in kept.items():
        assert forms[name].dtype == dtype and (name == "wide" or forms[name].stride() == tensor.stride())
        assert tensor.contiguous().view(-1).view(torch.uint8).equal(forms[name].contiguous().view(-1).view(torch.uint8)), name


def test_parameters_and_tensors_that_share_memory_are_restored_in_place(tmp_path: Path) -> None:
    shared = nn.Parameter(torch.arange(4.0))
    state = {"a": shared, "b": shared.data.view(2, 2)}
    Checkpoint(tmp_path / "c", {}).save(state, 1)
    address = shared.data_ptr()
    shared.data.zero_()
    Checkpoint(tmp_path / "c", {}).restore(state)
    assert shared.tolist() == [0, 1, 2, 3] and shared.data_ptr() == address and shared.requires_grad


def test_it_is_written_when_it_is_due_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, saved = [100.0], []
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints, "_write", lambda file, state, about: saved.append((about["turns"], float(about["seconds"]))))

    def turn(k: int) -> None:
        clock[0] += 4

    train_in_turns(8, turn, a_state, Checkpoint(tmp_path / "c", {}, seconds=10))
    assert saved == [("3", 12.0), ("6", 24.0), ("8", 32.0)]
    train_in_turns(0, turn, a_state, Checkpoint(tmp_path / "c", {}, seconds=10))
    assert len(saved) == 3


def test_seconds_of_killed_processes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    first = Checkpoint(tmp_path / "c", {})
    first.restore(a_state())
    clock[0] += 7
    first.save(a_state(), 1)
    clock[0] = 5000.0
    second = Checkpoint(tmp_path / "c", {})
    assert second.restore(a_state()) == 1
    clock[0] += 3
    assert second.spent == 10.0 and not second.due()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", FITS)
def test_a_training_on_a_gpu_goes_on_to_the_same_weights(kind: str, tmp_path: Path) -> None:
    fit, digits, how = FITS[kind]
    digits = digits.to("cuda")
    wanted = [p.detach() for p in fit(digits, **how).parameters()]
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Stopped):
        stop_after(2, monkeypatch)
        fit(digits, checkpoint=Checkpoint(tmp_path / "c", {}, seconds=0), **how)
    assert same([p.detach() for p in fit(digits, checkpoint=Checkpoint(tmp_path / "c", {}), **how).parameters()], wanted)

"""Weights in a file: what goes in comes out, what does not fit is refused with a sentence, and nothing in a file is ever run."""
from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pixels_to_resnet import weights
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.linear import LinearModel, seeded
from pixels_to_resnet.weights import load_weights, save_weights


def model(seed: int = 0) -> nn.Module:
    """Weights, and buffers of two types."""
    with seeded(seed):
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "größe 1.safetensors"


def test_what_goes_in_comes_out(file: Path) -> None:
    trained, fresh = model(0), model(1)
    trained(torch.rand(8, 5))
    save_weights(trained, file, dataset="stand-in", accuracy=0.5, classes=[7, 3])
    assert not same(fresh, trained)
    assert load_weights(fresh, file) == {"model": "Sequential", "classes": [7, 3], "dataset": "stand-in", "accuracy": 0.5}
    assert same(fresh, trained) and fresh.training and all(p.requires_grad for p in fresh.parameters())


def test_the_classes_of_a_model_are_noted(file: Path) -> None:
    save_weights(LinearModel(), file)
    assert load_weights(LinearModel(), file) == {"model": "LinearModel", "classes": [7, 3]}


def test_facts_may_have_the_names_of_the_parameters(file: Path) -> None:
    save_weights(LinearModel(), file, model="line", file="x", classes=[3])
    assert load_weights(LinearModel(), file) == {"model": "line", "file": "x", "classes": [3]}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype, file: Path) -> None:
    trained, fresh = model(0).to(dtype), model(1).to(dtype)
    save_weights(trained, file)
    load_weights(fresh, file)
    assert same(fresh, trained)


def test_views_and_shared_weights(file: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.register_buffer("turned", torch.rand(3, 4).T)

    trained, fresh = Tied(), Tied()
    save_weights(trained, file)
    load_weights(fresh, file)
    assert same(fresh, trained) and fresh.b.weight is fresh.a.weight


def test_equal_weights_give_equal_files(file: Path) -> None:
    about = {f"fact {i}": i for i in range(8)}
    contents = set()
    for _ in range(4):
        save_weights(model(), file, **about)
        contents.add(file.read_bytes())
    assert len(contents) == 1
    several = {}
    for i in range(8):
        save_file(model().state_dict(), file, {str(j): "x" for j in range(8)})
        several[file.read_bytes()] = i
    assert len(several) > 1, "many keys would have come in any order: this is why there is one"


def header(shape: object = (1,), dtype: str = "F32", offsets: tuple = (0, 4), name: str = "bias") -> bytes:
    """The bytes of a hand-made safetensors file with one tensor of 4 bytes."""
    text = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 4


def changed(change: Callable[[dict], object], about: str | None = None) -> Callable[[Path], object]:
    """Writes the weights of `model()` after `change`."""

    def write(file: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in model().state_dict().items()}
        change(tensors)
        save_file(tensors, file, None if about is None else {"about": about})

    return write


def cut(n: int) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        save_weights(model(), file)
        file.write_bytes(file.read_bytes()[:n])

    return write


class Trap:
    """Unpickling it creates the file `name`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.name,)


def other(what: nn.Module) -> Callable[[Path], object]:
    return lambda file: save_weights(what, file)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda file: None, "does not exist; check the name"),
    "a folder": (lambda file: file.mkdir(), "is a folder where a file of weights was expected; name the file inside it"),
    "below a file": (lambda file: (file.parent / "x").write_text("x"), "does not exist"),
    "empty": (lambda file: file.write_bytes(b""), "no complete safetensors file"),
    "text": (lambda file: file.write_text("weights " * 100), "no complete safetensors file"),
    "a pickle": (lambda file: file.write_bytes(pickle.dumps({"0.weight": [1.0]})), "no complete safetensors file"),
    "torch.save": (lambda file: torch.save(model().state_dict(), file), "no complete safetensors file"),
    "header cut": (cut(30), "no complete safetensors file"),
    "one byte short": (cut(-1), "no complete safetensors file"),
    "one byte too many": (lambda file: (cut(10**9)(file), file.write_bytes(file.read_bytes() + b"x")), "no complete safetensors file"),
    "huge header": (lambda file: file.write_bytes(b"\xff" * 8 + b"{}"), "no complete safetensors file"),
    "huge shape": (lambda file: file.write_bytes(header([2**62, 8])), "no complete safetensors file"),
    "negative shape": (lambda file: file.write_bytes(header([-1])), "no complete safetensors file"),
    "offsets beyond the end": (lambda file: file.write_bytes(header([100], offsets=(0, 400))), "no complete safetensors file"),
    "unknown type": (lambda file: file.write_bytes(header(dtype="F99")), "no complete safetensors file"),
    "one lacking": (changed(lambda t: t.pop("0.bias")), "lacks 0.bias of this Sequential; build the model that was saved there"),
    "one too many": (changed(lambda t: t.update(extra=torch.zeros(1))), "also holds extra, which this Sequential has not"),
    "another model": (other(LinearModel()), "lacks 0.bias, 0.weight, 1.bias and 6 more of this Sequential"),
    "another shape": (changed(lambda t: t.update({"0.weight": torch.zeros(4, 6)})), r"0.weight in .* is torch.float32 \(4, 6\), in this Sequential"),
    "a transposed shape": (changed(lambda t: t.update({"0.weight": torch.zeros(5, 4)})), r"is torch.float32 \(5, 4\)"),
    "another type": (changed(lambda t: t.update({"0.weight": torch.zeros(4, 5).double()})), "is torch.float64"),
    "nan": (changed(lambda t: t["2.weight"].fill_(torch.nan)), "2.weight in .* has numbers that are not finite; save a model"),
    "infinite": (changed(lambda t: t["1.running_mean"].fill_(torch.inf)), "1.running_mean in .* not finite"),
    "strange facts": (changed(lambda t: None, "[1]"), "describes itself in a way that save_weights does not"),
    "broken facts": (changed(lambda t: None, "{"), "describes itself in a way that save_weights does not"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_fit_is_refused_in_a_sentence_and_the_model_stays(fault: str, file: Path) -> None:
    write, says = FAULTS[fault]
    file.parent.mkdir()
    write(file)
    if fault == "below a file":
        file = file.parent / "x" / "y"
    victim = model(1)
    with pytest.raises(DataError, match=says) as caught:
        load_weights(victim, file)
    message = str(caught.value)
    assert str(file) in message and message.endswith(".") and "\n" not in message and len(message) < 400 + len(str(file))
    assert same(victim, model(1))


@pytest.mark.parametrize("write", [lambda trap: pickle.dumps(trap), None], ids=["pickle", "torch.save"])
def test_a_malicious_pickle_is_not_run(write: Callable | None, file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    sprung = tmp_path / "sprung"
    if write:
        file.write_bytes(write(Trap(str(sprung))))
    else:
        torch.save(Trap(str(sprung)), file)
    with pytest.raises(DataError, match="no complete safetensors file"):
        load_weights(model(), file)
    assert not sprung.exists()
    torch.load(file.rename(tmp_path / "trap.pth"), weights_only=False) if write is None else pickle.loads(file.read_bytes())
    assert sprung.exists(), "the trap works: whoever unpickles runs it"


def test_files_of_other_programs_are_read_with_what_they_say(file: Path) -> None:
    file.parent.mkdir()
    save_file(model().state_dict(), file, {"format": "pt"})
    assert load_weights(model(1), file) == {"format": "pt"}
    save_file(model().state_dict(), file)
    assert load_weights(model(1), file) == {}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_not_saved(bad: float, file: Path) -> None:
    save_weights(model(), file)
    content = file.read_bytes()
    diverged = model()
    with torch.no_grad():
        diverged[2].weight[0, 1] = bad
    with pytest.raises(DataError, match="2.weight of the model for .* not finite; train it again with a smaller learning rate"):
        save_weights(diverged, file)
    assert file.read_bytes() == content and [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_save_leaves_the_old_file(error: BaseException, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(model(0), file)

    def half(tensors: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(weights, "save_file", half)
    with pytest.raises((KeyboardInterrupt, DataError)):
        save_weights(model(1), file)
    fresh = model(2)
    load_weights(fresh, file)
    assert same(fresh, model(0)) and [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; name a file in it, such as .*model.safetensors"):
        save_weights(model(), tmp_path)
    (tmp_path / "x").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        save_weights(model(), tmp_path / "x" / "y.safetensors")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_weights_come_to_the_device_of_the_model(file: Path) -> None:
    save_weights(model(0).cuda(), file)
    there = model(1).cuda()
    load_weights(there, file)
    assert next(there.parameters()).is_cuda and same(there.cpu(), model(0))

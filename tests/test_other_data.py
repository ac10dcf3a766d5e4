"""Data shaped like MNIST that are not MNIST, here textures in ten classes: the library runs unchanged, and says what it read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pixels_to_resnet import climb, runner
from pixels_to_resnet.data import checksum, load_digits
from pixels_to_resnet.idx import IDX_FILES, DataError, idx_bytes
from pixels_to_resnet.manifest import load_trained, read_manifest
from pixels_to_resnet.sources import find_source

COUNTS = {"train": 1200, "test": 400}
FEW = climb.RUNGS[:4]


def textures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Stripes, uint8 (n, 28, 28), whose direction is the class, 0 to 9, in noise, at any place and nearly any width."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 10
    y, x = np.mgrid[:28, :28] / 28
    angle, width, shift = labels * np.pi / 10, rng.uniform(1.9, 2.1, n), rng.uniform(-0.1, 0.1, n)
    waves = np.sin(2 * np.pi * (width[:, None, None] * (np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y) + shift[:, None, None]))
    return np.clip(600 * (waves - 0.6) + rng.normal(0, 20, (n, 28, 28)), 0, 255).astype(np.uint8), labels.astype(np.uint8)


def write(folder: Path, packed: bool, change: Callable[[np.ndarray, np.ndarray], tuple] = lambda images, labels: (images, labels)) -> Path:
    """The four files, after `change`."""
    folder.mkdir()
    for seed, (split, names) in enumerate(IDX_FILES.items()):
        for name, array in zip(names, change(*textures(COUNTS[split], seed))):
            content = idx_bytes(np.ascontiguousarray(array))
            (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No MNIST anywhere."""
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path / "fastai"))
    monkeypatch.delenv("PIXELS_TO_RESNET_IDX", raising=False)


@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gzipped"])
def test_the_whole_ladder_climbs_textures(
    packed: bool, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, out, words = write(tmp_path / "textures", packed), tmp_path / "out", ["--quiet", "--device", "cpu"]
    if packed:
        words += ["--data", str(folder)]
    else:
        monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(folder))
    assert climb.main([*words, "--out", str(out)], FEW) == 0
    said, report = capfd.readouterr(), json.loads((out / "report.json").read_text(encoding="utf-8"))
    source = find_source("mnist_png", str(folder), lambda line: None)
    line = f"{folder} holds IDX files that are not MNIST: 1,200 images to learn from and 400 to test on, classes 0 to 9, SHA-256 {source.tag}"
    assert said.err.count("\n") == 1 and said.err.startswith(line), "one line, though two data sets were read from it"
    for task, classes in (("mnist_sample", [3, 7]), ("mnist_png", list(range(10)))):
        data, splits = report["data"][task], load_digits(task, str(folder), lambda line: None)
        assert (data["name"], data["is_mnist"], data["classes"]) == (f"unknown digits {source.tag}", False, classes)
        assert data["checksum"] == {"train": checksum(splits.train), "valid": checksum(splits.valid)}
        assert (data["n_train"], data["n_valid"]) == (120 * len(classes), 40 * len(classes)) and f"{task}: unknown digits" in said.out
    found = {rung["name"]: rung["accuracy"] for rung in report["rungs"]}
    assert all(rung["band"] is None and rung["within_band"] is None for rung in report["rungs"]) and "inside" not in said.out
    assert found["pixel_similarity"] > 0.95 and found["linear"] > 0.9 and found["mlp"] > 0.9 and found["multiclass"] > 0.5, found
    assert climb.main([*words, "--check", "--out", str(out), "--rungs", "linear"], FEW) == 1, "no band to compare it with"
    model, entry = load_trained(
        out / "weights", "multiclass", lambda: runner.untrained(FEW[3]), load_digits("mnist_png", str(folder), lambda line: None)
    )
    assert entry["data"] == f"unknown digits {source.tag}" and len(read_manifest(out / "weights")) == len(FEW)


def grown(images: np.ndarray, labels: np.ndarray) -> tuple:
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), labels


def eleven(images: np.ndarray, labels: np.ndarray) -> tuple:
    return images, np.where(np.arange(len(labels)) == 17, 10, labels).astype(np.uint8)


def without(label: int) -> Callable[[np.ndarray, np.ndarray], tuple]:
    return lambda images, labels: (images[labels != label], labels[labels != label])


FAULTS = {
    "images of 32x32": (grown, "holds images of 32 x 32 pixels, not 28 x 28; resize them"),
    "eleven classes": (eleven, "holds the label 10 at position 17, outside 0 to 9"),
    "no image of class 7": (without(7), "holds no label 7, which mnist_sample needs; add images of it"),
    "one label less": (lambda images, labels: (images, labels[:-1]), "labels for the 1,200 images"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "gzipped"])
def test_what_does_not_fit_is_one_sentence(fault: str, packed: bool, alone: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, sentence = FAULTS[fault]
    folder = write(tmp_path / "textures", packed, change)
    assert climb.main(["--quiet", "--rungs", "linear", "--data", str(folder), "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("climb: ") and said.err.count("\n") == 1 and sentence in said.err and str(folder) in said.err
    assert not list(tmp_path.glob("out/*"))


def test_a_class_that_only_ten_digits_need(alone: None, tmp_path: Path) -> None:
    folder = str(write(tmp_path / "textures", False, without(4)))
    said: list[str] = []
    assert len(load_digits("mnist_sample", folder, said.append).train) == 240 and "classes 0, 1, 2, 3, 5, 6, 7, 8, 9" in said[0]
    with pytest.raises(DataError, match="holds no label 4, which mnist_png needs"):
        load_digits("mnist_png", folder, said.append)


def test_a_folder_is_named_or_refused(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "standin", False)
    assert find_source("mnist_png", "./standin", lambda line: None).dataset.startswith("unknown digits")
    assert find_source("mnist_png", "standin").dataset == "stand-in", "a word is a word; ./standin is a folder"
    for words in (["--data", "nowhere"], ["--data", ""], ["--data", "standin/train-images-idx3-ubyte"]):
        with pytest.raises(SystemExit):
            climb.main(words)
        assert "is none of auto, mnist and standin, and no folder either" in capfd.readouterr().err
    with pytest.raises(DataError, match="is no source of digits; choose auto, mnist or standin, or name a folder of IDX files"):
        find_source("mnist_png", "nowhere")
    (tmp_path / "empty").mkdir()
    assert climb.main(["--quiet", "--data", "empty", "--rungs", "linear"]) == 2
    assert "is missing, and so is" in capfd.readouterr().err


def test_mnist_itself_is_not_called_other(data_in_force: str, tmp_path: Path) -> None:
    said: list[str] = []
    splits = load_digits("mnist_sample", say=said.append)
    assert splits.dataset in ("MNIST", "stand-in") and not any("IDX files that are not MNIST" in line for line in said)

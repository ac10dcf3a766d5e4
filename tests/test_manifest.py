"""A folder of trained models: what was saved loads again with a check of all of it, and each thing that does not agree is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pixels_to_resnet import manifest, safe_files, weights
from pixels_to_resnet.data import Digits, DigitSplits, checksum
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.linear import LinearModel, seeded
from pixels_to_resnet.manifest import FACTS, OF_THE_FILE, _sha256, load_trained, read_manifest, save_trained
from pixels_to_resnet.mlp import MLP
from pixels_to_resnet.pixel_similarity import predict


def some_digits(n: int, seed: int) -> Digits:
    generator = torch.Generator().manual_seed(seed)
    return Digits(torch.randint(0, 256, (n, 28, 28), generator=generator).to(torch.uint8), torch.arange(n) % 2 * 4 + 3)


SPLITS = DigitSplits(some_digits(20, 0), some_digits(40, 1), "noise", "a test")


def model(seed: int) -> LinearModel:
    with seeded(seed):
        return LinearModel()


def facts(of: nn.Module, seed: int) -> dict:
    accuracy = (predict(of, SPLITS.valid) == SPLITS.valid.labels).float().mean().item()
    return {
        "accuracy": accuracy,
        "seed": seed,
        "epochs": None,
        "data": "noise",
        "train_checksum": checksum(SPLITS.train),
        "valid_checksum": checksum(SPLITS.valid),
    }


def save(folder: Path, seed: int, *names: str) -> None:
    models = {name: model(seed) for name in names}
    save_trained(folder, models, {name: facts(m, seed) for name, m in models.items()}, lambda line: None)


def seeds(folder: Path, *names: str) -> list[int]:
    """Which model each name loads, after all checks."""
    found = []
    for name in names:
        loaded, entry = load_trained(folder, name, LinearModel, SPLITS)
        assert torch.equal(loaded.linear.weight, model(entry["seed"]).linear.weight) and not loaded.training
        found.append(entry["seed"])
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "a folder" / "größe"
    save(place, 0, "line", "other")
    return place


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    """Edits the manifest."""
    content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def edit(**changes: object) -> Callable[[Path], None]:
    """Changes facts of `line` in the manifest only."""
    return lambda folder: rewrite(folder, lambda content: content["rungs"]["line"].update(changes))


def forge(change: Callable[[dict, dict], object] = lambda tensors, facts: None, **changes: object) -> Callable[[Path], None]:
    """Changes weights and facts of `line` in the file and in the manifest, with a size and a SHA-256 that fit."""

    def write(folder: Path) -> None:
        file, entry = folder / "line.safetensors", read_manifest(folder)["line"]
        tensors, about = load_file(file), {key: entry[key] for key in FACTS} | changes
        change(tensors, about)
        save_file(tensors, file, {"about": json.dumps(about)})
        edit(**changes, sha256=_sha256(file), size=file.stat().st_size)(folder)

    return write


def replace_text(text: bytes | str) -> Callable[[Path], object]:
    return lambda folder: (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "line.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "line.safetensors").write_bytes(content)


Fault = tuple[Callable[[Path], object], str]
FAULTS: dict[str, Fault] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "does not exist, so there are no trained weights; run climb first, or name the folder with --weights"),  # noqa: E501
    "an empty manifest": (replace_text(""), "is no complete JSON; run climb again"),
    "half a manifest": (lambda f: replace_text((f / "manifest.json").read_bytes()[:300])(f), "is no complete JSON; run climb again"),
    "a manifest that is no text": (replace_text(b"\xff\xfe{}"), "is no complete JSON; run climb again"),
    "a deep manifest": (replace_text("[" * 200_000), "is no complete JSON; run climb again"),
    "a huge manifest": (replace_text(" " * 2**20 + "{}"), "is no manifest of this library; run climb again"),
    "a manifest that is a list": (replace_text("[]"), "is no manifest of this library; run climb again"),
    "a manifest without rungs": (replace_text('{"format": 1}'), "is no manifest of this library; run climb again"),
    "rungs in a list": (replace_text('{"format": 1, "rungs": []}'), "is no manifest of this library; run climb again"),
    "another format": (lambda f: rewrite(f, lambda c: c.update(format=2)), "has another format than 1, .*; run climb again"),
    "no such entry": (lambda f: rewrite(f, lambda c: c["rungs"].pop("line")), "has no entry line, only other; run climb again with --rungs line"),
    "an entry that is text": (lambda f: rewrite(f, lambda c: c["rungs"].update(line="x")), "The entry line of .* is no list of facts; run climb again"),  # noqa: E501
    "an entry with a path": (lambda f: rewrite(f, lambda c: c["rungs"].update({"../x": {}})), "has an entry for '../x', which cannot be the name of a rung; run climb again"),  # noqa: E501
    "an unknown fact": (edit(colour="red"), "The entry line of .* also says 'colour'; run climb again"),
    "no weights": (lambda f: (f / "line.safetensors").unlink(), "which the manifest names, does not exist; run climb again"),
    "weights cut": (lambda f: os.truncate(f / "line.safetensors", 100), "has 100 bytes, not the [0-9,]+ that the manifest says; run climb again"),
    "one other byte": (flip_a_byte, "has another SHA-256 than the manifest says, so other bytes; run climb again"),
    "the other run's weights": (lambda f: (save(f.parent / "new", 1, "line"), (f.parent / "new/line.safetensors").replace(f / "line.safetensors")), "bytes; run climb again|bytes, not the"),  # noqa: E501
    "another class order": (forge(classes=[3, 7]), r"has the class order \[3, 7\], and the model that this version builds \[7, 3\]; run climb again"),
    "another class": (forge(model="MLP"), "has the class MLP, and the model that this version builds LinearModel; run climb again"),
    "another number of parameters": (forge(n_parameters=786), "has the number of parameters 786, and .* 785; run climb again"),
    "an older version": (forge(pixels_to_resnet="0.0.9"), "was saved by version 0.0.9 of the library, and this is .*; run climb again"),
    "a newer version": (forge(pixels_to_resnet="1.0.0"), "was saved by version 1.0.0 of the library, and this is .*; run climb again"),
    "another shape": (forge(lambda t, a: t.update({"linear.weight": torch.zeros(784, 1)})), r"is torch.float32 \(784, 1\), in this LinearModel .*, or run climb again"),  # noqa: E501
    "numbers that are none": (forge(lambda t, a: t["linear.weight"].fill_(torch.nan)), "numbers that are not finite; .*, or run climb again"),
    "an unknown fact in the file": (forge(lambda t, a: a.update(colour="red")), "says something else about colour than the manifest; run climb again"),  # noqa: E501
    "a fact less in the file": (forge(lambda t, a: a.pop("torch")), "says something else about torch than the manifest; run climb again"),
    "another data set": (forge(data="MNIST"), "was trained on MNIST, not on noise; run climb again with these digits"),
    "other training digits": (forge(train_checksum="0" * 16), "was made with other train digits of noise than these; run climb again"),
    "other validation digits": (forge(valid_checksum="0" * 16), "was made with other valid digits of noise than these; run climb again"),
    "a better accuracy": (forge(accuracy=0.99), "answers 0.[0-9]{4} of the digits, not the 0.9900 that the manifest says; run climb again"),
    "worse weights": (forge(lambda t, a: (t["linear.weight"].zero_(), t["linear.bias"].fill_(1), a)[2]), "answers 0.5000 of the digits, not the"),
}  # fmt: skip
OTHER = {"accuracy": 0.123, "seed": 5, "epochs": 3, "n_parameters": 3, "data": "x", "model": "Linear", "classes": [3, 7], "train_checksum": "1" * 16,
         "valid_checksum": "1" * 16, "pixels_to_resnet": "0.1.77", "torch": "2.0.0"}  # fmt: skip
for key, value in OTHER.items():
    says = (
        f"has the .*{re.escape(str(value))}, and the model"
        if key in ("n_parameters", "model", "classes")
        else f"says something else about {key} than the manifest; run climb again"
    )
    FAULTS[f"another {key} in the manifest only"] = edit(**{key: value}), says
for key in (*FACTS, *OF_THE_FILE):
    FAULTS[f"no {key}"] = (lambda f, key=key: rewrite(f, lambda c: c["rungs"]["line"].pop(key))), f"The entry line of .* lacks {key}; run climb again"
WRONG = {"accuracy": [1, 1.5, float("nan"), "0.9", True], "seed": [-1, 0.0, True, None], "epochs": [-1, "x"], "n_parameters": [1e3], "data": ["", "x\ny", 3],  # noqa: E501
         "model": ["a.b", ""], "classes": [[], [True, False], "37", [3.0]], "train_checksum": ["x", "A" * 16, 0], "valid_checksum": ["../" * 5 + "x"],
         "pixels_to_resnet": ["new", "1", "../1.0", None], "torch": [2.1], "sha256": ["../x", "0" * 63, None], "size": ["1", -1], "saved": ["today"]}  # fmt: skip  # noqa: E501
for key, values in WRONG.items():
    for value in values:
        FAULTS[f"{key} = {value!r}"] = edit(**{key: value}), f"The entry line of .* has a value for {key} that cannot be; run climb again"


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_does_not_agree_is_refused_in_one_sentence(fault: str, folder: Path) -> None:
    spoil, sentence = FAULTS[fault]
    assert seeds(folder, "line") == [0]
    spoil(folder)
    with pytest.raises(DataError, match=sentence) as caught:
        load_trained(folder, "line", LinearModel, SPLITS)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and len(message) < 500 + len(str(folder))
    assert str(folder) in message
    entry = {} if "manifest.json" in message else read_manifest(folder)
    assert "other" not in entry or seeds(folder, "other") == [0], "the fault of one is not the fault of others"


def test_without_digits_only_what_needs_them_is_not_checked(folder: Path) -> None:
    for spoil in (forge(accuracy=0.99), forge(data="MNIST")):
        spoil(folder)
        load_trained(folder, "line", LinearModel)
        with pytest.raises(DataError):
            load_trained(folder, "line", LinearModel, SPLITS)


def test_what_may_differ(folder: Path) -> None:
    same_series = ".".join([*manifest.__version__.split(".")[:2], "77"])
    forge(pixels_to_resnet=same_series, torch="2.0.0", seed=0)(folder)
    assert seeds(folder, "line") == [0]
    accuracy = read_manifest(folder)["line"]["accuracy"]
    for digits_more, accepted in ((2, True), (3, False)):
        forge(accuracy=accuracy + digits_more / 40)(folder)
        try:
            assert seeds(folder, "line") == [0] and accepted
        except DataError:
            assert not accepted


@pytest.mark.parametrize(
    "name", ["../line", "/etc/passwd", "a/../line", "line\0", "", ".", "..", "line.safetensors", "C:line", "li ne", "a" * 65, "-x"]
)
def test_a_name_is_never_a_path(name: str, folder: Path) -> None:
    with pytest.raises(DataError, match="cannot be the name of a file of weights; use letters, digits and underscores"):
        load_trained(folder, name, LinearModel)
    with pytest.raises(DataError, match="cannot be the name"):
        save_trained(folder, {name: model(0)}, {name: facts(model(0), 0)})
    assert seeds(folder, "line", "other") == [0, 0]


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    for make in (MLP, lambda: LinearModel((3, 7))):
        with pytest.raises(DataError, match="run climb again"):
            load_trained(folder, "line", make)


@pytest.mark.parametrize("wrong", [{"accuracy": 2.0}, {"seed": "x"}, {"data": ""}, {"colour": "red"}, {"train_checksum": None}])
def test_facts_that_could_not_be_read_are_not_written(wrong: dict, folder: Path) -> None:
    with pytest.raises(ValueError, match=f"the fact '{next(iter(wrong))}' of line is missing, unknown, or not of the right kind"):
        save_trained(folder, {"line": model(1)}, {"line": facts(model(1), 1) | wrong})
    assert seeds(folder, "line", "other") == [0, 0]


def test_equal_runs_give_equal_files(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
    save(folder, 0, "line", "other")
    assert {p.name: p.read_bytes() for p in folder.glob("*.safetensors*")} == before and len(before) == 2


# ---- interrupted


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Interrupts before the `step`-th operation on files from now on; the list grows with each."""
    seen: list[str] = []

    def counted(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def operation(*args: object, **kwargs: object) -> object:
            seen.append(name)
            if len(seen) == step:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, operation)

    for owner, name in (
        (Path, "replace"),
        (Path, "write_text"),
        (Path, "unlink"),
        (Path, "chmod"),
        (os, "replace"),
        (weights, "save_file"),
        (safe_files.tempfile, "mkstemp"),
    ):
        counted(owner, name)
    return seen


def naive_save(folder: Path, seed: int, *names: str) -> None:
    """What would go wrong: one file after the other, the manifest last."""
    entries = read_manifest(folder)
    for name in names:
        entry = manifest._write_waiting(folder, name, model(seed), facts(model(seed), seed))
        (folder / f"{name}.safetensors.{entry['sha256']}").replace(folder / f"{name}.safetensors")
        entries[name] = entry
    rewrite(folder, lambda content: content.update(rungs=entries))


def outcomes(folder: Path, saver: Callable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Interrupts `saver` at each operation in turn; what was in force afterwards."""
    found = []
    for step in range(1, 100):
        save(folder, 0, "line", "other")
        with monkeypatch.context() as patch:
            seen = interrupt_at(patch, step)
            try:
                saver(folder, 1, "line", "other")
            except KeyboardInterrupt:
                pass
        if len(seen) < step:
            return found
        try:
            found.append({(0, 0): "old", (1, 1): "new"}.get(tuple(seeds(folder, "line", "other")), "mixed"))
        except DataError:
            found.append("broken")
        leftovers = [p for p in folder.iterdir() if "partial" in p.name]
        assert len(leftovers) <= 1, "an interrupted `unlink` may leave one, which the next day sweeps away"
        [p.unlink() for p in leftovers]
    raise AssertionError("this never ends")


def test_interrupted_at_any_step_it_leaves_the_old_set_or_the_new_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcomes(folder, save, monkeypatch)
    assert set(found) == {"old", "new"} and found == sorted(found, reverse=True) and len(found) > 10
    save(folder, 2, "line")
    assert seeds(folder, "line") == [2] and sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == [
        "line.safetensors",
        "manifest.json",
        "other.safetensors",
    ]


def test_the_same_interruptions_break_files_that_are_replaced_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "broken" in outcomes(folder, naive_save, monkeypatch), "otherwise the test above could not fail"


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_manifest import save
print("begin", flush=True)
for seed in range(1, 10**6): save(Path(sys.argv[1]), seed % 2, "line", "other")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("seconds", [0.05, 0.137])
def test_killed_at_any_moment_all_of_it_is_in_force(seconds: float, folder: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent)), str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "begin\n"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=60)
    found = seeds(folder, "line", "other")
    assert found in ([0, 0], [1, 1])
    save(folder, 0, "line")
    assert seeds(folder, "line", "other") == [0, found[1]]


def test_two_at_once_keep_both(folder: Path) -> None:
    names, line = [f"rung_{i}" for i in range(6)], model(1)
    known = facts(line, 1)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: save_trained(folder, {name: line}, {name: known}, lambda said: None), names))
    assert seeds(folder, "line", "other", *names) == [0, 0] + [1] * 6


def test_a_damaged_manifest_is_replaced_with_a_word(folder: Path) -> None:
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    said: list[str] = []
    save_trained(folder, {"line": model(1)}, {"line": facts(model(1), 1)}, said.append)
    assert len(said) == 1 and "is no complete JSON" in said[0] and said[0].endswith("Only the rungs of this run are in the new one.")
    assert list(read_manifest(folder)) == ["line"] and seeds(folder, "line") == [1]


def test_files_of_others_in_the_folder_stay(folder: Path) -> None:
    for name in ("notes.txt", "line.safetensors.bak", "mine.safetensors"):
        (folder / name).write_text("mine")
    save(folder, 1, "line")
    assert all((folder / name).read_text() == "mine" for name in ("notes.txt", "line.safetensors.bak", "mine.safetensors"))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        save(tmp_path / "x" / "weights", 0, "line")
    (tmp_path / "weights" / "line.safetensors").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be written"):
        save(tmp_path / "weights", 0, "line")

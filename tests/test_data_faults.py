"""Bad input to the data layer: each kind gets one sentence that names the place and the remedy, and nothing on disk is lost.

`python -m tests.test_data_faults` prints the table: the kinds and their sentences, the folder shortened to `DATA`.
"""
from __future__ import annotations

import builtins
import contextlib
import errno
import gzip
import hashlib
import io
import os
import re
import struct
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixels_to_resnet import layouts, sources
from pixels_to_resnet.array_cache import cached_arrays
from pixels_to_resnet.data import Digits, checksum, load_digits, read_folder, read_idx_folder
from pixels_to_resnet.idx import DataError, idx_bytes, read_idx_pair
from pixels_to_resnet.safe_files import write_beside
from pixels_to_resnet.sources import dataset_name, digits_path, find_source

IMAGES, LABELS, TEST_IMAGES = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"
COUNTS = (0, 0, 0, 7, 0, 0, 0, 5, 0, 0)
TEST_COUNTS = (0, 0, 0, 3, 0, 0, 0, 2, 0, 0)


def some_digits(counts: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures and labels, as many of each class as `counts` says, shuffled."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), counts))
    return rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8), labels


class Place:
    """A folder with four good IDX files, a good folder of pictures, a home, and an environment that points to them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder.resolve(), monkeypatch
        self.idx, self.pictures, self.home, self.fastai = (self.folder / name for name in ("idx", "pictures", "home", "fastai"))
        self.idx.mkdir(parents=True)
        for part, counts, seed in (("train", COUNTS, 1), ("t10k", TEST_COUNTS, 2)):
            images, labels = some_digits(counts, seed)
            (self.idx / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (self.idx / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
        images, labels = some_digits(COUNTS, 1)
        for i, (image, label) in enumerate(zip(images, labels)):
            (self.pictures / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(self.pictures / str(label) / f"{i}.png")
        self.home.mkdir()
        for name, value in dict(HOME=self.home, IDX=self.idx, OFFLINE=1).items():
            monkeypatch.setenv(f"PIXELS_TO_RESNET_{name}", str(value))
        monkeypatch.setenv("FASTAI_HOME", str(self.fastai))

    @property
    def picture(self) -> Path:
        """One of the pictures."""
        return sorted((self.pictures / "3").iterdir())[0]

    def rewrite(self, name: str, change: Callable[[bytes], bytes], packed: bool = False) -> Path:
        """Change the bytes of an IDX file, of the plain one or of a gzip archive that takes its place."""
        path = self.idx / name
        data = path.read_bytes()
        if packed:
            path.unlink()
            path, data = self.idx / f"{name}.gz", gzip.compress(data)
        path.write_bytes(change(data))
        return path

    def deny(self, folder: Path, writing: bool = False) -> None:
        """Refuse to open or list what is in `folder` (with `writing`: to make anything there), also to an administrator."""

        def guard(function: Callable[..., Any], forbidden: Callable[..., bool]) -> Callable[..., Any]:
            def guarded(path: Any, *args: Any, **kwargs: Any) -> Any:
                named = str(path) if isinstance(path, (str, os.PathLike)) else ""
                if (named == str(folder) or named.startswith(f"{folder}{os.sep}")) and forbidden(*args, **kwargs):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), named)
                return function(path, *args, **kwargs)

            return guarded

        def writes(flags: int = 0, *_: Any, **__: Any) -> bool:
            return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or not writing

        for module, name in ((os, "open"), (os, "mkdir")):
            self.monkeypatch.setattr(module, name, guard(getattr(module, name), writes if name == "open" else lambda *_, **__: writing))
        for module, name in () if writing else ((os, "listdir"), (os, "scandir"), (builtins, "open"), (io, "open"), (Path, "iterdir")):
            self.monkeypatch.setattr(module, name, guard(getattr(module, name), lambda *_, **__: True))

    def fake_fastai(self, n_missing: int = 0) -> Path:
        """A small fastai cache of the 3s and 7s that is complete but for `n_missing` pictures."""
        self.monkeypatch.setitem(layouts.MNIST_COUNTS, "train", COUNTS)
        self.monkeypatch.setitem(layouts.MNIST_COUNTS, "test", TEST_COUNTS)
        target = self.fastai / "data" / "mnist_sample"
        for part, counts, seed in (("train", COUNTS, 1), ("valid", TEST_COUNTS, 2)):
            for i, (image, label) in enumerate(zip(*some_digits(counts, seed))):
                (target / part / str(label)).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(target / part / str(label) / f"{i}.png")
        for path in sorted((target / "train" / "3").iterdir())[:n_missing]:
            path.unlink()
        return target


@dataclass(frozen=True)
class Fault:
    """A kind of bad input: what damages a good `Place`, the call that meets it, and what its sentence has to say."""

    name: str
    damage: Callable[[Place], None]
    call: Callable[[Place], Any]
    says: tuple[str, ...]
    names_a_path: bool


FAULTS: list[Fault] = []


def fault(name: str, call: Callable[[Place], Any], *says: str, path: bool = True) -> Callable[[Callable[[Place], None]], None]:
    """Enter a damage into the table."""
    return lambda damage: FAULTS.append(Fault(name, damage, call, says, path))


# ---- the calls


def read_training_pair(place: Place) -> Any:
    return read_idx_pair(place.idx, "train")


def load_any(place: Place) -> Any:
    return load_digits("mnist_sample")


def load_mnist(place: Place) -> Any:
    return load_digits("mnist_sample", "mnist")


def read_pictures(place: Place) -> Any:
    return read_folder(place.pictures)


def write_pictures(place: Place) -> Any:
    return digits_path("mnist_sample", "auto", lambda line: None)


# ---- IDX files

AGAIN = "download it again"


@fault("IDX: the folder is missing", read_training_pair, "does not exist", "name a folder that holds")
def _(place):
    place.idx = place.folder / "nowhere"


@fault("IDX: the folder is a file", read_training_pair, "is a file", "name the folder")
def _(place):
    place.idx = place.idx / IMAGES


@fault("IDX: one of the four files is missing", load_any, "t10k-labels-idx1-ubyte", "is missing", "put all four IDX files")
def _(place):
    (place.idx / "t10k-labels-idx1-ubyte").unlink()


@fault("IDX: a file is a folder", read_training_pair, LABELS, "is a folder", "name the file")
def _(place):
    (place.idx / LABELS).unlink()
    (place.idx / LABELS).mkdir()


@fault("IDX: no permission to read", read_training_pair, IMAGES, "cannot be read", "check its permissions")
def _(place):
    place.deny(place.idx / IMAGES)


@fault("IDX: an empty file", read_training_pair, IMAGES, "is empty", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: b"")


@fault("IDX: shorter than its magic number", read_training_pair, IMAGES, "ends within its header", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: data[:3])


@fault("IDX: shorter than its header", read_training_pair, IMAGES, "ends within its header", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: data[:11])


@fault("IDX: a web page instead", read_training_pair, IMAGES, "is no IDX file", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: b"<!DOCTYPE html><title>404</title>")


@fault("IDX: numbers of another type", read_training_pair, IMAGES, "IDX type 0x0d", "convert it")
def _(place):
    place.rewrite(IMAGES, lambda data: b"\0\0\x0d" + data[3:])


@fault("IDX: images and labels swapped", read_training_pair, IMAGES, "magic number 2049", "images and labels are not swapped")
def _(place):
    images, labels = place.idx / IMAGES, place.idx / LABELS
    images.rename(place.idx / "other")
    labels.rename(images)
    (place.idx / "other").rename(labels)


@fault("IDX: no images", read_training_pair, IMAGES, "holds nothing", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: struct.pack(">IIII", 2051, 0, 28, 28))


@fault("IDX: truncated", read_training_pair, IMAGES, "is truncated", "9,408 bytes and 9,308 follow", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: data[:-100])


@fault("IDX: bytes after the end", read_training_pair, LABELS, "is longer than the 12 bytes", AGAIN)
def _(place):
    place.rewrite(LABELS, lambda data: data + b"\0")


@fault("IDX: a truncated gzip archive", read_training_pair, f"{IMAGES}.gz", "is a truncated gzip archive", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: data[: len(data) // 2], packed=True)


@fault("IDX: a gzip archive with a wrong checksum", read_training_pair, f"{IMAGES}.gz", "is a corrupt gzip archive", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: data[:-8] + bytes([data[-8] ^ 1]) + data[-7:], packed=True)


@fault("IDX: a gzip archive with damaged data", read_training_pair, f"{IMAGES}.gz", "is a corrupt gzip archive", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: data[:10] + b"\xff" * 40 + data[50:], packed=True)


@fault("IDX: named .gz, but not packed", read_training_pair, f"{IMAGES}.gz", "is no gzip archive", "drop the ending")
def _(place):
    (place.idx / IMAGES).rename(place.idx / f"{IMAGES}.gz")


def bomb(place: Place, size: int = 10**7) -> Path:
    """A gzip archive that holds far more than its header promises."""
    return place.rewrite(IMAGES, lambda data: gzip.compress(data[:16] + bytes(size)), packed=False)


@fault("IDX: a gzip bomb", read_training_pair, IMAGES, "is longer than the 9,408 bytes", AGAIN)
def _(place):
    bomb(place)


@fault("IDX: absurd dimensions", read_training_pair, IMAGES, "claims 3,367,254,359,280 bytes", AGAIN)
def _(place):
    place.rewrite(IMAGES, lambda data: struct.pack(">IIII", 2051, 2**32 - 1, 28, 28) + data[16:])


@fault("IDX: a label that is no digit", read_training_pair, LABELS, "holds the label 10 at position 5", AGAIN)
def _(place):
    place.rewrite(LABELS, lambda data: data[:13] + b"\x0a" + data[14:])


@fault("IDX: fewer labels than images", read_training_pair, LABELS, "11 labels for the 12 images", "take both from one source")
def _(place):
    place.rewrite(LABELS, lambda data: idx_bytes(np.frombuffer(data[8:-1], np.uint8)))


@fault("IDX: images of another size", load_any, "idx", "images of 32 x 32 pixels", TEST_IMAGES, "resize them")
def _(place):
    place.rewrite(TEST_IMAGES, lambda data: idx_bytes(np.zeros((5, 32, 32), np.uint8)))


@fault("IDX: no picture of the wanted classes", write_pictures, "idx", "no", "3")
def _(place):
    place.rewrite(LABELS, lambda data: data[:8] + bytes(len(data) - 8))


# ---- folders of pictures


@fault("pictures: the folder is missing", read_pictures, "does not exist", "name a folder")
def _(place):
    place.pictures = place.folder / "nowhere"


@fault("pictures: the folder is a file", read_pictures, "is a file", "name a folder")
def _(place):
    place.pictures = place.picture


@fault("pictures: no permission to list the folder", read_pictures, "pictures", "cannot be", "permissions")
def _(place):
    place.deny(place.pictures)


@fault("pictures: no permission to list a class", read_pictures, str(Path("pictures", "3")), "cannot be", "permissions")
def _(place):
    place.deny(place.pictures / "3")


@fault("pictures: no permission to read one", read_pictures, ".png", "cannot be read", "check the name and its permissions")
def _(place):
    place.deny(place.picture)


@fault("pictures: no class folders", read_pictures, "holds no class folders", "put the pictures of each digit into a folder of its name")
def _(place):
    place.pictures = place.pictures / "3"


@fault("pictures: a class that is no digit", read_pictures, "three", "is not named after a digit", "rename it or move it away")
def _(place):
    (place.pictures / "3").rename(place.pictures / "three")


@fault("pictures: an empty class", read_pictures, str(Path("pictures", "8")), "is empty", "put its pictures back")
def _(place):
    (place.pictures / "8").mkdir()


@fault("pictures: no picture at all", read_pictures, ".png", "is no picture", "remove it, or fetch it again")
def _(place):
    place.picture.write_text("not a picture", encoding="utf-8")


@fault("pictures: an empty file", read_pictures, ".png", "is no picture", "remove it, or fetch it again")
def _(place):
    place.picture.write_bytes(b"")


@fault("pictures: a truncated picture", read_pictures, ".png", "damaged", "picture", "fetch it again")
def _(place):
    place.picture.write_bytes(place.picture.read_bytes()[:200])


@fault("pictures: a picture with a flipped bit", read_pictures, ".png", "damaged", "picture", "fetch it again")
def _(place):
    data = bytearray(place.picture.read_bytes())
    data[120] ^= 16
    place.picture.write_bytes(data)


@fault("pictures: another size", read_pictures, ".png", "28 rows and 30 columns, not 28 and 28", "resize it")
def _(place):
    Image.new("L", (30, 28)).save(place.picture)


@fault("pictures: in colour", read_pictures, ".png", "mode RGB", "convert it")
def _(place):
    Image.new("RGB", (28, 28)).save(place.picture)


@fault("pictures: 16 bits a pixel", read_pictures, ".png", "mode I", "convert it")
def _(place):
    Image.fromarray(np.zeros((28, 28), np.uint16)).save(place.picture)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: int, columns: int, data: bytes) -> bytes:
    """A grey PNG file whose header claims `rows` and `columns`, and whose filtered rows are `data`."""
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@fault("pictures: a bomb, 400 million pixels", read_pictures, ".png", "fetch it again")
def _(place):
    place.picture.write_bytes(png(20000, 20000, bytes(1000)))


@fault("pictures: a bomb, 100 million pixels", read_pictures, ".png", "it")
def _(place):
    place.picture.write_bytes(png(10000, 10000, bytes(1000)))


@fault("pictures: a bomb in the data", read_pictures, ".png", "damaged", "picture", "fetch it again")
def _(place):
    place.picture.write_bytes(png(28, 28, b"\7" * 10**7))


@fault("pictures: a bomb in a remark", read_pictures, ".png", "damaged", "picture", "fetch it again")
def _(place):
    data = place.picture.read_bytes()
    place.picture.write_bytes(data[:33] + chunk(b"zTXt", b"remark\0\0" + zlib.compress(bytes(10**7))) + data[33:])


@fault("pictures: a folder named x.png", read_pictures, "x.png", "cannot be read", "check the name and its permissions")
def _(place):
    (place.pictures / "3" / "x.png").mkdir()


# ---- sources


@fault("source: an unknown data set", lambda place: find_source("cifar"), "'cifar' is no data set", "mnist_sample, mnist_png", path=False)
def _(place):
    pass


@fault("source: an unknown source", lambda place: find_source("mnist_png", "web"), "'web' is no source", "choose auto, mnist or standin", path=False)
def _(place):
    pass


@fault("source: MNIST wanted, and not there", load_mnist, "(PIXELS_TO_RESNET_OFFLINE is set)", "set PIXELS_TO_RESNET_IDX", path=False)
def _(place):
    place.monkeypatch.setenv("PIXELS_TO_RESNET_IDX", "")


@fault("source: MNIST wanted, other digits named", load_mnist, "PIXELS_TO_RESNET_IDX names unknown digits", "set PIXELS_TO_RESNET_IDX", path=False)
def _(place):
    pass


@fault("source: MNIST wanted, fastai's copy incomplete", load_mnist, "fastai's copy is not complete", "set PIXELS_TO_RESNET_IDX", path=False)
def _(place):
    place.fake_fastai(n_missing=1)
    place.monkeypatch.setenv("PIXELS_TO_RESNET_IDX", "")
    place.monkeypatch.delenv("PIXELS_TO_RESNET_OFFLINE")


@fault("source: the folder named by PIXELS_TO_RESNET_IDX is missing", load_any, "nowhere", "does not exist", "name a folder that holds")
def _(place):
    place.monkeypatch.setenv("PIXELS_TO_RESNET_IDX", str(place.folder / "nowhere"))


@fault("source: fastai's config.ini is no text", load_any, "config.ini", "cannot be read", "repair it, or delete it")
def _(place):
    place.fastai.mkdir()
    (place.fastai / "config.ini").write_bytes(b"\xff\xfe\0\0")


@fault("source: fastai's config.ini has no section", load_any, "config.ini", "cannot be read", "repair it, or delete it")
def _(place):
    place.fastai.mkdir()
    (place.fastai / "config.ini").write_text("data = data\n", encoding="utf-8")


@fault("source: fastai's cache may not be listed", load_any, str(Path("train", "3")), "cannot be", "permissions")
def _(place):
    place.deny(place.fake_fastai() / "train" / "3")


@fault("source: a picture in fastai's cache is damaged", load_any, ".png", "damaged", "picture", "fetch it again")
def _(place):
    picture = next((place.fake_fastai() / "valid" / "7").iterdir())
    picture.write_bytes(picture.read_bytes()[:300])


# ---- writing


@fault("writing: the home may not be written", write_pictures, "home", "cannot be written", "PIXELS_TO_RESNET_HOME")
def _(place):
    place.deny(place.home, writing=True)


@fault("writing: a file where the home should be", write_pictures, "home", "cannot be written", "away", "PIXELS_TO_RESNET_HOME")
def _(place):
    place.home.rmdir()
    place.home.write_text("I was here first", encoding="utf-8")


@fault("writing: a file above the home", write_pictures, "a-file", "cannot be written", "away", "PIXELS_TO_RESNET_HOME")
def _(place):
    (place.folder / "a-file").write_text("I was here first", encoding="utf-8")
    place.monkeypatch.setenv("PIXELS_TO_RESNET_HOME", str(place.folder / "a-file" / "home"))


@fault("writing: a file where the data set should be", write_pictures, "mnist_sample-unknown-digits", "cannot be written", "away")
def _(place):
    target = write_pictures(place).parent
    target.rename(place.folder / "elsewhere")
    target.write_text("I was here first", encoding="utf-8")


@fault("writing: the disk is full", write_pictures, "home", "the disk is full", "free some space")
def _(place):
    def write(folder, images, labels, names):
        write_png_folder(folder, images[:4], labels[:4], names[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    write_png_folder = sources.write_png_folder
    place.monkeypatch.setattr(sources, "write_png_folder", write)


@fault("writing: the disk gives back other bytes", write_pictures, "train", "does not read back as it was written", "check the disk")
def _(place):
    read_png_folder = sources.read_png_folder
    place.monkeypatch.setattr(sources, "read_png_folder", lambda folder: (read_png_folder(folder)[0] ^ 1, read_png_folder(folder)[1]))


def lose(name: str) -> Callable[[Place], None]:
    """A damage to a data set that was written before: a file is lost."""

    def damage(place: Place) -> None:
        target = write_pictures(place).parent
        (next(target.rglob("*.png")) if name == "*.png" else target / name).unlink()

    return damage


fault("written before: a picture is lost", write_pictures, "pictures that were written", "delete")(lose("*.png"))
fault("written before: its description is lost", write_pictures, "about.json", "delete")(lose("about.json"))


@fault("written before: its description is damaged", write_pictures, "about.json", "delete")
def _(place):
    (write_pictures(place).parent / "about.json").write_text('{"dataset": "unkn', encoding="utf-8")


@fault("written before: asked for its name, the description is damaged", lambda place: dataset_name(write_pictures(place)), "about.json", "delete")
def _(place):
    (write_pictures(place).parent / "about.json").write_text("[]", encoding="utf-8")
    place.monkeypatch.setattr(sources, "source_folder", lambda source, name, say: next(place.home.glob("mnist_sample*/mnist_sample")))


@fault("written before: a class is lost", write_pictures, "holds 0 of the", "delete")
def _(place):
    folder = write_pictures(place) / "train" / "7"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


# ---- the type Digits


def make_digits(images: Any, labels: Any) -> Callable[[Place], Any]:
    return lambda place: Digits(images, labels)


GOOD = torch.zeros(3, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 9])
for what, images, labels, says in (
    ("images are floats", GOOD[0].float(), GOOD[1], ("torch.float32", "convert them")),
    ("images have another size", GOOD[0][:, :27], GOOD[1], ("(3, 27, 28)", "convert them")),
    ("a single image", GOOD[0][0], GOOD[1], ("(28, 28)", "convert them")),
    ("images are NumPy's", GOOD[0].numpy(), GOOD[1], ("tensor", "torch.from_numpy")),
    ("labels are NumPy's", GOOD[0], GOOD[1].numpy(), ("tensor", "torch.from_numpy")),
    ("labels are bytes", GOOD[0], GOOD[1].to(torch.uint8), ("torch.uint8", "convert them")),
    ("labels are a column", GOOD[0], GOOD[1][:, None], ("(3, 1)", "convert them")),
    ("a single label", GOOD[0], GOOD[1][0], ("labels must be int64 (n,)", "convert them")),
    ("fewer labels than images", GOOD[0], GOOD[1][:2], ("3 images and 2 labels", "give one label for each image")),
    ("nothing in it", GOOD[0][:0], GOOD[1][:0], ("there are no images", "give at least one")),
    ("a label of 10", GOOD[0], GOOD[1] + 1, ("run from 1 to 10", "0 to 9")),
    ("a label of -1", GOOD[0], GOOD[1] - 1, ("run from -1 to 8", "0 to 9")),
):
    fault(f"Digits: {what}", make_digits(images, labels), *says, path=False)(lambda place: None)


# ---- the table at work


def contents(folder: Path) -> dict[str, str]:
    """Every file and what is in it, read with what `deny` leaves alone."""
    files = (os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def good_place(folder: Path) -> Iterator[Place]:
    """A `Place` in `folder` whose changes to modules and environment end with the block."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Place(folder, monkeypatch)


def meet(fault: Fault, folder: Path) -> tuple[str, list[str]]:
    """The sentence that `fault` gets in `folder`, and what was lost or left over. Raises what is no `DataError`."""
    with good_place(folder) as place:
        fault.damage(place)
        with pytest.MonkeyPatch.context() as clean:
            clean.setattr(os, "scandir", REAL_SCANDIR)
            clean.setattr(builtins, "open", REAL_OPEN)
            clean.setattr(io, "open", REAL_OPEN)
            before = contents(place.folder)
        with pytest.raises(DataError) as caught, warnings.catch_warnings():
            warnings.simplefilter("error")
            fault.call(place)
    after = contents(place.folder)
    lost = [path for path, digest in before.items() if after.get(path) != digest]
    left = [str(path) for path in place.folder.rglob("*") if ".partial-" in path.name]
    return str(caught.value), lost + left


REAL_SCANDIR, REAL_OPEN = os.scandir, builtins.open


def not_one_sentence(text: str, folder: Path) -> str:
    """Why `text` is not one sentence on one line, or an empty string."""
    plain = text.replace(str(folder.resolve()), "DATA")
    if "\n" in plain or "\r" in plain:
        return "more than one line"
    if not plain.endswith(".") or plain.endswith(".."):
        return "no full stop at the end"
    if re.search(r"[.!?][\"')]*[\s);,]", plain[:-1]):
        return "a full stop in the middle"
    return "" if ";" in plain or ": " in plain else "no remedy behind a semicolon or colon"


@pytest.mark.parametrize("fault", FAULTS, ids=[f.name for f in FAULTS])
def test_bad_input_gets_one_sentence_and_nothing_is_lost(fault: Fault, tmp_path: Path) -> None:
    text, lost = meet(fault, tmp_path)
    assert not_one_sentence(text, tmp_path) == "", text
    for part in fault.says:
        assert part in text
    assert str(tmp_path.resolve()) in text or not fault.names_a_path, "the sentence names no file"
    assert lost == []


def test_the_table_is_long_enough_and_every_kind_has_a_name() -> None:
    assert len({f.name for f in FAULTS}) == len(FAULTS) >= 25


@pytest.mark.parametrize("text", ["Bad file.\nRemove it.", "bad file; remove it", "a is bad. Remove a.", "a is bad (no!); remove a.", "a is bad."])
def test_what_is_not_one_sentence_with_a_remedy_is_noticed(text: str, tmp_path: Path) -> None:
    assert not_one_sentence(text, tmp_path)


# ---- memory


def peak(call: Callable[[], Any]) -> int:
    """The most bytes that Python and NumPy held while `call` was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError), warnings.catch_warnings():
            warnings.simplefilter("error")
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_gzip_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        path = bomb(place, 10**8)
        assert path.stat().st_size < 10**6
        assert peak(lambda: read_training_pair(place)) < 3 * 10**6


@pytest.mark.parametrize("rows, data", [(20000, bytes(1000)), (10000, bytes(1000)), (28, b"\7" * 10**8)], ids=["error", "warning", "data"])
def test_a_png_bomb_does_not_fill_the_memory(rows: int, data: bytes, tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        place.picture.write_bytes(png(rows, rows, data))
        assert peak(lambda: read_pictures(place)) < 3 * 10**6


# ---- faults that are no reason to stop


def test_a_damaged_archive_of_arrays_is_made_again(tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        wanted = checksum(read_folder(place.pictures))
        (file,) = (place.home / "arrays").iterdir()
        good = file.read_bytes()
        flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(0, len(good), len(good) // 40)]
        for bad in [b"", good[:5], good[:-1], good + b"x", b"<!DOCTYPE html>" * 40, np.random.default_rng(0).bytes(4000), *flipped]:
            file.write_bytes(bad)
            assert checksum(read_folder(place.pictures)) == wanted
            assert [p.name for p in file.parent.iterdir()] == [file.name]
        file.unlink()
        file.mkdir()
        assert checksum(read_folder(place.pictures)) == wanted and file.is_dir()


def test_arrays_of_another_recipe_are_made_again(tmp_path: Path) -> None:
    made = []

    def make(value: int) -> Callable[[], dict[str, np.ndarray]]:
        return lambda: made.append(value) or {"a": np.full(3, value)}

    for recipe, value in (("one", 1), ("one", 9), ("two", 2), ("two", 9), ("one", 1)):
        assert cached_arrays(tmp_path / "a.safetensors", recipe, make(value))["a"].tolist() in ([1] * 3, [2] * 3)
    assert made == [1, 2, 1]


def test_arrays_are_made_again_when_a_picture_is_added_removed_or_renamed(tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        n = len(read_folder(place.pictures))
        Image.new("L", (28, 28)).save(place.pictures / "7" / "new.png")
        os.utime(place.pictures / "7", ns=(1, 1))
        assert len(read_folder(place.pictures)) == n + 1
        (place.pictures / "7" / "new.png").unlink()
        os.utime(place.pictures / "7", ns=(2, 2))
        assert len(read_folder(place.pictures)) == n


def deny_home(place: Place) -> None:
    place.deny(place.home, writing=True)


def file_as_home(place: Place) -> None:
    place.home.rmdir()
    place.home.write_text("I was here first", encoding="utf-8")


def fail_to_save(place: Place) -> None:
    from safetensors import SafetensorError

    from pixels_to_resnet import array_cache

    def save_file(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    place.monkeypatch.setattr(array_cache, "save_file", save_file)


@pytest.mark.parametrize("damage", [deny_home, file_as_home, fail_to_save])
def test_a_home_that_cannot_be_written_costs_a_line_and_not_the_digits(damage: Callable[[Place], None], tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        place.fake_fastai()
        damage(place)
        before, said = contents(place.folder), []
        digits = load_digits("mnist_sample", "auto", said.append)
        assert (len(digits.train), len(digits.valid)) == (12, 5)
        assert len(said) == 2 and all(line.startswith("Not cached: ") for line in said)
        for line in said:
            assert not_one_sentence(line.removeprefix("Not cached: "), tmp_path) == "" and str(place.home) in line
        assert contents(place.folder) == before


def test_what_is_said_goes_where_the_caller_wants_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with good_place(tmp_path) as place:
        place.fake_fastai()
        deny_home(place)
        load_digits("mnist_sample", "auto", lambda line: None)
    assert capsys.readouterr().out == "", "`climb --json` prints JSON and nothing else"


def test_an_incomplete_fastai_cache_is_mentioned_and_passed_over(tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        folder, said = place.fake_fastai(n_missing=2), []
        assert load_digits("mnist_sample", "auto", said.append).origin == "IDX files"
        assert said[0] == f"{folder} is not complete: it holds 5 files in train/3, not 7; delete it to have it fetched again."
        assert len(said) == 2 and "holds IDX files that are not MNIST" in said[1]


@pytest.mark.parametrize("text", ["not JSON", '{"about": "the family album"}', '["dataset", "counts"]', '{"dataset": "album", "counts": {}}'])
def test_a_description_that_is_not_ours_is_no_reason_to_delete_anything(text: str, tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        (place.pictures.parent / "about.json").write_text(text, encoding="utf-8")
        assert dataset_name(place.pictures) == "pictures"


def test_hidden_files_among_the_pictures_are_passed_over(tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        folder = write_pictures(place)
        wanted = checksum(read_folder(folder / "train"))
        for hidden in (folder / "train" / "3" / ".DS_Store", folder / "train" / ".DS_Store", folder / ".DS_Store", folder.parent / ".DS_Store"):
            hidden.write_bytes(b"\0\0\0\1Bud1")
        os.utime(folder / "train" / "3", ns=(1, 1))
        assert write_pictures(place) == folder and checksum(read_folder(folder / "train")) == wanted


def test_files_of_another_spelling_and_packing_are_found(tmp_path: Path) -> None:
    with good_place(tmp_path) as place:
        wanted = checksum(read_idx_folder(place.idx))
        for name in (IMAGES, LABELS):
            path = place.rewrite(name, lambda data: data, packed=True)
            path.rename(place.idx / path.name.replace("-idx", ".idx"))
        assert checksum(read_idx_folder(place.idx)) == wanted


# ---- damage at random


def test_a_damaged_picture_is_refused_or_read_as_pil_reads_it(tmp_path: Path) -> None:
    from pixels_to_resnet.pictures import read_pngs

    rng = np.random.default_rng(0)
    image = np.add.outer(np.arange(28), np.arange(0, 280, 10)).astype(np.uint8)
    path, refused = tmp_path / "x.png", 0
    Image.fromarray(image).save(path)
    good = path.read_bytes()
    for _ in range(400):
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        cut = rng.integers(0, len(data)) if rng.random() < 0.2 else None
        path.write_bytes(data[:cut])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                pixels = read_pngs([path])[0]
        except DataError as e:
            refused += 1
            assert not_one_sentence(str(e), tmp_path) == "", str(e)
        else:
            assert np.array_equal(pixels, image) or np.array_equal(pixels, np.array(Image.open(path))), bytes(data[:cut])
    assert refused > 200


def test_a_damaged_idx_file_is_refused_or_has_the_shape_of_its_header(tmp_path: Path) -> None:
    from pixels_to_resnet.idx import read_idx

    rng = np.random.default_rng(0)
    array = rng.integers(0, 10, (3, 4, 5), dtype=np.uint8)
    path = tmp_path / "x"
    for packed in (False, True):
        good = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
        for _ in range(200):
            data = bytearray(good)
            data[rng.integers(0, len(data) if packed else 16)] = rng.integers(0, 256)
            path.write_bytes(data[: rng.integers(0, len(data)) if rng.random() < 0.3 else None])
            try:
                found = read_idx(path, 3)
            except DataError as e:
                assert not_one_sentence(str(e), tmp_path) == "", str(e)
            else:
                assert found.size == 60 and (not packed or np.array_equal(found, array))


# ---- the file system, for real


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "note").write_text("first", encoding="utf-8")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(DataError, match="note cannot be written") as caught, write_beside(tmp_path / "note") as partial:
            partial.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not_one_sentence(str(caught.value), tmp_path) == ""
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == {"note": "first"}


def main() -> None:
    """Print the table of faults and sentences, as Markdown."""
    print("| kind of bad input | the sentence it gets |\n|---|---|")
    for one in FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    text, _ = meet(one, Path(folder))
            except BaseException as e:
                if isinstance(e, KeyboardInterrupt):
                    raise
                text = f"NO SENTENCE: {type(e).__name__}: {e}"
            print(f"| {one.name} | {text.replace(str(Path(folder).resolve()), 'DATA').replace('|', '&#124;')} |")


if __name__ == "__main__":
    main()

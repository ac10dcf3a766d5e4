"""The four places that are asked for digits, in order; and the same digits from each of them, bit for bit."""
from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from test_data_faults import COUNTS, TEST_COUNTS, Place, chunk, png, some_digits

from pixels_to_resnet import sources
from pixels_to_resnet.data import KNOWN_CHECKSUMS, DigitSplits, checksum, load_digits, read_folder
from pixels_to_resnet.idx import KNOWN_MD5, DataError, idx_bytes, read_idx, read_idx_pair, recognise
from pixels_to_resnet.layouts import LAYOUTS, MNIST_COUNTS, find_fault
from pixels_to_resnet.pictures import read_png_folder, read_pngs, write_png_folder
from pixels_to_resnet.sources import dataset_name, digits_path, find_source, say_once
from tools.course import ROOT

NAMED = os.environ.get("PIXELS_TO_RESNET_IDX")
quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Good IDX files, an empty home, no network."""
    return Place(tmp_path, monkeypatch)


def same(one: DigitSplits, other: DigitSplits) -> bool:
    """Whether two data sets hold the same images and labels in the same order."""
    pairs = [(one.train, other.train), (one.valid, other.valid)]
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


# ---- the order


def test_the_places_are_asked_in_order(place: Place) -> None:
    said: list[str] = []
    place.fake_fastai()
    assert find_source("mnist_sample", say=said.append).origin == "fastai's cache"
    shutil.rmtree(place.fastai)
    assert said == []
    assert find_source("mnist_sample", say=said.append).origin == "IDX files"
    assert len(said) == 1 and "holds IDX files that are not MNIST: " in said.pop()
    place.monkeypatch.setenv("PIXELS_TO_RESNET_IDX", "")
    assert find_source("mnist_sample", say=said.append).origin == "scikit-learn's digits, enlarged"
    assert len(said) == 1 and said[0].startswith("This is the stand-in, not MNIST (PIXELS_TO_RESNET_OFFLINE is set)")


def test_the_line_about_the_stand_in_is_printed_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.monkeypatch.setenv("PIXELS_TO_RESNET_IDX", "")
    say_once.cache_clear()
    for name in ("mnist_sample", "mnist_png", "mnist_sample"):
        assert find_source(name).dataset == "stand-in"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_stand_in_can_be_asked_for_and_is_never_called_mnist(place: Place) -> None:
    place.fake_fastai()
    source = find_source("mnist_sample", "standin", say=pytest.fail)
    assert (source.dataset, source.folder) == ("stand-in", None)


def test_mnist_can_be_insisted_on(place: Place) -> None:
    with pytest.raises(DataError, match="MNIST was not found"):
        find_source("mnist_sample", "mnist", say=pytest.fail)
    place.fake_fastai()
    assert find_source("mnist_sample", "mnist", say=pytest.fail).origin == "fastai's cache"


def test_fastais_settings_say_where_its_cache_is(place: Place) -> None:
    folder = place.fake_fastai()
    shutil.move(folder.parent, place.folder / "elsewhere")
    (place.fastai / "config.ini").write_text(f"[DEFAULT]\ndata = {place.folder / 'elsewhere'}\narchive = archive\n", encoding="utf-8")
    assert find_source("mnist_sample").folder == place.folder / "elsewhere" / "mnist_sample"


# ---- the download


def pack(folder: Path, archive: Path) -> bytes:
    """A .tgz archive as fastai publishes it, and its bytes."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return archive.read_bytes()


@contextmanager
def server(body: bytes, promised: int | None = None, status: int = 200) -> Iterator[str]:
    """The address of a server on this machine that answers everything with `body`, having promised a length."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if promised is None else promised))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/mnist_sample.tgz"
        finally:
            httpd.shutdown()


@pytest.fixture
def archive(place: Place) -> bytes:
    """A small data set as an archive; fastai's cache is empty again, the network allowed, and no IDX files named."""
    place.fake_fastai()
    data = pack(place.fastai / "data" / "mnist_sample", place.folder / "mnist_sample.tgz")
    shutil.rmtree(place.fastai)
    place.monkeypatch.setenv("PIXELS_TO_RESNET_IDX", "")
    place.monkeypatch.delenv("PIXELS_TO_RESNET_OFFLINE")
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        place.monkeypatch.delenv(variable, raising=False)
    return data


def aim(place: Place, url: str) -> None:
    """Have fastai fetch the 3s and 7s from `url`."""
    from fastai.data.external import URLs

    place.monkeypatch.setattr(URLs, "MNIST_SAMPLE", url)


def left_in(folder: Path) -> set[str]:
    """The names in a folder, but for locks; none if it does not exist."""
    return {p.name for p in folder.iterdir() if p.suffix != ".lock"} if folder.exists() else set()


def test_a_download_ends_in_fastais_cache(place: Place, archive: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with server(archive) as url:
        aim(place, url)
        source = find_source("mnist_sample", say=pytest.fail)
    folder = place.fastai / "data" / "mnist_sample"
    assert (source.origin, source.folder) == ("downloaded by fastai", folder)
    assert find_fault(folder, LAYOUTS["mnist_sample"]) is None
    assert left_in(folder.parent) == {"mnist_sample"} and left_in(folder) == {"train", "valid"}
    assert find_source("mnist_sample", say=pytest.fail).origin == "fastai's cache", "the server is gone by now"
    assert capsys.readouterr().out == "", "`climb --json` prints JSON and nothing else"
    labels = torch.tensor(sorted(some_digits(COUNTS, 1)[1].tolist()))
    assert torch.equal(load_digits("mnist_sample").train.labels, labels)


@pytest.mark.parametrize("offline", ["", "0"])
def test_a_download_works_from_a_file_and_with_an_empty_variable(offline: str, place: Place, archive: bytes) -> None:
    place.monkeypatch.setenv("PIXELS_TO_RESNET_OFFLINE", offline)
    aim(place, (place.folder / "mnist_sample.tgz").as_uri())
    assert find_source("mnist_sample").origin == "downloaded by fastai"


def repacked(data: bytes, change: Callable[[bytes], bytes | None]) -> bytes:
    """The archive with one of its pictures changed, or without it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
        chosen = next(m.name for m in old if m.name.endswith(".png"))
        for member in old:
            content = old.extractfile(member).read() if member.isfile() else b""
            kept = change(content) if member.name == chosen else content
            if kept is not None:
                member.size = len(kept)
                new.addfile(member, io.BytesIO(kept))
    return out.getvalue()


def flip(picture: bytes) -> bytes:
    """A picture with one wrong bit in its data."""
    return picture[:120] + bytes([picture[120] ^ 16]) + picture[121:]


BAD_DOWNLOADS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "cut off": lambda data: dict(body=data[: len(data) // 2], promised=len(data)),
    "half an archive": lambda data: dict(body=data[: len(data) // 2]),
    "too few files": lambda data: dict(body=repacked(data, lambda picture: None)),
    "a web page": lambda data: dict(body=b"<!DOCTYPE html><title>Please log in</title>"),
    "nothing": lambda data: dict(body=b""),
    "a damaged picture": lambda data: dict(body=repacked(data, flip)),
    "an empty picture": lambda data: dict(body=repacked(data, lambda picture: b"")),
    "not found": lambda data: dict(body=b"", status=404),
    "server error": lambda data: dict(body=b"", status=503),
}


@pytest.mark.parametrize("kind", BAD_DOWNLOADS)
def test_a_bad_download_leaves_nothing_and_the_lesson_goes_on(kind: str, place: Place, archive: bytes) -> None:
    said: list[str] = []
    with server(**BAD_DOWNLOADS[kind](archive)) as url:
        aim(place, url)
        assert find_source("mnist_sample", say=said.append).dataset == "stand-in"
        with pytest.raises(DataError, match=r"^MNIST was not found \(the download failed: [^()]+\); connect to the network"):
            find_source("mnist_sample", "mnist")
    assert len(said) == 1 and said[0].startswith("This is the stand-in, not MNIST (the download failed: ")
    assert left_in(place.fastai / "data") == set()


def test_without_a_network_the_stand_in_comes_at_once(place: Place, archive: bytes) -> None:
    with server(b"") as url:
        pass
    said: list[str] = []
    aim(place, url)
    assert find_source("mnist_sample", say=said.append).dataset == "stand-in"
    assert len(said) == 1 and left_in(place.fastai / "data") == set()


def test_an_interrupted_download_leaves_nothing(place: Place, archive: bytes) -> None:
    from fastai.data import external

    def untar_data(url: str, base: Path) -> Path:
        fetch(url, base=base)
        raise KeyboardInterrupt

    fetch = external.untar_data
    place.monkeypatch.setattr(external, "untar_data", untar_data)
    aim(place, (place.folder / "mnist_sample.tgz").as_uri())
    with pytest.raises(KeyboardInterrupt):
        find_source("mnist_sample")
    assert left_in(place.fastai / "data") == set()


def test_leftovers_of_a_killed_download_are_removed_by_the_next(place: Place, archive: bytes) -> None:
    from fastai.data import external

    class Killed(BaseException):
        """Stands for SIGKILL: nobody tidies up."""

    def untar_data(url: str, base: Path) -> Path:
        fetch(url, base=base)
        place.monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
        place.monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", lambda self: self._finalizer.detach())
        raise Killed

    fetch, rmtree = external.untar_data, shutil.rmtree
    place.monkeypatch.setattr(external, "untar_data", untar_data)
    aim(place, (place.folder / "mnist_sample.tgz").as_uri())
    with pytest.raises(Killed):
        find_source("mnist_sample")
    assert left_in(place.fastai / "data"), "the test has to leave something behind"
    place.monkeypatch.setattr(shutil, "rmtree", rmtree)
    place.monkeypatch.setattr(external, "untar_data", fetch)
    assert find_source("mnist_sample").origin == "downloaded by fastai"
    assert left_in(place.fastai / "data") == {"mnist_sample"}


# ---- the same digits from everywhere


@pytest.mark.parametrize("name", LAYOUTS)
def test_arrays_and_pictures_give_the_same_digits(name: str, place: Place) -> None:
    counts = {"train": (9, 2, 1, 30, 4, 5, 1, 25, 3, 11), "t10k": (2,) * 10}
    for part, seed in (("train", 5), ("t10k", 6)):
        images, labels = some_digits(counts[part], seed)
        (place.idx / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (place.idx / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    from_idx = load_digits(name)
    folder = digits_path(name)
    for split, digits in zip(LAYOUTS[name].folders.values(), (from_idx.train, from_idx.valid)):
        for read in (read_folder(folder / split), read_folder(folder / split)):
            assert torch.equal(read.images, digits.images) and torch.equal(read.labels, digits.labels)
            assert read.images.dtype == torch.uint8 and read.labels.dtype == torch.int64 and checksum(read) == checksum(digits)
    assert dataset_name(folder) == from_idx.dataset and from_idx.dataset.startswith("unknown digits ")


def test_fastais_folder_gives_the_same_digits(place: Place) -> None:
    from_idx = load_digits("mnist_sample")
    place.fake_fastai()
    from_folder = load_digits("mnist_sample")
    assert (from_idx.origin, from_folder.origin) == ("IDX files", "fastai's cache") and same(from_idx, from_folder)
    assert from_folder.dataset == "unknown digits", "these are not MNIST's checksums, whoever published them"


def test_another_data_set_in_mnists_clothes_is_not_called_mnist(place: Place) -> None:
    folders = set()
    for seed in (7, 8):
        for part, counts in (("train", (20,) * 10), ("t10k", (4,) * 10)):
            images, labels = some_digits(counts, seed)
            (place.idx / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (place.idx / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
        splits = load_digits("mnist_png")
        assert (len(splits.train), len(splits.valid)) == (200, 40) and splits.train.labels.bincount().tolist() == [20] * 10
        assert splits.dataset.startswith("unknown digits ")
        folders.add(digits_path("mnist_png"))
    assert len(folders) == 2, "two data sets must not share a folder"
    assert {dataset_name(folder) for folder in folders} == {p.parent.name.removeprefix("mnist_png-").rsplit("-", 1)[0].replace(
        "unknown-digits-", "unknown digits ") for p in folders}  # fmt: skip


SCRIPT = """
print("begin")
from pixels_to_resnet.sources import digits_path
print(digits_path("mnist_sample"))
"""


def test_a_script_without_a_guard_may_write_pictures(place: Place) -> None:
    for part, n in (("train", 1200), ("t10k", 600)):
        rng = np.random.default_rng(n)
        (place.idx / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)))
        (place.idx / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(rng.choice(np.uint8([3, 7]), n)))
    script = place.folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    begin, note, folder = done.stdout.splitlines()
    assert "IDX files that are not MNIST: 1,200 images to learn from and 600 to test on, classes 3, 7," in note
    assert begin == "begin" and len(read_png_folder(Path(folder) / "train")[1]) == 1200


# ---- real MNIST


@pytest.mark.skipif(not NAMED, reason="needs PIXELS_TO_RESNET_IDX to name MNIST's files")
def test_real_mnist_is_recognised_by_its_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path))
    pairs = {split: read_idx_pair(NAMED, split) for split in ("train", "test")}
    assert [recognise(array) for pair in pairs.values() for array in pair] == list(KNOWN_MD5.values())
    assert {split: tuple(np.bincount(labels)) for split, (_, labels) in pairs.items()} == MNIST_COUNTS
    found = [load_digits(name, "mnist") for name in LAYOUTS]
    assert [checksum(part) for splits in found for part in (splits.train, splits.valid)] == list(KNOWN_CHECKSUMS)
    assert [splits.dataset for splits in found] == ["MNIST", "MNIST"]
    folder = digits_path("mnist_sample", "mnist")
    assert [checksum(read_folder(folder / part)) for part in ("train", "valid")] == list(KNOWN_CHECKSUMS)[:2]
    assert dataset_name(folder) == "MNIST"


@pytest.mark.skipif(not NAMED, reason="needs PIXELS_TO_RESNET_IDX to name MNIST's files")
def test_one_changed_pixel_is_no_longer_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAI_HOME", str(tmp_path))
    pairs = {split: read_idx_pair(NAMED, split) for split in ("train", "test")}
    pairs["test"][0][-1, 14, 14] ^= 1
    monkeypatch.setattr(sources, "read_idx_pair", lambda folder, split: pairs[split])
    assert find_source("mnist_png").dataset.startswith("unknown digits ")
    with pytest.raises(DataError, match="MNIST was not found"):
        find_source("mnist_png", "mnist")


# ---- what goes in comes out

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9)


@quick
@given(array=arrays.arrays(np.uint8, SHAPES), packed=st.booleans())
def test_idx_files_keep_any_array(array: np.ndarray, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.gz" if packed else "x")
        path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
        found = read_idx(path, array.ndim)
    assert found.dtype == np.uint8 and found.flags.writeable and np.array_equal(found, array)


def filtered(image: np.ndarray, kinds: list[int]) -> bytes:
    """The rows of a picture, each in front its filter's number, filtered pixel by pixel as the PNG specification says."""
    out, rows, columns = bytearray(), *image.shape
    for r, kind in zip(range(rows), kinds):
        out.append(kind)
        for c in range(columns):
            x = int(image[r, c])
            left = int(image[r, c - 1]) if c else 0
            up = int(image[r - 1, c]) if r else 0
            corner = int(image[r - 1, c - 1]) if r and c else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda v, guess=guess: abs(guess - v))
            out.append((x - (0, left, up, (left + up) // 2, paeth)[kind]) & 255)
    return bytes(out)


SMALL = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@quick
@given(image=SMALL, seed=st.integers(0, 2**32 - 1))
def test_pictures_with_any_filters_are_read_as_pil_reads_them(image: np.ndarray, seed: int) -> None:
    rng, (rows, columns) = np.random.default_rng(seed), image.shape
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.png") for i in range(7)]
        kinds = [[kind] * rows for kind in range(5)] + [rng.integers(0, 5, rows).tolist() for _ in range(2)]
        for path, kind in zip(paths, kinds):
            path.write_bytes(png(rows, columns, filtered(image, kind)))
            assert np.array_equal(np.array(Image.open(path)), image), "the encoder of this test is wrong"
        assert np.array_equal(read_pngs(paths, (rows, columns)), np.stack([image] * 7))


def save_as_pil(path: Path, image: np.ndarray, **options: Any) -> None:
    Image.fromarray(image).save(path, **options)


def save_in_pieces(path: Path, image: np.ndarray) -> None:
    """The data in several chunks, which PNG allows."""
    data = png(28, 28, filtered(image, [0] * 28))
    start = data.index(b"IDAT") - 4
    body = data[start + 8 : -12 - 4]
    path.write_bytes(data[:start] + chunk(b"IDAT", body[:50]) + chunk(b"IDAT", b"") + chunk(b"IDAT", body[50:]) + data[-12:])


def save_with_text(path: Path, image: np.ndarray) -> None:
    data = png(28, 28, filtered(image, [4] * 28))
    path.write_bytes(data[:33] + chunk(b"tEXt", b"author\0nobody") + data[33:])


def save_with_a_tail(path: Path, image: np.ndarray) -> None:
    path.write_bytes(png(28, 28, filtered(image, [2] * 28)) + b"what follows the end is ignored")


@pytest.mark.parametrize("save", [
    save_as_pil, partial(save_as_pil, compress_level=0), partial(save_as_pil, optimize=True), partial(save_as_pil, dpi=(72, 72)),
    save_in_pieces, save_with_text, save_with_a_tail, partial(save_as_pil, format="BMP"),
])  # fmt: skip
def test_other_ways_to_store_the_same_pixels(save: Callable[[Path, np.ndarray], None], tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (28, 28), dtype=np.uint8)
    slope = np.add.outer(np.arange(28), 9 * np.arange(28)).astype(np.uint8)
    for i, image in enumerate((noise, slope)):
        save(tmp_path / f"{i}.png", image)
    assert np.array_equal(read_pngs([tmp_path / "0.png", tmp_path / "1.png"]), np.stack([noise, slope]))


def test_a_folder_of_pictures_gives_back_what_was_written(tmp_path: Path) -> None:
    images, labels = some_digits((3,) * 10, 4)
    write_png_folder(tmp_path / "x", images, labels, [f"{i:02}" for i in range(30)], chunk=7)
    found, found_labels = read_png_folder(tmp_path / "x")
    order = np.argsort(labels, kind="stable")
    assert np.array_equal(found, images[order]) and np.array_equal(found_labels, labels[order])
    assert found_labels.dtype == np.int64


def test_the_counts_of_the_small_sets_here_are_not_mnists() -> None:
    assert MNIST_COUNTS["train"] != COUNTS and MNIST_COUNTS["test"] != TEST_COUNTS

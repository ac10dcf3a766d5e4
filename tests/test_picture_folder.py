"""A folder of a reader's own pictures is read whole and in order, or refused in one sentence with the name of the culprit."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixels_to_resnet.badges import make_badges, write_badges
from pixels_to_resnet.idx import DataError
from pixels_to_resnet.picture_folder import fit_square, read_picture_folder, split_per_class


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two classes of three pictures, of different kinds and sizes."""
    sizes = {"b/1.png": (50, 30), "b/2.jpg": (300, 200), "b/10.webp": (9, 90), "a/x.gif": (64, 64), "a/y.bmp": (20, 40), "a/z.tif": (70, 70)}
    for name, size in sizes.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 40, 10)).save(path)
    return tmp_path / "own"


def test_pictures_come_class_by_class_sorted_by_name(own: Path) -> None:
    """Shapes, types, order; whole pictures, opaque in the middle."""
    pictures = read_picture_folder(own, size=60)
    assert (pictures.images.shape, pictures.images.dtype, pictures.labels.dtype) == ((6, 60, 60, 4), np.uint8, np.int64)
    assert (pictures.class_names, pictures.labels.tolist()) == (("a", "b"), [0, 0, 0, 1, 1, 1])
    assert [path.name for path in pictures.paths] == ["x.gif", "y.bmp", "z.tif", "1.png", "10.webp", "2.jpg"]
    assert (pictures.images[:, 30, 30, 3] == 255).all() and len(pictures) == 6
    covered = (pictures.images[..., 3] > 127).sum((1, 2))
    assert covered.tolist() == [3600, 1800, 3600, 60 * 36, 60 * 6, 60 * 40]


def test_hidden_files_are_passed_over(own: Path) -> None:
    """What systems leave behind is no picture of the reader."""
    for name in (".DS_Store", "a/.DS_Store", "a/Thumbs.db", "b/desktop.ini", ".git/config", "notes.txt"):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text("junk")
    assert len(read_picture_folder(own)) == 6


def test_remarks_name_their_files(own: Path) -> None:
    """What was done to a picture is said."""
    (own / "a" / "y.bmp").rename(own / "a" / "y.png")
    (remark,) = read_picture_folder(own).remarks
    assert "y.png: It is a BMP file in spite of its name." in remark


def breaks() -> dict[str, tuple[Callable[[Path], object], str]]:
    """Ways to spoil the folder, and words of the sentence."""
    def remove_all(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
    return {
        "text": (lambda f: (f / "a" / "notes.txt").write_text("hello"), r"notes\.txt is a text"),
        "damaged": (lambda f: (f / "b" / "1.png").write_bytes((f / "b" / "1.png").read_bytes()[:60]), r"1\.png is a PNG file that is damaged"),
        "empty file": (lambda f: (f / "a" / "0.png").write_bytes(b""), r"0\.png is empty"),
        "empty class": (lambda f: remove_all(f / "a"), "a holds no pictures"),
        "a third, empty class": (lambda f: (f / "c").mkdir(), "c holds no pictures"),
        "folder in a class": (lambda f: (f / "a" / "more").mkdir(), "more is a folder in a class folder"),
        "one class": (lambda f: (f / "b").rename(f.parent / "elsewhere"), "only one class folder, a;"),
        "no classes": (lambda f: [(f / c).rename(f.parent / c) for c in "ab"], "no class folders"),
        "line break": (lambda f: (f / "a" / "x\ny.png").write_text("hello"), r"x\\ny\.png is a text"),
    }


@pytest.mark.parametrize("how", breaks())
def test_what_is_wrong_gets_one_sentence(own: Path, how: str) -> None:
    """Each names folder or file."""
    spoil, words = breaks()[how]
    spoil(own)
    with pytest.raises(DataError, match=words) as caught:
        read_picture_folder(own)
    assert str(caught.value).isprintable() and str(own) in str(caught.value)


NO_FOLDERS = [("missing", "does not exist"), ("own/a/x.gif", "is a file"), ("n" * 300, "cannot be listed"), ("a\0b", "cannot be listed")]


@pytest.mark.parametrize(("name", "words"), NO_FOLDERS)
def test_what_is_no_folder_gets_one_sentence(own: Path, name: str, words: str) -> None:
    """Missing, a file, impossible names."""
    with pytest.raises(DataError, match=words) as caught:
        read_picture_folder(own.parent / name)
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match="at least 1 pixel"):
        read_picture_folder(own, size=0)


def test_badges_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Also the colours under transparent pixels: a picture of the right size is left alone."""
    pictures = read_picture_folder(write_badges(tmp_path / "badges", n_per_class=3))
    images, labels = make_badges(3)
    assert (pictures.images == images).all() and (pictures.labels == labels).all()


@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (3, 2), (1999, 40), (140, 140), (70, 70)])
def test_a_square_holds_the_whole_picture(shape: tuple[int, int]) -> None:
    """The longer side fills it, and the shorter one is never lost."""
    box = fit_square(Image.new("RGB", shape, "red"), 140).getbbox()
    assert box is not None
    width, height = box[2] - box[0], box[3] - box[1]
    assert max(width, height) == 140
    assert min(width, height) == max(1, round(140 * min(shape) / max(shape)))


def test_a_split_keeps_the_share_of_each_class() -> None:
    """Disjoint, complete, the same for the same seed; too few pictures get a sentence."""
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    train, valid = split_per_class(labels)
    assert sorted([*train, *valid]) == list(range(160))
    assert np.bincount(labels[valid]).tolist() == [20, 10, 2]
    assert (split_per_class(labels)[1] == valid).all() and (split_per_class(labels, seed=1)[1] != valid).any()
    for few in ([0, 1], [0, 0, 0, 1], []):
        with pytest.raises(DataError, match="a few pictures of each class"):
            split_per_class(np.array(few, int))

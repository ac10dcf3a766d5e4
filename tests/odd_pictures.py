"""Pictures of digits as readers have them, odd ones and hostile ones, each with what should become of it.

`make_odd_pictures(folder)` writes them; the tests of `open_picture` and of `climb predict` run over the same set.
"""
from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HUGE_FILE = 2**26 + 1


@dataclass(frozen=True)
class Expectation:
    """What should become of a picture.

    `answered`: opened, with a digit on it (an ink on paper that a model can answer for); `blank`: opened, but there is nothing on it to answer
    for; `refused`: a DataError. `words` stand in the only remark, or in the error; empty: no remark at all."""

    outcome: str
    words: str = ""


@cache
def digit(side: int = 140, index: int = 13) -> Image.Image:
    """A digit, dark on white, drawn by enlarging one of scikit-learn's; mode L."""
    from sklearn.datasets import load_digits

    small = Image.fromarray((load_digits().images[index] * 255 / 16).astype(np.uint8))
    canvas = Image.new("L", (14, 14))
    canvas.paste(small, (3, 3))
    return canvas.resize((side, side), Image.Resampling.BICUBIC).point(lambda v: 255 - min(255, max(0, 2 * v - 128)))


def png_chunk(kind: bytes, data: bytes, spoilt: bool = False) -> bytes:
    """A part of a PNG: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ spoilt)


def png_claiming(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG whose header claims a size; `data` is its packed content, `extra` parts before it."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + extra + png_chunk(b"IDAT", data or zlib.compress(b"\0")) + png_chunk(b"IEND", b"")


@cache
def packed_zeros(n: int) -> bytes:
    """`n` zero bytes, packed."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(min(2**20, n - at))) for at in range(0, n, 2**20)) + packer.flush()


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    """`image` as a file of `kind`."""
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    """The digit as a camera held that way would store it, with the EXIF entry that says so."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    image, exif = digit(), Image.Exif()
    exif[0x0112] = orientation
    return saved(image.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else image, kind, exif=exif)


def spoilt(data: bytes, share: float, n: int = 40) -> bytes:
    """`data` with `n` bytes turned over from `share` of its length on."""
    at = int(len(data) * share)
    return data[:at] + bytes(b ^ 0xFF for b in data[at : at + n]) + data[at + n :]


def cut(data: bytes, share: float = 0.6) -> bytes:
    """The beginning of `data`."""
    return data[: int(len(data) * share)]


def gif_of_frames(n: int) -> bytes:
    """A GIF whose first frame, the digit, is followed by `n` copies of it."""
    one = saved(digit(), "GIF")
    frame = one.index(b",", 13 + 3 * 2 ** (one[10] % 8 + 1))
    return one[:-1] + one[frame:-1] * n + b";"


def tiff_of_tags(n: int) -> bytes:
    """A TIFF with `n` entries that all point to the same long piece of the file."""
    entries = [(256, 3, 1, 28), (257, 3, 1, 28), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 28), (279, 4, 1, 784)]
    entries += [(30000 + i, 1, 2_000_000, 8) for i in range(n)]
    body = bytes(2_100_000)
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + table


def fine_pictures() -> dict[str, tuple[bytes, Expectation]]:
    """Pictures that are opened: name of the file, its bytes, and the remark on it."""
    ink = digit()
    colour = Image.merge("RGB", [ink, ink.point(lambda v: 60 + v * 195 // 255), ink.point(lambda v: 120 + v * 135 // 255)])
    nothing = ink.point(lambda v: 255 - v)
    clear = Image.merge("RGBA", [Image.new("L", ink.size, v) for v in (20, 30, 40)] + [nothing])
    rng = np.random.default_rng(0)
    loud = Image.fromarray(rng.integers(0, 256, (140, 140, 4), dtype=np.uint8))
    loud.putalpha(nothing)
    loud.paste((20, 30, 40, 255), mask=nothing.point(lambda v: 255 * (v == 255)))
    palette = colour.quantize(16)
    keyed = Image.new("P", ink.size, 1)
    keyed.putpalette([0, 0, 0, 255, 0, 255])
    keyed.paste(0, mask=nothing.point(lambda v: 255 * (v > 127)))
    grey_alpha = Image.merge("LA", [Image.new("L", ink.size, 10), nothing])
    sixteen = Image.fromarray(np.asarray(ink).astype(np.uint16) * 257)
    frames = [ink.rotate(10 * i, fillcolor=255) for i in range(12)]
    big = digit(1000).resize((7000, 6000), Image.Resampling.NEAREST)
    light = np.linspace(0.5, 0.85, 700)
    paper = (np.asarray(digit(700)) * light + rng.normal(0, 5, (700, 700))).clip(0, 255)
    photo = Image.fromarray(paper.astype(np.uint8)).convert("RGB")
    rows = (np.asarray(digit(28)).repeat(3, 1).astype(np.uint16) * 257).astype(">u2")
    rgb16 = png_claiming(28, 28, 16, 2, zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    one_frame, reduced = Expectation("answered", "first of its frames"), "reduced from 7,000 x 6,000"
    fine = Expectation("answered")
    pictures = {
        "grey.png": (saved(ink, "PNG"), fine),
        "colour.png": (saved(colour, "PNG"), fine),
        "colour.jpg": (saved(colour, "JPEG"), fine),
        "progressive.jpeg": (saved(colour, "JPEG", progressive=True), fine),
        "colour.webp": (saved(colour, "WEBP"), fine),
        "lossless.webp": (saved(clear, "WEBP", lossless=True), fine),
        "colour.gif": (saved(colour, "GIF"), fine),
        "colour.bmp": (saved(colour, "BMP"), fine),
        "colour.tiff": (saved(colour, "TIFF"), fine),
        "packed.tif": (saved(colour, "TIFF", compression="tiff_lzw"), fine),
        "palette.png": (saved(palette, "PNG"), fine),
        "palette_transparent.png": (saved(keyed, "PNG", transparency=1), fine),
        "palette_transparent.gif": (saved(keyed, "GIF", transparency=1), fine),
        "rgb_with_key.png": (saved(Image.merge("RGB", [ink.point(lambda v: 255 * (v > 127))] * 3), "PNG", transparency=(255, 255, 255)), fine),
        "transparent.png": (saved(clear, "PNG"), fine),
        "noise_under_transparency.png": (saved(loud, "PNG"), fine),
        "grey_alpha.png": (saved(grey_alpha, "PNG"), fine),
        "one_bit.png": (saved(ink.convert("1"), "PNG"), fine),
        "one_bit.tif": (saved(ink.convert("1"), "TIFF", compression="group4"), fine),
        "sixteen_bit.png": (saved(sixteen, "PNG"), Expectation("answered", "16-bit")),
        "sixteen_bit_colour.png": (rgb16, Expectation("answered", "16-bit")),
        "sixteen_bit.tif": (saved(sixteen, "TIFF"), Expectation("answered", "16-bit")),
        "cmyk.jpg": (saved(colour.convert("CMYK"), "JPEG"), Expectation("answered", "CMYK")),
        "animated.gif": (saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), one_frame),
        "animated.webp": (saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]), one_frame),
        "animated.png": (saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), one_frame),
        "pages.tif": (saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), one_frame),
        "thousands_of_frames.gif": (gif_of_frames(3000), one_frame),
        "turned_6.webp": (turned(6, "WEBP"), Expectation("answered", "turned upright")),
        "turned_6.tif": (turned(6, "TIFF"), Expectation("answered", "turned upright")),
        "turned_6.png": (turned(6, "PNG"), Expectation("answered", "turned upright")),
        "photo_of_paper.jpg": (saved(photo, "JPEG"), fine),
        "white_on_black.png": (saved(nothing, "PNG"), fine),
        "huge.png": (saved(big, "PNG", compress_level=1), Expectation("answered", reduced)),
        "huge.jpg": (saved(big.convert("RGB"), "JPEG"), Expectation("answered", reduced)),
        "small_28.png": (saved(digit(28), "PNG"), fine),
        "jpeg_called.png": (saved(colour, "JPEG"), Expectation("answered", "JPEG file in spite of its name")),
        "png_called.jpg": (saved(colour, "PNG"), Expectation("answered", "PNG file in spite of its name")),
        "no_ending": (saved(ink, "PNG"), fine),
        "junk_behind.png": (saved(ink, "PNG") + b"junk" * 1000, fine),
        "name with spaces é.png": (saved(ink, "PNG"), fine),
        "tiny_1x1.png": (saved(Image.new("L", (1, 1), 0), "PNG"), Expectation("blank")),
        "blank_white.png": (saved(Image.new("L", (140, 140), 255), "PNG"), Expectation("blank")),
        "blank_black.jpg": (saved(Image.new("L", (140, 140), 0), "JPEG"), Expectation("blank")),
        "all_transparent.png": (saved(Image.new("RGBA", (140, 140), (0, 0, 0, 0)), "PNG"), Expectation("blank")),
        "wide_strip.png": (saved(Image.new("L", (1200, 40), 255), "PNG"), Expectation("blank")),
    }
    for i in range(1, 9):
        pictures[f"turned_{i}.jpg"] = (turned(i), Expectation("answered", "turned upright" if i > 1 else ""))
    return pictures


def bad_pictures() -> dict[str, tuple[bytes, Expectation]]:
    """Files that are refused: name, bytes, and words of the sentence."""
    ink = digit()
    colour, loud = ink.convert("RGB"), Image.fromarray(np.random.default_rng(0).integers(0, 256, (140, 140, 3), dtype=np.uint8))
    png, jpeg, webp, gif, bmp = (saved(loud, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"))
    tiff, lzw = (saved(loud, "TIFF", compression=how) for how in (None, "tiff_lzw"))
    text_bomb = b"".join(png_chunk(b"zTXt", b"Comment\0\0" + packed_zeros(60 * 2**20)) for _ in range(3))
    long_texts = b"".join(png_chunk(b"zTXt", b"Comment%d\0\0" % i + packed_zeros(1_000_000)) for i in range(100))
    wrong_sum = png[:33] + png_chunk(b"IDAT", b"", True) + png[33:]
    sof = jpeg.index(b"\xff\xc0")
    giant_jpeg = jpeg[: sof + 5] + struct.pack(">HH", 65500, 65500) + jpeg[sof + 9 :]
    wide_webp = webp[:26] + struct.pack("<HH", 16383, 16383) + webp[30:]
    damaged, pixels = Expectation("refused", "damaged or cut short"), Expectation("refused", "pixels")
    iso = b"\0\0\0\x18ftyp"
    return {
        "empty.png": (b"", Expectation("refused", "is empty")),
        "one_byte.png": (b"\x89", Expectation("refused", "")),
        "text.png": (b"This is not a picture.\n", Expectation("refused", "is a text")),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", Expectation("refused", "is a web page")),
        "drawing.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', Expectation("refused", "is an SVG drawing")),
        "paper.pdf": (b"%PDF-1.7\n" + bytes(100), Expectation("refused", "is a PDF")),
        "phone.heic": (iso + b"heic" + bytes(100), Expectation("refused", "is a HEIC picture")),
        "phone.avif": (iso + b"avif" + bytes(100), Expectation("refused", "is an AVIF picture")),
        "film.mp4": (iso + b"isom" + bytes(100), Expectation("refused", "is a video")),
        "archive.png": (b"PK\3\4" + bytes(100), Expectation("refused", "is a ZIP archive")),
        "train-images-idx3-ubyte": (b"\0\0\x08\x03" + bytes(100), Expectation("refused", "is an IDX file")),
        "random.jpg": (np.random.default_rng(0).bytes(5000), Expectation("refused", "is no picture")),
        "only_the_start.png": (png[:8], damaged),
        "only_the_head.png": (png[:33], damaged),
        "cut.png": (cut(png), damaged),
        "cut.jpg": (cut(jpeg), damaged),
        "cut.webp": (cut(webp), damaged),
        "cut.gif": (cut(gif), damaged),
        "cut.bmp": (cut(bmp), damaged),
        "cut.tiff": (cut(tiff), damaged),
        "cut_packed.tif": (cut(lzw), damaged),
        "checksum.png": (wrong_sum, damaged),
        "spoilt.png": (spoilt(png, 0.5), damaged),
        "spoilt_packed.tif": (spoilt(lzw, 0.3, 4000), damaged),
        "no_frames.gif": (gif[:13] + b";", damaged),
        "claims_billions.png": (png_claiming(60000, 60000), pixels),
        "bomb.png": (png_claiming(13000, 13000, 8, 0, packed_zeros(13000 * 13001)), pixels),
        "bomb_within_one_limit.png": (png_claiming(8300, 8300, 8, 6, packed_zeros(8300 * 33201)), pixels),
        "one_bit_bomb.png": (png_claiming(20000, 20000, 1, 0, packed_zeros(20000 * 2501)), pixels),
        "no_pixels.png": (png_claiming(0, 10), Expectation("refused", "")),
        "strip.png": (png_claiming(1, 5000, 8, 0, packed_zeros(10000)), Expectation("refused", "is a strip")),
        "text_bomb.png": (png_claiming(28, 28, 8, 0, packed_zeros(28 * 29), text_bomb), damaged),
        "many_texts.png": (png_claiming(28, 28, 8, 0, packed_zeros(28 * 29), long_texts), damaged),
        "bomb.jpg": (giant_jpeg, pixels),
        "bomb.gif": (gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:], pixels),
        "bomb.webp": (wide_webp, pixels),
        "bomb.bmp": (bmp[:18] + struct.pack("<ii", 40000, 40000) + bmp[26:], pixels),
        "bomb.tif": (saved(Image.new("1", (30000, 30000)), "TIFF", compression="group4"), pixels),
        "overlapping_tags.tif": (tiff_of_tags(2000), Expectation("blank")),
        "floats.tif": (saved(Image.new("F", (28, 28), 0.5), "TIFF"), Expectation("refused", "32-bit numbers")),
        "line\nbreak.png": (b"text", Expectation("refused", "is a text")),
        "colour\x1b[31m.png": (b"text", Expectation("refused", "is a text")),
        "half.png": (saved(colour, "PNG")[:200], damaged),
    }


def make_odd_pictures(folder: str | Path) -> dict[str, tuple[Path, Expectation]]:
    """Write the pictures into `folder`: for each name its path and what should become of it.

    A few have no file, or none that is a picture: they need a POSIX system and are left out elsewhere."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, tuple[Path, Expectation]] = {}
    for name, (data, expectation) in {**fine_pictures(), **bad_pictures()}.items():
        if os.name != "posix" and not name.isprintable():
            continue
        (folder / name).write_bytes(data)
        made[name] = (folder / name, expectation)
    with open(folder / "huge_file.png", "wb") as f:
        f.truncate(HUGE_FILE)
    (folder / "a_folder.png").mkdir(exist_ok=True)
    made |= {
        "huge_file.png": (folder / "huge_file.png", Expectation("refused", "larger than")),
        "a_folder.png": (folder / "a_folder.png", Expectation("refused", "is a folder")),
        "missing.png": (folder / "missing.png", Expectation("refused", "does not exist")),
        "below_a_file": (folder / "grey.png" / "digit.png", Expectation("refused", "cannot be read")),
        "name_too_long": (folder / ("n" * 3000 + ".png"), Expectation("refused", "cannot be read")),
    }
    return made | (_of_posix(folder) if os.name == "posix" else {})


def _of_posix(folder: Path) -> dict[str, tuple[Path, Expectation]]:
    """A pipe, a device, a loop of links, a broken link, and a file that may not be read."""
    pipe, loop, link, locked, good = (folder / name for name in ("pipe.png", "loop.png", "broken_link.png", "locked.png", "link.png"))
    if not pipe.exists():
        os.mkfifo(pipe)
        loop.symlink_to(loop)
        link.symlink_to(folder / "nowhere.png")
        good.symlink_to(folder / "grey.png")
        locked.write_bytes((folder / "grey.png").read_bytes())
        locked.chmod(stat.S_IWUSR)
    found = {
        "pipe.png": (pipe, Expectation("refused", "no regular file")),
        "/dev/zero": (Path("/dev/zero"), Expectation("refused", "no regular file")),
        "loop.png": (loop, Expectation("refused", "cannot be read")),
        "broken_link.png": (link, Expectation("refused", "does not exist")),
        "link.png": (good, Expectation("answered")),
    }
    return found | ({} if os.access(locked, os.R_OK) else {"locked.png": (locked, Expectation("refused", "cannot be read"))})

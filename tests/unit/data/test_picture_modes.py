"""Every mode that Pillow writes: exact pixels, scaled by their depth and turned as EXIF says, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from verifier.data import pictures
from verifier.errors import ProblemError

DRAW = np.random.default_rng(0)
BYTES = DRAW.integers(0, 256, (4, 5), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (4, 5, 3), dtype=np.uint8)
WORDS = DRAW.integers(0, 65536, (4, 5)).astype(np.uint16)


def png16(samples: np.ndarray, kind: int) -> bytes:
    """A PNG of 16 bits per sample, (H, W, C), written by hand: Pillow cannot. kind: PNG's colour type."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_is_scaled_by_its_depth(tmp_path: Path, name: str) -> None:
    Image.fromarray(WORDS).save(tmp_path / name)
    assert np.array_equal(pictures.read(tmp_path / name, 1)[0], WORDS / 65535)
    assert np.array_equal(pictures.read(tmp_path / name, 3)[1], WORDS / 65535)


def test_a_dark_sixteen_bit_picture_is_not_white(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png16(np.full((3, 3, 1), 300), 0))
    assert np.array_equal(pictures.read(tmp_path / "a.png", 1), np.full((1, 3, 3), 300 / 65535))


def test_eight_bit_and_one_bit(tmp_path: Path) -> None:
    Image.fromarray(BYTES).save(tmp_path / "l.png")
    assert np.array_equal(pictures.read(tmp_path / "l.png", 1)[0], BYTES / 255)
    Image.fromarray(BYTES > 100).save(tmp_path / "one.png")
    assert np.array_equal(pictures.read(tmp_path / "one.png", 1)[0], (BYTES > 100).astype(float))


def test_palettes_become_their_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(COLOUR).quantize(8)
    table = np.array(picture.getpalette(), np.uint8).reshape(-1, 3)
    picture.save(tmp_path / "p.png")
    expected = table[np.asarray(picture)] / 255
    assert np.array_equal(pictures.read(tmp_path / "p.png", 3), expected.transpose(2, 0, 1))
    grey = np.clip(expected @ np.array([0.299, 0.587, 0.114]), 0, 1)
    assert np.allclose(pictures.read(tmp_path / "p.png", 1)[0], grey, rtol=0, atol=1e-12)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    ink = np.zeros((2, 2, 4), np.uint8)
    ink[0, 1, 0], ink[1, 0, 3], ink[1, 1, :3] = 255, 255, 255  # cyan, black by key, black by colours
    Image.fromarray(ink, "CMYK").save(tmp_path / "a.tif")
    white, cyan, black = (1, 1, 1), (0, 1, 1), (0, 0, 0)
    expected = np.array([[white, cyan], [black, black]], float).transpose(2, 0, 1)
    assert np.array_equal(pictures.read(tmp_path / "a.tif", 3), expected)


@pytest.mark.parametrize(("mode", "channels"), [("LA", 1), ("RGBA", 3)])
def test_an_opaque_alpha_channel_is_dropped_and_another_refused(tmp_path: Path, mode: str, channels: int) -> None:
    colour = BYTES[:, :, None] if channels == 1 else COLOUR
    alpha = np.full((4, 5, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([colour, alpha], 2), mode).save(tmp_path / "a.png")
    assert np.array_equal(pictures.read(tmp_path / "a.png", channels), colour.transpose(2, 0, 1) / 255)
    alpha[1, 2] = 254
    Image.fromarray(np.concatenate([colour, alpha], 2), mode).save(tmp_path / "b.png")
    with pytest.raises(ProblemError, match=f"b.png: parts of it are transparent .mode {mode}"):
        pictures.read(tmp_path / "b.png", channels)


def test_a_transparent_colour_is_refused_where_it_occurs(tmp_path: Path) -> None:
    Image.fromarray(BYTES).save(tmp_path / "a.png", transparency=int(BYTES[2, 2]))
    with pytest.raises(ProblemError, match="transparent"):
        pictures.read(tmp_path / "a.png", 1)
    absent = next(v for v in range(256) if v not in BYTES)
    Image.fromarray(BYTES).save(tmp_path / "b.png", transparency=absent)
    assert np.array_equal(pictures.read(tmp_path / "b.png", 1)[0], BYTES / 255)


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_orientation_of_exif_is_applied(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(BYTES).save(tmp_path / "a.png", exif=exif)
    shown = {
        1: BYTES, 2: BYTES[:, ::-1], 3: BYTES[::-1, ::-1], 4: BYTES[::-1], 5: BYTES.T, 6: np.rot90(BYTES, -1),
        7: BYTES[::-1, ::-1].T, 8: np.rot90(BYTES),
    }[turn]  # fmt: skip
    assert np.array_equal(pictures.read(tmp_path / "a.png", 1)[0], shown / 255)


def test_floating_point_pictures_have_to_lie_in_0_1(tmp_path: Path) -> None:
    values = DRAW.random((4, 5)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert np.array_equal(pictures.read(tmp_path / "f.tif", 1)[0], values)
    Image.fromarray(values * 255).save(tmp_path / "g.tif")
    with pytest.raises(ProblemError, match=r"g.tif: the pixels hold .* expected \[0, 1\]: divide 8-bit values by 255"):
        pictures.read(tmp_path / "g.tif", 1)


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_colours_of_sixteen_bits_are_refused(tmp_path: Path, kind: int) -> None:
    count = {2: 3, 4: 2, 6: 4}[kind]
    (tmp_path / "a.png").write_bytes(png16(DRAW.integers(0, 65536, (4, 5, count)), kind))
    with pytest.raises(ProblemError, match="16 bits per channel"):
        pictures.read(tmp_path / "a.png", 3)


def test_other_modes_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(DRAW.integers(0, 2**31 - 1, (4, 5)).astype(np.int32)).save(tmp_path / "i.tif")
    Image.new("LAB", (4, 5)).save(tmp_path / "lab.tif")
    Image.fromarray(BYTES).save(tmp_path / "two.tif", save_all=True, append_images=[Image.fromarray(BYTES)])
    for name, message in (("i.tif", "mode I of a TIFF"), ("lab.tif", "mode LAB"), ("two.tif", "2 frames")):
        with pytest.raises(ProblemError, match=f"{name}: .*{message}|{name}: {message}"):
            pictures.read(tmp_path / name, 1)


def test_arrays_are_scaled_by_their_depth(tmp_path: Path) -> None:
    for name, stored, expected in (
        ("bool", BYTES > 9, (BYTES > 9).astype(float)),
        ("bytes", BYTES, BYTES / 255),
        ("words", WORDS, WORDS / 65535),
        ("half", np.array([[0.5, 1.0]], np.float16), np.array([[0.5, 1.0]])),
    ):
        np.save(tmp_path / f"{name}.npy", stored)
        assert np.array_equal(pictures.read(tmp_path / f"{name}.npy", 1)[0], expected)
    for name, stored, message in (
        ("ints", np.zeros((4, 5), np.int32), "int32, whose range is not known"),
        ("large", np.full((4, 5), 255.0), "255 to 255"),
        ("nan", np.full((4, 5), np.nan), "NaN or infinite"),
    ):
        np.save(tmp_path / f"{name}.npy", stored)
        with pytest.raises(ProblemError, match=message):
            pictures.read(tmp_path / f"{name}.npy", 1)


def test_resizing_keeps_the_depth(tmp_path: Path) -> None:
    value = np.full((1, 8, 8), 300 / 65535)  # between two 8-bit levels
    assert np.allclose(pictures.resized(value, 4, 4), 300 / 65535, rtol=1e-6)
    beside = pictures.resized(value, 4, 4, (4, 4, 12, 12))
    assert np.allclose(beside[0, :1, :1], 300 / 65535, rtol=1e-6) and beside[0, 3, 3] == 0


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.bmp", "a.ppm"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    """Bytes changed at random and files cut short: pixels in [0, 1] or a ProblemError, nothing else."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(COLOUR)
    picture.save(tmp_path / name, **({"exif": exif} if name[2:] in ("png", "jpg", "tif") else {}))
    whole, draw, refused = (tmp_path / name).read_bytes(), np.random.default_rng(1), 0
    for _ in range(150):
        changed = bytearray(whole)
        for at in draw.integers(len(changed), size=3):
            changed[at] = draw.integers(256)
        cut = int(draw.integers(1, len(changed))) if draw.random() < 0.2 else len(changed)
        (tmp_path / name).write_bytes(bytes(changed[:cut]))
        try:
            value = pictures.read(tmp_path / name, 3)
        except ProblemError:
            refused += 1
        else:
            assert value.min() >= 0 and value.max() <= 1
    assert refused

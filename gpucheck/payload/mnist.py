"""Finds, reads and checks the MNIST digits, and draws digits of our own where there are none.

Reading needs no torch, so that a child can read in a thread while it imports torch. Only the
drawing of synthetic digits does.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Literal

IMAGE_BYTES = 28 * 28
CLASSES = 10
_PIECE_BYTES = 4 << 20

Kind = Literal["mnist", "synthetic"]


class DataError(Exception):
    """A file of the data set cannot be used."""

    def __init__(self, path: Path, problem: str, expected: str) -> None:
        super().__init__(f"{path}: {problem}; expected {expected}")
        self.path = path
        self.problem = problem
        self.expected = expected


@dataclass(frozen=True)
class File:
    """One of the four files of the data set, and the SHA-256 of its content, unpacked.

    The checksums of "mnist" are of the files whose MD5 sums torchvision publishes
    (torchvision/datasets/mnist.py), unpacked; those of "synthetic" of what `draw` makes.
    """

    name: str
    count: int
    magic: int
    item_bytes: int
    sha256: dict[Kind, str]

    @property
    def size(self) -> int:
        return self.header_bytes + self.count * self.item_bytes

    @property
    def header_bytes(self) -> int:
        return 16 if self.item_bytes > 1 else 8

    def header(self) -> bytes:
        numbers = [self.magic, self.count] + ([28, 28] if self.item_bytes > 1 else [])
        return b"".join(number.to_bytes(4, "big") for number in numbers)


TRAIN_IMAGES = File(
    "train-images-idx3-ubyte",
    60_000,
    2051,
    IMAGE_BYTES,
    {
        "mnist": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "synthetic": "158d27c843475d25f8f5c7a074031afbe3f48df60f9573d4cc5cbf0a340aefe9",
    },
)
TRAIN_LABELS = File(
    "train-labels-idx1-ubyte",
    60_000,
    2049,
    1,
    {
        "mnist": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "synthetic": "f9abfeefbd95eb6ecbb6521946c8e60965a8ad242943406230c9d5b922cab277",
    },
)
TEST_IMAGES = File(
    "t10k-images-idx3-ubyte",
    10_000,
    2051,
    IMAGE_BYTES,
    {
        "mnist": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "synthetic": "c1c048072ee75c29f4cf5cbf4edf7982f682f5233cab4caa2d309c4a94350921",
    },
)
TEST_LABELS = File(
    "t10k-labels-idx1-ubyte",
    10_000,
    2049,
    1,
    {
        "mnist": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "synthetic": "d11355aecce5563a8cdabcbdcd6befb04d36cc90d1cd4603fef263571767fa1a",
    },
)
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class Digits:
    """The data set: `images[0]` is 28 × 28 bytes, row by row; a label is one byte, 0 to 9."""

    kind: Kind
    directory: Path
    train_images: memoryview
    train_labels: memoryview
    test_images: memoryview
    test_labels: memoryview


def find(directory: Path) -> Path | None:
    """Return the folder that has the training images: *directory*, its raw, or its MNIST/raw."""
    for folder in (directory, directory / "raw", directory / "MNIST" / "raw"):
        if _locate(folder, TRAIN_IMAGES) is not None:
            return folder
    return None


def read(directory: Path) -> Digits:
    """Read and check the four files at *directory*, its `raw`, or its `MNIST/raw`.

    Raises DataError where a file is missing, cannot be read, or is not what it should be: the
    original MNIST, or the digits that `draw` makes.
    """
    folder = find(directory)
    if folder is None:
        raise DataError(
            directory,
            "no MNIST here" if directory.is_dir() else "no such folder",
            f"{TRAIN_IMAGES.name}, gzipped or not, in it, in its raw, or in its MNIST/raw",
        )
    contents = []
    kinds: list[Kind] = []
    for file in FILES:
        path = _locate(folder, file)
        if path is None:
            raise DataError(folder / file.name, "missing", f"{file.name}, gzipped or not")
        content = _unpack(path, file)
        check_form(content, path, file)
        kinds.append(_recognise(content, path, file))
        contents.append(memoryview(content)[file.header_bytes :])
    if len(set(kinds)) > 1:
        raise DataError(folder, "files of MNIST and synthetic digits mixed", "one or the other")
    return Digits(kinds[0], folder, *contents)


def _locate(folder: Path, file: File) -> Path | None:
    # Some mirrors write "train-images.idx3-ubyte". The unpacked file is quicker to read.
    dotted = file.name.replace("-idx", ".idx")
    for name in (file.name, dotted, f"{file.name}.gz", f"{dotted}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def _unpack(path: Path, file: File) -> bytearray:
    """Read at most a little more than *file* should have: a wrong file must not fill the memory."""
    content = bytearray()
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as stream:
            while len(content) <= file.size:
                piece = stream.read(min(_PIECE_BYTES, file.size + 1 - len(content)))
                if not piece:
                    break
                content += piece
    except EOFError as error:
        raise DataError(
            path, f"the gzip stream is cut off after {len(content):,} bytes", _expected(file)
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(path, f"the gzip stream is damaged: {error}", _expected(file)) from error
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}", _expected(file)) from error
    return content


def _expected(file: File) -> str:
    return f"{file.size:,} bytes of {file.name} after unpacking"


def check_form(content: bytearray, path: Path, file: File) -> None:
    """Raise DataError where *content* is not an IDX file of the right kind and size."""
    magic = int.from_bytes(content[:4], "big")
    if len(content) >= 4 and magic != file.magic:
        raise DataError(path, f"magic number {magic}", f"{file.magic}")
    if len(content) != file.size:
        problem = f"{len(content):,} bytes" if len(content) < file.size else "too many bytes"
        raise DataError(path, problem, _expected(file))
    if content[: file.header_bytes] != file.header():
        raise DataError(
            path,
            f"header {content[: file.header_bytes].hex(' ', 4)}",
            f"{file.header().hex(' ', 4)}: {file.count:,} items",
        )
    if file.item_bytes == 1:
        labels = memoryview(content)[file.header_bytes :]
        highest = max(labels)
        if highest >= CLASSES:
            place = bytes(labels).index(highest)
            raise DataError(path, f"label {highest} at item {place:,}", "labels from 0 to 9")


def _recognise(content: bytearray, path: Path, file: File) -> Kind:
    found = hashlib.sha256(content).hexdigest()
    for kind, checksum in file.sha256.items():
        if checksum == found:
            return kind
    raise DataError(
        path, f"SHA-256 {found} of the unpacked content", f"{file.sha256['mnist']} for MNIST"
    )


def download(directory: Path) -> None:
    """Let torchvision download MNIST to *directory*, with its mirrors and checksums.

    Raises ImportError where torchvision does not import, RuntimeError or OSError where the
    download fails.
    """
    # A torchvision that does not fit its torch raises RuntimeError on import:
    # "operator torchvision::nms does not exist".
    try:
        from torchvision.datasets import MNIST
    except RuntimeError as error:
        raise ImportError(f"torchvision does not import: {error}") from error
    MNIST(str(directory), train=True, download=True)


# ---------------------------------------------------------------------------- synthetic digits

# Each digit on a grid of 5 × 7, a row to a number, the leftmost column the highest bit.
_GLYPHS = (
    (0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110),
    (0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110),
    (0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111),
    (0b01110, 0b10001, 0b00001, 0b00110, 0b00001, 0b10001, 0b01110),
    (0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010),
    (0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110),
    (0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110),
    (0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000),
    (0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110),
    (0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100),
)
_SHAPES = 256  # ways in which each digit is placed, sized and slanted
_SYNTHETIC_SEED = 20_251


def draw(directory: Path, emit: Callable[[], None] = lambda: None) -> None:
    """Draw 60,000 training and 10,000 test digits, as IDX files in *directory*.

    Whole numbers alone, drawn by Python's own Mersenne twister (which gives the same bytes on
    every machine), so the files are the same everywhere. Each digit is shifted, sized
    and slanted, lies over a paler piece of another digit, and is covered with noise: that makes
    them about as hard as MNIST for a small network. *emit* is called now and then.

    Raises OSError where the files cannot be written. Needs torch.
    """
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    generator = random.Random(_SYNTHETIC_SEED)  # noqa: S311 - repeatable on purpose
    glyphs = torch.zeros(CLASSES, 9, 7, dtype=torch.int16)  # with an empty border
    for digit, rows in enumerate(_GLYPHS):
        for row, bits in enumerate(rows):
            for column in range(5):
                glyphs[digit, row + 1, column + 1] = bits >> (4 - column) & 1
    shapes = torch.stack([_shape(glyphs, generator) for _ in range(_SHAPES)], dim=1)
    shapes = shapes.reshape(CLASSES * _SHAPES, IMAGE_BYTES)
    for images_file, labels_file in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        pieces = []
        labels = bytearray()
        for _ in range(images_file.count // 10_000):
            images, answers = _draw_some(shapes, generator, 10_000)
            pieces.append(images)
            labels += answers
            emit()
        _write(directory / images_file.name, [images_file.header(), *pieces])
        _write(directory / labels_file.name, [labels_file.header(), labels])


def _shape(glyphs: Any, generator: random.Random) -> Any:  # noqa: ANN401 - tensors
    """Return the ten digits on 28 × 28 pixels, all placed, sized and slanted alike."""
    import torch

    height, width = (
        generator.randrange(20, 29),
        generator.randrange(20, 32),
    )  # of a cell, in eighths
    top, left = generator.randrange(1, 5), generator.randrange(4, 9)
    slant = generator.randrange(-2, 3)
    rows, columns = torch.arange(28)[:, None], torch.arange(28)[None, :]
    row = ((rows - top) * 8).div(height, rounding_mode="floor")
    column = ((columns - left) * 8 + (rows - 14) * slant).div(width, rounding_mode="floor")
    return glyphs[:, (row + 1).clamp(0, 8).expand(28, 28), (column + 1).clamp(0, 6)]


def _draw_some(shapes: Any, generator: random.Random, count: int) -> tuple[bytearray, bytes]:  # noqa: ANN401
    import torch

    def dots(number: int) -> Any:  # noqa: ANN401 - a tensor
        drawn = generator.getrandbits(8 * number).to_bytes(number, "little")
        return torch.frombuffer(bytearray(drawn), dtype=torch.uint8)

    label, other = dots(count).long() % CLASSES, dots(count).long() % CLASSES
    shape, other_shape = dots(count).long(), dots(count).long()
    strength = 110 + dots(count).to(torch.int16) % 146
    image = shapes[label * _SHAPES + shape] * strength[:, None]
    image += shapes[other * _SHAPES + other_shape] * (dots(count).to(torch.int16) % 90)[:, None]
    noise = dots(count * IMAGE_BYTES).reshape(count, IMAGE_BYTES)
    image += (noise.to(torch.int16) - 160).clamp_(min=0)
    pixels = bytearray(count * IMAGE_BYTES)
    torch.frombuffer(pixels, dtype=torch.uint8).copy_(image.clamp_(max=255).reshape(-1))
    return pixels, bytes(label.tolist())


def _write(path: Path, pieces: list[Any]) -> None:
    """Write a file at once, so that nobody reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

"""The cache of decoded images: arrays on disk that each process maps into memory.

It is in $FLATMIN_CACHE, or else in the platform's cache folder (~/.cache/flatmin on Linux), with one folder per version
of a data set and image size. It may be deleted at any time; images are then decoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flatmin.study import files
from flatmin.study.data import sources
from flatmin.study.data.sources import Part, Source

#: Part of every key. Increase it when the stored format, the decoding or the splits change.
VERSION = 1
SPLITS = ("train", "validation", "test")

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Decoded(NamedTuple):
    """A data set in arrays: images (n, channels, height, width) and labels (n,) of each split."""

    classes: tuple[str, ...]
    mean: list[float]  # of each channel of the train split
    deviation: list[float]
    splits: tuple[Arrays, ...]  # train, validation, test


def load(source: str, image_size: int, console: Console | None) -> Decoded:
    """The arrays of `source`; decoded if they are missing from the cache or damaged.

    Concurrent processes wait for the first one. A failed or killed process leaves nothing that is read later.

    Raises:
        ValueError: see `flatmin.study.data.dataset.load`; or the cache cannot be written.
    """
    folder = _place(source, image_size)
    if (found := _open(folder)) is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder, source, console):
            if (found := _open(folder)) is None:
                _decode(source, image_size, folder, console)
                found = _open(folder)
    except OSError as error:
        raise ValueError(f"cannot write the image cache {folder} ({error}); set FLATMIN_CACHE to a folder") from error
    assert found is not None
    return found


def holds(source: str, image_size: int) -> bool:
    """Whether the arrays of `source` are in the cache, whole."""
    return _open(_place(source, image_size)) is not None


def content(source: str, image_size: int) -> dict[str, NDArray[np.uint8]]:
    """The files that the cache holds of `source`, by name; mapped into memory."""
    folder = _place(source, image_size)
    return {path.name: np.asarray(np.memmap(path, np.uint8, "r")) for path in sorted(folder.iterdir())}


def adopt(source: str, image_size: int, content: dict[str, NDArray[np.uint8]]) -> None:
    """Take over the `content` of another machine's cache, unless the arrays are here."""
    folder = _place(source, image_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder, source, None):
        if _open(folder) is None:
            with _creating(folder) as (made, _):
                for name, file in content.items():
                    file.tofile(made / name)


def _place(source: str, image_size: int) -> Path:
    key = hashlib.sha256(f"{VERSION}\n{image_size}\n{sources.fingerprint(source)}".encode()).hexdigest()[:24]
    return _root() / "images" / key


def _root() -> Path:
    chosen = os.environ.get("FLATMIN_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("flatmin", appauthor=False)


def _open(folder: Path) -> Decoded | None:
    """The arrays in `folder`; None if they are incomplete."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        splits = tuple((_map(folder / f"{name}-images.npy"), _map(folder / f"{name}-labels.npy")) for name in SPLITS)
        if [list(images.shape) for images, _ in splits] != about["shapes"]:
            return None
        return Decoded(tuple(about["classes"]), about["mean"], about["deviation"], splits)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _map(path: Path) -> NDArray[Any]:
    """An array on disk, mapped copy-on-write: writes stay in the process."""
    array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return array


@contextlib.contextmanager
def _alone(folder: Path, source: str, console: Console | None) -> Iterator[None]:
    """Hold the lock for creating `folder`. The system releases it when the process ends, even if killed."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        if console is not None:
            console.print(f"waiting for another process that decodes {source}", highlight=False)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _creating(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Create `folder` with a single rename at the end of the block, so it is never incomplete.

    Yields:
        An empty folder to fill, and one for other files, which are deleted.
    """
    scratch = folder.with_name(f".{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
    try:
        made = scratch / "made"
        made.mkdir(parents=True)
        yield made, scratch
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        made.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _decode(source: str, image_size: int, folder: Path, console: Console | None) -> None:
    """Create `folder` with the arrays of `source`."""
    with _creating(folder) as (made, scratch):
        found = sources.read(source, scratch / "datasets")
        total = sum(len(part.rows) for part in found.parts)
        if (needed := total * image_size**2) > (free := shutil.disk_usage(made).free):
            raise ValueError(
                f"image_size: {total} images of {image_size}x{image_size} pixels take {needed / 1e9:.1f} GB or more, "
                f"and the image cache {_root()} has {free / 1e9:.1f} GB; make image_size smaller"
            )
        with _bar(f"decoding {Path(source).name}", total, console) as show:
            for channels in (1, 3):  # as grey, and again as RGB if an image has colour
                with contextlib.suppress(InColourError):
                    about = _write(found, channels, image_size, made, source, show)
                    break
        files.write_json(made / "about.json", {"source": source, "image_size": image_size, **about})


def _write(
    found: Source, channels: int, image_size: int, folder: Path, source: str, show: Callable[[int], None]
) -> dict[str, Any]:
    """Decode `found` into `folder`, one batch in memory at a time; return the metadata."""
    moments = np.zeros((2, channels), dtype=np.int64)  # sums of the training pixels and of their squares, exact
    shape: tuple[int, ...] = ()
    done = 0
    for name, part in zip(SPLITS, found.parts, strict=True):
        np.save(folder / f"{name}-labels.npy", part.labels)
        with (folder / f"{name}-images.npy").open("wb") as file:
            for images in batches(part, channels, image_size, shape, source):
                if not file.tell():
                    shape = images.shape[1:]
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(part.rows), *shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(images.tobytes())
                if name == "train":
                    moments += [
                        np.einsum("nchw->c", wide := images.astype(np.int64)),
                        np.einsum("nchw,nchw->c", wide, wide),
                    ]
                show(done := done + len(images))
            file.flush()
            os.fsync(file.fileno())  # contents must be on disk before the rename
    mean, square = moments / (len(found.parts[0].rows) * shape[1] * shape[2])
    return {
        "classes": found.classes,
        "shapes": [[len(part.rows), *shape] for part in found.parts],
        "mean": mean.tolist(),
        "deviation": np.sqrt(square - mean**2).tolist(),
    }


@contextlib.contextmanager
def _bar(label: str, total: int, console: Console | None) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and remaining time; yields a function that takes the number of images done."""
    columns = TextColumn(label), BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=console is None, expand=True) as progress:
        task = progress.add_task(label, total=total, rate="")
        yield lambda done: progress.update(task, completed=done, rate=f"{progress.tasks[0].speed or 0:.0f} images/s")


GREY = {"1", "L", "LA", "La"}
DEEP = ("I", "F")  # 16 or 32 bits, which do not fit into a byte

#: Images in memory at a time, and images per task of a thread. Of large images, only as many as fit into so many bytes.
BATCH, SHARE = 256, 16
BYTES = 2**30


class InColourError(Exception):
    """One channel was requested, and the image has colour."""


def decode(cell: dict[str, Any], channels: int, image_size: int) -> NDArray[np.uint8]:
    """One image, (channels, height, width): upright, grey (1 channel) or RGB (3), resized if requested.

    Args:
        cell: `bytes` of an image file, or else its `path`.
        channels: 1 or 3.
        image_size: the shorter side after resizing (bilinear, with antialiasing); the centre is kept. 0 keeps the size.

    Raises:
        InColourError: `channels` is 1 and the image is not grey.
        ValueError: the image is missing, cannot be read, or has more than eight bits per channel.
    """
    if cell is None or not (cell["bytes"] or cell["path"]):
        raise ValueError("is missing")
    try:
        with Image.open(io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"]) as file:
            if file.mode.startswith(DEEP):
                raise ValueError(f"has more than eight bits per channel (mode {file.mode}); convert it")
            if channels == 1 and file.mode not in GREY:
                raise InColourError
            image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises on damaged files
        raise ValueError(f"cannot be read: {error}") from None
    if image_size:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.array(image).reshape(image.height, image.width, channels).transpose(2, 0, 1)
    return pixels


def batches(
    part: Part, channels: int, image_size: int, shape: tuple[int, ...], source: str
) -> Iterator[NDArray[np.uint8]]:
    """The images of `part` in order, (batch, channels, size, size), decoded with one thread per core.

    Args:
        part: of the data set `source`.
        channels: see `decode`.
        image_size: see `decode`.
        shape: of one image; () uses the shape of the first.
        source: for messages.

    Raises:
        InColourError: `channels` is 1 and an image is not grey.
        ValueError: see `decode`; or an image has another shape or is no square. The message says which.
    """

    def which(row: int, cell: Any) -> str:
        path = f" ({cell['path']})" if cell and cell["path"] else ""
        return f"data: {source}: image {row} of the {part.name} split{path}"

    def decode_some(task: tuple[Any, Any]) -> list[NDArray[np.uint8]]:
        images = []
        for row, cell in zip(*task, strict=True):
            try:
                images.append(decode(cell, channels, image_size))
            except ValueError as error:
                raise ValueError(f"{which(row, cell)} {error}") from None
        return images

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = max(1, min(BATCH, BYTES // (channels * max(1, image_size) ** 2)))
        for start in range(0, len(part.rows), count):
            rows = part.rows[start : start + count]
            (cells,) = part.images[rows].values()
            tasks = [(rows[i : i + SHARE], cells[i : i + SHARE]) for i in range(0, len(rows), SHARE)]
            images = [image for some in pool.map(decode_some, tasks) for image in some]
            shape = shape or images[0].shape
            for row, cell, image in zip(rows, cells, images, strict=True):
                if image.shape != shape or shape[1] != shape[2]:
                    size, first = (f"{each[2]}x{each[1]}" for each in (image.shape, shape))
                    raise ValueError(
                        f"{which(row, cell)} has {size} pixels, and the first has {first}; images must be squares of "
                        "one size: set image_size to make them so"
                    )
            yield np.stack(images)

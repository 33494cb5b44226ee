"""Load folders and hub data sets; find the image column, the label column and the splits."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Fraction of each class that is held out of the train split.
VALIDATION, TEST = 0.1, 0.2
#: Names of test splits, by preference.
TESTS = ("test", "validation", "valid", "val")


class Part(NamedTuple):
    """One split, before decoding."""

    name: str  # of the source's split that it is taken from
    images: Any  # that split: a datasets.Dataset whose one column holds {"bytes": ..., "path": ...}
    rows: NDArray[np.int64]  # (n,), sorted, of that split
    labels: NDArray[np.int64]  # (n,), indices into `Source.classes`


class Source(NamedTuple):
    """A data set, before decoding."""

    classes: tuple[str, ...]
    parts: tuple[Part, Part, Part]  # train, validation, test


def read(source: str, scratch: Path) -> Source:
    """Find the columns and the splits of `source`.

    Args:
        source: a folder or a hub id.
        scratch: an empty folder for files of `datasets`; the result reads them.

    Raises:
        ValueError: there are no images, no labels or fewer than two classes; the message names what is missing.
    """
    splits = load_splits(source, scratch, TESTS)
    if "train" not in splits:
        raise ValueError(f"data: {source} has no train split, only {', '.join(splits)}")
    image, label = _columns(splits["train"].features, source)
    classes = _classes(splits["train"], label)
    parts = {name: _part(name, splits[name], image, label, classes) for name in ("train", *TESTS) if name in splits}

    train = parts["train"]
    if (train.labels < 0).any():
        raise ValueError(f"data: {source} has training examples without a label in column {label!r}")
    names = tuple(classes.values())
    if len(present := np.unique(train.labels)) < 2:
        got = [names[place] for place in present]
        raise ValueError(f"data: {source} must have two classes or more in column {label!r}, got {got}")
    # Some data sets on the hub do not publish test labels: all are -1.
    labelled = [name for name in TESTS if name in parts and len(parts[name].labels) and parts[name].labels.min() >= 0]
    if labelled:
        test = parts[labelled[0]]
    else:
        train, test = _hold_out(train, TEST)
    train, validation = _hold_out(train, VALIDATION)
    if not (len(validation.rows) and len(test.rows)):
        raise ValueError(f"data: {source} is too small for a validation and a test split")
    return Source(names, (train, validation, test))


def _columns(features: Any, source: str) -> tuple[str, str]:
    """The names of the image and of the label column, by type. Of several label columns, `label` or else the first."""
    from datasets import ClassLabel, Value
    from datasets import Image as ImageFeature

    def named(kind: type) -> list[str]:
        return [name for name, feature in features.items() if isinstance(feature, kind)]

    numbers = [name for name in named(Value) if "int" in features[name].dtype]
    images, labels = named(ImageFeature), named(ClassLabel) or numbers
    for what, columns in (("images", images), ("class labels or whole numbers", labels)):
        if not columns:
            raise ValueError(f"data: {source} has no column of {what}; its columns are {', '.join(features)}")
    return images[0], "label" if "label" in labels else labels[0]


def _classes(split: Any, label: str) -> dict[int, str]:
    """The name of each value of a label column; a column of plain numbers has the values that occur."""
    names = getattr(split.features[label], "names", None)
    return dict(enumerate(names)) if names else {int(value): str(value) for value in np.unique(_numbers(split, label))}


def _part(name: str, split: Any, image: str, label: str, classes: dict[int, str]) -> Part:
    from datasets import Image as ImageFeature

    values, known = _numbers(split, label), np.array(sorted(classes))
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    images = split.select_columns([image]).cast_column(image, ImageFeature(decode=False))
    return Part(name, images, np.arange(len(values)), np.where(known[places] == values, places, -1))


def _numbers(split: Any, label: str) -> NDArray[np.int64]:
    """A label column, (n,); -1 for missing labels."""
    values = split.select_columns([label])[:][label]
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)


def _hold_out(part: Part, share: float) -> tuple[Part, Part]:
    """Split `part` in two, stratified by class: at least one example of a class is held out, if it has two.

    Deterministic: numpy guarantees that the stream of `RandomState` never changes.
    """
    random = np.random.RandomState(0)
    held = np.zeros(len(part.labels), dtype=bool)
    for label in np.unique(part.labels):
        rows = random.permutation(np.flatnonzero(part.labels == label))
        held[rows[: max(round(share * len(rows)), min(1, len(rows) - 1))]] = True
    kept, out = (part._replace(rows=part.rows[mine], labels=part.labels[mine]) for mine in (~held, held))
    return kept, out


#: Of hub ids that this process, or its parent, has loaded; and of data that another machine has.
_FINGERPRINTS: dict[str, str] = {}


def load_splits(source: str, scratch: Path, tests: Iterable[str]) -> dict[str, Any]:
    """The splits of `source` by name, each a `datasets.Dataset`.

    Args:
        source: a folder or a hub id.
        scratch: an empty folder for files of `datasets`; the result reads them.
        tests: names of folders of test images, beside `train`.

    Raises:
        ValueError: `source` is no folder and cannot be loaded from the hub, or a folder without images.
    """
    folder = Path(source).expanduser()
    return _folder(folder, scratch, tests) if folder.is_dir() else _hub(source)


def fingerprint(source: str) -> str:
    """A string that changes when the data change: names, sizes and times of a folder's files, or the hub's fingerprint.

    A hub id keeps the fingerprint of the first call in this process. What was given to `remember` comes first.

    Raises:
        ValueError: `source` is no folder and cannot be loaded from the hub; or a file name is not UTF-8.
    """
    if source in _FINGERPRINTS:
        return _FINGERPRINTS[source]
    folder = Path(source).expanduser()
    if not folder.is_dir():
        _FINGERPRINTS[source] = "-".join(f"{name} {split._fingerprint}" for name, split in _hub(source).items())
        return _FINGERPRINTS[source]
    for path in folder.rglob("*"):
        check_name(path)
    files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    return "\n".join(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in files)


def check_name(path: Path) -> None:
    """Check that a file name is UTF-8, which the libraries that read it need.

    Raises:
        ValueError: it is not; the message shows its bytes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"data: the file name {os.fsencode(path)!r} is not UTF-8; rename the file") from None


def memory() -> dict[str, str]:
    """The fingerprints that this process remembers."""
    return dict(_FINGERPRINTS)


def remember(fingerprints: Mapping[str, str]) -> None:
    """Use the fingerprints that another process has found, without asking the hub."""
    _FINGERPRINTS.update(fingerprints)


def _folder(folder: Path, scratch: Path, tests: Iterable[str]) -> dict[str, Any]:
    """The splits of a local folder of Parquet files or images."""
    suffixes = {path.suffix.lower() for path in folder.rglob("*") if path.is_file()}
    if ".parquet" in suffixes:
        return _load(str(folder), str(folder), cache_dir=str(scratch))
    if not suffixes & Image.registered_extensions().keys():
        raise ValueError(f"data: {folder} holds neither Parquet files nor images")
    # Explicit, since `datasets` would treat a file `cat/my-test.png` as a test split.
    files = {name: str(folder / name / "**") for name in ("train", *tests) if (folder / name).is_dir()}
    if "train" not in files:
        files = {"train": str(folder / "**")}
    found = _load(str(folder), "imagefolder", data_files=files, cache_dir=str(scratch))
    if not any("label" in split.features for split in found.values()):
        raise ValueError(f"data: {folder} must hold its images in one folder per class, and two classes or more")
    return found


@functools.cache
def _hub(source: str) -> dict[str, Any]:
    """The splits of a data set on the hub; `datasets` caches downloads, and only these count if the hub is away."""
    with contextlib.nullcontext() if _hub_answers(source) else _offline():
        return _load(source, source)


#: Seconds to wait for the hub's first answer.
PATIENCE = 10.0


def _hub_answers(source: str) -> bool:
    """Ask the hub once, whatever it answers: `datasets` asks six times and waits in between."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.HfApi().dataset_info(source, timeout=PATIENCE)
    except HfHubHTTPError:
        return True  # it has no such data set, or does not give it; `datasets` says which
    except Exception:  # the network raises many types
        return False
    return True


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """`datasets` uses only what it has downloaded before."""
    import datasets
    import huggingface_hub.constants

    places: tuple[Any, ...] = datasets.config, huggingface_hub.constants
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _load(source: str, *args: str, **options: Any) -> dict[str, Any]:
    import datasets

    try:
        with _quiet() if options else contextlib.nullcontext():
            return dict(datasets.load_dataset(*args, **options))
    except Exception as error:  # the hub, the network and file formats raise many types
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        if not options:
            why = (
                f"there is no such folder here, and the Hugging Face hub does not give it ({why}); write --data FOLDER "
                "with your images, --data digits, or the id as the hub shows it, and see that the network is up"
            )
        raise ValueError(f"data: cannot load {source}: {why}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Disable the progress bars of `datasets`: decoding takes the time, and has its own bar."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()

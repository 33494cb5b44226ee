"""Images: the splits and pixels of every kind of source, a cache that is never half written, clear refusals."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from flatmin.study import pool
from flatmin.study.comparison import compare
from flatmin.study.config import Study
from flatmin.study.data import cache, digits, sources
from flatmin.study.data.dataset import check, load_dataset
from flatmin.study.search import tuner

datasets = pytest.importorskip("datasets")
parquet = pytest.importorskip("pyarrow.parquet")

SHARED = Path(__file__).parents[4] / "shared/data"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """A cache of our own, and no memory of earlier tests."""
    monkeypatch.setenv("FLATMIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("flatmin.study.data.dataset._LOADED", {})
    monkeypatch.setattr(sources, "_FINGERPRINTS", {})
    sources._hub.cache_clear()
    return tmp_path / "cache"


def picture(seed, mode="L", size=(8, 8)):
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def image_folder(root, classes=("cat", "dog"), each=20, mode="L", size=(8, 8), first=0):
    """One folder of PNG files per class, all different."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(first + number * each + i, mode, size).save(root / name / f"{i:03}.png")
    return root


def hub_folder(root, labels, *, split="train", images=None, label=None, **columns):
    """A Parquet file in the hub's layout."""
    images = images or [picture(i) for i in range(len(labels))]
    label = label or datasets.ClassLabel(names=["a", "b", "c"])
    features = datasets.Features({"img": datasets.Image(), "fine": label, **{k: v for k, (v, _) in columns.items()}})
    values = {"img": images, "fine": labels, **{k: v for k, (_, v) in columns.items()}}
    root.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(values, features=features).to_parquet(root / f"{split}-00000-of-00001.parquet")
    return root


def splits(dataset):
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def rows(split):
    """Every image of a split as bytes, in order."""
    return [image.numpy().tobytes() for image in split.images]


# -- digits ------------------------------------------------------------------------------------------------------------


def test_digits_are_what_they_always_were():
    """Bit for bit the pixels that version 0.1 trained on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(raw.target, dtype=torch.int64)
    train, rest = train_test_split(range(1797), train_size=0.6, stratify=labels.numpy(), random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=labels.numpy()[rest], random_state=0)
    mean, deviation = images[train].mean(), images[train].std()

    found = load_dataset("digits")
    for split, expected in zip(splits(found).values(), (train, validation, test), strict=True):
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert torch.equal(found.standardise(split.images), (images[expected] - mean) / deviation)
        assert torch.equal(split.labels, labels[expected])
    assert found.classes == tuple("0123456789") and found.mean.shape == found.deviation.shape == (1, 1, 1)
    assert found.mean.item() == pytest.approx(4.876261, abs=1e-6)
    assert found.deviation.item() == pytest.approx(6.008899, abs=1e-6)
    assert load_dataset("digits") is found


def test_digits_of_a_scikit_learn_that_keeps_them_elsewhere(monkeypatch):
    images, labels = digits.read()
    monkeypatch.setattr(digits, "FILE", "nowhere")
    for found, expected in zip(digits.read(), (images, labels), strict=True):
        assert found.dtype == expected.dtype and np.array_equal(found, expected)


def test_digits_have_one_size():
    assert load_dataset("digits", image_size=8).train.images.shape == (1078, 1, 8, 8)
    with pytest.raises(ValueError, match=r"image_size must be 0 or 8 for digits, .* got 16"):
        load_dataset("digits", image_size=16)


# -- subsets -----------------------------------------------------------------------------------------------------------


def test_subsets_are_balanced_and_nested_and_leave_the_rest_alone():
    whole, large, small = (load_dataset("digits", subset=n) for n in (0, 205, 100))
    assert sorted(large.train.labels.bincount().tolist()) == [20] * 5 + [21] * 5
    assert small.train.labels.bincount().tolist() == [10] * 10
    assert set(rows(small.train)) < set(rows(large.train)) < set(rows(whole.train))
    assert torch.equal(whole.test.images, small.test.images) and torch.equal(whole.mean, small.mean)
    everything = load_dataset("digits", subset=1078)
    assert torch.equal(everything.train.images, whole.train.images)
    order = {image: i for i, image in enumerate(rows(whole.train))}
    for image, label in zip(rows(small.train), small.train.labels, strict=True):
        assert whole.train.labels[order[image]] == label


@pytest.mark.parametrize("subset", [9, 1079])
def test_a_subset_has_every_class_and_no_more_than_there_is(subset):
    with pytest.raises(ValueError, match=rf"subset must be 0 or in \[10, 1078\] for digits, got {subset}"):
        load_dataset("digits", subset=subset)


# -- folders of images -------------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_split_in_proportion(tmp_path):
    source = str(image_folder(tmp_path / "pets", each=50))
    found = load_dataset(source)
    assert found.classes == ("cat", "dog") and found.name == source
    counts = {name: split.labels.bincount().tolist() for name, split in splits(found).items()}
    assert counts == {"train": [36, 36], "validation": [4, 4], "test": [10, 10]}
    seen = [image for split in splits(found).values() for image in rows(split)]
    assert len(set(seen)) == 100, "the splits share an image"
    label_of = {np.asarray(picture(i)).tobytes(): i // 50 for i in range(100)}
    for split in splits(found).values():
        assert [label_of[image] for image in rows(split)] == split.labels.tolist()


def test_train_and_test_folders_are_the_splits(tmp_path):
    image_folder(tmp_path / "pets/train", each=20)
    image_folder(tmp_path / "pets/test", each=5, first=100)
    (tmp_path / "pets/train/cat/000.png").rename(
        tmp_path / "pets/train/cat/my-test.png"
    )  # of no split but its folder's
    found = load_dataset(str(tmp_path / "pets"))
    assert [len(split.labels) for split in splits(found).values()] == [36, 4, 10]
    assert set(rows(found.test)) == {np.asarray(picture(i)).tobytes() for i in range(100, 110)}


def test_grey_and_colour_mixed_become_colour(tmp_path):
    image_folder(tmp_path / "mixed", each=10)
    for i in range(5, 10):
        picture(1000 + i, "RGB").save(tmp_path / f"mixed/dog/{i:03}.png")
    found = load_dataset(str(tmp_path / "mixed"))
    assert found.train.images.shape[1:] == (3, 8, 8) and found.mean.shape == (3, 1, 1)
    images = np.concatenate([split.images.numpy() for split in splits(found).values()])
    expected = [np.asarray(picture(i)) for i in range(15)]
    expected = [np.stack([grey] * 3) for grey in expected]
    expected += [np.asarray(picture(1000 + i, "RGB")).transpose(2, 0, 1) for i in range(5, 10)]
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in expected)


def test_images_are_resized_by_their_shorter_side_and_centred(tmp_path):
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    picture[:, :20], picture[:, 20:60], picture[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("wide.png", "high.png")]
    Image.fromarray(picture).save(cells[0]["path"])
    Image.fromarray(picture.transpose(1, 0, 2)).save(cells[1]["path"])
    for cell in cells:
        found = cache.decode(cell, 3, 10)
        assert found.shape == (3, 10, 10) and found.dtype == np.uint8
        expected = Image.open(cell["path"]).resize((20, 10) if "wide" in cell["path"] else (10, 20), Image.BILINEAR)
        left, top = (expected.width - 10) // 2, (expected.height - 10) // 2
        expected = np.asarray(expected.crop((left, top, left + 10, top + 10))).astype(int).transpose(2, 0, 1)
        assert np.abs(found - expected).max() <= 1 and (found[1] > 200).all(), "not the centre"


def test_photographs_are_turned_upright(tmp_path):
    image, exif = picture(0, size=(6, 4)), Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    found = cache.decode({"bytes": None, "path": str(tmp_path / "turned.png")}, 1, 0)
    assert np.array_equal(found[0], np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("size", [(9, 8), (12, 12)])
def test_differing_sizes_name_the_option(size, tmp_path):
    source = image_folder(tmp_path / "odd", each=5)
    picture(77, size=size).save(source / "dog/003.png")
    with pytest.raises(ValueError, match=rf"dog/003.png\) has {size[0]}x{size[1]} pixels.*8x8.*set image_size"):
        load_dataset(str(source))
    assert load_dataset(str(source), image_size=6).train.images.shape[1:] == (1, 6, 6)


def test_oblong_images_name_the_option(tmp_path):
    source = image_folder(tmp_path / "oblong", each=5, size=(9, 8))
    with pytest.raises(ValueError, match=r"has 9x8 pixels, .*squares of one size: set image_size"):
        load_dataset(str(source))


# -- Parquet -----------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_their_types(tmp_path):
    numbers = (datasets.Value("int64"), list(range(30)))
    hub_folder(tmp_path / "set", [0, 1, 2] * 10, id=numbers)
    hub_folder(tmp_path / "set", [2, 1, 0], split="test", id=(numbers[0], [0, 1, 2]))
    found = load_dataset(str(tmp_path / "set"))
    assert found.classes == ("a", "b", "c") and found.test.labels.tolist() == [2, 1, 0]
    assert sorted(found.validation.labels.tolist()) == [0, 1, 2]
    assert rows(found.test) == [np.asarray(picture(i)).tobytes() for i in range(3)]


def test_plain_numbers_are_labels_if_there_are_no_others(tmp_path):
    number = datasets.Value("int32")
    hub_folder(tmp_path / "set", [5, 7] * 10, label=number, confidence=(datasets.Value("float32"), [0.5] * 20))
    hub_folder(
        tmp_path / "set", [7, 5, 7], label=number, split="valid", confidence=(datasets.Value("float32"), [1.0] * 3)
    )
    found = load_dataset(str(tmp_path / "set"))
    assert found.classes == ("5", "7") and found.test.labels.tolist() == [1, 0, 1]


def test_a_test_split_without_labels_is_passed_over(tmp_path):
    for split, labels in (("train", [0, 1, 2] * 10), ("test", [-1] * 6), ("validation", [1, 1, 0, 2])):
        hub_folder(tmp_path / "set", labels, split=split)
    found = load_dataset(str(tmp_path / "set"))
    assert found.test.labels.tolist() == [1, 1, 0, 2] and len(found.train.labels) == 27


def test_a_test_split_comes_before_others(tmp_path):
    for split, labels in (("train", [0, 1, 2] * 10), ("validation", [1] * 3), ("test", [2] * 4)):
        hub_folder(tmp_path / "set", labels, split=split)
    assert load_dataset(str(tmp_path / "set")).test.labels.tolist() == [2] * 4


def test_statistics_are_those_of_the_train_split(tmp_path):
    images = [picture(i, "RGB", (32, 32)) for i in range(300)]  # more than a batch
    hub_folder(tmp_path / "set", [0, 1, 2] * 100, images=images)
    found = load_dataset(str(tmp_path / "set"))
    train = found.train.images.numpy().astype(np.float64)
    torch.testing.assert_close(found.mean.flatten(), torch.tensor(train.mean((0, 2, 3)), dtype=torch.float32))
    torch.testing.assert_close(found.deviation.flatten(), torch.tensor(train.std((0, 2, 3)), dtype=torch.float32))
    standard = found.standardise(found.train.images)
    torch.testing.assert_close(standard.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std((0, 2, 3), correction=0), torch.ones(3))


def test_a_channel_that_never_changes_stays_finite(tmp_path):
    hub_folder(tmp_path / "set", [0, 1] * 20, images=[Image.new("L", (8, 8), 7)] * 40)
    found = load_dataset(str(tmp_path / "set"))
    assert not found.standardise(found.train.images).any()


@pytest.mark.parametrize(
    ("name", "image", "size", "classes"),
    [
        ("fashion_mnist", "image", (1, 28, 28), 10),
        ("cifar10_jpeg", "img", (3, 32, 32), 10),
        ("tiny-imagenet", "image", (3, 64, 64), 200),
    ],
)
def test_shared_data(name, image, size, classes, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not in {SHARED.parent.name}/{SHARED.name} beside the checkout")
    (tmp_path / name).mkdir()
    for path in sorted((SHARED / name).glob("*-00000-of-*.parquet")):
        batch = next(parquet.ParquetFile(path).iter_batches(batch_size=2000))
        table = datasets.table.pa.Table.from_batches([batch]).replace_schema_metadata(
            parquet.read_schema(path).metadata
        )
        parquet.write_table(table, tmp_path / name / f"{path.name.split('-')[0]}.parquet")
    found = load_dataset(str(tmp_path / name))
    assert len(found.classes) == classes and found.train.images.shape[1:] == size
    assert len(found.test.labels) == 2000 and 1600 < len(found.train.labels) < 1900
    assert len(found.train.labels) + len(found.validation.labels) == 2000
    original = datasets.Dataset.from_parquet(str(tmp_path / name / "train.parquet"), cache_dir=str(tmp_path / "hf"))
    first = np.asarray(original[0][image].convert("L" if size[0] == 1 else "RGB")).reshape(*size[1:], size[0])
    assert first.transpose(2, 0, 1).tobytes() in rows(found.train) + rows(found.validation)


# -- the hub -----------------------------------------------------------------------------------------------------------


def test_a_hub_id_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot load nobody/nothing: there is no such folder here, and the .*hub"):
        load_dataset("nobody/nothing")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds one data set, for this process alone; what was asked of it."""
    found = datasets.load_dataset(str(hub_folder(tmp_path / "set", [0, 1, 2] * 10)), cache_dir=str(tmp_path / "hf"))
    asked = []

    def load_dataset(source):
        asked.append(source)
        return {"somebody/something": found}[source]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "_hub_answers", lambda source: True)
    return asked


@pytest.mark.parametrize("reachable", [True, False])
def test_the_hub_is_asked_once_before_it_is_asked_again_and_again(reachable, monkeypatch):
    """`datasets` asks a hub that does not answer six times, and waits half a minute in between."""
    import huggingface_hub

    asked = []

    def ask(api, source, timeout):
        asked.append(source)
        if not reachable:
            raise ConnectionError("Name or service not known")

    def load(source):
        asked.append(huggingface_hub.constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("no such data set")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", ask)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match="cannot load missing: there is no such folder here"):
        load_dataset("missing")
    assert asked == ["missing", not reachable]
    assert not datasets.config.HF_HUB_OFFLINE and not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path, store):
    image_folder(tmp_path / "set")
    source, target = os.fsencode(tmp_path / "set/cat/000.png"), os.fsencode(tmp_path / "set/cat") + b"/\xff.png"
    try:
        os.rename(source, target)
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    with pytest.raises(ValueError, match=r"cat/\\xff\.png' is not UTF-8; rename the file"):
        load_dataset(str(tmp_path / "set"))


def test_enormous_images_are_refused_before_memory_is_taken(tmp_path, store, monkeypatch):
    folder = str(image_folder(tmp_path / "set"))
    monkeypatch.setattr(cache, "batches", lambda *arguments: pytest.fail("images were decoded"))
    with pytest.raises(ValueError, match=r"image_size must be in \[0, 4096\], got 100000"):
        load_dataset(folder, image_size=100_000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    with pytest.raises(
        ValueError, match=r"image_size: 40 images of 4096x4096 pixels take 0.7 GB or more, .* has 0.1 GB"
    ):
        load_dataset(folder, image_size=4096)
    assert not list(store.rglob("*.npy"))


def test_large_images_are_decoded_a_few_at_a_time(tmp_path, store, monkeypatch):
    folder = str(image_folder(tmp_path / "set"))
    at_once = []
    stack = np.stack
    monkeypatch.setattr(cache.np, "stack", lambda images: at_once.append(len(images)) or stack(images))
    monkeypatch.setattr(cache, "BYTES", 5 * 16 * 16)
    load_dataset(folder, image_size=16)
    assert max(at_once) == 5


def test_a_hub_id_is_loaded_by_its_fingerprint(hub, monkeypatch):
    first = load_dataset("somebody/something")
    monkeypatch.setattr("flatmin.study.data.dataset._LOADED", {})
    monkeypatch.setattr(sources, "_FINGERPRINTS", {})
    sources._hub.cache_clear()
    monkeypatch.setattr(cache, "_decode", None)  # would fail
    assert rows(load_dataset("somebody/something").train) == rows(first.train) and len(hub) == 2


def test_what_is_remembered_is_not_asked_again(hub, monkeypatch):
    first = load_dataset("somebody/something")
    known = sources.memory()
    monkeypatch.setattr("flatmin.study.data.dataset._LOADED", {})
    monkeypatch.setattr(sources, "_FINGERPRINTS", {})
    sources._hub.cache_clear()
    sources.remember(known)
    assert rows(load_dataset("somebody/something").train) == rows(first.train) and len(hub) == 1


HUB_STUDY = Study(methods=("sgd",), noise=(0.0,), seeds=2, epochs=1, batch_size=8, data="somebody/something")
SEARCH = dataclasses.replace(HUB_STUDY, arms=("tuned",), tune=1, seeds=1)


@pytest.mark.xdist_group("processes")
def test_workers_take_what_their_parent_loaded_and_ask_nobody(hub, tmp_path, monkeypatch):
    """They are new processes, which this hub does not reach, and another does not either."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    study = dataclasses.replace(HUB_STUDY, arms=("default",))
    assert compare(study, tmp_path / "out", jobs=2).missing == 0 and hub == ["somebody/something"]


@pytest.mark.xdist_group("processes")
def test_workers_of_a_search_are_told_what_their_parent_loaded(hub, tmp_path, monkeypatch):
    told, run_all = [], pool.run_all

    def spy(function, tasks, jobs, begin):
        told.append(begin.args[0])
        return run_all(function, tasks, jobs, begin)

    monkeypatch.setattr(pool, "run_all", spy)
    compare(SEARCH, tmp_path / "out")
    assert [list(known) for known in told] == [["somebody/something"]] * 2


@pytest.mark.parametrize("begin", [compare, tuner.search])
def test_data_that_cannot_be_had_end_a_study_before_any_worker_starts(begin, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_start", None)  # would fail
    with pytest.raises(ValueError, match=r"^data: cannot load nobody/nothing: .*; write --data FOLDER with"):
        begin(dataclasses.replace(SEARCH, data="nobody/nothing"), tmp_path / "out", jobs=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.xdist_group("processes")
def test_a_worker_without_the_decoded_images_takes_what_the_hub_s_library_has_kept(tmp_path):
    kept = tmp_path / "kept/somebody___something/default/0.0.0/0123"
    found = datasets.load_dataset(str(hub_folder(tmp_path / "set", [0, 1, 2] * 10)), cache_dir=str(tmp_path / "hf"))
    made = Path(found["train"].cache_files[0]["filename"])
    kept.mkdir(parents=True)
    shutil.copy(made, kept / "something-train.arrow")
    info = json.loads((made.parent / "dataset_info.json").read_text())
    info |= {"dataset_name": "something", "config_name": "default"}
    (kept / "dataset_info.json").write_text(json.dumps(info))
    code = (
        "from flatmin.study.data.dataset import load_dataset as load; print(len(load('somebody/something').train[1]))"
    )
    environment = {**os.environ, **pool.OFFLINE, "HF_DATASETS_CACHE": str(tmp_path / "kept")}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert out.stdout == "21\n", out.stderr


# -- the cache ---------------------------------------------------------------------------------------------------------


def count_decodings(monkeypatch):
    calls, decode = [], cache._decode

    def counted(*args):
        calls.append(args)
        decode(*args)

    monkeypatch.setattr(cache, "_decode", counted)
    return calls


def test_images_are_decoded_once_per_state_and_size(tmp_path, store, monkeypatch):
    source = image_folder(tmp_path / "pets")
    calls = count_decodings(monkeypatch)

    def load(**options):
        monkeypatch.setattr("flatmin.study.data.dataset._LOADED", {})
        return load_dataset(str(source), **options)

    first, again = load(), load(subset=10)
    assert len(calls) == 1 and again.train.labels.bincount().tolist() == [5, 5]
    assert load(image_size=4).train.images.shape[-1] == 4 and len(calls) == 2
    picture(99).save(source / "dog/000.png")
    changed = load()
    assert len(calls) == 3 and rows(changed.train) + rows(changed.test) != rows(first.train) + rows(first.test)
    (source / "cat/000.png").unlink()
    assert len(load().train.labels) < len(first.train.labels) and len(calls) == 4
    assert {path.suffix for path in (store / "images").iterdir()} == {"", ".lock"}
    assert not list((store / "images").glob(".*"))


def test_arrays_are_mapped_and_writing_to_them_changes_nothing(tmp_path, monkeypatch):
    source = str(image_folder(tmp_path / "pets"))
    found = load_dataset(source)
    before = rows(found.train)
    found.train.images.zero_()
    monkeypatch.setattr("flatmin.study.data.dataset._LOADED", {})
    assert rows(load_dataset(source).train) == before
    assert isinstance(cache.load(source, 0, None).splits[0][0], np.memmap)


@pytest.mark.parametrize("name", ["about.json", "train-images.npy", "test-labels.npy"])
@pytest.mark.parametrize("damage", ["gone", "cut", "garbage", "empty"])
def test_a_damaged_cache_is_rebuilt(name, damage, tmp_path, store, monkeypatch):
    source = str(image_folder(tmp_path / "pets", each=5))
    before = rows(load_dataset(source).train)
    (victim,) = store.glob(f"images/*/{name}")
    whole = victim.read_bytes()
    victim.unlink()
    if damage != "gone":
        victim.write_bytes({"cut": whole[:-3], "garbage": b"garbage" * 100, "empty": b""}[damage])
    monkeypatch.setattr("flatmin.study.data.dataset._LOADED", {})
    assert rows(load_dataset(source).train) == before
    assert victim.read_bytes() == whole


def test_what_fails_or_is_killed_leaves_nothing(tmp_path, store, monkeypatch):
    source = str(image_folder(tmp_path / "pets"))
    decode, left = cache.decode, iter(range(7))

    def stopped(*args):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(cache, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(source)
    assert {path.suffix for path in (store / "images").iterdir()} == {".lock"}
    monkeypatch.setattr(cache, "decode", decode)
    rest = store / "images" / f".{next((store / 'images').iterdir()).stem}"  # as a kill -9 leaves it
    (rest / "made").mkdir(parents=True)
    (rest / "made/train-images.npy").write_bytes(b"half")
    assert len(load_dataset(source).train.labels) == 28 and not rest.exists()


def test_two_at_the_same_time_decode_once(tmp_path, monkeypatch):
    source = str(image_folder(tmp_path / "pets", each=100))
    calls = count_decodings(monkeypatch)
    found = []
    threads = [threading.Thread(target=lambda: found.append(cache.load(source, 0, None))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(found) == 3
    assert all(np.array_equal(each.splits[0][0], found[0].splits[0][0]) for each in found)


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLATMIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot write the image cache .*file.*set FLATMIN_CACHE"):
        load_dataset(str(image_folder(tmp_path / "pets")))


@pytest.mark.skipif(sys.platform != "linux", reason="tests the convention of Linux")
def test_the_cache_is_where_the_platform_wants_it(monkeypatch):
    assert cache._root() == Path(os.environ["FLATMIN_CACHE"])
    monkeypatch.delenv("FLATMIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache._root() == Path("/somewhere/flatmin")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache._root() == Path.home() / ".cache/flatmin"


def test_decoding_shows_its_rate(tmp_path):
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, record=True, width=100)
        load_dataset(str(image_folder(tmp_path / "pets")), console=console)
        text = console.export_text()
    assert "decoding pets" in text and "40/40" in text and "images/s" in text


def test_about_names_what_a_cache_folder_is(tmp_path, store):
    source = str(image_folder(tmp_path / "pets"))
    load_dataset(source, image_size=4)
    (about,) = store.glob("images/*/about.json")
    found = json.loads(about.read_text())
    assert found["source"] == source and found["image_size"] == 4 and found["shapes"][0] == [28, 1, 4, 4]


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_names_that_can_be_nothing(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").touch()
    monkeypatch.chdir(tmp_path)
    for name, message in {
        "digit": "unknown name 'digit'; did you mean digits?",
        "Digits": "did you mean digits?",
        "./picture": "there is no folder './picture'; did you mean pictures?",
        f"{tmp_path}/pictrues": f"did you mean {tmp_path}/pictures?",
        "../nowhere/at/all": "there is no folder '../nowhere/at/all'; check its spelling",
        "": "there is no folder ''",
        "two words": "there is no folder 'two words'",
        "pictures/a.png": "is no folder; name the one that holds the images: pictures",
    }.items():
        with pytest.raises(ValueError, match=r"^data: ") as refusal:
            check(name)
        assert message in str(refusal.value)
    for name in ("digits", "pictures", "ylecun/mnist", "cifar10", str(tmp_path)):
        check(name)


def bad_empty(root):
    root.mkdir()
    (root / "notes.txt").touch()


def bad_one_class(root):
    image_folder(root, classes=("cat",))


def bad_flat(root):
    root.mkdir()
    for i in range(5):
        picture(i).save(root / f"{i}.png")


def bad_too_small(root):
    image_folder(root, each=1)


def bad_unreadable(root):
    image_folder(root)
    (root / "dog/007.png").write_bytes(b"no image")


def bad_truncated(root):
    image_folder(root, size=(64, 64))
    path = root / "cat/013.png"
    path.write_bytes(path.read_bytes()[:2000])


def bad_deep(root):
    image_folder(root)
    Image.fromarray(np.full((8, 8), 60_000, dtype=np.uint16)).save(root / "cat/001.png")


def bad_parquet(root):
    hub_folder(root, [0, 1] * 5)
    (root / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no table PAR1")


def bad_no_images(root):
    root.mkdir()
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(root / "train.parquet")


def bad_no_labels(root):
    root.mkdir()
    features = datasets.Features({"picture": datasets.Image(), "name": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"picture": [picture(0)], "name": ["a"]}, features=features)
    table.to_parquet(root / "train.parquet")


def bad_one_label(root):
    hub_folder(root, [1] * 10)


def bad_missing_label(root):
    hub_folder(root, [0, 1, None] * 5)


def bad_missing_image(root):
    hub_folder(root, [0, 1] * 5, images=[picture(0)] * 4 + [None] + [picture(1)] * 5)


def bad_no_train(root):
    hub_folder(root, [0, 1] * 5, split="test")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad_empty, "ROOT holds neither Parquet files nor images"),
        (bad_one_class, "ROOT must hold its images in one folder per class, and two classes or more"),
        (bad_flat, "ROOT must hold its images in one folder per class"),
        (bad_too_small, "ROOT is too small for a validation and a test split"),
        (bad_unreadable, r"ROOT: image 27 of the train split \(ROOT/dog/007.png\) cannot be read: "),
        (bad_truncated, r"ROOT: image 13 of the train split \(ROOT/cat/013.png\) cannot be read: "),
        (bad_deep, r"cat/001.png\) has more than eight bits per channel \(mode I;16\); convert it"),
        (bad_parquet, "cannot load ROOT: "),
        (bad_no_images, "ROOT has no column of images; its columns are text, label"),
        (bad_no_labels, "ROOT has no column of class labels or whole numbers; its columns are picture, name"),
        (bad_one_label, r"ROOT must have two classes or more in column 'fine', got \['b'\]"),
        (bad_missing_label, "ROOT has training examples without a label in column 'fine'"),
        (bad_missing_image, "ROOT: image 4 of the train split is missing"),
        (bad_no_train, "ROOT has no train split, only test"),
    ],
)
def test_bad_data_is_refused_and_nothing_is_left(make, message, tmp_path, store):
    make(tmp_path / "bad")
    with pytest.raises(ValueError, match="^data: .*" + message.replace("ROOT", str(tmp_path / "bad"))):
        load_dataset(str(tmp_path / "bad"))
    assert {path.suffix for path in (store / "images").iterdir()} <= {".lock"}

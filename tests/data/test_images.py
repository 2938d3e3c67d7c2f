"""Image data: the four sets of the protocol, MedMNIST files with every check, and pickled files that run nothing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest

from editlab.config.images import Digits, Liver, MedMnist
from editlab.data.image_sets import read_source, write_sets
from editlab.data.images import (
    SETS,
    Images,
    check_disjoint,
    read_images,
    split_info,
    stratified,
)
from editlab.data.liver import convert_liver, read_liver, read_object_array
from editlab.data.medmnist import read_medmnist
from editlab.data.plain_pickle import load_arrays
from editlab.errors import ArtifactError, DataError

RETINA = "bd4c0672f1bba3e3a89f0e4e876791e4"


def one_line(caught):
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def medmnist(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        arrays[f"{part}_images"] = rng.integers(0, 255, (n, 28, 28, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(n) % 5)[:, None].astype(np.uint8)
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_digits_are_split_into_four_disjoint_stratified_sets(tmp_path):
    data = Digits(kind="digits", model="tiny")
    write_sets(tmp_path, data)
    sets = {name: read_images(tmp_path / f"{name}.csv") for name in SETS}
    assert {name: len(images) for name, images in sets.items()} == {
        "ft_train": 817,
        "discovery": 440,
        "ft_val": 180,
        "test": 360,
    }
    check_disjoint(sets, one_array=True)
    pixels = np.concatenate([s.pixels for s in sets.values()])
    assert len(pixels) == 1797
    for images in sets.values():
        shares = np.bincount(images.labels, minlength=10) / len(images)
        assert abs(shares - 0.1).max() < 0.02
    info = pd.read_csv(tmp_path / "data_split_info.csv")
    assert list(info["set"]) == list(SETS)
    assert info["images"].sum() == 1797
    assert info[[f"class_{k}" for k in range(10)]].to_numpy().sum() == 1797
    before = {name: (tmp_path / f"{name}.npy").read_bytes() for name in SETS}
    write_sets(tmp_path, data)
    assert all((tmp_path / f"{name}.npy").read_bytes() == before[name] for name in SETS)


def test_overlapping_sets_are_refused():
    images = Images(np.zeros((4, 2, 2, 1), np.uint8), np.zeros(4, np.int64), np.arange(4))
    with pytest.raises(DataError, match="share 4 images"):
        check_disjoint({"ft_train": images, "discovery": images})
    apart = Images(images.pixels, images.labels, np.arange(4, 8))
    sets = {"ft_train": images, "discovery": apart, "test": images}
    check_disjoint(sets)  # official parts of their own: their numbers say nothing about each other
    with pytest.raises(DataError, match="ft_train and test share 4 images"):
        check_disjoint(sets, one_array=True)
    twice = Images(images.pixels, images.labels, np.array([0, 0, 1, 2]))
    with pytest.raises(DataError, match="occurs twice"):
        check_disjoint({"ft_train": twice, "discovery": images})


def test_a_class_that_cannot_be_in_both_is_one_line():
    with pytest.raises(DataError, match="cannot be split") as caught:
        stratified(np.array([0, 0, 0, 1]), 0.5, "x", 1)
    one_line(caught)


def test_damaged_sets_are_refused(tmp_path):
    write_sets(tmp_path, Digits(kind="digits", model="tiny"))
    (tmp_path / "test.csv").write_text("index,label\n0,1\n")
    with pytest.raises(ArtifactError, match="1 labels for images"):
        read_images(tmp_path / "test.csv")
    (tmp_path / "test.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ArtifactError, match="not a readable image set"):
        read_images(tmp_path / "test.csv")


def test_the_real_retinamnist(shared_data, tmp_path):
    path = shared_data / "medmnist" / "retinamnist.npz"
    data = MedMnist(kind="medmnist", model="tiny", name="retinamnist", path=str(path), md5=RETINA, ft_train_ratio=0.8)
    source = read_source(data)
    assert [len(source.parts[p]) for p in ("train", "val", "test")] == [1080, 120, 400]
    assert source.ordinal
    write_sets(tmp_path, data)
    assert len(read_images(tmp_path / "ft_train.csv")) == 864


def test_grey_files_get_a_channel(tmp_path):
    grey = {f"{p}_images": np.zeros((n, 28, 28), np.uint8) for p, n in (("train", 60), ("val", 20), ("test", 20))}
    source = read_medmnist(medmnist(tmp_path / "x.npz", **grey), "retinamnist")
    assert source.parts["train"].pixels.shape == (60, 28, 28, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val_images": None}, "val_images is missing"),
        ({"test_labels": np.array([{}], dtype=object)}, "not a plain npz"),
        ({"train_images": np.zeros((60, 28), np.uint8)}, "train_images is uint8"),
        ({"train_images": np.zeros((60, 28, 28, 3), np.float32)}, "train_images is float32"),
        ({"train_images": np.zeros((0, 28, 28, 3), np.uint8)}, "train_images is uint8"),
        ({"train_labels": np.zeros((59, 1), np.uint8)}, "train_labels is"),
        ({"train_labels": np.zeros((60, 1), np.float32)}, "train_labels is float32"),
        ({"train_labels": np.full((60, 1), 5)}, "train_labels holds 5"),
        ({"train_labels": np.full((60, 1), -1)}, "train_labels holds -1"),
    ],
)
def test_bad_medmnist_files_are_one_line(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as caught:
        read_medmnist(medmnist(tmp_path / "x.npz", **change), "retinamnist")
    one_line(caught)


def test_other_bad_files_are_one_line(tmp_path):
    path = medmnist(tmp_path / "x.npz")
    for wrong, message in ((tmp_path / "none.npz", "no such file"), (path, "md5 is")):
        with pytest.raises(DataError, match=message) as caught:
            read_medmnist(wrong, "retinamnist", "0" * 32)
        one_line(caught)
    for content in (b"", b"PK\x03\x04" + b"x" * 40, path.read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_medmnist(path, "retinamnist")
        one_line(caught)


def test_files_damaged_in_other_ways_are_one_line_too(tmp_path):
    """A lone array, members that are no arrays, a header that ends early, more than memory holds, a broken deflate stream."""
    path, plain = tmp_path / "x.npz", {}
    with np.load(medmnist(path), allow_pickle=False) as file:
        plain = {name: file[name] for name in file.files}
    np.savez_compressed(path, **plain)
    broken = bytearray(path.read_bytes())
    broken[60:200] = b"\x07" * 140
    files = [bytes(broken)]
    lone = io.BytesIO()
    np.save(lone, np.zeros(3))
    files.append(lone.getvalue())
    start = "{'descr': '|u1', 'fortran_order': False, 'shape': ("
    for member in (b"no array", header(start), header(f"{start}99999999999, 28, 28, 3), }}")):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in plain:
                archive.writestr(f"{name}.npy", member)
        files.append(packed.getvalue())
    for content in files:
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_medmnist(path, "retinamnist")
        one_line(caught)


def header(text):
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


def liver_files(folder, images=None, labels=None):
    rng = np.random.default_rng(0)
    n = 40
    items = images if images is not None else [{"4": rng.normal(size=(8, 8, 1)).astype(np.float32)} for _ in range(n)]
    array = np.empty(len(items), dtype=object)
    for k, item in enumerate(items):
        array[k] = item
    with (folder / "imgs.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": array.shape})
        pickle.dump(array, file, protocol=3)
    np.save(folder / "labs.npy", np.arange(n) % 4 if labels is None else labels)
    return folder / "imgs.npy", folder / "labs.npy"


@pytest.mark.parametrize(("task", "classes"), [("liver4", 4), ("liver2s", 2), ("liver2a", 2)])
def test_liver_is_converted_once_and_mapped(tmp_path, task, classes):
    images, labels = liver_files(tmp_path)
    convert_liver(images, labels, tmp_path / "liver.npz")
    with np.load(tmp_path / "liver.npz", allow_pickle=False) as file:
        assert file["images"].shape == (40, 8, 8, 1)
    source = read_liver(tmp_path / "liver.npz", task, 1)
    assert len(source.classes) == classes
    assert sum(len(p) for p in source.parts.values()) == 40
    assert len(source.parts["test"]) == 8
    stages = np.arange(40) % 4
    mapping = {"liver4": [0, 1, 2, 3], "liver2s": [0, 0, 0, 1], "liver2a": [0, 1, 1, 1]}[task]
    for part in source.parts.values():
        assert (part.labels == np.asarray(mapping)[stages[part.index]]).all()
    data = Liver(kind="liver", model="tiny", images=str(images), labels=str(labels), task=task)
    sets = {n: source.parts["train" if n in ("ft_train", "discovery") else n.removeprefix("ft_")] for n in SETS}
    assert task in split_info(sets, source, data)["note"].iloc[0]


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "owned"
    images, _ = liver_files(tmp_path, images=[{"4": Hostile(mark)}])
    with pytest.raises(DataError, match=r"asks for posix\.system") as caught:
        read_object_array(images)
    one_line(caught)
    assert not mark.exists()


class Rebuilt:
    """Pickled as a call of ``function`` with a state."""

    def __init__(self, function, arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


OBJECTS_WITHOUT_FLAGS = Rebuilt(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))


def rebuilt_array(shape, dtype, content):
    return Rebuilt(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, content))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        # numpy follows these bytes as addresses of objects, and the process dies or does what they say
        (rebuilt_array((2,), OBJECTS_WITHOUT_FLAGS, b"A" * 16), "2 objects"),
        (rebuilt_array((10**13,), np.dtype("f8"), b"A" * 16), "content of another size"),
        (rebuilt_array((-1,), np.dtype("f8"), b"A" * 16), "damaged array"),
        (rebuilt_array((2,), np.dtype([("a", "O")]), b"A" * 16), "only numbers"),
        (rebuilt_array((2,), np.dtype("U2"), b"A" * 16), "only numbers"),
        (rebuilt_array((2,), "f8", b"A" * 16), "damaged array"),
        (Rebuilt(np.ndarray, ((10**13,), "f8")), "not a readable npy file"),
        (np.ndarray, "holds a type"),
        (Rebuilt(eval, ("1",)), r"asks for builtins\.eval"),
    ],
    ids=range(9),
)  # fmt: skip
def test_what_a_pickle_says_of_arrays_is_not_believed(tmp_path, item, message):
    images, _ = liver_files(tmp_path, images=[{"4": item}])
    with pytest.raises(DataError, match=message) as caught:
        read_object_array(images)
    one_line(caught)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickled_arrays_are_what_they_were(tmp_path, protocol):
    values = [
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.asfortranarray(np.linspace(0, 1, 6).reshape(2, 3)),
        np.array([True, False]),
        np.float32(0.5),
        np.array([{"a": np.arange(2)}, [1, "b"]], dtype=object),
    ]
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (5,)})
        pickle.dump(values, file, protocol=protocol)
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        found = load_arrays(file)
    for old, new in zip(values[:4], found[:4], strict=True):
        assert np.array_equal(old, new)
        assert old.dtype == new.dtype
    assert found[4].shape == (2,)
    assert np.array_equal(found[4][0]["a"], [0, 1])
    assert found[4][1] == [1, "b"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([{"4": np.zeros((8, 8), np.float32)}] * 4, np.arange(4), "item 0 is no image"),
        ([{"4": np.zeros((8, 8, 1), np.float32), "5": 1}] * 4, np.arange(4), "item 0 is no image"),
        ([{"4": np.full((8, 8, 1), np.nan, np.float32)}] * 4, np.arange(4), "no finite"),
        ([{"4": np.zeros((8, 8, 1), np.int64)}] * 4, np.arange(4), "no finite real"),
        ([{"4": np.full((8, 8, 1), 1e300)}] * 4, np.arange(4), "no finite real"),  # infinite as float32
        ([{"4": np.zeros((8, 8, 1), np.float32)}] * 4, np.arange(3), "3 labels"),
        ([{"4": np.zeros((8, 8, 1), np.float32)}] * 4, np.arange(1, 5), "stages of 0..3"),
        (
            [{"4": np.zeros((8, 8, 1), np.float32)}, {"4": np.zeros((9, 8, 1), np.float32)}],
            np.arange(2),
            "different shapes",
        ),
    ],
)
def test_bad_liver_files_are_one_line(tmp_path, images, labels, message):
    files = liver_files(tmp_path, images, labels)
    with pytest.raises(DataError, match=message) as caught:
        convert_liver(*files, tmp_path / "liver.npz")
    one_line(caught)
    assert not (tmp_path / "liver.npz").exists()


def test_damaged_pickles_are_one_line(tmp_path):
    images, _ = liver_files(tmp_path)
    whole = images.read_bytes()
    for length in (0, 5, 40, 128, 140, len(whole) // 2):
        images.write_bytes(whole[:length])
        with pytest.raises(DataError) as caught:
            read_object_array(images)
        one_line(caught)
    with pytest.raises(DataError, match="no such file"):
        read_object_array(tmp_path / "none.npy")
    with pytest.raises(DataError, match="not a converted"):
        read_liver(images, "liver4", 1)

"""Image files of somebody's own, in folders and CSV files."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dance_tf.config import DataConfig
from dance_tf.data.datasets import load_data, load_images
from dance_tf.errors import UserError
from dance_tf.protocols import ImageDataset
from tests.data.own_files import numbered, write_folder, write_image

_TWO = {"cats": 10, "dogs": 15}


def _load(path: pathlib.Path, shape: tuple[int, ...] = (12, 12, 3), **fields) -> ImageDataset:
    return load_data(DataConfig(path=str(path), **fields), shape)


def _message(path: pathlib.Path, **fields) -> str:
    with pytest.raises(UserError) as caught:
        _load(path, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _all(dataset: ImageDataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*dataset.split(split, batch_size=7).as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _levels(images: np.ndarray) -> list[int]:
    return sorted(np.round(images[:, 1, 1, 0] * 255).astype(int))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".jpg"])
def test_class_folders_are_split_by_class_and_named(tmp_path, suffix):
    write_folder(tmp_path, _TWO, suffix)
    own = _load(tmp_path)
    assert [own.num_images(s) for s in ("train", "architecture", "test")] == [16, 4, 5]
    assert own.name == tmp_path.name and own.warnings == ()
    about = own.input_description
    assert about.class_names == ("cats", "dogs") and about.source_shape == (12, 12, 3)
    levels = []
    for split in ("train", "architecture", "test"):
        images, labels = _all(own, split)
        assert set(labels) == {0, 1}
        for label in (0, 1):
            of_class = images[labels == label, 1, 1, 0] * 255
            assert (abs(of_class - 100 - 50 * label - 10) < 25).all()
        levels += list(_levels(images))
    if suffix != ".jpg":
        assert sorted(levels) == [*range(100, 110), *range(150, 165)]


def test_split_folders_are_kept(tmp_path):
    sizes = {"train/a": 4, "train/b": 5, "Test/a": 2, "Test/b": 1, "val/a": 1, "val/b": 1}
    write_folder(tmp_path, sizes)
    own = _load(tmp_path, architecture_fraction=0.4)
    assert (own.num_images("train"), own.num_images("architecture")) == (5, 4)
    assert _levels(_all(own, "test")[0]) == [100, 101, 150]
    assert [line for line in own.warnings if "'validation' is not used" in line]


def test_validation_stands_in_for_test_and_train_alone_is_split(tmp_path):
    write_folder(tmp_path / "two", {"train/a": 8, "train/b": 4, "valid/a": 2, "valid/b": 1})
    assert _load(tmp_path / "two").num_images("test") == 3
    write_folder(tmp_path / "one", {"train/a": 8, "train/b": 8})
    own = _load(tmp_path / "one", test_fraction=0.5)
    assert own.num_images("test") == 8


def test_classes_are_in_the_order_of_code_points(tmp_path):
    write_folder(tmp_path, dict.fromkeys(("10", "9", "B", "a", "é"), 4))
    assert _load(tmp_path).input_description.class_names == ("10", "9", "B", "a", "é")


def test_what_is_no_image_is_counted(tmp_path):
    write_folder(tmp_path, _TWO)
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "cats" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cats" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "dogs" / "notes.txt").write_text("x")
    (line,) = _load(tmp_path).warnings
    for part in ("skipped 5", "2 hidden", "1 Thumbs.db", "1 .txt", "1 __MACOSX"):
        assert part in line


def _a_class_of_one(root: pathlib.Path) -> None:
    write_folder(root, {"a": 4, "b": 1})


def _spoil(content: bytes, suffix: str = ".png") -> Callable[[pathlib.Path], None]:
    def make(root: pathlib.Path) -> None:
        write_folder(root, _TWO)
        (root / "cats" / f"bad{suffix}").write_bytes(content)

    return make


def _cut(suffix: str) -> Callable[[pathlib.Path], None]:
    def make(root: pathlib.Path) -> None:
        write_folder(root, _TWO)
        path = root / "cats" / f"bad{suffix}"
        noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
        write_image(path, noise)
        path.write_bytes(path.read_bytes()[:1500])

    return make


def _of(counts: dict[str, int]) -> Callable[[pathlib.Path], None]:
    return lambda root: write_folder(root, counts)


def _beside(name: str) -> Callable[[pathlib.Path], None]:
    def make(root: pathlib.Path) -> None:
        write_folder(root, _TWO)
        write_image(root / name, numbered((4, 4), 9))

    return make


def _deep_and_shallow(root: pathlib.Path) -> None:
    write_folder(root, _TWO)
    write_image(root / "cats" / "deep.png", np.full((4, 4), 900, np.uint16))


def _other_formats(root: pathlib.Path) -> None:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "1.webp").write_bytes(b"RIFF")


def _empty_class(root: pathlib.Path) -> None:
    write_folder(root, _TWO)
    (root / "empty").mkdir()


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda root: root.mkdir(), ["holds no images"]),
        (_other_formats, ["/a: no image of the class 'a'", "1 .webp"]),
        (_of({"a": 4}), ["one class ('a')"]),
        (_a_class_of_one, ["one image of class 'b'", "/b/0.png"]),
        (_of({"train/a": 1, "train/b": 4, "test/a": 1, "test/b": 1}), ["'train'", "/a/0.png"]),
        (_of({"train/a": 4, "train/b": 4, "test/a": 1}), ["'test'", "no image of class 'b'"]),
        (_of({"train/a": 4, "train/b": 4, "test/c": 1}), ["'train'", "no image of class 'c'"]),
        (_of({"test/a": 4, "test/b": 4}), ["no train beside test"]),
        (_of({"train/a": 4, "train/b": 4, "cats/x": 1}), ["folder cats beside train"]),
        (_of({"train/a": 4, "val/a": 4, "valid/a": 4}), ["val, valid: two of them"]),
        (_of({"photos/a": 4, "photos/b": 4}), ["/photos/a: is a folder inside", "name"]),
        (_empty_class, ["/empty: no image of the class 'empty'"]),
        (_beside("stray.png"), ["image stray.png beside the folder cats"]),
        (_beside("cats/inner/stray.png"), ["/cats/inner: is a folder inside"]),
        (_spoil(b""), ["/cats/bad.png: is empty"]),
        (_spoil(b"no image"), ["/cats/bad.png: is no PNG, JPEG, GIF or BMP"]),
        (_cut(".png"), ["/cats/bad.png: cannot be read"]),
        (_cut(".jpg"), ["/cats/bad.jpg: cannot be read"]),
        (_deep_and_shallow, ["/cats/deep.png has 16 bits", "has 8"]),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(tmp_path, make, parts):
    make(tmp_path / "images")
    message = _message(tmp_path / "images")
    for part in parts:
        assert part in message


def test_images_without_class_folders_are_refused(tmp_path):
    write_image(tmp_path / "1.png", numbered((4, 4), 9))
    assert "holds the image 1.png" in _message(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "1.png").rename(tmp_path / "train" / "1.png")
    assert "/train/1.png: is in no class folder" in _message(tmp_path)


def test_a_path_that_leads_nowhere_or_to_something_else_is_refused(tmp_path):
    assert "no such file or folder" in _message(tmp_path / "none")
    (tmp_path / "images.zip").write_bytes(b"PK")
    assert "unpack" in _message(tmp_path / "images.zip")


def _first(path: pathlib.Path, shape: tuple[int, ...] = (12, 12, 3), **fields) -> np.ndarray:
    """Return the pixels that a file comes to, as the only one of its class in test."""
    name = path.name
    (path.parent / "test/a").mkdir(parents=True)
    path.rename(path.parent / "test/a" / name)
    write_folder(path.parent, {"train/a": 3, "train/b": 3, "test/b": 1})
    return _all(_load(path.parent, shape, **fields), "test")[0][0]


def _save(image: Image.Image, path: pathlib.Path, **options) -> pathlib.Path:
    image.save(path, **options)
    return path


_GREY = np.arange(144, dtype=np.uint8).reshape(12, 12)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "transparent P"])
def test_png_files_of_every_kind_are_read(tmp_path, mode):
    grey = Image.fromarray(_GREY)
    expected = np.repeat(_GREY[..., None], 3, -1)
    options = {}
    if mode == "1":
        grey = grey.point(lambda value: 255 * (value > 70), mode="1")
        expected = np.where(expected > 70, 255, 0)
    elif mode in ("RGBA", "LA"):
        grey = grey.convert(mode)
        grey.putalpha(Image.fromarray(np.where(_GREY < 24, 0, 255).astype(np.uint8)))
        expected = np.where(expected < 24, 255, expected)
    elif mode == "transparent P":
        grey, options = grey.convert("P"), {"transparency": 5}
        expected = np.where(expected == 5, 255, expected)
    else:
        grey = grey.convert(mode)
    image = _first(_save(grey, tmp_path / "x.png", **options))
    np.testing.assert_allclose(image * 255, expected, atol=0.01)


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("CMYK", (12, 12), (0, 255, 255, 0))
    image = _first(_save(red, tmp_path / "x.jpg", quality=95))
    assert (image[..., 0] > 0.9).all() and (image[..., 1:] < 0.1).all()


def test_a_photo_is_turned_as_its_camera_notes(tmp_path):
    upright = np.zeros((24, 12, 3), np.uint8)
    upright[:12] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    stored = Image.fromarray(np.rot90(upright, 1).copy())
    image = _first(_save(stored, tmp_path / "x.png", exif=exif), crop="stretch")
    assert image[:5].min() > 0.7 and image[7:].max() < 0.1


def test_images_of_16_bits_keep_their_levels(tmp_path):
    for index in range(8):
        for name, low in (("a", 1000), ("b", 2000)):
            pixels = np.linspace(low, low + 1500, 64).reshape(8, 8).astype(np.uint16)
            write_image(tmp_path / name / f"{index}.png", pixels)
    own = _load(tmp_path, (8, 8, 1))
    assert own.input_description.source_range == (1000, 3500)
    assert own.input_description.channel_order == "grey"
    images, labels = _all(own, "test")
    assert len(np.unique(images[labels == 0])) == 64


def test_sizes_may_differ_and_the_input_need_not_be_square(tmp_path):
    write_folder(tmp_path, _TWO)
    write_image(tmp_path / "cats" / "wide.png", numbered((6, 40, 3), 90))
    own = _load(tmp_path, (8, 24, 3))
    assert own.image_shape == (8, 24, 3)
    about = own.input_description
    assert (about.height, about.width, about.source_shape) == (8, 24, (None, None, 3))
    assert about.crop == "the largest central part of 8:24"
    assert "to 8x24" in about.resize


def test_a_folder_larger_than_memory_is_streamed(tmp_path):
    write_folder(tmp_path, _TWO)
    config = DataConfig(path=str(tmp_path))
    streamed, kept = (load_images(config, input_size=12, max_bytes_in_memory=n) for n in (0, 2**30))
    assert type(streamed).__name__ == "StreamedImages"
    for split in ("train", "architecture", "test"):
        np.testing.assert_array_equal(_all(streamed, split)[0], _all(kept, split)[0])
    with pytest.raises(UserError, match="class_balance=sampling needs the images in memory"):
        balanced = DataConfig(path=str(tmp_path), class_balance="sampling")
        load_images(balanced, input_size=12, max_bytes_in_memory=0)


def test_other_files_have_another_hash(tmp_path):
    write_folder(tmp_path / "one", _TWO)
    write_folder(tmp_path / "two", _TWO)
    hashes = [_load(tmp_path / name).content_sha256 for name in ("one", "two")]
    assert hashes[0] == hashes[1]
    (tmp_path / "two/cats/0.png").rename(tmp_path / "two/dogs/99.png")
    assert _load(tmp_path / "two").content_sha256 != hashes[0]
    assert _load(tmp_path / "one").content_sha256 == hashes[0]


def _csv(folder: pathlib.Path, rows: list[str], header: str = "path,label,split") -> pathlib.Path:
    path = folder / "list.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")
    return path


def test_a_csv_lists_images_by_path_and_label(tmp_path):
    write_folder(tmp_path / "all images", _TWO)
    rows = [
        f'"all images/{name}/{index}.png",{name.upper()}{index % 2},{split}'
        for name, num in _TWO.items()
        for index, split in zip(range(num), ["train"] * 8 + ["test"] * 7, strict=False)
    ]
    own = _load(_csv(tmp_path, rows))
    assert own.input_description.class_names == ("CATS0", "CATS1", "DOGS0", "DOGS1")
    assert (own.name, own.num_images("test")) == ("list", 9)
    rows = [row.rpartition(",")[0] for row in rows]
    whole = _load(_csv(tmp_path, rows, "path,label"))
    assert whole.num_images("test") == 5 and whole.content_sha256 != own.content_sha256


@pytest.mark.parametrize(
    ("header", "row", "part"),
    [
        ("file,label", "cats/0.png,a", "no column 'path'"),
        ("path;label", "cats/0.png;a", "no column 'path'"),
        ("path,label", "cats/77.png,a", "line 4: there is no file"),
        ("path,label", "cats/1.png,", "line 4: path or label is empty"),
        ("path,label", "./cats/0.png,a", "line 4: "),
        ("path,label,split", "cats/1.png,a,hold", "line 4: split is 'hold'"),
    ],
)
def test_a_bad_csv_is_refused_by_its_line(tmp_path, header, row, part):
    write_folder(tmp_path, _TWO)
    more = ",train" if "split" in header else ""
    rows = [f"cats/0.png,a{more}", f"dogs/0.png,b{more}", row]
    message = _message(_csv(tmp_path, rows, header))
    assert part in message and "list.csv" in message


def test_a_csv_without_rows_or_text_is_refused(tmp_path):
    assert "lists no images" in _message(_csv(tmp_path, []))
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    assert "no CSV file in UTF-8" in _message(tmp_path / "list.csv")

"""Images from the digits and from prepared TFDS data sets; how missing and broken ones end."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from dance_tf.config import DataConfig
from dance_tf.data import datasets, tfds_sets
from dance_tf.errors import UserError
from tests.data import toy_datasets

_REPO = pathlib.Path(__file__).resolve().parents[2]
_SHARED = pathlib.Path(os.environ.get("DANCE_TF_SHARED") or _REPO.parent / "shared")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a folder, with a space in its name, that holds the toy data sets."""
    folder = tmp_path_factory.mktemp("my data")
    tfds.disable_progress_bar()
    shards = tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False)
    toy_datasets.ToyColours(data_dir=folder).download_and_prepare(download_config=shards)
    for name in ("ToyTrainOnly", "ToyTestOnly", "ToyHidden", "ToySentences", "ToyBoxes"):
        getattr(toy_datasets, name)(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def damaged(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Return the folder of a copy of toy_colours, to be damaged."""
    shutil.copytree(data_dir / "toy_colours", tmp_path / "toy_colours")
    return tmp_path / "toy_colours" / "1.0.0"


def _load(name: str, folder: pathlib.Path | None = None, size: int = 8, **arguments):
    fraction = arguments.pop("architecture_fraction", 0.25)
    config = DataConfig(name, None if folder is None else str(folder), fraction)
    return datasets.load_images(config, input_size=size, **arguments)


def _all(dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _message(*arguments, **keywords) -> str:
    with pytest.raises(UserError) as caught:
        _load(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The digits.


def test_digits_come_in_three_fixed_splits_of_all_classes():
    digits = _load("digits", size=16, architecture_fraction=0.2)
    sizes = {s: digits.num_images(s) for s in ("train", "architecture", "test")}
    assert sum(sizes.values()) == 1797
    assert sizes == {"train": 1151, "architecture": 287, "test": 359}
    assert (digits.name, digits.num_classes, digits.image_shape) == ("digits", 10, (16, 16, 3))
    assert digits.split_sources["test"] == "test"
    for split, size in sizes.items():
        images, labels = _all(digits.split(split, batch_size=512))
        assert np.bincount(labels, minlength=10).min() >= size // 11
        assert 0.0 <= images.min() < 0.01
        assert 0.9 < images.max() <= 1.0
        np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_the_test_digits_do_not_depend_on_the_held_out_part():
    few, many = (_load("digits", architecture_fraction=f) for f in (0.1, 0.6))
    for split, is_same in (("test", True), ("architecture", False)):
        both = [_all(d.split(split, batch_size=100))[1].tobytes() for d in (few, many)]
        assert (both[0] == both[1]) == is_same


def test_digits_are_shifted_and_never_mirrored():
    assert _load("digits", size=16).augmentation == (2, False)


def test_grey_images_have_one_channel():
    assert _load("digits", image_channels=1).image_shape == (8, 8, 1)


def test_nothing_held_out_is_refused():
    message = _message("digits", architecture_fraction=0.001)
    assert "data.architecture_fraction=0.001" in message


# TFDS data sets.


def _check_colours(dataset) -> None:
    """Check that every image has its class, its split and its turn."""
    numbers = {}
    for split, blue in (("train", 100), ("architecture", 100), ("test", 200)):
        images, labels = _all(dataset.split(split, batch_size=7))
        pixels = np.round(images[:, 4, 4] * 255).astype(int)
        np.testing.assert_array_equal(images, np.broadcast_to(images[:, 4:5, 4:5], images.shape))
        np.testing.assert_array_equal(pixels[:, 0], 60 * labels)
        np.testing.assert_array_equal(pixels[:, 1] % 4, labels)
        assert set(pixels[:, 2]) == {blue}
        numbers[split] = set(pixels[:, 1])
    assert numbers["train"] | numbers["architecture"] == set(range(60))
    assert numbers["train"].isdisjoint(numbers["architecture"])
    assert numbers["test"] == set(range(20))


def test_a_data_set_by_name(data_dir):
    toy = _load("toy_colours", data_dir)
    _check_colours(toy)
    assert [toy.num_images(s) for s in ("train", "architecture", "test")] == [44, 16, 20]
    held_out = _all(toy.split("architecture", batch_size=16))[1]
    assert list(np.bincount(held_out)) == [4, 4, 4, 4]
    assert (toy.num_classes, toy.image_shape) == (4, (8, 8, 3))
    assert toy.folder == str(data_dir / "toy_colours" / "1.0.0")
    assert toy.split_sources == {"train": "train", "architecture": "train", "test": "test"}


def test_a_data_set_larger_than_memory_is_streamed(data_dir):
    toy = _load("toy_colours", data_dir, max_bytes_in_memory=80 * 8 * 8 * 3 - 1)
    assert type(toy).__name__ == "StreamedImages"
    _check_colours(toy)
    kept = _load("toy_colours", data_dir, max_bytes_in_memory=80 * 8 * 8 * 3)
    assert type(kept).__name__ == "ArrayImages"
    once, again = (_all(toy.split("train", batch_size=8, seed=1))[0].tobytes() for _ in range(2))
    assert once == again


def test_the_version_can_be_named(data_dir):
    assert _load("toy_colours:1.0.0", data_dir).num_images("test") == 20
    assert "of another version" in _message("toy_colours:2.0.0", data_dir)


def test_validation_stands_in_where_the_test_split_has_no_labels(data_dir):
    toy = _load("toy_hidden", data_dir)
    assert toy.split_sources["test"] == "validation"
    assert toy.num_images("test") == 12
    # 16-bit grey, 257 times the number, 39 of them in the train split.
    images, labels = _all(toy.split("test", batch_size=12))
    numbers = np.round(images[:, 0, 0] * 39).astype(int)
    np.testing.assert_array_equal(numbers[:, 0] % 4, labels)
    np.testing.assert_array_equal(numbers[:, 0], numbers[:, 2])
    assert set(numbers[:, 1]) == set(range(12))


def test_cifar_alone_of_these_is_mirrored(data_dir):
    assert not _load("toy_colours", data_dir, size=16).augmentation.use_flip
    assert {"cifar10", "cifar100"} <= tfds_sets._MIRRORED
    assert not {"digits", "mnist", "svhn_cropped", "emnist"} & tfds_sets._MIRRORED


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("toy_sentences", ["not for image classification", "sentence (Text)", "label"]),
        ("toy_boxes", ["not for image classification", "labels (Sequence)"]),
        ("toy_train_only", ["'test' or 'validation'", "has train"]),
        ("toy_test_only", ["needs 'train'", "has test"]),
        ("toy_colour", ["unknown data set 'toy_colour'", "did you mean 'toy_colours'?"]),
        ("cifr10", ["unknown data set 'cifr10'", "did you mean 'cifar10'?"]),
        ("Digits", ["unknown data set 'Digits'", "did you mean 'digits'?"]),
        (
            "zzzzzzzz",
            ["unknown data set 'zzzzzzzz'", "neither digits nor one of TFDS", "holds toy_"],
        ),
        ("../toy_colours", ["no data set's name", "named by --data="]),
    ],
)
def test_what_is_no_image_classification_is_refused(data_dir, name, parts):
    message = _message(name, data_dir)
    assert all(part in message for part in parts), message


def test_several_configurations_ask_for_a_choice(tmp_path):
    for config in ("plain", "other"):
        toy_datasets.ToyConfigs(config=config, data_dir=tmp_path).download_and_prepare()
    assert _load("toy_configs/other", tmp_path).folder.endswith("toy_configs/other/1.0.0")
    assert _load("toy_configs", tmp_path).folder.endswith("toy_configs/plain/1.0.0")
    shutil.rmtree(tmp_path / "toy_configs" / "plain")
    assert "name one of toy_configs/other" in _message("toy_configs", tmp_path)


# Missing and damaged copies.


def test_a_missing_data_set_ends_in_one_line_with_the_two_ways_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a b"))
    assert _message("cifar10") == (
        f"data set 'cifar10' is not prepared in {tmp_path}/a b: either run `python -m"
        f" tools.prepare_data --dataset=cifar10 --data_dir='{tmp_path}/a b'`, which downloads it,"
        " or point --data_dir or TFDS_DATA_DIR at a folder that holds a prepared copy"
    )
    assert not (tmp_path / "a b").exists()


def test_the_folder_may_be_spelled_with_a_tilde(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(data_dir.parent))
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    assert _load("toy_colours", pathlib.Path("~", data_dir.name)).folder.startswith(str(data_dir))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_folder_is_named_with_what_it_holds(data_dir, tmp_path):
    assert f"{tmp_path} holds no data set" in _message("my_own", tmp_path)
    assert f"{tmp_path}/no is no folder" in _message("my_own", tmp_path / "no")
    message = _message("my_own", data_dir)
    assert "holds toy_boxes, toy_colours" in message and "did you mean" not in message
    assert "prepare_data" not in message  # It knows no more.
    # As like one of TFDS, story_cloze, as two names are that have nothing in common.
    assert "did you mean" not in _message("stock_photos", data_dir)


def test_a_path_in_place_of_a_name_is_put_right(data_dir, tmp_path, monkeypatch):
    right = f"--dataset=toy_colours --data_dir='{data_dir}'"
    for path in ("toy_colours", "toy_colours/1.0.0"):
        assert right in _message(str(data_dir / path))
    (tmp_path / "images" / "cats").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "images"), "~/images", "images/cats", "./images"):
        assert "named by --data=" in _message(path, data_dir)


def test_a_folder_inside_the_data_set_is_recognised(data_dir):
    assert f"--data_dir='{data_dir}'" in _message("toy_colours", data_dir / "toy_colours")


@pytest.mark.parametrize(
    ("damage", "max_bytes_in_memory"),
    [
        *(("half", 2**20), ("one record", 2**20), ("absent", 2**20), ("flipped", 2**20)),
        *(("half", 0), ("one record", 0), ("absent", 0)),
    ],
)
def test_a_damaged_file_is_named(damaged, damage, max_bytes_in_memory):
    path = damaged / "toy_colours-train.tfrecord-00001-of-00003"
    content = bytearray(path.read_bytes())
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "one record":
        first = 16 + int.from_bytes(content[:8], "little")
        path.write_bytes(content[first:])
    elif damage == "absent":
        path.unlink()
    else:
        content[200] ^= 1
        path.write_bytes(content)
    message = _message("toy_colours", damaged.parents[1], max_bytes_in_memory=max_bytes_in_memory)
    assert str(path) in message
    assert f"remove {damaged} and prepare it again" in message


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, "", '{"name": "toy_col', "[]"])
def test_damaged_metadata_is_named(damaged, file, content):
    (damaged / file).unlink()
    if content is not None:
        (damaged / file).write_text(content)
    message = _message("toy_colours", damaged.parents[1])
    assert str(damaged) in message
    assert "prepare it again" in message


def test_prepare_refuses_a_damaged_copy(damaged):
    (damaged / "toy_colours-test.tfrecord-00000-of-00003").unlink()
    with pytest.raises(UserError, match=r"00000-of-00003 cannot be read.*prepare it again"):
        tfds_sets.prepare("toy_colours", str(damaged.parents[1]))


# Without a network.

_OFFLINE = """
    import json, os, socket, sys, threading, time
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        os.environ[name] = proxy
    attempts = []
    threading.Thread(
        target=lambda: [attempts.append(f"proxy {listener.accept()[1]}") for _ in range(99)],
        daemon=True,
    ).start()
    names = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
    sys.addaudithook(lambda n, a: attempts.append(f"{n} {a}") if n in names else None)
    from dance_tf.data import datasets, tfds_sets
    from dance_tf.config import DataConfig
    toy = datasets.load_images(DataConfig("toy_colours", sys.argv[1]), input_size=8)
    next(iter(toy.split("train", batch_size=8, seed=0)))
    start = time.perf_counter()
    try:
        datasets.load_images(DataConfig("cifar10", sys.argv[1]), input_size=8)
    except ValueError as error:
        message = str(error)
    absent_s = time.perf_counter() - start
    print(json.dumps([absent_s, message, attempts]), flush=True)
"""

_KILLED = """
    from tests.data import toy_datasets
    tfds_sets.prepare("toy_killed", sys.argv[2])
"""


@pytest.fixture(scope="module")
def killed(data_dir, tmp_path_factory) -> tuple[subprocess.CompletedProcess, pathlib.Path]:
    """A process that reads data sets and is killed as it prepares one in the folder."""
    folder = tmp_path_factory.mktemp("killed")
    code = textwrap.dedent(_OFFLINE) + textwrap.dedent(_KILLED)
    run = subprocess.run(
        [sys.executable, "-c", code, str(data_dir), str(folder)],
        cwd=_REPO,
        env=os.environ | {"TOY_KILL": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return run, folder


def test_neither_a_present_nor_an_absent_data_set_asks_the_network(killed):
    run, _ = killed
    absent_s, message, attempts = json.loads(run.stdout.splitlines()[-1])
    assert attempts == []
    assert absent_s < 60  # a library that retries a network waits for minutes
    assert "'cifar10' is not prepared in" in message


# Preparing.


class _Server:
    """Serve one archive on this machine, whole or not."""

    def __init__(self) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            content = b"24 " + os.urandom(4000).hex().encode()
            member = tarfile.TarInfo("size.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        self.archive = self.body = buffer.getvalue()
        self.announced: int | None = None  # Content-Length, if not the body's
        self.paths: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.paths.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(outer.announced or len(outer.body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(outer.body)

            do_HEAD = do_GET

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/toy.tar.gz"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    """Return a server of toy_archive's archive, whose size and hash are published."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.closing(_Server()) as server:
        sha256 = hashlib.sha256(server.archive).hexdigest()
        size = len(server.archive)
        published = checksums.UrlInfo(size=size, checksum=sha256, filename="toy.tar.gz")
        monkeypatch.setattr(toy_datasets.ToyArchive, "URL", server.url)
        monkeypatch.setattr(toy_datasets.ToyArchive, "url_infos", {server.url: published})
        server.expected = f"expected {size} bytes with sha256 {sha256}"
        yield server


def test_of_two_that_prepare_at_once_one_waits_and_both_have_the_set(server, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        both = list(
            threads.map(lambda _: tfds_sets.prepare("toy_archive", str(tmp_path)), range(2))
        )
    assert both[0] == both[1] and both[0].num_images == {"train": 24, "test": 8}
    assert os.listdir(tmp_path / "toy_archive") == ["1.0.0"]


_HTML = b"<!DOCTYPE html><html>Please sign in</html>".ljust(2000)


def _found(content: bytes) -> str:
    return f"found {len(content)} bytes with sha256 {hashlib.sha256(content).hexdigest()}"


def test_prepare_downloads_once(server, tmp_path):
    first = tfds_sets.prepare("toy_archive", str(tmp_path))
    assert first == (str(tmp_path / "toy_archive" / "1.0.0"), {"train": 24, "test": 8})
    num_requests = len(server.paths)
    assert num_requests >= 1
    assert tfds_sets.prepare("toy_archive", str(tmp_path)) == first
    assert len(server.paths) == num_requests
    assert _load("toy_archive", tmp_path).num_images("test") == 8


@pytest.mark.parametrize("kind", ["html", "truncated"])
def test_a_wrong_archive_from_the_server_is_reported_and_not_reused(server, tmp_path, kind):
    server.body = _HTML if kind == "html" else server.archive[:1000]
    with pytest.raises(UserError) as caught:
        tfds_sets.prepare("toy_archive", str(tmp_path))
    message = str(caught.value)
    assert server.expected in message
    assert _found(server.body) in message
    assert ("an HTML page" in message) == (kind == "html")
    assert "\n" not in message
    assert "'toy_archive' is not prepared" in _message("toy_archive", tmp_path)
    server.body = server.archive
    assert tfds_sets.prepare("toy_archive", str(tmp_path)).num_images["train"] == 24


@pytest.mark.parametrize("kind", ["html", "truncated"])
def test_a_wrong_archive_under_the_right_name_is_reported_and_not_reused(server, tmp_path, kind):
    tfds_sets.prepare("toy_archive", str(tmp_path))
    shutil.rmtree(tmp_path / "toy_archive")
    shutil.rmtree(tmp_path / "downloads" / "extracted")
    (archive,) = (tmp_path / "downloads").rglob("*.tar.gz")
    wrong = _HTML if kind == "html" else server.archive[:1000]
    archive.write_bytes(wrong)
    with pytest.raises(UserError) as caught:
        tfds_sets.prepare("toy_archive", str(tmp_path))
    assert server.expected in str(caught.value)
    assert _found(wrong) in str(caught.value)
    assert "run again to download it anew" in str(caught.value)
    assert not archive.exists()
    assert tfds_sets.prepare("toy_archive", str(tmp_path)).num_images["train"] == 24
    assert archive.read_bytes() == server.archive


def test_a_connection_that_breaks_leaves_nothing_that_counts(server, tmp_path):
    server.body, server.announced = server.archive[:1000], len(server.archive)
    with pytest.raises(UserError, match="cannot prepare toy_archive"):
        tfds_sets.prepare("toy_archive", str(tmp_path))
    server.body, server.announced = server.archive, None
    assert tfds_sets.prepare("toy_archive", str(tmp_path)).num_images["train"] == 24


def test_an_unreachable_server_is_told_at_once(server, tmp_path):
    server.close()
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"cannot download toy_archive \(127.0.0.1:\d+: .*refused"):
        tfds_sets.prepare("toy_archive", str(tmp_path))
    assert time.perf_counter() - start < 5


def test_prepare_says_what_it_cannot_prepare(tmp_path):
    for name, message in {
        "digits": "nothing to prepare",
        "cifr10": "did you mean 'cifar10'",
        "toy_sentences": "not for image classification",
        "toy_configs/third": "third",
    }.items():
        with pytest.raises(UserError, match=message):
            tfds_sets.prepare(name, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_killed_amid_preparing_the_next_run_makes_it_whole(killed):
    run, folder = killed
    assert run.returncode == -signal.SIGKILL
    assert list((folder / "toy_killed").iterdir())
    assert "'toy_killed' is not prepared" in _message("toy_killed", folder)
    assert tfds_sets.prepare("toy_killed", str(folder)).num_images == {"train": 60, "test": 20}
    _check_colours(_load("toy_killed", folder))


# CIFAR-10 itself.


@pytest.mark.skipif(
    not (_SHARED / "tensorflow_datasets" / "cifar10").is_dir(),
    reason=f"no prepared cifar10 in {_SHARED}/tensorflow_datasets (DANCE_TF_SHARED names another)",
)
def test_cifar10_is_read_offline_with_all_its_images(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"asked the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = _SHARED / "tensorflow_datasets"
    # Streamed, so that of the 60,000 images only the test split is decoded.
    cifar = _load("cifar10", folder, 16, architecture_fraction=0.2, max_bytes_in_memory=0)
    sizes = [cifar.num_images(s) for s in ("train", "architecture", "test")]
    assert sizes == [40_000, 10_000, 10_000]
    assert cifar.augmentation == (2, True)
    images, labels = _all(cifar.split("test", batch_size=5000))
    assert list(np.bincount(labels)) == [1000] * 10
    # Means of the published test images, up to the changes of a copy stored as JPEG.
    means = images.mean((0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, [0.4942, 0.4851, 0.4504], atol=0.01)

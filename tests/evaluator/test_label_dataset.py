"""The label data set: labels against brute force, chunks, and what is on disk."""

from __future__ import annotations

import pathlib
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dance_tf.errors import UserError
from dance_tf.evaluator import label_dataset
from dance_tf.evaluator.label_dataset import LabelConfig, build_labels, draw_chunk
from dance_tf.hardware.oracle import TIE_TOLERANCE
from tests.evaluator.fake_table import with_arrays


def values_in_float64(table, weights: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the objective of each network on every accelerator, float64 [N, A]."""
    metrics = metrics_in_float64(table, weights) / table.reference.astype(np.float64)
    weights_of = vectors[:, None, 1:].astype(np.float64)
    product = np.prod(metrics**weights_of, axis=-1)
    return np.where(vectors[:, :1] > 0.5, np.sum(weights_of * metrics, axis=-1), product)


def metrics_in_float64(table, weights: np.ndarray) -> np.ndarray:
    """Return metrics, float64 [N, A, 3], by plain sums."""
    latency = table.fixed_latency_ms + np.einsum(
        "ndo,doa->na", weights, table.latency_ms, dtype=np.float64
    )
    energy = table.fixed_energy_mj + np.einsum(
        "ndo,doa->na", weights, table.energy_mj, dtype=np.float64
    )
    area = np.broadcast_to(table.area_mm2.astype(np.float64), latency.shape)
    return np.stack([latency, energy, area], axis=-1)


@pytest.fixture(scope="module")
def built(table, tmp_path_factory):
    """(config, folder of data sets, result) of a small set."""
    config = LabelConfig(table=table, seed=3, num_architectures=70, num_accelerators_each=5)
    folder = tmp_path_factory.mktemp("my data")
    return config, folder, build_labels(config, str(folder))


@pytest.mark.parametrize("objective", [0, 1])
def test_labels_are_the_best_of_all_accelerators(table, objective):
    chunk = draw_chunk(LabelConfig(table=table, num_architectures=900), 1)
    weights, vectors = chunk.mixture_weights, chunk.objectives[:, objective]
    values, metrics = values_in_float64(table, weights, vectors), metrics_in_float64(table, weights)
    rows, labels = np.arange(len(weights)), chunk.best_accelerators[:, objective]
    assert len(np.unique(labels)) > 1
    least = values.min(axis=1, keepdims=True)
    assert (values[rows, labels] <= least[:, 0] * (1 + 1.01 * TIE_TOLERANCE)).all()
    np.testing.assert_allclose(chunk.best_metrics[:, objective], metrics[rows, labels], rtol=1e-6)
    for row in rows:  # of tied ones: the smallest area, then energy, latency, index
        tied = np.flatnonzero(values[row] <= least[row] * (1 + 0.99 * TIE_TOLERANCE))
        first = min(tied, key=lambda a: (*metrics[row, a, ::-1], a))
        assert metrics[row, labels[row], 2] <= metrics[row, first, 2] * (1 + 1e-12)


def test_equal_accelerators_are_told_apart_by_area_then_index(table):
    # All cost the same latency and energy; two of them share the smallest area.
    flat = {
        name: np.repeat(getattr(table, name)[..., :1], 54, axis=-1)
        for name in ("latency_ms", "energy_mj", "fixed_latency_ms", "fixed_energy_mj")
    }
    area = np.linspace(1.0, 2.0, 54, dtype=np.float32)[::-1].copy()
    area[[20, 53]] = 1.0
    same = with_arrays(table, **flat, area_mm2=area)
    chunk = draw_chunk(LabelConfig(table=same, num_architectures=300), 0)
    assert (chunk.best_accelerators == 20).all()


def test_pairs_are_the_tables(table):
    chunk = draw_chunk(LabelConfig(table=table, num_architectures=90), 0)
    assert chunk.accelerators.shape == (30, 36) and len(np.unique(chunk.accelerators)) == 54
    metrics = metrics_in_float64(table, chunk.mixture_weights)
    expected = np.take_along_axis(metrics, chunk.accelerators[..., None], axis=1)
    np.testing.assert_allclose(chunk.accelerator_metrics, expected, rtol=1e-6)


def test_half_of_the_architectures_are_one_hot(table):
    chunk = draw_chunk(LabelConfig(table=table, num_architectures=900), 0)
    is_one_hot = chunk.mixture_weights.max(axis=-1).min(axis=-1) == 1.0
    assert 0.49 <= is_one_hot.mean() <= 0.6  # a mixture may come out as one
    assert 60 < is_one_hot[:150].sum() < 100  # spread over the chunk
    assert (chunk.objectives[:, 1] == [0, 1, 1, 1]).all()
    assert len(np.unique(chunk.objectives[:, 0], axis=0)) > 200


def test_a_chunk_follows_from_seed_and_number_alone(table):
    few, many, other = (
        LabelConfig(table=table, num_architectures=num, seed=seed, num_accelerators_each=2)
        for num, seed in ((3000, 0), (7500, 0), (3000, 1))
    )
    assert few.chunk_sizes == [1000] * 3 and many.chunk_sizes == [1000] * 7 + [500]
    for ours, theirs, others, second in zip(
        draw_chunk(few, 2), draw_chunk(many, 2), draw_chunk(other, 2), draw_chunk(few, 1),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(ours, others) and not np.array_equal(ours, second)


def test_tfds_reads_it_and_finds_the_chunks(built):
    config, folder, result = built
    assert result["was_built"]
    assert result["num_examples"] == {"train": 24, "validation": 23, "test": 23}
    builder = tfds.builder_from_directory(result["folder"])
    assert result["folder"] == f"{folder}/dance_labels/{config.name}/1.0.0"
    for split, numbers in {"train": (0, 3), "validation": (1,), "test": (2,)}.items():
        examples = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
        chunks = [draw_chunk(config, number) for number in numbers]
        for name in label_dataset.LabelChunk._fields:
            expected = np.concatenate([getattr(chunk, name) for chunk in chunks])
            stored = np.stack([example[name] for example in examples])
            assert stored.dtype == expected.dtype
            np.testing.assert_array_equal(stored, expected)


def test_its_features_are_no_classes_of_this_library(built):
    _, _, result = built
    features = (pathlib.Path(result["folder"]) / "features.json").read_text(encoding="utf-8")
    assert "tensor_feature.Tensor" in features and "dance_tf" not in features
    assert "apache_beam" not in sys.modules


def test_building_and_reading_ask_no_network(table, tmp_path, monkeypatch):
    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"asked the network: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = LabelConfig(table=table, num_architectures=30, num_accelerators_each=2)
    result = build_labels(config, str(tmp_path))
    test = tfds.builder_from_directory(result["folder"]).as_dataset(split="test")
    assert result["was_built"] and len(list(test)) == 10


def test_statistics_are_stored_and_found_again(built, monkeypatch):
    config, folder, result = built
    statistics = result["statistics"]
    assert statistics["num_labels"] == 140 and statistics["num_pairs"] == 350
    assert result["accelerator_space"]["pe_x"] == [8, 12, 16]
    builder = tfds.builder_from_directory(result["folder"])
    assert builder.info.metadata["statistics"] == statistics
    monkeypatch.setattr(label_dataset, "draw_chunk", None)  # nothing is labelled again
    again = build_labels(config, str(folder))
    assert again == result | {"was_built": False}


def test_the_same_set_has_the_same_bytes(built, tmp_path):
    config, folder, _ = built
    assert build_labels(config, str(tmp_path))["was_built"]
    files = sorted(p.relative_to(folder) for p in folder.rglob("*.tfrecord*"))
    assert len(files) == 4
    for file in (*files, *(p.relative_to(folder) for p in folder.rglob("metadata.json"))):
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()


def test_of_two_builds_at_once_one_waits_and_finds_the_set(table, tmp_path):
    config = LabelConfig(table=table, num_architectures=30, num_accelerators_each=2)
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: build_labels(config, str(tmp_path)), range(2)))
    assert [result.pop("was_built") for result in both].count(True) == 1
    assert both[0] == both[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_no_set(table, tmp_path, monkeypatch, error):
    config = LabelConfig(table=table, num_architectures=30, num_accelerators_each=2)

    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        build_labels(config, str(tmp_path), stop)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    seen = []
    assert build_labels(config, str(tmp_path), lambda *a: seen.append(a))["was_built"]
    assert seen == [(10, 30), (20, 30), (30, 30)]


def test_a_damaged_set_is_refused(built, tmp_path):
    config, _, _ = built
    folder = pathlib.Path(build_labels(config, str(tmp_path))["folder"])
    file = next(folder.glob("*train*"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"cut short.*remove"):
        build_labels(config, str(tmp_path))


def test_a_folder_that_cannot_be_written_is_named(table, tmp_path):
    (tmp_path / "file").write_text("")
    config = LabelConfig(table=table, num_architectures=30, num_accelerators_each=2)
    with pytest.raises(UserError, match="cannot write the labels"):
        build_labels(config, str(tmp_path / "file"))


def test_names_and_numbers(table):
    names = {
        LabelConfig(table=t, seed=seed, num_architectures=num, num_accelerators_each=each).name
        for t in (table,)
        for seed in (0, 1)
        for num in (10, 11)
        for each in (1, 2)
    }
    assert len(names) == 8 and all(name.startswith("tiny_mbconv_") for name in names)
    with pytest.raises(UserError, match="num_architectures is 2, not at least 3"):
        LabelConfig(table=table, num_architectures=2)
    with pytest.raises(UserError, match="num_accelerators_each is 0"):
        LabelConfig(table=table, num_accelerators_each=0)

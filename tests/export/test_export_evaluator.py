"""An exported evaluator is what TensorFlow Serving serves, and says what the evaluator says."""

import os
import types
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.export.evaluator import export_evaluator, random_queries
from dance_tf.export.serving import ServedModel, check_version, staging_folder
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.structs import DATAFLOWS, Evaluation
from dance_tf.supernet.space_files import make_space

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
ACCELERATORS = AcceleratorSpace(
    AcceleratorSpaceConfig(
        pe_x=(8, 12),
        pe_y=(8, 16),
        rf_bytes=(16, 64),
        dataflow=("row_stationary", "weight_stationary"),  # codes are not positions
    )
)
TABLE = types.SimpleNamespace(space=SPACE, accelerators=ACCELERATORS)
SHAPE = [None, SPACE.num_blocks, SPACE.num_ops]


class _Networks:
    """A plain object that holds Keras layers: nothing in it is tracked by TensorFlow."""

    table = TABLE

    def __init__(self):
        keras.utils.set_random_seed(3)
        self._layers = [keras.layers.Dense(32, "relu"), keras.layers.Dense(len(ACCELERATORS) + 3)]

    def evaluate(self, mixture_weights, objective_vectors):
        x = tf.concat([tf.reshape(mixture_weights, [-1, 14]), objective_vectors], axis=-1)
        for layer in self._layers:
            x = layer(x)
        index = tf.argmax(x[:, 3:], axis=-1, output_type=tf.int32)
        return Evaluation(tf.nn.softplus(x[:, :3]), index)

    def estimate(self, mixture_weights, accelerator_index):
        vectors = tf.one_hot(accelerator_index, 4)
        return self.evaluate(mixture_weights, vectors).metrics


class _Table:
    """An evaluator of constants, as the exact one; some cells cannot run."""

    table = TABLE

    def __init__(self):
        cells = np.random.default_rng(0).random((len(ACCELERATORS), 14, 3)).astype(np.float32)
        self._cells = tf.constant(np.where(np.arange(len(ACCELERATORS)) == 0, np.inf, cells.T).T)

    def evaluate(self, mixture_weights, objective_vectors):
        del objective_vectors
        weights = tf.reshape(mixture_weights, [-1, 14])
        used = tf.where(weights[:, None, :, None] > 0, self._cells, 0.0)
        metrics = tf.reduce_sum(weights[:, None, :, None] * used, axis=2)
        index = tf.argmin(metrics[:, :, 0], axis=1)
        return Evaluation(tf.gather(metrics, index, batch_dims=1), index)

    def estimate(self, mixture_weights, accelerator_index):
        weights = tf.reshape(mixture_weights, [-1, 14, 1])
        return tf.reduce_sum(weights * tf.gather(self._cells, accelerator_index), axis=1)


def _inputs(num):
    queries = random_queries(TABLE, num)
    return {name: queries[name] for name in ("mixture_weights", "objective_vectors")}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base folder with one evaluator exported twice in one process, as 1 and 2."""
    folder = tmp_path_factory.mktemp("served") / "evaluator"
    evaluator = _Networks()
    reports = [export_evaluator(evaluator, str(folder)) for _ in range(2)]
    return folder, reports, evaluator


def test_layout_is_what_serving_looks_for(base):
    folder, reports, _ = base
    assert sorted(os.listdir(folder)) == ["1", "2"]
    for number, report in enumerate(reports, start=1):
        assert report["version"] == number
        assert os.path.isfile(folder / str(number) / "saved_model.pb")
        assert report["max_relative_difference"] < 1e-6


def test_signature_is_the_same_both_times(base):
    folder, reports, _ = base
    floats = {"dtype": "float32", "shape": [None]}
    ints = {"dtype": "int32", "shape": [None]}
    for report in reports:
        metrics = dict.fromkeys(("latency_ms", "energy_mj", "area_mm2"), floats)
        fields = dict.fromkeys(("accelerator_index", "pe_x", "pe_y", "rf_bytes", "dataflow"), ints)
        mixtures = {"mixture_weights": {"dtype": "float32", "shape": SHAPE}}
        assert report["signatures"] == {
            "serving_default": {
                "inputs": {
                    **mixtures,
                    "objective_vectors": {"dtype": "float32", "shape": [None, 4]},
                },
                "outputs": {**metrics, **fields},
            },
            "estimate_cost": {
                "inputs": {**mixtures, "accelerator_index": ints},
                "outputs": metrics,
            },
        }
    first, second = (ServedModel(folder / name) for name in ("1", "2"))
    assert first.inputs == second.inputs and first.outputs == second.outputs
    assert all(spec.shape.rank >= 1 for spec in first.inputs.values())


def test_rows_of_a_batch_equal_single_samples(base):
    folder, _, evaluator = base
    served = ServedModel(folder)
    assert served.path == str(folder / "2")  # the highest version
    inputs = _inputs(3)
    batch = served(**inputs)
    metrics, index = evaluator.evaluate(**inputs)
    np.testing.assert_allclose(batch["energy_mj"], np.asarray(metrics)[:, 1], rtol=1e-6)
    for i in range(3):
        sample = served(**{name: value[i] for name, value in inputs.items()})
        one = served(**{name: value[i : i + 1] for name, value in inputs.items()})
        for name, value in batch.items():
            assert sample[name].shape == (1,)
            np.testing.assert_allclose(sample[name], value[i : i + 1], rtol=1e-6)
            np.testing.assert_array_equal(sample[name], one[name])
        accelerator = ACCELERATORS.decode(int(np.asarray(index)[i]))
        assert batch["pe_x"][i] == accelerator.pe_x and batch["pe_y"][i] == accelerator.pe_y
        assert batch["rf_bytes"][i] == accelerator.rf_bytes
        assert DATAFLOWS[batch["dataflow"][i]] == accelerator.dataflow


def test_requests_that_do_not_fit_are_explained(base):
    served, inputs = ServedModel(base[0]), _inputs(2)
    names = "the inputs are mixture_weights, objective_vectors"
    with pytest.raises(UserError, match=f"unknown input 'weights'; {names}"):
        served(**inputs, weights=1.0)
    with pytest.raises(UserError, match=f"no value for input 'objective_vectors'; {names}"):
        served(mixture_weights=inputs["mixture_weights"])
    doubled = {name: value[None] for name, value in inputs.items()}
    with pytest.raises(UserError, match="one sample has"):
        served(**doubled)
    with pytest.raises(UserError, match="one sample has"):  # a batch and a sample
        served(**{**inputs, "objective_vectors": inputs["objective_vectors"][0]})
    with pytest.raises(UserError, match="different batch sizes"):
        served(**{**inputs, "objective_vectors": inputs["objective_vectors"][:1]})


def test_an_evaluator_of_constants_exports_too(tmp_path):
    report = export_evaluator(_Table(), str(tmp_path / "e"))
    inputs = _inputs(2)
    expected = np.asarray(_Table().evaluate(**inputs).metrics)
    np.testing.assert_allclose(ServedModel(report["path"])(**inputs)["area_mm2"], expected[:, 2])


@pytest.mark.parametrize(
    "version", ["0.1", "v2", "", " 1", "1 ", "-1", "1e3", "٣", "1.0", 1.5, -2, True, str(2**63)]
)
def test_versions_that_serving_passes_over_are_refused_before_writing(tmp_path, version):
    with pytest.raises(UserError, match="whole number") as error:
        export_evaluator(_Networks(), str(tmp_path / "base"), version)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_versions_are_numbers_not_texts(tmp_path, monkeypatch):
    assert [check_version(v) for v in ("007", 7, "1", 0, str(2**63 - 1))] == [7, 7, 1, 0, 2**63 - 1]

    from dance_tf.export import evaluator as module

    def save(functions, path):
        os.mkdir(path)

    # Where folders go is tested here, not what is in them.
    monkeypatch.setattr(module, "write_warmup_requests", lambda *_: None)
    monkeypatch.setattr(module, "save_signatures", save)
    monkeypatch.setattr(
        module, "ServedModel", lambda *_: types.SimpleNamespace(inputs={}, outputs={})
    )
    monkeypatch.setattr(module, "_largest_difference", lambda *_: 0.0)
    base = tmp_path / "base"
    base.mkdir()
    for name in ("v9", "0.9", ".partial_old"):  # not versions
        (base / name).mkdir()
    given = (None, "007", None, 9, None)
    numbers = [module.export_evaluator(_Table(), str(base), v)["version"] for v in given]
    assert numbers == [1, 7, 8, 9, 10]
    assert sorted(os.listdir(base)) == sorted([*"1789", "10", "v9", "0.9", ".partial_old"])
    with pytest.raises(UserError, match="7 is there already; the next version is 11"):
        module.export_evaluator(_Table(), str(base), "07")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        module.export_evaluator(_Table(), str(tmp_path / "file"))


def test_an_evaluator_that_cannot_be_exported_leaves_nothing(tmp_path):
    class Broken(_Networks):
        def evaluate(self, mixture_weights, objective_vectors):
            raise RuntimeError("no evaluation")

    class Unsteady(_Networks):
        def evaluate(self, mixture_weights, objective_vectors):
            metrics, index = super().evaluate(mixture_weights, objective_vectors)
            return Evaluation(metrics * tf.random.uniform([3]), index)

    with pytest.raises(RuntimeError, match="no evaluation"):
        export_evaluator(Broken(), str(tmp_path / "a" / "b"))
    with pytest.raises(RuntimeError, match="nothing kept"):
        export_evaluator(Unsteady(), str(tmp_path / "a" / "b"))
    assert os.listdir(tmp_path) == []


def test_two_exports_at_once_take_two_versions(tmp_path):
    base = str(tmp_path / "base")
    with ThreadPoolExecutor(2) as threads:
        reports = threads.map(lambda _: export_evaluator(_Table(), base), range(2))
        assert {report["version"] for report in reports} == {1, 2}
    assert sorted(os.listdir(base)) == ["1", "2"]


def test_a_version_is_invisible_until_it_is_whole(tmp_path):
    with staging_folder(str(tmp_path / "base")) as staging:
        assert os.path.dirname(staging) == str(tmp_path / "base")
        assert not os.path.basename(staging).isdigit()
        assert os.stat(staging).st_mode == os.stat(tmp_path / "base").st_mode  # a server may read
    assert not (tmp_path / "base").exists()  # Nothing was kept in it.


def test_folders_without_a_model_are_explained(tmp_path):
    with pytest.raises(UserError, match="neither a SavedModel nor a folder of versions"):
        ServedModel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"not a model")
    with pytest.raises(UserError, match="cannot load the SavedModel") as error:
        ServedModel(tmp_path)
    assert "\n" not in str(error.value)
    tf.saved_model.save(tf.Module(), str(tmp_path / "3"))
    with pytest.raises(UserError, match="no signature 'serving_default'; there is none"):
        ServedModel(tmp_path / "3")

"""A finished run of the tiny preset: searched with known losses, in seconds."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from dance_tf.config import config_to_json, override
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.files import write_json
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.loopnest.cost_model import accelerator_area_um2
from dance_tf.presets import preset
from dance_tf.run import run_info
from dance_tf.search.dance import DanceSearch
from dance_tf.search.predictions import Mistake, Predictions
from dance_tf.search.problem import SearchProblem
from dance_tf.search.result import Accuracy
from dance_tf.supernet.space_files import make_space
from tests.hardware.arithmetic_model import DetailedModel
from tests.search.problems import ScoredSupernet, tinted_images

CONFIG = override(
    preset("tiny"),
    ["search.epochs=6", "search.warmup_epochs=2", "search.batch_size=48", "search.log_every=2"],
)  # 2 steps an epoch

# One grey pixel.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


class _Model(DetailedModel):
    """Costs by arithmetic, so that nobody waits for the mapper, but areas as they are."""

    def __call__(self, layers, accelerators):
        machine = CONFIG.hardware.machine
        area_um2 = accelerator_area_um2(
            accelerators.pe_x, accelerators.pe_y, machine.rf_words(accelerators.rf_bytes), machine
        )
        return super().__call__(layers, accelerators)._replace(area_um2=area_um2)


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    return load_or_build_table(
        make_space(CONFIG.space),
        CONFIG.hardware,
        cost_model=_Model(),
        cache_dir=tmp_path_factory.mktemp("cache"),
    )


@pytest.fixture(scope="session")
def _finished(table, tmp_path_factory):
    folder, started = tmp_path_factory.mktemp("runs") / "first run", run_info.now()
    scores = np.random.RandomState(1).normal(size=(table.space.num_blocks, table.space.num_ops))
    problem = SearchProblem(
        table.space,
        table,
        ExactEvaluator(table),
        tinted_images(),
        ScoredSupernet(table.space, scores, seed=1),
    )
    folder.mkdir()
    result = DanceSearch(CONFIG.search, seed=1, output_dir=str(folder)).search(problem)
    info = run_info.collect(1, started, ended=run_info.now(), is_deterministic=True)
    info |= {"cost_table_sha256": table.content_hash, "num_classes": 10}
    info["cost_source"] = {"kind": "loop_nest", "name": "cacti_45nm", "sha256": "0" * 64}
    write_json(folder / "run_info.json", info)
    write_json(folder / "config.json", config_to_json(CONFIG))
    with open(folder / "history.jsonl", "a", encoding="utf-8") as file:
        for epoch in (1, 2):
            file.write(
                f'{{"step": {3 * epoch}, "epoch": {epoch}, "phase": "retrain",'
                f' "cross_entropy": {2.0 / epoch}, "accuracy": {0.25 * epoch},'
                f' "test_accuracy": {0.375 * epoch}}}\n'
            )
    accuracy = Accuracy("test", 0.875, 40)
    names = ("<i>zero</i>", "one")
    mistakes = (Mistake(0, 1, 0.75, _PNG),)
    Predictions(accuracy, 2, names, ((0, 0, 15), (0, 1, 5), (1, 1, 20)), mistakes).save(str(folder))
    report = {
        name: {
            "path": f"/elsewhere/{name}",
            "num_bytes": 1234567,
            "test_accuracy": 0.75,
            "top1_agreement": 0.5,
        }
        for name in ("saved_model", "tflite_int8")
    }
    (folder / "exports").mkdir()
    write_json(
        folder / "exports" / "export.json",
        {"num_images": 20, "keras_test_accuracy": 0.8, **report},
    )
    dataclasses.replace(
        result,
        accuracy=accuracy,
        num_trained_candidates=1,
        warnings=("a warning with <b>markup</b> & more",),
        versions=info["versions"],
        is_deterministic=True,
        times={**result.times, "retrain_s": 75.5, "wall_s": 3725.25},
    ).save(str(folder))
    return folder


@pytest.fixture
def run_dir(_finished, tmp_path):
    """A copy of the folder that a test may change."""
    return shutil.copytree(_finished, tmp_path / "first run")

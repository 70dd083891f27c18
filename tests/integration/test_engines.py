"""Sweeps on engines: equal to one process, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from dance_tf.files import read_json
from tools import compare_strategies, pareto
from tools import flags as common

#: Two steps an epoch, and a checkpoint after each epoch.
QUICK = ("--preset=tiny", "--set=search.batch_size=500", "--set=retrain.epochs=2")

#: Twelve searches, two of which take the network of another, and retrainings.
SWEEP = (
    *("--objectives=EDAP,latency", "--lambdas=0,0.1,1", "--num_seeds=2"),
    *("--num_images=100", "--num_retrained=3"),
)

#: What is not the same in two runs.
TIMES = ("times", "training_time_s")

#: Files that hold what was found, and how.
COMPARED = (
    *("pareto.json", "pareto.svg", "accuracies.jsonl"),
    *("searches/*/*.json*", "retrained/*/*.json*"),
)

PATIENCE_S = 1800


@pytest.mark.parametrize("tool", [pareto, compare_strategies])
def test_flags_of_ray_without_it_and_ray_without_its_package(tool, tmp_path, capsys, monkeypatch):
    name = tool.__name__.rpartition(".")[2]
    folder = tmp_path / "found"
    given = ("--preset=tiny", f"--output_dir={folder}")
    if tool is pareto:
        given = (*given, "--set=search.accuracy=predictor")
    assert common.call(tool.main, tool.FLAGS, [name, *given, "--gpus_per_task=1"]) == 1
    assert "--gpus_per_task goes with --engine=ray" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert common.call(tool.main, tool.FLAGS, [name, *given, "--engine=ray"]) == 1
    assert "pip install 'dance_tf[ray]'" in capsys.readouterr().err.splitlines()[-1]
    assert not folder.exists()


class _Sweep:
    """A sweep as a command, in a process of its own."""

    def __init__(self, given, folder: pathlib.Path, *more: str) -> None:
        self.folder = folder
        arguments = [sys.executable, "-m", "tools.pareto", *given, *more, f"--output_dir={folder}"]
        self._log = folder.with_suffix(".log")
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(arguments, stdout=log, stderr=log)

    def end(self) -> None:
        assert self.process.wait(PATIENCE_S) == 0, self._log.read_text()[-3000:]

    def owners(self) -> dict[str, int]:
        """Return the processes that are searching, by the names of their searches."""
        found = {}
        for path in self.folder.glob("searches/*/.lock"):
            with contextlib.suppress(FileNotFoundError):
                match = re.match(r"process (\d+) on", path.read_text())
                if match and int(match[1]) != self.process.pid:
                    found[path.parent.name] = int(match[1])
        return found

    def kill_workers(self, num: int) -> int:
        """Kill the process of each of so many searches, once; return how many there were."""
        killed: set[str] = set()
        while len(killed) < num and self.process.poll() is None:
            for name, process in self.owners().items():
                if name not in killed and len(killed) < num:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                        killed.add(name)
                    break
            time.sleep(0.2)
        return len(killed)

    def kill_when(self, num_finished: int) -> bool:
        """Kill this command once so many searches are finished; return whether it still ran."""
        while len(list(self.folder.glob("searches/*/result.json"))) < num_finished:
            if self.process.poll() is not None:
                return False
            time.sleep(0.1)
        self.process.kill()
        self.process.wait(PATIENCE_S)
        return True


def _written(folder: pathlib.Path) -> dict[pathlib.Path, tuple[int, int]]:
    """Return which finished searches there are, and when each was written."""
    stats = {path: path.stat() for path in folder.glob("searches/*/result.json")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


def _contents(folder: pathlib.Path) -> dict[str, object]:
    found = {}
    for path in sorted(path for pattern in COMPARED for path in folder.glob(pattern)):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = {k: v for k, v in read_json(path).items() if k not in TIMES}
        else:
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supernet")
    tool = [sys.executable, "-m", "tools.train_supernet"]
    subprocess.run([*tool, *QUICK, f"--output_dir={folder}"], check=True, capture_output=True)
    return (*QUICK, f"--supernet_dir={folder}", f"--cache_dir={folder / 'cache'}", *SWEEP)


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    sweep = _Sweep(given, tmp_path_factory.mktemp("whole") / "sweep")
    sweep.end()
    found = _contents(sweep.folder)
    assert len(found["pareto.json"]["points"]) == 12
    return found


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed (dance_tf[ray])")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    made.spare = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(params=["local", "ray"])
def engine(request):
    if request.param == "local":
        return ("--jobs=2",)
    return ("--engine=ray", f"--ray_address={request.getfixturevalue('cluster').address}")


@pytest.mark.slow
def test_ten_killed_workers_change_nothing(given, whole, engine, tmp_path):
    sweep = _Sweep(given, tmp_path / "sweep", *engine)
    assert sweep.kill_workers(10) == 10
    sweep.end()
    assert _contents(sweep.folder) == whole


@pytest.mark.slow
def test_a_driver_killed_five_times_goes_on_and_repeats_nothing(given, whole, engine, tmp_path):
    more: tuple[str, ...] = ()
    written: dict[pathlib.Path, tuple[int, int]] = {}
    for num_finished in (0, 1, 3, 5, 8):
        sweep = _Sweep(given, tmp_path / "sweep", *engine, *more)
        assert sweep.kill_when(num_finished)
        now = _written(sweep.folder)
        assert written.items() <= now.items()
        # What is there is whole, and what is being written nobody reads.
        written, more = now, ("--resume",) if (sweep.folder / "config.json").exists() else ()
        _contents(sweep.folder)
    sweep = _Sweep(given, tmp_path / "sweep", *engine, *more)
    sweep.end()
    assert written.items() <= _written(sweep.folder).items()
    assert _contents(sweep.folder) == whole


@pytest.mark.slow
def test_a_lost_node_changes_nothing(given, whole, cluster, tmp_path):
    address = f"--ray_address={cluster.address}"
    sweep = _Sweep(given, tmp_path / "sweep", "--engine=ray", address)
    while len(_written(sweep.folder)) < 4:
        assert sweep.process.poll() is None
        time.sleep(0.1)
    cluster.remove_node(cluster.spare, allow_graceful=False)
    sweep.end()
    assert _contents(sweep.folder) == whole


@pytest.mark.slow
def test_an_interrupted_sweep_ends_at_once_and_goes_on(given, whole, tmp_path):
    sweep = _Sweep(given, tmp_path / "sweep", "--jobs=2")
    while not sweep.owners():
        assert sweep.process.poll() is None
        time.sleep(0.1)
    owners = sweep.owners()
    sweep.process.send_signal(signal.SIGTERM)
    assert sweep.process.wait(60) == 128 + signal.SIGTERM
    for process in owners.values():
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    sweep = _Sweep(given, tmp_path / "sweep", "--resume", "--jobs=2")
    sweep.end()
    assert _contents(sweep.folder) == whole

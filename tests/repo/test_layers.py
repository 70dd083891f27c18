"""Who may import whom."""

from __future__ import annotations

import pathlib

import pytest

from tests.repo.source import external_imports, first_party_imports, imported_names, python_files

#: Network spaces as data, which import neither TensorFlow nor Keras.
_OPS = ("candidate_ops", "encoder", "op_kinds", "op_names")
SPACES = {f"supernet/{n}.py" for n in (*_OPS, "search_space", "space_files", "space_record")}

#: What of dance_tf each folder may import beside itself; "root" are the modules in no folder,
#: and a folder within a folder belongs to it.
FOLDERS = {
    "root": set(),
    "run": {"root"},
    "data": {"root", "run"},
    "hardware": {"root", "run"},
    "export": {"root", "run"},
    "supernet": {"root", "hardware"},
    "interop": {"root", "run", "hardware"},
    "evaluator": {"root", "run", "data", "hardware"} | SPACES,
    "search": {"root", "run", "data", "hardware", "export", "supernet", "evaluator"},
    "report": {"root", "run", "hardware", "search"} | SPACES,
}

#: Import name to the only files that may use it.
OWNERS = {
    "tensorflow_datasets": ("dance_tf/data/", "dance_tf/evaluator/label_dataset"),
    "importlib_resources": ("dance_tf/data",),
    "sklearn": ("dance_tf/data",),
    "PIL": ("dance_tf/data/image_files",),
    "absl": ("tools/",),
    "ai_edge_litert": ("dance_tf/export/tflite",),
    "flatbuffers": ("dance_tf/export/tflite",),
    "grpc": ("dance_tf/export/serving_client",),
    "tensorflow_serving": ("dance_tf/export/serving_client",),
    "jinja2": ("dance_tf/report/page",),
    "h5py": ("dance_tf/interop/keras_files",),
    "matplotlib": ("dance_tf/search/sweep/plot", "dance_tf/search/strategies/picture"),
    "moocore": ("dance_tf/search/",),
    "mlflow": ("tools/export_mlflow",),
    "ray": ("dance_tf/run/engine",),
    "pymoo": ("dance_tf/search/strategies/nsga2",),
    "scipy": ("dance_tf/search/",),
    "yaml": ("dance_tf/interop/yaml_text",),
    "keras": (
        "dance_tf/supernet/",
        "dance_tf/evaluator/",
        "dance_tf/search/",
        "dance_tf/export",
        "dance_tf/run/surroundings",
        "dance_tf/interop/keras_",
        "tools/",
    ),
}

LIBRARY = [path for path in python_files() if path.startswith(("dance_tf/", "tools/"))]


def _folder(path: str) -> str:
    """Return the folder of dance_tf that a file is in, or root."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else "root"


@pytest.mark.parametrize("path", [p for p in LIBRARY if p != "dance_tf/__init__.py"])
def test_imports_go_down(path: str):
    imported = first_party_imports(path)
    if path.startswith("tools/") or path == "dance_tf/__main__.py":
        assert all(target.startswith(("dance_tf/", "tools/", "benchmarks/")) for target in imported)
        return
    assert all(target.startswith("dance_tf/") for target in imported)
    assert "dance_tf/__init__.py" not in imported, "name the module, not the package"
    own = _folder(path)
    for target in imported:
        allowed = {own, *FOLDERS[own]}
        assert {_folder(target), target.removeprefix("dance_tf/")} & allowed, f"{path}: {target}"


def test_no_imports_go_in_a_circle():
    left = {path: first_party_imports(path) for path in LIBRARY if path != "dance_tf/__init__.py"}
    while left:
        ready = [path for path, targets in left.items() if not targets & left.keys()]
        assert ready, f"a circle among {sorted(left)}"
        for path in ready:
            del left[path]


def test_the_loop_nest_model_knows_of_no_search():
    named = {"accelerator", "technology"}
    for path in LIBRARY:
        if path.startswith("dance_tf/hardware/loopnest/"):
            for target in first_party_imports(path):
                if _folder(target) == "hardware" and "/loopnest/" not in target:
                    assert pathlib.PurePosixPath(target).stem in named, f"{path}: {target}"


@pytest.mark.parametrize("name", sorted(OWNERS))
def test_each_dependency_has_its_owner(name: str):
    users = [path for path in LIBRARY if name in external_imports(path)]
    assert all(path.startswith(OWNERS[name]) for path in users), users
    if name != "importlib_resources":
        assert users, f"nothing imports {name}: drop it from the requirements"


def test_public_names_of_the_frameworks_only():
    for path in python_files():
        for name in imported_names(path):
            assert not name.startswith("tensorflow.python"), f"{path}: {name}"
            assert not name.startswith(("tensorflow.keras", "tensorflow.lite")), f"{path}: {name}"
            top = name.partition(".")[0]
            assert top not in {"pickle", "dill", "joblib", "gin"}, f"{path}: {name}"


def test_no_keras_by_way_of_tensorflow():
    for path in LIBRARY:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        assert "tf.keras" not in text.replace("never tf.keras", ""), path
        if not path.startswith("dance_tf/export"):
            assert "tf.lite" not in text, path

"""Who may import whom."""

from __future__ import annotations

import pathlib

import pytest

from tests.repo.source import external_imports, first_party_imports, imported_names, python_files

#: What of dance_tf each group of modules may import, beside itself and what has no
#: logic (errors, structs, protocols). "hardware" stands for all modules of that package.
GROUPS = {
    "plain": {"__main__", "errors", "structs", "protocols", "version"},
    "config": {"config", "config_effects", "config_fields", "paths", "presets"},
    "writing": {
        "checkpoints",
        "folder_lock",
        "strict_json",
        "reporting",
        "run_info",
        "terminal",
    },
    "hardware": {"hardware"},
    "space": {"supernet.search_space"},
    "supernet": {"supernet"},
    "evaluator": {"evaluator"},
    "data": {"data", "image_contents", "images", "prepared"},
    "export": {
        "evaluator_signatures",
        "export",
        "export_accelerator",
        "export_classifier",
        "export_comparison",
        "export_description",
        "export_evaluator",
        "export_evaluator_tflite",
        "export_preparation",
        "export_tflite",
        "export_tflite_metadata",
        "serving",
        "serving_client",
        "serving_files",
        "signatures",
    },
    "interop": {"interop"},
    "search": {"search"},
    "report": {"report"},
}
LAYERS = {
    "plain": set(),
    "config": set(),
    "writing": {"config"},
    "hardware": {"config", "writing"},
    "space": {"config", "hardware.workload"},
    "supernet": {"config", "space", "hardware.workload"},
    "evaluator": {"config", "writing", "hardware", "space", "data"},
    "data": {"config", "writing"},
    "export": {"config", "writing"},
    "interop": {"config", "writing", "hardware"},
    "search": {"config", "writing", "hardware", "space", "supernet", "evaluator", "data", "export"},
    "report": {"config", "writing", "hardware", "space", "search"},
}

#: Inside hardware: a module imports from the rows above its own.
HARDWARE = (
    {"technology", "accelerator", "workload", "objective", "polynomial", "threads"},
    {"mapping", "mapspace", "measured", "fills"},
    {"access_counts", "candidates", "drawing", "mapper_coefficients", "mapper_tiles"},
    {"cost_model"},
    {"mapper_figures", "validation"},
    {"mapper_search", "layer_costs", "table_store"},
    {"found_mapping"},
    {"mapper"},
    {"cost_source", "mapper_validation"},
    {"cost_table", "breakdown"},
    {"oracle"},
    {"benchmark", "network_cost"},
)

#: Import name to the only files that may use it.
OWNERS = {
    "tensorflow_datasets": ("dance_tf/data", "dance_tf/evaluator/label_dataset"),
    "importlib_resources": ("dance_tf/data",),
    "sklearn": ("dance_tf/data", "dance_tf/images"),
    "absl": ("tools/",),
    "ai_edge_litert": ("dance_tf/export_tflite",),
    "flatbuffers": ("dance_tf/export_tflite_metadata",),
    "grpc": ("dance_tf/serving_client",),
    "tensorflow_serving": ("dance_tf/serving_client",),
    "jinja2": ("dance_tf/report/page",),
    "h5py": ("dance_tf/interop/keras_files",),
    "matplotlib": ("dance_tf/search/pareto_plot",),
    "moocore": ("dance_tf/search/",),
    "scipy": ("dance_tf/search/pareto",),
    "yaml": ("dance_tf/interop/yaml_text",),
    "keras": (
        "dance_tf/supernet/",
        "dance_tf/evaluator/",
        "dance_tf/search/",
        "dance_tf/export",
        "dance_tf/signatures",
        "dance_tf/interop/keras_",
        "tools/",
    ),
}

LIBRARY = [path for path in python_files() if path.startswith(("dance_tf/", "tools/"))]


def _module(path: str) -> str:
    """Return the dotted name of a file under dance_tf, without `dance_tf.`."""
    name = path.removeprefix("dance_tf/").removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def _group(module: str) -> str:
    """Return the row of GROUPS that holds a module; the longest name wins."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        for group, names in GROUPS.items():
            if ".".join(parts[:end]) in names:
                return group
    raise AssertionError(f"dance_tf.{module} has no row in GROUPS")


@pytest.mark.parametrize("path", [p for p in LIBRARY if p != "dance_tf/__init__.py"])
def test_imports_go_down(path: str):
    imported = first_party_imports(path)
    if path.startswith("tools/"):
        assert all(target.startswith(("dance_tf/", "tools/")) for target in imported)
        return
    assert all(target.startswith("dance_tf/") for target in imported)
    assert "dance_tf/__init__.py" not in imported, "name the module, not the package"
    own = _group(_module(path))
    for target in imported:
        group = _group(_module(target))
        allowed = {own, "plain", *LAYERS[own]}
        assert group in allowed or _module(target) in allowed, f"{path} ({own}) imports {target}"


def test_the_layers_have_no_circle():
    done: set[str] = set()
    while len(done) < len(LAYERS):
        ready = {
            group
            for group, allowed in LAYERS.items()
            if group not in done and {name.partition(".")[0] for name in allowed} <= done
        }
        assert ready, set(LAYERS) - done
        done |= ready


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.startswith("dance_tf/hardware/")])
def test_hardware_is_in_order(path: str):
    ranks = {name: rank for rank, names in enumerate(HARDWARE) for name in names}
    stem = pathlib.PurePosixPath(path).stem
    if stem == "__init__":
        assert not first_party_imports(path)
        return
    assert stem in ranks, f"{path} has no place in HARDWARE"
    for target in first_party_imports(path):
        if target.startswith("dance_tf/hardware/"):
            assert ranks[pathlib.PurePosixPath(target).stem] < ranks[stem], f"{path} -> {target}"


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

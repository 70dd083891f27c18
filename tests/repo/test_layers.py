"""Who may import whom."""

from __future__ import annotations

import pathlib

import pytest

from tests.repo.source import external_imports, first_party_imports, imported_names, python_files

#: Modules and packages of dance_tf, and what of dance_tf each may import beside itself.
#: `errors` and `structs` hold no logic and are open to all.
_PLAIN = {"errors", "structs"}
_WRITING = {"strict_json", "reporting", "run_info"}
LAYERS = {
    "errors": set(),
    "structs": {"errors"},
    "protocols": _PLAIN,
    "config": _PLAIN,
    "strict_json": _PLAIN,
    "hardware": _PLAIN | {"config", "protocols", "strict_json"},
    "supernet.search_space": _PLAIN | {"config", "hardware.workload"},
    "supernet": _PLAIN | {"config", "hardware.workload", "supernet.search_space"},
    "evaluator": _PLAIN
    | _WRITING
    | {"config", "protocols", "hardware", "supernet.search_space", "export"},
    "images": _PLAIN | {"config", "protocols"},
    "data": _PLAIN | {"config", "protocols", "images"},
    "reporting": _PLAIN | {"config", "strict_json"},
    "run_info": _PLAIN | {"config", "strict_json"},
    "export": _PLAIN | _WRITING | {"config", "protocols"},
    "search": _PLAIN
    | _WRITING
    | {"config", "protocols", "hardware", "supernet", "evaluator", "data", "images", "export"},
}

#: Inside hardware: a module imports from the rows above its own.
HARDWARE = (
    {"technology", "accelerator", "workload", "objective"},
    {"mapping"},
    {"mapspace"},
    {"cost_model"},
    {"best_mapping"},
    {"cost_table"},
    {"oracle"},
)

#: Import name to the only files that may use it.
OWNERS = {
    "tensorflow_datasets": ("dance_tf/data",),
    "importlib_resources": ("dance_tf/data",),
    "sklearn": ("dance_tf/data",),
    "absl": ("tools/",),
    "ai_edge_litert": ("dance_tf/export",),
    "keras": ("dance_tf/supernet/", "dance_tf/evaluator/", "dance_tf/search/", "dance_tf/export"),
}

#: Files that must not bring in TensorFlow, however far down.
LIGHT = ("dance_tf/errors.py", "dance_tf/structs.py", "dance_tf/config.py", "tools/flags.py")

LIBRARY = [path for path in python_files() if path.startswith(("dance_tf/", "tools/"))]


def _module(path: str) -> str:
    """Return the dotted name of a file under dance_tf, without `dance_tf.`."""
    name = path.removeprefix("dance_tf/").removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def _layer(module: str) -> str:
    """Return the row of LAYERS that a module belongs to."""
    parts = module.split(".")
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    found = [name for name in names if name in LAYERS]
    # export_network.py and the like belong to the row of their first word.
    found += [name for name in LAYERS if parts[0].startswith(name + "_")]
    assert found, f"dance_tf.{module} has no row in LAYERS"
    return found[0]


@pytest.mark.parametrize("path", [p for p in LIBRARY if p != "dance_tf/__init__.py"])
def test_imports_go_down(path: str):
    imported = first_party_imports(path)
    if path.startswith("tools/"):
        assert all(target.startswith(("dance_tf/", "tools/")) for target in imported)
        return
    assert all(target.startswith("dance_tf/") for target in imported)
    assert "dance_tf/__init__.py" not in imported, "name the module, not the package"
    own = _layer(_module(path))
    for target in imported:
        layer = _layer(_module(target))
        allowed = layer == own or layer in LAYERS[own] or _module(target) in LAYERS[own]
        # A row "supernet" allows what is inside it, "supernet.search_space" too.
        allowed = allowed or layer.partition(".")[0] in LAYERS[own]
        assert allowed, f"{path} ({own}) imports {target} ({layer})"


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
            assert top not in {"pickle", "dill", "joblib", "yaml", "gin"}, f"{path}: {name}"


def test_no_keras_by_way_of_tensorflow():
    for path in LIBRARY:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        assert "tf.keras" not in text.replace("never tf.keras", ""), path
        if not path.startswith("dance_tf/export"):
            assert "tf.lite" not in text, path


@pytest.mark.parametrize("path", LIGHT)
def test_light_modules_are_light(path: str):
    seen, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            assert external_imports(current) <= {"absl"}, f"{path} reaches {current}"
            waiting += first_party_imports(current)

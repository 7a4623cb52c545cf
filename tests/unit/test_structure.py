"""The shape of the source tree: no import cycles, small folders, distinct class names.

`make lint` checks the length of files, import-linter the layers.
"""

import ast
from collections import Counter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
SOURCES = [path for top in ("app", "workers") for path in (ROOT / top).rglob("*.py")]

MAX_MODULES_IN_A_FOLDER = 20


def test_no_folder_has_too_many_modules() -> None:
    folders = Counter(path.parent.relative_to(ROOT) for path in SOURCES if path.name != "__init__.py")
    assert not {folder: count for folder, count in folders.items() if count > MAX_MODULES_IN_A_FOLDER}


def test_no_class_name_is_used_twice() -> None:
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: paths for name, paths in found.items() if len(paths) > 1}


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("accepted", "accepted_worker")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while removable := {module for module, imported in imports.items() if not imported & imports.keys()}:
        for module in removable:
            del imports[module]
    assert not imports, "these modules, or some that they import, form a circle"

"""The rules of the house: folders and packages, who may import whom, and that the runtime is lean."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from import_graph import PACKAGES, ROOT, Graph, files, imports, module_graph, package_of, parse, part_graph, room_of

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]

MAY_IMPORT = {
    "kernels": set(),
    "runtime": {"kernels"},
    "sdedit_ref": {"kernels"},
    "export": {"kernels", "runtime", "sdedit_ref"},
    "evaluation": {"kernels", "runtime", "sdedit_ref", "export"},
    "serve": {"kernels", "runtime"},
    "benchmarks": {"kernels", "runtime", "sdedit_ref", "export", "evaluation", "serve"},
    "front": {"kernels", "runtime", "sdedit_ref", "export", "evaluation", "serve", "benchmarks"},
}
"""Room -> the other rooms that it may import."""

BARE_NAMES = PACKAGES.keys() - {"sdedit_ref"}
"""Folders of the root: nothing is installed or imported by these names."""

MOST_FLOORS = 6
LEAN_ROOMS = ("kernels", "runtime", "front")
HEAVY = {
    "torch",
    "triton",
    "onnx",
    "onnxscript",
    "safetensors",
    "openvino",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
}
ALWAYS_NEEDED = {"step_triton.py": {"triton"}}
FORBIDDEN_AT_RUN_TIME = ("torch", "triton", "onnx", "onnxscript", "safetensors")


MODULES = module_graph()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    assert files(room)
    for path in files(room):
        tree = parse(path)
        for _, name in imports(tree, package_of(path, room)):
            assert room_of(name) in (None, room, *MAY_IMPORT[room]), f"{path.name} imports {name}"
        for _, name in imports(tree):
            assert room_of(name) != room, f"{path.name} imports {name}; inside a room imports are relative"
            assert name.split(".")[0] not in BARE_NAMES, f"{path.name} imports {name} by its folder's name"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from sdedit import runtime", "sdedit.runtime"),
        ("from ..runtime import loop", "sdedit.runtime.loop"),
        ("from .. import runtime", "sdedit.runtime"),
        ("import sdedit.export.bundle", "sdedit.export.bundle"),
        ("def f():\n    from sdedit.export import bundle", "sdedit.export.bundle"),
        ("if TYPE_CHECKING:\n    from ..export.bundle import Bundle", "sdedit.export.bundle.Bundle"),
    ],
)
def test_the_import_law_sees_every_spelling(text: str, expected: str) -> None:
    assert expected in {name for _, name in imports(ast.parse(text), "sdedit.kernels")}


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("sdedit.runtime.loop", "runtime"),
        ("sdedit_ref.sde", "sdedit_ref"),
        ("sdedit.cli.main", "front"),
        ("sdedit.Editor", "front"),
        ("sdedit.errors.PlanError", None),
        ("sdedit.console.run_command", None),
        ("sdedit.__version__", None),
        ("numpy.random", None),
    ],
)
def test_a_name_belongs_to_one_room(name: str, room: str | None) -> None:
    assert room_of(name) == room


def test_no_two_modules_import_each_other() -> None:
    """The test counts direct imports and circles, lazy imports and imports for types."""
    assert len(MODULES) > 100
    assert circle(MODULES) == []


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_two_parts_of_a_room_import_each_other(room: str) -> None:
    """Modules may make no circle where their folders do."""
    assert circle(part_graph(MODULES, room)) == []


def circle(graph: Graph) -> list[str]:
    """The nodes around a circle; [] where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_seen() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})) == {"a", "b", "c"}


def test_arrows_in_the_runtime_run_down() -> None:
    """docs/design.md has the floors: each part of runtime/ stands there once, and imports only parts below it."""
    floors = documented_floors()
    parts = part_graph(MODULES, "runtime")
    assert parts.keys() == floors.keys()
    up = [(part, other) for part in parts for other in parts[part] if floors[other] >= floors[part]]
    assert up == []
    assert len(set(floors.values())) <= MOST_FLOORS


def documented_floors() -> dict[str, int]:
    """Part of runtime/ -> its floor, from lines like "    2   loop.py   engines/     some words"."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    (\d)   (\w.*)$", text.partition("Inside `runtime/`, by floor.")[2], re.MULTILINE)
    return {part: int(floor) for floor, line in lines for part in re.findall(r"(\w+)(?:\.py|/)(?=\s|$)", line)}


@pytest.mark.parametrize("path", [p for room in LEAN_ROOMS for p in files(room)], ids=lambda p: p.stem)
def test_heavy_packages_are_imported_where_they_are_needed(path: Path) -> None:
    """At its top level a lean module imports only what every use of it needs."""
    allowed = ALWAYS_NEEDED.get(path.name, set())
    for node in parse(path).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            heavy = {module.split(".")[0] for module, _ in imports(node, "sdedit.room")} & HEAVY - allowed
            assert not heavy, f"{path.name} imports {heavy} at its top level"


UNTIMED = {
    "self._unset.acquire()": "nobody else has the lock yet",
    "self._wakes.get()": "the worker waits for work, in a thread of its own",
    "self._process.wait()": "within asyncio.wait_for",
    "process.wait()": "within asyncio.wait_for",
    "rounds.get()": "a lane waits for work, in a thread of its own",
    "ended.wait()": "asyncio's event loop waits",
    "arrived.wait()": "asyncio's event loop waits",
    "self._news.wait()": "asyncio's event loop waits",
    "gpu.wait()": "the driver waits",
    "self._gpu.wait()": "the driver waits",
}
"""Calls without a limit of time that are no wait of a thread that Ctrl-C must reach."""


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_waits_have_a_limit_of_time(room: str) -> None:
    """On Windows, Ctrl-C does not reach a thread that waits for a lock, an event, a queue or a thread without one."""
    found = {
        ast.unparse(node)
        for path in files(room)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
        if node.func.attr in ("acquire", "wait", "wait_for", "join", "get")
    }
    assert found <= UNTIMED.keys()


HEADLESS = re.compile(r"\s*(Of|What|As|Those|Likewise)\b")
"""Beginnings of sentences without a subject."""


@pytest.mark.parametrize("room", [*MAY_IMPORT, "tests", "examples"])
def test_docstrings_begin_with_their_subject(room: str) -> None:
    """Docstrings of modules, classes and functions, and the strings below a constant or a field."""
    begins = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for path in files(room)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if HEADLESS.match(node.value.value)
    ]
    assert begins == []


def test_tests_do_not_import_rooms_by_folder() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        roots = {module.split(".")[0] for module, _ in imports(parse(path))}
        assert not roots & BARE_NAMES, path.name


def test_every_package_is_listed() -> None:
    """Setuptools cannot discover packages through the renaming; a forgotten one would silently not be installed."""
    folders = {folder: name for name, folder in SETUPTOOLS["package-dir"].items()}
    expected = set()
    for folder, name in folders.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            expected.add(".".join([name, *inner]))
    assert set(SETUPTOOLS["packages"]) == expected


def test_no_folder_shadows_the_package() -> None:
    assert not (ROOT / "sdedit").exists()


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = [line for line in readme.splitlines() if line.startswith("pip install") and "test" in line]
    assert command.endswith("&& pytest")
    assert command.removesuffix(" && pytest") in ci
    assert "\npytest" in ci


LEAN_EDIT = """
import sys
for name in {forbidden!r}:
    sys.modules[name] = None
from sdedit.runtime import Editor
edit = Editor.open().edit({guide!r}, t0=0.2, steps=2)
edit.images[0].save({out!r})
"""


def test_an_edit_runs_where_torch_triton_and_onnx_cannot_be_imported(tmp_path: Path) -> None:
    """The edit runs in a process of its own: a look at sys.modules here would miss an import that succeeds."""
    script = LEAN_EDIT.format(
        forbidden=FORBIDDEN_AT_RUN_TIME, guide=str(ROOT / "examples" / "coast.png"), out=str(tmp_path / "out.png")
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_openvino_is_begun_in_one_place() -> None:
    """Whatever asks its core first must keep the thread's signal stack: see open_core."""
    found = [path.name for room in PACKAGES for path in files(room) if ".Core(" in path.read_text(encoding="utf-8")]
    assert found == ["importing.py"]


def test_importing_the_runtime_imports_no_engine() -> None:
    script = f"import sys, sdedit.runtime; print(*sorted(sys.modules.keys() & {sorted(HEAVY)!r}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []

"""The rules of the house: folders and packages, who may import whom, and that the runtime is lean."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]

OPEN_TO_ALL = {"sdedit", "sdedit.errors", "sdedit.console", "sdedit.__version__"}
"""What any room may import of `front`."""

# Room -> rooms it may import, besides what is open to all.
MAY_IMPORT = {
    "kernels": set(),
    "runtime": {"kernels"},
    "sdedit_ref": {"kernels"},
    "export": {"kernels", "runtime", "sdedit_ref"},
    "evaluation": {"kernels", "runtime", "sdedit_ref", "export"},
    "benchmarks": {"kernels", "runtime", "sdedit_ref", "export"},
    "front": {"kernels", "runtime", "sdedit_ref", "export", "evaluation", "benchmarks"},
}
ROOM_OF = {"sdedit." + room: room for room in ("kernels", "runtime", "export", "evaluation", "benchmarks")} | {
    "sdedit_ref": "sdedit_ref"
}
PACKAGE_OF = {room: name for name, room in ROOM_OF.items()} | {"front": "sdedit"}
BARE_NAMES = {"kernels", "runtime", "export", "evaluation", "front", "benchmarks"}
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


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(tree: ast.AST, package: str = "") -> list[str]:
    """Every module that is imported, and whatever is imported from one; relative names resolved within `package`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


def package_of(path: Path, room: str) -> str:
    """The package that relative imports of that file start from."""
    inner = path.relative_to(ROOT / room).parent.parts
    return ".".join([PACKAGE_OF[room], *inner])


def is_open(module: str) -> bool:
    return any(module == name or (name.count(".") and module.startswith(name + ".")) for name in OPEN_TO_ALL)


def room_of(module: str) -> str | None:
    return next((room for name, room in ROOM_OF.items() if module == name or module.startswith(name + ".")), None)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    assert modules(room)
    for path in modules(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for module in imports(tree, package_of(path, room)):
            assert room_of(module) in (None, room, *MAY_IMPORT[room]), f"{path.name} imports {module}"
            if room != "front" and room_of(module) is None and module.split(".")[0] == "sdedit":
                assert is_open(module), f"{path.name} imports {module}, which is not open to all"
        for module in imports(tree):
            assert room_of(module) != room, f"{path.name} imports {module}; inside a room imports are relative"
            assert module.split(".")[0] not in BARE_NAMES, f"{path.name} imports {module} by its folder's name"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from sdedit import runtime", "sdedit.runtime"),
        ("from ..runtime import loop", "sdedit.runtime.loop"),
        ("from .. import runtime", "sdedit.runtime"),
        ("import sdedit.export.bundle", "sdedit.export.bundle"),
    ],
)
def test_the_import_law_sees_every_spelling(text: str, expected: str) -> None:
    assert expected in imports(ast.parse(text), "sdedit.kernels")


@pytest.mark.parametrize("path", [p for room in LEAN_ROOMS for p in modules(room)], ids=lambda p: p.stem)
def test_heavy_packages_are_imported_where_they_are_needed(path: Path) -> None:
    """At the top level of a lean module only what every use of it needs."""
    allowed = ALWAYS_NEEDED.get(path.name, set())
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            heavy = {module.split(".")[0] for module in imports(node, "sdedit.room")} & HEAVY - allowed
            assert not heavy, f"{path.name} imports {heavy} at its top level"


def test_tests_do_not_import_rooms_by_folder() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        roots = {module.split(".")[0] for module in imports(ast.parse(path.read_text(encoding="utf-8")))}
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
    """In a process of its own: looking at sys.modules here would miss an import that happens to succeed."""
    script = LEAN_EDIT.format(
        forbidden=FORBIDDEN_AT_RUN_TIME, guide=str(ROOT / "examples" / "coast.png"), out=str(tmp_path / "out.png")
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_importing_the_runtime_imports_no_engine() -> None:
    script = f"import sys, sdedit.runtime; print(*sorted(sys.modules.keys() & {sorted(HEAVY)!r}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []

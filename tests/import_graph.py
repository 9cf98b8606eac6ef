"""The imports of the project, read from its source: every spelling, at the top of a file, in functions and for types.

A room is a folder of the root that is installed; a part is a module or folder directly inside a room.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

PACKAGES = {
    "kernels": "sdedit.kernels",
    "runtime": "sdedit.runtime",
    "sdedit_ref": "sdedit_ref",
    "export": "sdedit.export",
    "evaluation": "sdedit.evaluation",
    "serve": "sdedit.serve",
    "benchmarks": "sdedit.benchmarks",
    "front": "sdedit",
}
"""Room -> the package that it is installed as."""

OPEN = ("sdedit.errors", "sdedit.entry", "sdedit.console", "sdedit.__version__")
"""Names of front that every room may import."""

Graph = dict[str, set[str]]
"""Node -> the nodes that it imports."""


def files(room: str) -> list[Path]:
    """Python files, and the stubs of extensions."""
    return sorted(path for path in (ROOT / room).rglob("*.py*") if path.suffix in (".py", ".pyi"))


def imports(tree: ast.AST, package: str = "") -> Iterator[tuple[str, str]]:
    """(module, module.name) of everything imported, twice the module for a plain import.

    Relative names are resolved within `package`; without one they are left out.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, f"{module}.{alias.name}") for alias in node.names)


def name_of(path: Path, room: str) -> str:
    """The file's module, as it is imported."""
    inner = path.relative_to(ROOT / room).with_suffix("").parts
    return ".".join([PACKAGES[room], *(inner[:-1] if inner[-1] == "__init__" else inner)])


def package_of(path: Path, room: str) -> str:
    """The package from which the file's relative imports start."""
    return ".".join([PACKAGES[room], *path.relative_to(ROOT / room).parent.parts])


def room_of(module: str) -> str | None:
    """The room of a name; None if it is not of this project or open to all."""
    if any(within(module, name) for name in OPEN):
        return None
    around = [room for room, package in PACKAGES.items() if within(module, package)]
    return max(around, key=lambda room: len(PACKAGES[room]), default=None)


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_graph() -> Graph:
    """Every module of the project, without the arrows to names that are open to all."""
    paths = {name_of(path, room): (path, room) for room in PACKAGES for path in files(room)}
    graph: Graph = {}
    for name, (path, room) in paths.items():
        found = imports(parse(path), package_of(path, room))
        targets = {full if full in paths else module for module, full in found if room_of(full)}
        graph[name] = {target for target in targets if target in paths}
    return graph


def part_graph(modules: Graph, room: str) -> Graph:
    """The parts of a room: its folders, and the modules beside them. The room's own __init__ is its door: left out."""
    package = PACKAGES[room]

    def part(module: str) -> str | None:
        if room_of(module) != room or module == package:
            return None
        return module.removeprefix(f"{package}.").split(".")[0]

    graph: Graph = {}
    for module, targets in modules.items():
        if (source := part(module)) is not None:
            graph.setdefault(source, set()).update({part(target) for target in targets} - {None, source})  # type: ignore[arg-type]
    return graph

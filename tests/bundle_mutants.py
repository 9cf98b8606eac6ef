"""Damaged bundles and the edits made with them. This is a module of its own because other processes import it."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import BundleError, EngineError, PlanError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import MANIFEST, NETWORK, REFERENCE, SCHEDULE, write_manifest

BATCH = 100
GUIDE = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
ODD: list[Any] = [None, True, -1, 0, 1, 2**63, 1e308, "", "..", "/etc/passwd", "a" * 10**4, [], {}, [[]], {"a": {}}]


def mutate_bytes(chance: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(damaged) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            damaged[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del damaged[at : at + chance.randint(1, 40)]
        elif kind == 2:
            damaged[at:at] = chance.randbytes(chance.randint(1, 40))
        else:
            del damaged[at:]
    return bytes(damaged)


def mutate_json(chance: random.Random, value: Any) -> Any:
    """Damage one place of the JSON: an odd value, a lost key or another name."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(sorted(value))
        kind = chance.randrange(6)
        changed = dict(value)
        if kind == 0:
            del changed[name]
        elif kind == 1:
            changed[chance.choice(["../" + name, name + "x", "", "\0"])] = changed.pop(name)
        else:
            changed[name] = mutate_json(chance, value[name])
        return changed
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], mutate_json(chance, value[at]), *value[at + 1 :]]
    return chance.choice(ODD)


def damage(chance: random.Random, folder: Path) -> str:
    """Damage the bundle in one way and return what was damaged."""
    manifest = json.loads((folder / MANIFEST).read_text())
    kind = chance.choice(["manifest", "manifest bytes", "file", "rehashed", "rehashed", "missing"])
    name = chance.choice([NETWORK, NETWORK, SCHEDULE, REFERENCE])
    if kind == "manifest":
        (folder / MANIFEST).write_text(json.dumps(mutate_json(chance, manifest)))
    elif kind == "manifest bytes":
        (folder / MANIFEST).write_bytes(mutate_bytes(chance, (folder / MANIFEST).read_bytes()))
    elif kind == "missing":
        (folder / chance.choice([MANIFEST, name])).unlink()
    else:
        (folder / name).write_bytes(mutate_bytes(chance, (folder / name).read_bytes()))
        if kind == "rehashed":
            write_manifest(folder, {k: v for k, v in manifest.items() if k not in ("revision", "files")})
    return kind if kind in ("manifest", "manifest bytes", "missing") else f"{kind} {name}"


def fate(folder: Path) -> str:
    """Edit with this bundle: returns the error's type or the pixels' digest."""
    try:
        with Editor.open(folder, engine="onnxruntime", threads=1) as editor:
            return hashlib.sha256(editor.edit(GUIDE, steps=2).images[0].pil.tobytes()).hexdigest()
    except (BundleError, EngineError, PlanError) as error:
        return type(error).__name__ if "\n" not in str(error) else "an error of several lines"


def work(seed: int, source: str, scratch: str) -> list[tuple[str, str, bool]]:
    """Make BATCH mutants. For each: what was damaged, its fate, and whether only hashes can show the damage."""
    results = []
    whole = fate(Path(source))
    for index in range(BATCH):
        chance = random.Random(seed * BATCH + index)
        folder = Path(scratch) / f"{seed}-{index}"
        shutil.copytree(source, folder)
        what = damage(chance, folder)
        outcome = fate(folder)
        results.append((what, "edit" if len(outcome) == 64 else outcome, outcome == whole))
        shutil.rmtree(folder)
    return results

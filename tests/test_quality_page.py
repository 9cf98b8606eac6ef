"""The page of quality, on a tiny network: its tables, what it must show, going on, and its sheets."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny import write_free_bundle

from sdedit.errors import ImageError, SdeditError
from sdedit.evaluation import quality
from sdedit.evaluation.quality import BLIND, SECTIONS, all_cases, command
from sdedit.runtime.bundle import MANIFEST, SCHEDULE, write_manifest
from sdedit_ref.sde import cosine

BOX = "20,10,180,140"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments for a picture of 200x150 pixels, two views and one seed."""
    folder = tmp_path_factory.mktemp("quality")
    pixels = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    Image.fromarray(pixels).resize((200, 150), Image.Resampling.BICUBIC).save(folder / "picture.png")
    bundle = write_free_bundle(folder / "bundle", size=16)
    np.save(bundle / SCHEDULE, cosine(200))  # levels enough for every case
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    write_manifest(bundle, {**manifest, "schedule": {**manifest["schedule"], "levels": 200}})
    return [
        *(str(folder / "picture.png"), "--hold-out", BOX, "--bundle", str(bundle), "--threads", "1"),
        *("--views", "2", "--seeds", "1", "--work", str(folder / "work"), "--markdown", str(folder / "page.md")),
    ]


@pytest.fixture(scope="module", autouse=True)
def fewer_cases() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, values in {"T0S": (0.1, 0.9), "SAMPLERS": ("ddim",), "STEP_COUNTS": (4,), "COLOURS": (2, 6)}.items():
            patch.setattr(quality, name, values)
        yield


@pytest.fixture(scope="module")
def made(arguments: list[str]) -> Result:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return done


def numbers(text: str, section: str, column: str) -> dict[str, float]:
    """A table's lines by name: the value in that column."""
    part = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    head, _, *lines = [line for line in part.splitlines() if line.startswith("|")]
    place = [name.strip() for name in head.split("|")].index(column)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    return {line[1]: float(line[place].split()[0]) for line in cells}


def test_the_page_has_every_section_and_measure(made: Result, arguments: list[str]) -> None:
    text = Path(arguments[-1]).read_text(encoding="utf-8")
    assert text in made.output
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(SECTIONS)
    assert {case.section for case in all_cases()} == SECTIONS.keys()
    for name in quality.MEASURES:
        assert any(f"`{name}`" in key for key in BLIND)
        assert f" {name} " in text
    for name in re.findall(r"\]\((quality-\w+\.jpg)\)", text):
        assert Image.open(Path(arguments[-1]).parent / name).width > 300


def test_the_document_is_a_page_of_this_command() -> None:
    text = (Path(__file__).parent.parent / "docs" / "quality.md").read_text(encoding="utf-8")
    assert [line for line in re.findall(r"^## (.*)$", text, re.MULTILINE) if line not in SECTIONS] == []
    for part in (*SECTIONS, *SECTIONS.values(), *BLIND, *BLIND.values()):
        assert part in text


def test_what_the_tables_must_show(made: Result) -> None:
    """Faithfulness falls with t0; copying changes nothing; only keep rules that end clean are exact outside."""
    by_t0 = list(numbers(made.output, "t0", "l2").values())
    assert by_t0 == sorted(by_t0)
    assert by_t0[0] < by_t0[-1]
    keeps = numbers(made.output, "Keep rules", "l2_outside")
    assert (keeps["fresh"], keeps["fixed"]) == (0, 0)
    assert min(keeps["paper"], keeps["official"]) > 0
    ways = numbers(made.output, "Composites beside simpler ways", "l2_inside")
    assert ways["copy and paste"] == 0
    assert min(ways["Poisson blending"], ways["Laplacian blending"]) > 0
    outside = numbers(made.output, "Composites beside simpler ways", "l2_outside")
    assert (outside["Poisson blending"], outside["copy and paste"]) == (0, 0)


def test_a_precision_that_is_not_here_is_said(made: Result) -> None:
    assert re.search(r"^Not measured: int8 \(.*int8.*\)\.$", made.output, re.MULTILINE)


def test_a_second_run_makes_nothing_again(made: Result, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(*_: object, **__: object) -> None:
        raise AssertionError("an edit was made again")

    monkeypatch.setattr(quality, "edit", edit)
    again = CliRunner().invoke(command, arguments)
    assert again.exit_code == 0
    assert again.stdout == made.stdout


def test_mistakes_are_found_before_the_first_edit(arguments: list[str], tmp_path: Path) -> None:
    other = [*arguments[:-1], str(tmp_path / "none" / "page.md")]
    assert isinstance(CliRunner().invoke(command, other).exception, SdeditError)
    other = [*arguments, "--hold-out", "1,2,3"]
    done = CliRunner().invoke(command, other)
    assert isinstance(done.exception, ImageError)
    assert "is not LEFT,TOP,RIGHT,BOTTOM" in str(done.exception)

"""A study's page and key as files, the rates of its answers, and each mistake about them."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import Run, assert_mistake
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from studies import GUIDES, both, write_folders

from sdedit.errors import SdeditError
from sdedit.evaluation.study.making import Key, read_key
from sdedit.evaluation.votes import command, wilson


@given(votes=st.integers(1, 10_000), data=st.data())
def test_the_ends_are_the_shares_at_z_standard_errors(votes: int, data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, votes))
    share, z = chosen / votes, 1.959963984540054
    ends = wilson(chosen, votes)
    assert 0 <= ends[0] <= share <= ends[1] <= 1
    for end in ends:
        assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / votes, abs=1e-12)
    assert wilson(votes - chosen, votes) == pytest.approx((1 - ends[1], 1 - ends[0]))


@pytest.mark.parametrize(
    ("chosen", "votes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_newcombes_table(chosen: int, votes: int, low: float, high: float) -> None:
    """Newcombe 1998, table I, method 3: printed to four places."""
    assert wilson(chosen, votes) == pytest.approx((low, high), abs=0.5001e-4)


@pytest.fixture
def key(run: Run, tmp_path: Path) -> Key:
    code, stdout, stderr = run("evaluate", *write_folders(tmp_path), *both(tmp_path))
    assert (code, stderr) == (0, "")
    assert stdout.startswith("| results | ")
    return read_key(tmp_path / "study.key.json")


def test_the_page_has_the_pictures_and_no_name(key: Key, tmp_path: Path) -> None:
    text = (tmp_path / "study.html").read_text(encoding="utf-8")
    told = json.loads(re.findall(r'<script type="application/json" id="study">(.*?)</script>', text)[0])
    assert told["study"] == key.study
    assert key.sets == (str(tmp_path / "red"), str(tmp_path / "blue"))
    for number, (pair, own) in enumerate(zip(told["pairs"], key.pairs, strict=True)):
        assert own.guide == str(number)
        for picture, folder in zip(pair["pictures"], ("red", "blue")[:: -1 if own.first else 1], strict=True):
            assert np.array_equal(pixels(picture), np.asarray(Image.open(tmp_path / folder / f"{number}.png")))
        assert np.array_equal(pixels(pair["guide"]), np.asarray(Image.open(tmp_path / "guides" / f"{number}.png")))
    assert "[[" not in text.replace('[["left"', "")
    assert not re.search(r"\bred\b|\bblue\b|https?:", text)


def pixels(address: str) -> np.ndarray:
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info == {}
    return np.asarray(image)


def test_both_sides_occur(run: Run, tmp_path: Path) -> None:
    assert run("evaluate", *write_folders(tmp_path, 24), *both(tmp_path))[0] == 0
    sides = [pair.first for pair in read_key(tmp_path / "study.key.json").pairs]
    assert 4 <= sum(sides) <= 20  # of 24 fair coins: all but 3 in 10,000


def test_one_set_is_compared_with_real_images(run: Run, tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    assert run("evaluate", *folders, "--results", tmp_path / "red", "--study", tmp_path / "real.html")[0] == 0
    key = read_key(tmp_path / "real.key.json")
    assert (key.sets[1], key.questions) == ("real images", ("real",))
    assert len(key.pairs) == GUIDES


Choose = Callable[[str, int], bool]
"""Question, pair -> whether the first set's picture is chosen."""


def always(question: str, pair: int) -> bool:
    return True


def answers(key: Key, folder: Path, name: str, choose: Choose = always, **changed: object) -> Path:
    """A file as the page saves it."""
    made = [
        {"question": q, "pair": n, "left": 0, "chosen": p.first if choose(q, n) else 1 - p.first, "ms": 900}
        for q in key.questions
        for n, p in enumerate(key.pairs)
    ]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"study": key.study, "session": name, "name": name, "answers": made, **changed}))
    return path


def rates(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(command, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_answers_of_several_people_become_rates(key: Key, tmp_path: Path) -> None:
    ann = answers(key, tmp_path, "ann")
    bob = answers(key, tmp_path, "bob", lambda question, pair: question == "real" and pair == 0)
    found = rates(tmp_path / "study.key.json", ann, bob)
    real, overall = found["rates"]
    assert (real["chosen"], real["votes"], real["people"], real["pairs"]) == (4, 6, 2, 3)
    assert (overall["chosen"], overall["votes"]) == (3, 6)
    assert (real["low"], real["high"]) == pytest.approx(wilson(4, 6))
    assert [(own["name"], own["rates"][0]["chosen"]) for own in found["people"]] == [("ann", 3), ("bob", 1)]
    text = CliRunner().invoke(command, [str(tmp_path / "study.key.json"), str(ann), str(bob)]).output
    assert "| real | 4 | 6 | 66.7 % | 30.0 to 90.3 % | 2 | 3 |" in text


def test_damaged_answers_are_one_line(key: Key, tmp_path: Path) -> None:
    def refused(path: Path, *more: Path) -> str:
        done = CliRunner().invoke(command, list(map(str, (tmp_path / "study.key.json", path, *more))))
        assert isinstance(done.exception, SdeditError), done.output
        return str(done.exception)

    ann = answers(key, tmp_path, "ann")
    assert "of the same session as a file before" in refused(ann, ann)
    other = answers(key, tmp_path, "other", study="abc")
    assert "are of study 'abc', the key is of" in refused(other)
    once = {"question": "real", "pair": 0, "left": 0, "chosen": 0, "ms": 1}
    for wrong in ({"pair": 3}, {"pair": -1}, {"pair": True}, {"chosen": 2}, {"question": "?"}, {"question": []}):
        path = answers(key, tmp_path, "wrong", answers=[once | wrong])
        assert "does not hold answers of this study" in refused(path)
    assert "twice" in refused(answers(key, tmp_path, "twice", answers=[once, once]))
    assert "have no answers" in refused(answers(key, tmp_path, "none", answers=[]))
    for text in ("", "[]", "{}", "[" * 100_000, '{"study": NaN}'):
        ann.write_text(text)
        assert "does not hold answers of this study" in refused(ann)
    (tmp_path / "study.key.json").write_text("{}")
    assert "is not the key of a study" in refused(ann)


def test_mistakes_about_a_page_are_one_line(run: Run, key: Key, tmp_path: Path) -> None:
    folders = ["--guides", tmp_path / "guides", "--reals", tmp_path / "reals"]
    arguments = [*folders, *both(tmp_path)]
    made = (tmp_path / "study.html").read_bytes()
    assert run("evaluate", *arguments)[0] == 0
    assert (tmp_path / "study.html").read_bytes() == made
    assert_mistake(run("evaluate", *arguments, "--study", "x.htm"), "give it a name that ends in .html")
    assert_mistake(run("evaluate", *arguments, "--study", tmp_path / "a" / "b.html"), "is not a folder")
    third = ("--results", tmp_path / "guides")
    assert_mistake(run("evaluate", *arguments, *third), "compares two sets of results")
    (tmp_path / "copy").mkdir()
    for path in (tmp_path / "red").iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    same = ("--results", tmp_path / "red", "--results", tmp_path / "copy", "--study", tmp_path / "e.html")
    assert_mistake(run("evaluate", *folders, *same), "are equal: there is nothing to choose")
    Image.new("RGB", (16, 16)).save(tmp_path / "red" / "0.png")
    assert_mistake(run("evaluate", *arguments), "is the key of a study with other pictures")
    assert (tmp_path / "study.html").read_bytes() == made

"""Facts that shapes do not show: an option or the file's own metadata answers them.

If some are missing, one error lists every option to add.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdedit.errors import CheckpointError

MAX_SIZE = 16384
"""Pixels of a side; an RGB image of that size still has fewer elements than the noise can count."""

SIZE = ("PIXELS", "HEIGHTxWIDTH")
"""Values that the option size accepts."""

NUMBER = ("NUMBER",)
"""Values that an option for a number accepts."""

YES_OR_NO = ("yes", "no")

GivenAnswers = Mapping[str, str | int | None]
"""Answers that the caller gives, by the option's name with underscores; None: not given."""


@dataclass(frozen=True)
class Question:
    """name: the option's, with underscores. accepted: its values. known: the answer from the file or by convention."""

    name: str
    accepted: tuple[str, ...]
    known: str | None = None

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Answers:
    """Answers by the question's name. given: the names that the caller answered. origin: of the other answers."""

    values: Mapping[str, str]
    given: frozenset[str]
    origin: str = "from the file"

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def yes(self, name: str) -> bool:
        """Whether a question of yes or no was answered with yes."""
        return self.values[name] == "yes"

    def describe(self) -> str:
        """Each answer and its origin, on one line."""
        by = {name: "given" if name in self.given else self.origin for name in self.values}
        return ", ".join(f"{name} {value} ({by[name]})" for name, value in self.values.items()) or "none"


def ask(
    path: Path,
    family: str,
    given: GivenAnswers,
    *questions: Question,
    origin: str = "from the file",
    hint: str = "",
) -> Answers:
    """The answers to all questions; a given answer comes before a known one, which is from `origin`.

    Raises CheckpointError for missing answers, all in one error that ends with `hint`; for an answer that is not
    accepted; and for an option that this family does not have.
    """
    texts = {name: str(value) for name, value in given.items() if value is not None}
    strangers = sorted(texts.keys() - {question.name for question in questions})
    if strangers:
        options = ", ".join(question.option for question in questions)
        raise CheckpointError(f"{path}: {Question(strangers[0], ()).option} does not apply to {family}: {options} do")
    missing = [question for question in questions if question.known is None and question.name not in texts]
    if missing:
        names = ", ".join(question.name for question in missing)
        how = " ".join(f"{question.option} {'|'.join(question.accepted)}" for question in missing)
        raise CheckpointError(f"{path}: the file does not state {names}: add {how} {hint}".rstrip())
    values = {question.name: texts.get(question.name, question.known or "") for question in questions}
    for question in questions:
        value = values[question.name]
        if question.accepted not in (SIZE, NUMBER) and value not in question.accepted:
            raise CheckpointError(f"{path}: {question.name} {value!r} is not one of {', '.join(question.accepted)}")
    return Answers(values, frozenset(texts), origin)


def parse_size(path: Path, text: str, multiple_of: int) -> tuple[int, int]:
    """Height and width of "256" or "256x512"; raises CheckpointError."""
    parts = text.split("x")
    if len(parts) > 2 or not all(part.strip("+-").isdecimal() and len(part) < 10 for part in parts):
        raise CheckpointError(f"{path}: size {text!r} is neither PIXELS nor HEIGHTxWIDTH")
    height, width = int(parts[0]), int(parts[-1])
    if multiple_of > MAX_SIZE:
        raise CheckpointError(f"{path}: its network halves images more often than sides of at most {MAX_SIZE} allow")
    if not all(1 <= side <= MAX_SIZE and side % multiple_of == 0 for side in (height, width)):
        raise CheckpointError(f"{path}: size {text} is not a multiple of {multiple_of} in 1..{MAX_SIZE}")
    return height, width


def parse_number(path: Path, name: str, text: str, least: int, most: int) -> int:
    """A whole number in least..most; raises CheckpointError."""
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise CheckpointError(f"{path}: {name} {text!r} is not a number in {least}..{most}")
    return int(text)

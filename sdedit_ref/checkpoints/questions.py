"""What shapes cannot tell: said by an option or by the file's own metadata, else asked for, all of it at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdedit.errors import CheckpointError

MAX_SIZE = 16384
"""Pixels of a side; an RGB image of that size still has fewer elements than the noise can count."""

SIZE = ("PIXELS", "HEIGHTxWIDTH")
"""What the option size accepts."""

NUMBER = ("NUMBER",)
"""What an option that counts accepts."""

YES_OR_NO = ("yes", "no")


@dataclass(frozen=True)
class Question:
    """name: of the option, with underscores. accepted: its values. known: the answer of the file or of a convention."""

    name: str
    accepted: tuple[str, ...]
    known: str | None = None

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Answers:
    """By name; said: which of them were said by option. origin: where the others are from, in words."""

    values: Mapping[str, str]
    said: frozenset[str]
    origin: str = "of the file"

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def yes(self, name: str) -> bool:
        return self.values[name] == "yes"

    def told(self) -> str:
        """Each answer and where it is from, on one line."""
        by = {name: "said" if name in self.said else self.origin for name in self.values}
        return ", ".join(f"{name} {value} ({by[name]})" for name, value in self.values.items()) or "none"


def ask(
    path: Path,
    family: str,
    said: Mapping[str, str | int | None],
    *questions: Question,
    origin: str = "of the file",
    hint: str = "",
) -> Answers:
    """The answers to all questions; what is said comes before what is known, which is from `origin`.

    Raises CheckpointError that names everything missing at once, an answer that is not accepted, or an option that is
    not asked of this family.
    """
    given = {name: str(value) for name, value in said.items() if value is not None}
    strangers = sorted(given.keys() - {question.name for question in questions})
    if strangers:
        asked = ", ".join(question.option for question in questions)
        raise CheckpointError(f"{path}: {Question(strangers[0], ()).option} does not apply to {family}: {asked} do")
    missing = [question for question in questions if question.known is None and question.name not in given]
    if missing:
        names = ", ".join(question.name for question in missing)
        how = " ".join(f"{question.option} {'|'.join(question.accepted)}" for question in missing)
        raise CheckpointError(f"{path}: its keys do not tell {names}: say {how} {hint}".rstrip())
    values = {question.name: given.get(question.name, question.known or "") for question in questions}
    for question in questions:
        value = values[question.name]
        if question.accepted not in (SIZE, NUMBER) and value not in question.accepted:
            raise CheckpointError(f"{path}: {question.name} {value!r} is not one of {', '.join(question.accepted)}")
    return Answers(values, frozenset(given), origin)


def parse_size(path: Path, text: str, multiple_of: int) -> tuple[int, int]:
    """Height and width of "256" or "256x512"; raises CheckpointError."""
    parts = text.split("x")
    if len(parts) > 2 or not all(part.strip("+-").isdecimal() and len(part) < 10 for part in parts):
        raise CheckpointError(f"{path}: size {text!r} is neither PIXELS nor HEIGHTxWIDTH")
    height, width = int(parts[0]), int(parts[-1])
    if not all(1 <= side <= MAX_SIZE and side % multiple_of == 0 for side in (height, width)):
        raise CheckpointError(f"{path}: size {text} is not a multiple of {multiple_of} in 1..{MAX_SIZE}")
    return height, width


def parse_number(path: Path, name: str, text: str, least: int, most: int) -> int:
    """A whole number in least..most; raises CheckpointError."""
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise CheckpointError(f"{path}: {name} {text!r} is not a number in {least}..{most}")
    return int(text)

"""Rates of a study's answers: `python -m sdedit.evaluation.votes STUDY.key.json ANSWERS...`.

`sdedit evaluate --study` makes the page and the key.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.evaluation.votes")
    raise SystemExit

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import click

from sdedit.console import run_command, to_json
from sdedit.errors import SdeditError, printable, reason, shown

from .study.making import Key, read_key

MAX_BYTES = 16 * 2**20
"""Largest file of answers."""

LEVEL = 0.95


@dataclass(frozen=True)
class Vote:
    """first: whether the first set's picture was chosen."""

    question: str
    pair: int
    first: bool


@dataclass(frozen=True)
class Person:
    """One file of answers. session: drawn by the page. name: as the person typed it, or empty."""

    session: str
    name: str
    votes: tuple[Vote, ...]


@dataclass(frozen=True)
class Rate:
    """Share of votes for the first set, with the ends of its interval. chosen: the votes for it, of `votes`."""

    question: str
    chosen: int
    votes: int
    people: int
    pairs: int
    rate: float
    low: float
    high: float


def wilson(chosen: int, votes: int, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the score interval of a share: Wilson 1927; Newcombe 1998, method 3.

    They are the shares p from which chosen / votes is z standard errors away: |chosen / votes - p| =
    z sqrt(p (1 - p) / votes). Brown, Cai and DasGupta (2001) recommend it for few votes. It takes votes as independent.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = chosen / votes, z * z / votes
    middle = share + weight / 2
    half = z * math.sqrt(share * (1 - share) / votes + weight / (4 * votes))
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding may put an end beyond a share of 0 or 1


def rates(key: Key, people: Sequence[Person]) -> list[Rate]:
    """A rate for each question that somebody answered."""
    found = []
    for question in key.questions:
        own = [[vote for vote in person.votes if vote.question == question] for person in people]
        votes = [vote for several in own for vote in several]
        if votes:
            chosen = sum(vote.first for vote in votes)
            low, high = wilson(chosen, len(votes))
            counts = (sum(map(bool, own)), len({vote.pair for vote in votes}))
            found.append(Rate(question, chosen, len(votes), *counts, chosen / len(votes), low, high))
    return found


def read_people(paths: Sequence[Path], key: Key) -> list[Person]:
    """One person a file. Raises SdeditError for a damaged file, one of another study, and two of one session."""
    people: dict[str, Person] = {}
    for path in paths:
        person = read_person(path, key)
        if person.session in people:
            raise SdeditError(f"answers {path} are of the same session as a file before: give the later one alone")
        people[person.session] = person
    return list(people.values())


def read_person(path: Path, key: Key) -> Person:
    """The answers in a file that the page saved. Raises SdeditError."""
    try:
        if not path.is_file():
            raise SdeditError(f"answers {path} are not a file")
        if path.stat().st_size > MAX_BYTES:
            raise SdeditError(f"answers {path} have more than {MAX_BYTES // 2**20} MiB: they are not of a study's page")
        found = json.loads(path.read_bytes())
        study = found["study"]
        person = Person(str(found["session"]), str(found["name"]), tuple(read_votes(found["answers"], key)))
    except OSError as error:
        raise SdeditError(f"answers {path} cannot be read: {reason(error)}") from None
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise SdeditError(f"{path} does not hold answers of this study") from None
    if study != key.study:
        raise SdeditError(f"answers {path} are of study {shown(study)}, the key is of {key.study}")
    if len({(vote.question, vote.pair) for vote in person.votes}) < len(person.votes):
        raise SdeditError(f"answers {path} answer a question about a pair twice: they are damaged")
    return person


def read_votes(answers: Sequence[dict[str, object]], key: Key) -> Iterator[Vote]:
    """Raises ValueError, TypeError, KeyError or IndexError for what the page does not write."""
    for answer in answers:
        question, pair, chosen = answer["question"], answer["pair"], answer["chosen"]
        if question not in key.questions or type(pair) is not int or pair < 0 or chosen not in (0, 1):
            raise ValueError(answer)
        yield Vote(str(question), pair, chosen == key.pairs[pair].first)


def table(key: Key, found: Sequence[Rate]) -> str:
    """The rates as a Markdown table, and what the intervals do not count."""
    first, second = map(printable, key.sets)
    lines = [
        f"Chosen: {first}, not {second}. {len(key.pairs)} pairs.",
        "",
        "| question | chosen | votes | rate | 95 % interval | people | pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    for rate in found:
        share, ends = f"{100 * rate.rate:.1f} %", f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %"
        lines.append(
            f"| {rate.question} | {rate.chosen} | {rate.votes} | {share} | {ends} | {rate.people} | {rate.pairs} |"
        )
    lines += ["", "Intervals take votes as independent. Votes of one person, or on one pair, are less so: see --json."]
    return "\n".join(lines)


FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(epilog="Example: python -m sdedit.evaluation.votes study.key.json answers-*.json")
@click.argument("key", type=FILE)
@click.argument("answers", nargs=-1, required=True, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print the rates as JSON, each person's as well.")
def command(key: Path, answers: tuple[Path, ...], as_json: bool) -> None:
    """Print how often the first set of the study KEY was chosen in ANSWERS, with Wilson's intervals."""
    known = read_key(key)
    people = read_people(answers, known)
    found = rates(known, people)
    if not found:
        raise SdeditError("the files have no answers")
    if as_json:
        own = [{"name": person.name, "rates": list(map(asdict, rates(known, [person])))} for person in people]
        click.echo(to_json({"sets": known.sets, "rates": list(map(asdict, found)), "people": own}))
    else:
        click.echo(table(known, found))


def main() -> None:
    """Run the command as this process."""
    run_command(command, "sdedit.evaluation.votes")

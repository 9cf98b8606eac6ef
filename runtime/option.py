"""How an option of an edit is declared, once: its check, its text in help and documents, and its JSON schema."""

import math
import operator
import os
import re
import secrets
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from sdedit.errors import PlanError, SdeditError, shown

POWERS = {2**bits - less: f"2^{bits}{'-1' * less}" for bits in (32, 64) for less in (0, 1)}
"""Numbers that people read more easily as powers of two."""

RANDOM = "random"
"""Given in place of a number, it draws one from the system."""


@dataclass(frozen=True)
class Option:
    """One option. help: a phrase without a full stop. note: another sentence, or "".

    unit: what the number counts or is a fraction of, or "". low, high: its smallest and largest value, or None. above:
    low itself is not accepted. infinite: so is infinity. drawn: bits of the number that the word RANDOM is replaced by,
    or 0 where that word is not accepted. choices: the accepted names of a text. pattern, forms: a
    regular expression of further texts that are accepted, and how people write them. longest: most characters of a
    free text, 0 for others. unset: what None, the default, stands for. error: class of the error for another value.
    """

    help: str
    note: str = ""
    unit: str = ""
    low: int | None = None
    high: int | None = None
    above: bool = False
    infinite: bool = False
    drawn: int = 0
    choices: tuple[str, ...] = ()
    pattern: str = ""
    forms: tuple[str, ...] = ()
    longest: int = 0
    unset: str = ""
    error: type[SdeditError] = PlanError

    def check(self, name: str, value: Any, kind: type) -> Any:
        """The value as a `kind` (int, float or str) of Python's own; raises PlanError for another type, or `error`."""
        if self.longest:
            return self.check_text(name, value)
        if kind is str:
            if self.forms and isinstance(value, Real) and not isinstance(value, bool):
                value = shown(to_integer(name, value))
            known = isinstance(value, str) and (
                value in self.choices or bool(re.fullmatch(self.pattern or "(?!)", value))
            )
            if not known:
                raise self.error(f"{name} {shown(value)} is not one of {', '.join(self.accepted)}")
            return value
        if self.drawn and isinstance(value, str) and value == RANDOM:
            return secrets.randbits(self.drawn)
        number = to_integer(name, value) if kind is int else to_number(name, value)
        if not self.holds(number):
            raise self.error(f"{name} {shown(number)} is not {self.range or 'finite'}")
        return number

    def check_text(self, name: str, value: Any) -> str:
        """A free text as Python's own str; raises `error`."""
        if not isinstance(value, str):
            raise self.error(f"{name} {shown(value)} is not a text")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.error(f"{name} {shown(value)} has half of a surrogate pair: it is no Unicode") from None
        if len(value) > self.longest:
            raise self.error(f"{name} has {len(value)} characters, more than {self.longest}")
        return str(value)

    def holds(self, number: float) -> bool:
        """Whether the number is in the range. NaN never is."""
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        inside = low < number <= high if self.above else low <= number <= high
        return inside and (self.infinite or isinstance(number, int) or math.isfinite(number))

    @property
    def range(self) -> str:
        """The accepted numbers in words, or ""."""
        if self.low is None:
            return ""
        if self.high is None:
            return f"above {self.low}" if self.above else f"at least {self.low}"
        low, high = POWERS.get(self.low, str(self.low)), POWERS.get(self.high, str(self.high))
        if self.high <= 1:
            return f"in {'(' if self.above else '['}{low}, {high}]"
        return f"in {low}..{high}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """The accepted texts as people write them."""
        return (*self.choices, *self.forms)

    @property
    def sentence(self) -> str:
        """Help: what the option is and what it accepts."""
        accepted = f": {', '.join(self.accepted)}" if self.choices else f", {self.range}" if self.range else ""
        accepted += f", or {RANDOM}" * bool(self.drawn)
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.help}{accepted}{unit}.{' ' * bool(self.note)}{self.note}"

    def schema(self, kind: type, default: Any) -> dict[str, Any]:
        """The JSON schema of a value."""
        schema: dict[str, Any] = {"description": self.sentence, "default": default}
        names: dict[type, str] = {int: "integer", float: "number", str: "string"}
        if self.longest:
            return {**schema, "type": ["string", "null"], "maxLength": self.longest}
        if self.choices:
            one: dict[str, Any] = {"type": "string", "enum": list(self.choices)}
            accepted = [one]
            if self.forms:  # the first form is an integer
                accepted.append({"type": "string", "pattern": f"^({self.pattern})$"})
                accepted.append({"type": "integer", "minimum": 1, "maximum": 999_999})
            accepted += [{"type": "null"}] if default is None else []
            return {**schema, **one} if len(accepted) == 1 else {**schema, "anyOf": accepted}
        number: dict[str, Any] = {"type": [names[kind], "null"] if default is None else names[kind]}
        if self.low is not None:
            number["exclusiveMinimum" if self.above else "minimum"] = self.low
        if self.high is not None:
            number["maximum"] = self.high
        word = "inf" if self.infinite else RANDOM if self.drawn else None
        return {**schema, "anyOf": [number, {"const": word}]} if word else {**schema, **number}


def to_integer(name: str, value: Any) -> int:
    """An int from Python or another library, or a float that is an integer: JSON does not tell 3.0 from 3.

    Raises PlanError for anything else, bool included.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        whole: Any = math.floor(value) if isinstance(value, Real) and not isinstance(value, Integral) else value
        if whole != value:
            raise TypeError
        return operator.index(whole)
    except (TypeError, ValueError, OverflowError):  # NaN is a ValueError, infinity an OverflowError
        raise PlanError(f"{name} {shown(value)} is not an integer") from None


def to_number(name: str, value: Any) -> float:
    """A float of Python's or of another library; raises PlanError for anything else, bool and str included."""
    try:
        if isinstance(value, bool | str | bytes | bytearray):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise PlanError(f"{name} {shown(value)} is not a number") from None


def to_path(name: str, value: Any, error: type[SdeditError]) -> Path:
    """A path from str, bytes or os.PathLike; raises `error` for anything else."""
    try:
        return Path(os.fsdecode(value))
    except TypeError:
        raise error(f"{name} {shown(value)} is not a path") from None

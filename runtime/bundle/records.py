"""JSON objects as frozen dataclasses: the fields' types are the schema, and all problems are found at once."""

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


MAX_NAMED = 20
"""Most problems that one error names: a damaged file may have thousands."""


class Problems(list[str]):
    """Everything that is wrong with a file, one clause each."""

    def __str__(self) -> str:
        more = f"; and {len(self) - MAX_NAMED} more" if len(self) > MAX_NAMED else ""
        return "; ".join(self[:MAX_NAMED]) + more

    def require(self, holds: bool, message: str) -> None:
        """Note the message unless the condition holds."""
        if not holds:
            self.append(message)


def read_record(kind: type[T], value: object, where: str, problems: Problems) -> T | None:
    """The object as an instance of the dataclass `kind`; None, with the problems noted, if it is none.

    A field is int, float (finite), str, None, a tuple or mapping of these, another such dataclass, or one or None. The
    object must have exactly the dataclass's fields. A static method `check(where, fields, problems)` of the dataclass
    notes wrong values; it is given the fields that have their types, so that values and types are found wrong at once.
    """
    if not isinstance(value, dict):
        problems.append(f"{where} is not an object")
        return None
    hints = field_types(kind)  # type: ignore[arg-type] # a class is hashable
    missing, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
    if missing or unknown:
        problems.append(f"{where or 'it'} lacks {missing} and has unknown {unknown}")
    before = len(problems)
    fields = {}
    for name, hint in hints.items():
        count = len(problems)
        read = read_value(hint, value[name], f"{where}.{name}".lstrip("."), problems) if name in value else None
        if name in value and len(problems) == count:
            fields[name] = read
    check = getattr(kind, "check", None)
    if check is not None:
        check(where, fields, problems)
    return kind(**fields) if len(problems) == before and not missing and not unknown else None


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """The dataclass's fields and their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def read_value(kind: Any, value: object, where: str, problems: Problems) -> Any:
    """The value as its type says; None, with the problem noted, if it is none."""
    origin, arguments = get_origin(kind), get_args(kind)
    record = (
        next(filter(dataclasses.is_dataclass, (kind, *arguments)), None) if origin in (None, types.UnionType) else None
    )
    if record is not None:
        return None if value is None and origin else read_record(record, value, where, problems)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, list):
            return tuple(read_value(arguments[0], item, f"{where}[{n}]", problems) for n, item in enumerate(value))
        problems.append(f"{where} is not of type list")
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, dict):
            return {key: read_value(arguments[1], item, f"{where}[{key!r}]", problems) for key, item in value.items()}
        problems.append(f"{where} is not an object")
    else:
        accepted = arguments if isinstance(kind, types.UnionType) else (kind,)
        if type(value) in accepted and not (isinstance(value, float) and not math.isfinite(value)):
            return value
        named = " or ".join(getattr(one, "__name__", str(one)) for one in accepted)
        finite = "finite " if isinstance(value, float) and float in accepted else ""
        problems.append(f"{where} is not of type {finite}{named}")
    return None


def to_json(record: Any) -> Any:
    """The values of a record, or of a mapping or tuple of records, as JSON has them, keys in order."""
    if dataclasses.is_dataclass(record):
        return {name: to_json(getattr(record, name)) for name in sorted(f.name for f in dataclasses.fields(record))}
    if isinstance(record, Mapping):
        return {key: to_json(record[key]) for key in sorted(record)}
    return [to_json(value) for value in record] if isinstance(record, tuple | list) else record

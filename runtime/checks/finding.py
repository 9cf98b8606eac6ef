"""The result of one check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """verdict: "ok", "warning" (something optional is missing) or "wrong" (results may be)."""

    verdict: str
    what: str
    detail: str

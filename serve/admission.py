"""Which edits are taken: those that would not wait too long."""

import time
from dataclasses import dataclass

from .problems import check_wait

SMOOTHING = 0.05
"""Weight of the newest measurement in the mean duration of a unit."""

TYPICAL_SMOOTHING = 0.25
"""Weight of the newest edit in the mean work of edits."""


@dataclass(eq=False)
class Place:
    """An edit that was taken. units: its work that is left, in seconds of an idle machine."""

    units: float


class Admission:
    """Estimates how long a new edit would wait: the work in flight times the measured duration of a unit of it.

    A unit is a second of one edit on the idle machine. So it takes about 1 s: less where several edits are evaluated at
    the same time, more where other programs run. Only the event loop's thread uses this object.
    """

    def __init__(self, limit_seconds: float, typical_units: float) -> None:
        """typical_units: of an edit, until there were some."""
        self._limit = limit_seconds
        self._typical_units = typical_units
        self._places: set[Place] = set()
        self._seconds_per_unit = 1.0
        self._last: float | None = None

    @property
    def wait(self) -> float:
        """Seconds that an edit which came now would wait, about."""
        return sum(place.units for place in self._places) * self._seconds_per_unit

    @property
    def edits(self) -> int:
        """Edits that were taken and have not ended."""
        return len(self._places)

    @property
    def typical(self) -> float:
        """Seconds that an edit takes, about: the work of the latest ones."""
        return self._typical_units * self._seconds_per_unit

    def enter(self, units: float, *, always: bool = False) -> Place:
        """Take an edit. Raises Problem 503 if it would wait longer than the limit, unless it is to be taken always."""
        if not always:
            check_wait(self.wait, self._limit)
        if not self._places:
            self._last = None  # idle time is no measurement
        place = Place(units)
        self._places.add(place)
        return place

    def weigh(self, place: Place, units: float) -> None:
        """Set the work of an edit that has not begun, when it is known exactly."""
        place.units = units
        self._typical_units += TYPICAL_SMOOTHING * (units - self._typical_units)

    def advance(self, place: Place, units: float) -> None:
        """Count work that an edit has done."""
        now = time.monotonic()
        if self._last is not None and units > 0:
            self._seconds_per_unit += SMOOTHING * ((now - self._last) / units - self._seconds_per_unit)
        self._last = now
        place.units = max(0.0, place.units - units)

    def leave(self, place: Place) -> None:
        """Forget an edit that has ended, however it did."""
        self._places.discard(place)

"""Errors at chosen points of the project's own code, instead of by chance.

CPython looks for Ctrl-C when a Python function begins and when a call of a C function has returned. A profile function
is called exactly there, in one thread only; what it raises comes from there, as KeyboardInterrupt does. MemoryError
comes from calls, too.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

WATCHED = ("/runtime/jobs/", "/runtime/editor/", "/threading.py")
"""Parts of the paths of the modules in which errors are raised."""

WAIT = 30
"""Seconds after which a test that hangs fails instead."""

T = TypeVar("T")


class Interrupt:
    """Raises an error in the thread that enters it, at the points of these numbers (from 0) within its `with` block.

    skipped: functions in which, and in whose callees, nothing is raised. fired: where the error was raised.
    """

    def __init__(
        self,
        *points: int,
        error: type[BaseException] = KeyboardInterrupt,
        watched: tuple[str, ...] = WATCHED,
        skipped: tuple[str, ...] = (),
    ) -> None:
        self.points = set(points)
        self.error = error
        self.watched = watched
        self.skipped = skipped
        self.passed = 0
        self.fired: list[str] = []

    def __enter__(self) -> "Interrupt":
        sys.setprofile(self._at)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _at(self, frame: FrameType, event: str, called: Any) -> None:
        if event not in ("call", "c_return") or called is sys.setprofile or self._is_spared(frame):
            return
        self.passed += 1
        if self.passed - 1 in self.points:
            self.fired.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name} {event}")
            raise self.error

    def _is_spared(self, frame: FrameType) -> bool:
        if not any(part in frame.f_code.co_filename for part in self.watched):
            return True
        outer: FrameType | None = frame
        while self.skipped and outer is not None:
            if outer.f_code.co_name in self.skipped:
                return True
            outer = outer.f_back
        return False


def every_point(most: int = 2000, **options: Any) -> Iterator[Interrupt]:
    """An Interrupt for each point of what the caller runs with it.

    A wait has more points on some runs than on others, so the end is reached when three in a row have not fired.
    """
    late = 0
    for point in range(most):
        interrupt = Interrupt(point, **options)
        yield interrupt
        late = 0 if interrupt.fired else late + 1
        if late == 3:
            assert point > 3, "nothing that is watched was run"
            return
    raise AssertionError(f"more than {most} points")


def finishes(function: Callable[[], T], where: object = "") -> T:
    """Call the function in a thread of its own and return or raise what it does; fails if it takes longer than WAIT."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert outcome, f"it hangs after an interrupt at {where}"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]

"""Training tells its progress: a few lines a minute, or one line of a terminal that is written again."""

import io

import pytest

from sdedit_ref.training.progress import Progress, duration


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(("terminal", "lines"), [(True, 599), (False, 30)])
def test_progress_is_told_a_few_times_a_minute(terminal: bool, lines: int) -> None:
    """600 steps of half a second."""
    seconds = iter(range(601))
    stream = Stream(terminal)
    progress = Progress(1000, 5800, stream, clock=lambda: next(seconds) / 2)
    for step in range(1, 601):
        progress.update(1000 + 8 * step, 0.25)
    told = stream.getvalue()
    pieces = told.split("\r\x1b[K")[1:] if terminal else told.splitlines()
    assert lines <= len(pieces) <= lines + 1
    assert pieces[-1] == "image 5,800 of 5,800, 16.0 images/s, loss 0.2500, 0 s left"
    assert "image 3,560 of 5,800, 16.0 images/s, loss 0.2500, 2 min left" in told
    assert ("\n" in told) is not terminal


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (90, "2 min"), (3600, "1 h 0 min")])
def test_times_are_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text

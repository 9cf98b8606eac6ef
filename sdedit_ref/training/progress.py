"""Progress of a training run on stderr: one line that is rewritten on a terminal, six lines a minute elsewhere."""

import time
from collections.abc import Callable
from typing import TextIO

ON_TERMINAL, ELSEWHERE = 0.5, 10.0
"""Seconds between two updates."""


class Progress:
    """Tells how many images a run has seen, how fast it is, its mean loss, and the time left."""

    def __init__(self, seen: int, images: int, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """seen: images so far, of `images` in all."""
        self.stream = stream
        self.clock = clock
        self.terminal = stream.isatty()
        self.first, self.images = seen, images
        self.begun = self.told = clock()
        self.losses: list[float] = []
        self.images_per_second = 0.0

    def update(self, seen: int, loss: float) -> None:
        """Take a step into account, and print a line if it is time."""
        now = self.clock()
        self.losses.append(loss)
        self.images_per_second = (seen - self.first) / max(now - self.begun, 1e-9)
        if now - self.told >= (ON_TERMINAL if self.terminal else ELSEWHERE):
            self.told = now
            self.print(self.line(seen))
            self.losses.clear()

    def line(self, seen: int) -> str:
        """The present state in words."""
        left = (self.images - seen) / max(self.images_per_second, 1e-9)
        loss = sum(self.losses) / len(self.losses)
        pace = f"{self.images_per_second:.1f} images/s"
        return f"image {seen:,} of {self.images:,}, {pace}, loss {loss:.4f}, {duration(left)} left"

    def print(self, line: str) -> None:
        """Write the line, over the one before on a terminal."""
        self.stream.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        self.stream.flush()

    def clear(self) -> None:
        """Make room for other output on a terminal."""
        if self.terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


def duration(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

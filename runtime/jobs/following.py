"""Following a job from a thread of one's own, which takes news when it likes."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from .flag import SLICE
from .ticket import Listener, Progress, Ticket


class News:
    """A job's progress, kept for one thread. It listens within a `with` statement."""

    def __init__(self, ticket: Ticket, wants_preview: Callable[[int], bool] = lambda step: False) -> None:
        self._arrived: SimpleQueue[Progress] = SimpleQueue()
        self._ticket = ticket
        self._listener = Listener(self._arrived.put, wants_preview)
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> "News":
        self._stop = self._ticket.listen(self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._stop()

    def take(self) -> list[Progress]:
        """All progress that was not taken yet, at least one, after waiting for it."""
        taken: list[Progress] = []
        while not taken:
            with suppress(Empty):
                taken.append(self._arrived.get(timeout=SLICE))
        with suppress(Empty):
            while True:
                taken.append(self._arrived.get_nowait())
        return taken


class Demand:
    """For Listener.wants_preview: one preview at a time, while a thread waits for it."""

    _waiting = False

    def __call__(self, step: int) -> bool:
        wanted, self._waiting = self._waiting, False
        return wanted

    def next(self, news: News) -> Progress:
        """The newest progress that has a preview, or the end of the job, after waiting for it."""
        while True:
            self._waiting = True  # set before every wait: a step that ended meanwhile may have overwritten it
            shown = [progress for progress in news.take() if progress.done or progress.x0 is not None]
            if shown:
                return shown[-1]

"""Edits on machines that may die: an edit as a stream of values, and the same edit begun again elsewhere.

Beginning again is safe because an edit is a function of its request: the seed is drawn before the request is sent.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

from .backend import Backend, Tell
from .desk import Running
from .problems import Problem, client_gone, overloaded
from .wire import EditRequest, Finished, Step

PAUSES = (0.2, 0.4, 0.8, 1.6)
"""Seconds before each new try."""

Item: TypeAlias = Step | Problem | Finished
"""Steps in order, the first when the edit was taken; then the end."""


class Items(Protocol):
    """An edit somewhere else, as Ray Serve's handles give it."""

    def __aiter__(self) -> AsyncIterator[Item]: ...

    def cancel(self) -> None:
        """End the edit, if it has not ended."""


async def edit_items(backend: Backend, request: EditRequest) -> AsyncIterator[Item]:
    """Make an edit. It is cancelled when this iterator is closed or its task is cancelled."""
    running = Running(backend, request)
    try:
        await running.started()
        if running.newest is not None:
            yield replace(running.newest, step=0, preview=None)  # it was taken; its steps follow, each once
        async for step in running.steps():
            if step is not None:
                yield step
        yield await running.result()
    except Problem as problem:
        yield problem
    finally:
        running.cancel(client_gone())


def in_order(tell: Tell) -> Tell:
    """The function that tells each step once, in order, though the edit may be begun again."""
    last = -1

    def tell_newer(step: Step) -> None:
        nonlocal last
        if step.step > last:
            last = step.step
            tell(step)

    return tell_newer


async def resend(
    begin: Callable[[], Items], lost: tuple[type[Exception], ...], tell: Tell, pauses: Sequence[float] = PAUSES
) -> Finished:
    """Begin an edit, and again if its maker was lost; each step is told once, in order.

    lost: errors that say that a maker was lost; a stream that stops before its end says so too. Raises Problem: the
    edit's own, or 503 if every try was lost.
    """
    told = in_order(tell)
    for pause in (*pauses, None):
        items = begin()
        try:
            async for item in items:
                if isinstance(item, Finished):
                    return item
                if isinstance(item, Problem):
                    raise item
                told(item)
        except lost:
            pass
        finally:
            items.cancel()
        if pause is not None:
            await asyncio.sleep(pause)
    raise overloaded("the machines that made this edit were lost", 5)

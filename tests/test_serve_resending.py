"""Edits whose maker dies: they are begun again, and no step is told twice or out of order."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Sequence

import pytest
from serving import COAST, WAIT, Gate, fade
from stubs import stub_editor

from sdedit.runtime import Editor
from sdedit.runtime.settings import Settings
from sdedit.serve.backend import LocalBackend
from sdedit.serve.limits import Limits
from sdedit.serve.models import Model
from sdedit.serve.problems import Problem
from sdedit.serve.resending import Item, edit_items, resend
from sdedit.serve.wire import EditRequest, Finished, MadeImage, Step

DONE = Finished((MadeImage(b"png", {"image": 0}),), {"evaluations": 3})


class LostError(Exception):
    """The stand-in for Ray's errors."""


class Maker:
    """A stand-in for a call of a replica: gives its items, then fails with `error` if there is one."""

    def __init__(self, items: Sequence[Item], error: Exception | None = None) -> None:
        self.cancelled = False
        self._items = items
        self._error = error

    async def __aiter__(self) -> AsyncIterator[Item]:
        for item in self._items:
            await asyncio.sleep(0)
            yield item
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        self.cancelled = True


def step(number: int) -> Step:
    return Step(number, 9, 0, preview=b"%d" % number)


def told_by(makers: list[Maker]) -> tuple[list[int], Finished | Exception]:
    """The steps that were told, and how the edit ended. All makers that were asked must have been let go."""
    told: list[int] = []
    waiting = list(makers)

    async def go() -> Finished:
        tell = lambda item: told.append(item.step)  # noqa: E731
        pauses = (0.0,) * (len(makers) - 1)
        return await asyncio.wait_for(resend(lambda: waiting.pop(0), (LostError,), tell, pauses), WAIT)

    try:
        end: Finished | Exception = asyncio.run(go())
    except (Problem, ValueError) as error:
        end = error
    assert all(maker.cancelled for maker in makers[: len(makers) - len(waiting)])
    return told, end


def test_an_edit_that_is_not_disturbed_is_made_once() -> None:
    first, second = Maker([step(0), step(3), DONE]), Maker([])
    assert told_by([first, second]) == ([0, 3], DONE)
    assert not second.cancelled


@pytest.mark.parametrize("error", [LostError(), None])
def test_a_lost_edit_is_begun_again_and_no_step_is_told_twice(error: Exception | None) -> None:
    """A stream that stops without an end counts as lost too."""
    makers = [Maker([step(0), step(4)], error), Maker([], error), Maker([step(n) for n in (0, 2, 4, 6)] + [DONE])]
    assert told_by(makers) == ([0, 4, 6], DONE)


def test_an_edit_that_is_always_lost_is_refused() -> None:
    told, end = told_by([Maker([step(0)], LostError()) for _ in range(3)])
    assert told == [0]
    assert isinstance(end, Problem)
    assert (end.status, end.headers["retry-after"]) == (503, "5")


def test_an_error_of_the_edit_is_no_loss() -> None:
    problem = Problem(422, "t0 2 is not in (0, 1]")
    assert told_by([Maker([step(0), problem]), Maker([DONE])]) == ([0], problem)
    assert isinstance(told_by([Maker([], ValueError()), Maker([DONE])])[1], ValueError)


def test_a_client_that_goes_ends_the_edit_elsewhere() -> None:
    endless = Maker([step(number) for number in range(10**6)])

    async def go() -> None:
        told = asyncio.Event()
        work = asyncio.create_task(resend(lambda: endless, (LostError,), lambda _: told.set()))
        await asyncio.wait_for(told.wait(), WAIT)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(go())
    assert endless.cancelled


def backend_of(editor: Editor) -> LocalBackend:
    return LocalBackend({"earth": Model("earth", editor, 0.001)}, Limits())


def test_an_edit_is_a_stream_of_values_that_travel() -> None:
    """From a replica to the gateway every value is pickled."""
    request = pickle.loads(pickle.dumps(EditRequest(COAST, Settings(steps=6, seed="random"), preview_every=2)))

    async def go(backend: LocalBackend) -> list[Item]:
        return [pickle.loads(pickle.dumps(item)) async for item in edit_items(backend, request)]

    with stub_editor(fade) as editor:
        *steps, end = asyncio.run(go(backend_of(editor)))
        again = asyncio.run(go(backend_of(editor)))[-1]
        expected = editor.edit(COAST, steps=6, seed=request.settings.seed).images[0].to_bytes()
    numbers = [item.step for item in steps if isinstance(item, Step)]
    assert len(numbers) == len(steps)
    assert numbers == sorted(set(numbers))
    assert isinstance(end, Finished)
    assert isinstance(again, Finished)
    assert end.images[0].png == again.images[0].png == expected


@pytest.mark.parametrize(
    ("guide", "settings", "status"), [(b"no image", {"steps": 1}, 422), (COAST, {"steps": 1001, "t0": 1}, 422)]
)
def test_a_mistake_travels_as_a_value(guide: bytes, settings: dict[str, float], status: int) -> None:
    async def go(backend: LocalBackend) -> list[Item]:
        return [item async for item in edit_items(backend, EditRequest(guide, Settings(**settings)))]  # type: ignore[arg-type]

    with stub_editor(fade) as editor:
        (problem,) = asyncio.run(go(backend_of(editor)))
    assert isinstance(problem, Problem)
    arrived = pickle.loads(pickle.dumps(problem))
    assert (arrived.status, arrived.as_json(), arrived.headers) == (status, problem.as_json(), problem.headers)


def test_a_stream_that_is_closed_ends_its_edit() -> None:
    gate = Gate()

    async def go(backend: LocalBackend) -> None:
        items = edit_items(backend, EditRequest(COAST, Settings(steps=400, t0=0.9)))
        assert isinstance(await anext(items), Step)
        await items.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(WAIT):
            while backend.wait:
                await asyncio.sleep(0.01)
        gate.open()

    with stub_editor(gate) as editor:
        asyncio.run(go(backend_of(editor)))
    assert gate.calls <= 2

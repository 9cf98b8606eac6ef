"""The Triton kernels under Triton's interpreter, in a process of their own.

What was interpreted cannot be compiled in the same process, and the switch must be set before triton is imported. The
process reads pickled (name, state, guided) from its standard input and answers with the state, as the kernels left it.
"""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

State = dict[str, np.ndarray]


class Interpreter:
    """The parent's end of the process."""

    def __enter__(self) -> "Interpreter":
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parent)},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, name: str, state: State, guided: bool = False) -> State:
        """The state after the kernel of that name."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((name, state, guided), self._process.stdin)
        self._process.stdin.flush()
        result = pickle.load(self._process.stdout)
        if isinstance(result, Exception):
            raise result
        return result


def tensors(state: State) -> dict[str, Any]:
    """Torch tensors that view the arrays, with the dtypes that the kernels read."""
    import torch

    views = {np.dtype(np.uint32): np.int32, np.dtype(np.uint64): np.int64}
    arrays = {name: array.view(views.get(array.dtype, array.dtype)) for name, array in state.items() if name != "rows"}
    rows = state["rows"]
    arrays["rows"] = rows.view(np.int32).reshape(*rows.shape, 16)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def serve() -> None:
    from states import step_state

    from sdedit.kernels.step_triton import advance_triton, begin_triton, step_triton

    def answer(name: str, state: State, guided: bool) -> State:
        t = tensors(state)
        if name == "begin":
            begin_triton(t)
        elif name == "step":
            step_triton(step_state(t, guided))
        else:
            advance_triton(t)
        return state

    warnings.simplefilter("ignore")  # numpy's, of overflows that the tests provoke
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints does not disturb the answers
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            pickle.dump(answer(*request), out)
        except Exception as error:  # the parent raises it
            pickle.dump(RuntimeError(repr(error)), out)
        out.flush()


if __name__ == "__main__":
    serve()

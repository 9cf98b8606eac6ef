"""Checks of a torch file's pickle before torch builds anything of it.

torch.load(weights_only=True) runs no code of a file, but allows functions that may take unbounded memory or time: a
bytearray or tensor of a given size, numpy types of any width, storages larger than the file, tuples whose hash visits
2^60 parts. This module follows the opcodes with stand-ins for the values, and refuses these.
"""

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

MAX_PARTS = 10_000
"""Most parts of a tuple, counted as often as they occur in it."""

MAX_OPCODES = 50_000_000

CALLABLES = {
    "collections.Counter",
    "collections.OrderedDict",
    "builtins.complex",
    "builtins.set",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
}
"""Functions without limits of their own that a checkpoint may call, besides the rebuilding of tensors."""

REBUILDERS = {
    f"torch._utils._rebuild_{name}"
    for name in (
        "device_tensor_from_cpu_tensor",
        "meta_tensor_no_storage",
        "parameter",
        "parameter_with_state",
        "sparse_tensor",
        "tensor",
        "tensor_v2",
        "tensor_v3",
    )
}

NUMBERS = {"?", "b1", *(f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8))}
"""numpy's types of single numbers."""

ITEM_SIZES = {"Byte": 1, "Char": 1, "Bool": 1, "Half": 2, "BFloat16": 2, "Short": 2, "Int": 4, "Float": 4}
ITEM_SIZES |= {"Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16}


class RefusedError(ValueError):
    """A pickle that is not accepted; the message says why."""


@dataclass(frozen=True)
class Value:
    """A stand-in. parts: how many values a tuple has inside, counted with repetitions, and itself.

    name: of a global. plain: a string or number. items: of a small tuple. made: whether a call returned it.
    """

    parts: int = 1
    name: str = ""
    plain: object = None
    items: tuple["Value", ...] = ()
    made: bool = False


ANY = Value()


def check_pickle(file: BinaryIO, size: int) -> None:
    """Raise RefusedError if loading the next pickle of `file` may take unbounded memory or time.

    size: bytes of the whole file, which holds all storages. A damaged pickle passes up to its damage, as torch stops
    there too.
    """
    _Follower(size).run(file)


class _Follower:
    """The pickle machine with stand-ins. Opcodes that torch does not know end it: torch refuses them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.actions: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.marks.append(len(self.stack)),
            "TUPLE": lambda: self.push_tuple(self.pop_to_mark()),
            "TUPLE1": lambda: self.push_tuple(self.pop(1)),
            "TUPLE2": lambda: self.push_tuple(self.pop(2)),
            "TUPLE3": lambda: self.push_tuple(self.pop(3)),
            "APPEND": lambda: self.drop(1),
            "SETITEM": lambda: self.drop(2),
            "APPENDS": lambda: self.drop_to_mark(),
            "SETITEMS": lambda: self.drop_to_mark(),
            "BUILD": lambda: self.drop(1),
            "NEWOBJ": lambda: self.call(),
            "REDUCE": lambda: self.call(),
            "BINPERSID": lambda: self.load_storage(),
        }

    def run(self, file: BinaryIO) -> None:
        constants = {"NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
        plain = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if count > MAX_OPCODES:
                    raise RefusedError("its pickle has too many operations")
                if opcode.name in constants:
                    self.stack.append(ANY)
                elif opcode.name in plain:
                    self.stack.append(Value(plain=argument))
                elif opcode.name == "GLOBAL":
                    self.stack.append(Value(name=full_name(str(argument))))
                elif opcode.name in ("BINGET", "LONG_BINGET"):
                    self.stack.append(self.memo[int(argument or 0)])
                elif opcode.name in ("BINPUT", "LONG_BINPUT"):
                    self.memo[int(argument or 0)] = self.stack[-1]
                elif opcode.name in self.actions:
                    self.actions[opcode.name]()
                elif opcode.name != "PROTO":  # STOP, or unknown to torch
                    return
        except (IndexError, KeyError):  # torch stops here too
            return
        except ValueError as error:
            if isinstance(error, RefusedError):
                raise
            return  # pickletools cannot read on; nor can torch

    def pop(self, count: int) -> list[Value]:
        values = self.stack[-count:]
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        return values

    def drop(self, count: int) -> None:
        self.pop(count)

    def pop_to_mark(self) -> list[Value]:
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def drop_to_mark(self) -> None:
        self.pop_to_mark()

    def push_tuple(self, items: list[Value]) -> None:
        parts = 1 + sum(item.parts for item in items)
        if parts > MAX_PARTS:
            raise RefusedError(f"it has a tuple of more than {MAX_PARTS} parts")
        self.stack.append(Value(parts, items=tuple(items[:8])))

    def call(self) -> None:
        """A function or class is called: its result takes the place of both."""
        function, arguments = self.pop(2)
        check_call(function.name, arguments.items)
        self.stack.append(Value(made=True))

    def load_storage(self) -> None:
        """A storage is read from the file: ("storage", type, key, location, number of elements)."""
        (identity,) = self.pop(1)
        if len(identity.items) >= 5:
            kind = identity.items[1].name.rpartition(".")[2].removesuffix("Storage")
            count = identity.items[4].plain
            if not isinstance(count, int) or not 0 <= count * ITEM_SIZES.get(kind, 1) <= self.size:
                raise RefusedError(f"it has a storage of {str(count)[:30]} elements, more than the file holds")
        self.stack.append(ANY)


def check_call(name: str, arguments: tuple[Value, ...]) -> None:
    """Raise RefusedError unless the call is one of a checkpoint, with arguments that bound its memory and time."""
    first = arguments[0] if arguments else ANY
    second = arguments[1] if len(arguments) > 1 else ANY
    if name == "torch._tensor._rebuild_from_type_v2":
        name = first.name
    if name == "builtins.bytearray" and first.made:
        return
    if name == "numpy.dtype" and first.plain not in NUMBERS:
        raise RefusedError(f"it has numbers of numpy's type {str(first.plain)[:30]!r}")
    if name == "_codecs.encode" and second.plain not in ("latin1", "latin-1"):
        raise RefusedError(f"it has bytes in the encoding {str(second.plain)[:30]!r}")
    scalars = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    if name not in CALLABLES | REBUILDERS and name not in ("numpy.dtype", "_codecs.encode", *scalars):
        raise RefusedError(f"it asks for {name or 'a call of no function'}, and no code that a file names is run")


def full_name(argument: str) -> str:
    """The global of a GLOBAL opcode, as Python 3 names it."""
    module, _, name = argument.partition(" ")
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    elif module in IMPORT_MAPPING:
        module = IMPORT_MAPPING[module]
    return f"{module}.{name}"

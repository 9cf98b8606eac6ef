"""The C extension's functions as step_c.py calls them; the arguments' meaning is documented there."""

from typing_extensions import Buffer

def step(
    x: Buffer,
    h: Buffer,
    guide: Buffer,
    mask: Buffer,
    o: Buffer,
    o_uncond: Buffer | None,
    rows: Buffer,
    counter: Buffer,
    row_count: Buffer,
    seed: Buffer,
    image: Buffer,
    slots: int,
    max_rows: int,
    channels: int,
    pixels: int,
    /,
) -> None: ...
def begin(
    x: Buffer,
    guide: Buffer,
    mask: Buffer,
    alpha0: Buffer,
    sigma0: Buffer,
    rows: Buffer,
    counter: Buffer,
    row_count: Buffer,
    seed: Buffer,
    image: Buffer,
    slots: int,
    max_rows: int,
    channels: int,
    pixels: int,
    /,
) -> None: ...
def normal(out: Buffer, seed: int, image: int, repeat: int, step: int, kind: int, /) -> None: ...

"""GIF files: how many frames they have."""

from .side_data import Container

SIGNATURES = (b"GIF87a", b"GIF89a")

IMAGE, EXTENSION = 0x2C, 0x21


def read_gif(data: bytes) -> Container:
    """Count the frames. `pixels` is the whole file."""
    return Container(data, frames=max(1, _count_frames(data)))


def _count_frames(data: bytes) -> int:
    frames = 0
    try:
        at = 13 + _table_size(data[10])
        while True:
            if data[at] == IMAGE:
                frames += 1
                at = _after_blocks(data, at + 11 + _table_size(data[at + 9]))
            elif data[at] == EXTENSION:
                at = _after_blocks(data, at + 2)
            else:
                return frames
    except IndexError:  # it is cut
        return frames


def _table_size(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1

"""Limits of a server, checked before work is done."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one server. All are checked before a picture is decoded.

    body_bytes: of one request. held_bytes: of all requests that are being received or answered. pixels: of one uploaded
    picture. files, fields: of one form. field_bytes: of one text of a form. images: of one edit. evaluations: network
    evaluations of one edit, counted at the model's native size. wait_seconds: estimated wait of a new edit.
    receive_seconds: for a whole request to arrive. send_seconds: for a client to take what was sent. grace_seconds: for
    edits to end after a signal to stop. kept_jobs, kept_bytes, kept_seconds: finished jobs whose results are kept.
    decoders: pictures that are decoded at the same time. connections: open at the same time.
    """

    body_bytes: int = 32 << 20
    held_bytes: int = 256 << 20
    pixels: int = 4096 * 4096
    files: int = 4
    fields: int = 40
    field_bytes: int = 64 << 10
    images: int = 16
    evaluations: int = 1000
    wait_seconds: float = 10.0
    receive_seconds: float = 20.0
    send_seconds: float = 120.0
    grace_seconds: float = 30.0
    kept_jobs: int = 64
    kept_bytes: int = 64 << 20
    kept_seconds: float = 600.0
    decoders: int = 2
    connections: int = 512

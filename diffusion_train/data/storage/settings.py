"""How long to wait for remote storage, and how much to ask of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Seconds, bytes a second, bytes.

    `read_timeout` is the longest silence, `min_speed` the lowest average speed of an answer. Requests are repeated until
    `deadline`, and for as long again as the bytes that came take at `min_speed`. `num_requests` are under way at a time
    in each process; ranges that lie within `gap_bytes` of each other share one.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 20.0
    deadline: float = 180.0
    min_speed: float = 16384.0
    num_requests: int = 16
    gap_bytes: int = 65536

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout", "deadline", "min_speed"):
            if not getattr(self, name) > 0:
                raise ValueError(f"data.storage.{name}={getattr(self, name)}: more than 0")
        if self.num_requests < 1:
            raise ValueError(f"data.storage.num_requests={self.num_requests}: at least 1")
        if self.gap_bytes < 0:
            raise ValueError(f"data.storage.gap_bytes={self.gap_bytes}: at least 0")

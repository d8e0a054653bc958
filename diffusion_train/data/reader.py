"""Bytes at known places of local shards."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence

from diffusion_train.data.index import DataError, ShardIndex

_MAX_OPEN = 64


class ShardReader:
    """Keeps some files open; positional reads share no offset, so copies in forked and spawned workers are safe."""

    def __init__(self, shards: Sequence[ShardIndex], verify: bool = True) -> None:
        self._shards = shards
        self._verify = verify
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, shard: int, row: int) -> bytes:
        """Contents of one row of the shard's members. Raises DataError if they are not what was indexed."""
        member = self._shards[shard].members[row]
        offset, size = int(member["offset"]), int(member["size"])
        data = self._read_at(shard, offset, size)
        if len(data) < size:
            raise self._error(shard, offset, f"{size} bytes wanted, {len(data)} there")
        if self._verify and zlib.crc32(data) != member["crc"]:
            raise self._error(shard, offset, "the checksum differs from the index: the shard was damaged or changed")
        return data

    def _read_at(self, shard: int, offset: int, size: int) -> bytes:
        try:
            parts, descriptor = [], self._descriptor(shard)
            while size and (part := os.pread(descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
            return b"".join(parts)
        except OSError as error:
            raise self._error(shard, offset, error.strerror or str(error)) from error

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            self._open[shard] = self._checked_open(shard)
            if len(self._open) > _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _checked_open(self, shard: int) -> int:
        index = self._shards[shard]
        descriptor = os.open(index.path, os.O_RDONLY | os.O_CLOEXEC)
        stat = os.fstat(descriptor)
        if (stat.st_size, stat.st_mtime_ns) != (index.file_size, index.mtime_ns):
            os.close(descriptor)
            raise self._error(shard, 0, "changed since it was indexed; start again to index it anew")
        return descriptor

    def _error(self, shard: int, offset: int, reason: str) -> DataError:
        return DataError(f"{self._shards[shard].path} at byte {offset}: {reason}")

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

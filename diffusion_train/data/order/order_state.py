"""The order that a run follows, through restarts and changes of its data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion_train.data.base import Dataset, image_sizes
from diffusion_train.data.order.buckets import Buckets
from diffusion_train.data.order.continuation import NEVER, carry_over, last_epochs
from diffusion_train.data.order.manifest import SampleManifest
from diffusion_train.data.order.order import I64
from diffusion_train.data.order.order_spec import OrderSpec

log = logging.getLogger(__name__)


class OrderState:
    """The current `order` of a data set: of all its samples, or first of the rest of an earlier order's passes.

    The second kind needs the last epoch of each sample, which is in the manifest, a file beside the checkpoints that is
    written once for each order. `id` names it and is a hash of everything that led to the order.
    """

    def __init__(self, dataset: Dataset, order_spec: OrderSpec) -> None:
        self.dataset, self.order_spec = dataset, order_spec
        self._begin(self._id())

    def _begin(self, number: str, newest: I64 | None = None) -> None:
        data = self.dataset
        self.id, self.newest = number, newest
        self.order = self.order_spec(data.fingerprint, data.sources, image_sizes(data), newest)

    def _id(self, *history: object) -> str:
        led_here = [self.dataset.fingerprint, dict(self.dataset.sources), self.order_spec.settings, history]
        return hashlib.sha256(json.dumps(led_here, sort_keys=True).encode()).hexdigest()[:32]

    def record(self, batch_size: int) -> dict[str, Any]:
        """Return plain data for a checkpoint, from which `resume` continues."""
        return {
            "id": self.id,
            "data": self.dataset.fingerprint,
            "arrangement": self.order_spec.settings,
            "batch_size": batch_size,
            "remapped": self.newest is not None,
        }

    def save_manifest(self, folder: Path) -> None:
        """Write the manifest into the folder of the checkpoints, unless it exists."""
        path = _path(folder, self.id)
        if not path.exists():
            self._roster().write(path)

    def prune_manifests(self, folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
        """Remove manifests that neither this order nor `records` need; `records` are only read if there are others."""
        others = set(folder.glob(_path(folder, "*").name)) - {_path(folder, self.id)}
        if others:
            for path in others - {_path(folder, record["id"]) for record in records}:
                path.unlink(missing_ok=True)

    def resume(self, record: Mapping[str, Any], position: int, batch_size: int, folder: Path) -> int:
        """Continue after `position` draws of the recorded order with its manifest in `folder`; return the new position.

        If the order has changed, the rest of the old one's passes and new samples come first, then complete passes.
        Raises ValueError if the manifest is needed but cannot be read.
        """
        now = self.record(batch_size)
        deciding = ("data", "arrangement", *(["batch_size"] if isinstance(self.order, Buckets) else []))
        if any(record[name] != now[name] for name in deciding):
            self._continue_from(SampleManifest.read(_path(folder, record["id"])), record, position)
            return 0
        if record["remapped"]:
            self._begin(record["id"], SampleManifest.read(_path(folder, record["id"])).newest)
        return position

    def _continue_from(self, old: SampleManifest, record: Mapping[str, Any], position: int) -> None:
        batch_size = record["batch_size"]
        order = OrderSpec.of(record["arrangement"])(old.fingerprint, old.sources, old.sizes, old.newest)
        earlier = np.full(len(old.sample_ids), NEVER) if old.newest is None else old.newest
        newest = last_epochs(order, earlier, position, batch_size)
        indices = self._roster().indices_in(old)
        kept = np.count_nonzero(indices >= 0)
        text = (
            "%d samples are new, %d are gone; new samples and those that the current pass has not drawn yet come "
            "first, then complete passes"
        )
        log.warning(text, len(indices) - kept, len(old.sample_ids) - kept)
        self._begin(self._id(record["id"], position, batch_size), carry_over(newest, indices))

    def _roster(self) -> SampleManifest:
        data = self.dataset
        sizes = image_sizes(data) if isinstance(self.order, Buckets) else None
        return SampleManifest(data.fingerprint, data.sources, data.sample_ids(), sizes, self.newest)


def _path(folder: Path, number: str) -> Path:
    return folder / f"roster-{number}.npz"

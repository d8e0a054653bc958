"""Read batches ahead of time, so that no step waits for storage that is fast enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.utils.data import Dataset as TorchDataset

from diffusion_train.data.base import Lookahead, Reading, Sample, ShardedDataset
from diffusion_train.data.loader import worker_stride
from diffusion_train.data.order.order import Draw
from diffusion_train.data.rank_batches import Plan

_MOST_BEGUN = 8  # batches that a process reads at a time
_PREFETCHED_A_TURN = 8  # batches; so a start in the middle of a window catches up within a few batches


class ReadAhead(TorchDataset[Sample]):
    """Reads batches by their number, and starts to read the next ones of this process.

    `lookahead.num_bytes` is exceeded by one batch at most. Reading ahead does not change the samples of a batch, and
    its errors are raised when the batch itself is requested.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        draws: Callable[[Sequence[int]], list[list[Draw]]],
        lookahead: Lookahead,
        batch_size: int,
    ) -> None:
        self._dataset = dataset
        self._draws, self._prefetched_draws = Plan(draws), Plan(draws)
        self._num_bytes = lookahead.num_bytes
        self._num_batches = -(-lookahead.num_samples // batch_size)
        self._begun: dict[int, Reading] = {}
        self._is_of_use = False  # whether starting early helps: not if all files are in memory
        self._prefetched = 0  # batches below this number
        self._num_retries: int | None = None  # of the data set, after the last batch of this process

    def __getitems__(self, numbers: list[int]) -> list[Sample]:
        """Return the samples of a batch; "retries" of the first counts the requests repeated since the last batch."""
        [number] = numbers
        before = self._dataset.num_retries if self._num_retries is None else self._num_retries
        samples = self._read(number, worker_stride())
        self._num_retries = self._dataset.num_retries
        for row, sample in enumerate(samples):
            sample["retries"] = 0 if row else self._num_retries - before
        return samples

    def _read(self, number: int, stride: int) -> list[Sample]:
        reading = self._begun.pop(number, None) or self._dataset.begin(self._draws(number, stride))
        self._is_of_use |= reading.num_bytes > 0
        if self._is_of_use:
            self._begin(range(number + stride, number + stride * (_MOST_BEGUN + 1), stride))
        self._prefetch(range(number + stride, number + self._num_batches + 1, stride))
        return reading.finish()

    def _begin(self, numbers: range) -> None:
        self._begun = {number: reading for number, reading in self._begun.items() if number in numbers}
        for number in numbers:
            if sum(reading.num_bytes for reading in self._begun.values()) >= self._num_bytes:
                return
            if number not in self._begun:
                self._begun[number] = self._dataset.begin(self._draws(number, numbers.step))

    def _prefetch(self, numbers: range) -> None:
        left = numbers[numbers.index(self._prefetched) :] if self._prefetched in numbers else numbers
        for number in left[:_PREFETCHED_A_TURN]:
            if not self._dataset.prefetch(self._prefetched_draws(number, numbers.step)):
                return
            self._prefetched = number + numbers.step

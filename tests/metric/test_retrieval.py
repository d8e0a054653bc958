from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion_train.metric.retrieval import Retrieval


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def retrieval(generated: Tensor, real: Tensor) -> float:
    metric = Retrieval()
    metric.update(generated, real)
    return float(metric.compute())


def test_copies_of_the_real_images_are_all_recognised() -> None:
    assert retrieval(normal(20, 8), normal(20, 8)) == 1


def test_copies_of_other_images_are_never_recognised() -> None:
    assert retrieval(normal(20, 8).roll(1, 0), normal(20, 8)) == 0


def test_unrelated_samples_are_recognised_by_chance() -> None:
    shares = [retrieval(normal(10, 8, seed=i), normal(10, 8, seed=1000 + i)) for i in range(200)]
    assert sum(shares) / 200 == pytest.approx(1 / 10, abs=0.02)


def test_a_collapsed_generator_is_recognised_once() -> None:
    assert retrieval(normal(1, 8, seed=1).repeat(20, 1), normal(20, 8)) == pytest.approx(1 / 20)


def test_equals_a_plain_search() -> None:
    real = normal(30, 8)
    generated = real + 0.8 * normal(30, 8, seed=1)
    hits = [min(range(30), key=lambda j: float((sample - real[j]).norm())) == i for i, sample in enumerate(generated)]
    assert 0 < sum(hits) < 30
    assert retrieval(generated, real) == pytest.approx(sum(hits) / 30)


def test_two_updates_or_ranks_are_one() -> None:
    real = normal(30, 8)
    generated = real + 0.8 * normal(30, 8, seed=1)
    ranks = [Retrieval(), Retrieval()]
    for rank, rows in enumerate((slice(0, 11), slice(11, None))):
        ranks[rank].update(generated[rows], real[rows])
    ranks[0].merge_state(ranks[1])
    together = Retrieval()
    for rows in (slice(0, 11), slice(11, None)):
        together.update(generated[rows], real[rows])
    assert float(ranks[0].compute()) == float(together.compute()) == retrieval(generated, real)


def test_refuses_samples_without_their_real_image() -> None:
    with pytest.raises(ValueError, match="one real image per sample"):
        Retrieval().update(normal(4, 8), normal(5, 8))

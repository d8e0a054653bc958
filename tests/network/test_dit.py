from __future__ import annotations

import pytest
import torch

from diffusion_train.network.dit import DiT, rotations
from diffusion_train.network.layers import num_heads, rotate


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 16, dtype=torch.float64)
    turn = rotations(7, 5, 16, torch.device("cpu")).double()
    turned_q = rotate(q.expand(35, 16), turn).unflatten(0, (7, 5))
    turned_k = rotate(k.expand(35, 16), turn).unflatten(0, (7, 5))

    def score(a: tuple[int, int], b: tuple[int, int]) -> float:
        return float(turned_q[a] @ turned_k[b])

    assert score((0, 0), (2, 1)) == pytest.approx(score((4, 3), (6, 4)), abs=1e-5)
    assert score((0, 0), (2, 1)) != pytest.approx(score((0, 0), (1, 2)), abs=1e-3)
    assert score((0, 0), (0, 0)) == pytest.approx(float(q @ k), abs=1e-5)


def test_places_matter() -> None:
    """Without positions a transformer of one patch a pixel would be blind to their order."""
    torch.manual_seed(0)
    network = DiT(1, 32, 1, patch_size=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, t = torch.randn(1, 1, 4, 4), torch.zeros(1)
    assert (network(x, t).flip(2) - network(x.flip(2), t)).abs().max() > 1e-3


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (96, 1), (128, 2), (192, 3), (320, 5), (1280, 20)])
def test_heads_have_at_least_64_features(width: int, heads: int) -> None:
    assert num_heads(width) == heads


def test_widths_that_cannot_be_turned_are_refused() -> None:
    with pytest.raises(ValueError, match="width=30"):
        DiT(3, 30, 1)

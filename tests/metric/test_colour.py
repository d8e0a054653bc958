from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion_train.metric.colour import ciede2000, lab_to_srgb, srgb_to_lab

# Table 1 of Sharma, Wu, Dalal 2005: L, a, b; L, a, b; difference.
TABLE = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""
PAIRS = torch.tensor([[float(x) for x in line.split()] for line in TABLE.split("\n") if line], dtype=torch.float64)


def colours(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 3, generator=torch.Generator().manual_seed(seed))


def test_the_34_published_pairs() -> None:
    assert len(PAIRS) == 34
    found = ciede2000(PAIRS[:, :3], PAIRS[:, 3:6])
    torch.testing.assert_close(found, PAIRS[:, 6], atol=5.1e-5, rtol=0)


def test_a_difference_has_no_direction_and_is_zero_only_for_equals() -> None:
    a, b = srgb_to_lab(colours(500)), srgb_to_lab(colours(500, 1))
    torch.testing.assert_close(ciede2000(a, b), ciede2000(b, a))
    assert (ciede2000(a, b) > 0).all()
    assert (ciede2000(a, a) == 0).all()


def test_tables_of_differences_come_by_broadcasting() -> None:
    a, b = srgb_to_lab(colours(4)), srgb_to_lab(colours(3, 1))
    table = ciede2000(a[:, None], b[None])
    assert table.shape == (4, 3)
    torch.testing.assert_close(table[2, 1], ciede2000(a[2], b[1]))


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((119 / 255, 119 / 255, 119 / 255), (50.03, 0, 0)),
    ],
    ids=["white", "black", "red", "green", "blue", "middle grey"],
)
def test_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = srgb_to_lab(torch.tensor(rgb))
    torch.testing.assert_close(found, torch.tensor(lab, dtype=torch.float64), atol=0.02, rtol=0)


def test_the_two_branches_of_the_curves_meet() -> None:
    for edge in (0.04045, 0.0031308 * 12.92 * 2.8):  # of the gamma, and of the cube root on greys
        below, above = srgb_to_lab(torch.tensor([[edge - 1e-7] * 3, [edge + 1e-7] * 3], dtype=torch.float64))
        torch.testing.assert_close(below, above, atol=1e-3, rtol=0)


def test_the_way_back_to_srgb() -> None:
    rgb = torch.cat([colours(500), torch.eye(3), torch.zeros(1, 3), torch.ones(1, 3), torch.full((1, 3), 0.01)])
    torch.testing.assert_close(lab_to_srgb(srgb_to_lab(rgb)), rgb.double(), atol=2e-4, rtol=0)
    assert float(lab_to_srgb(torch.tensor([50.0, 200.0, 0.0])).max()) <= 1

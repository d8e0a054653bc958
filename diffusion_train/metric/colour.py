"""Colours as people see them: sRGB to CIELAB, and how different two colours look.

CIEDE2000: Sharma, Wu, Dalal 2005, "The CIEDE2000 Color-Difference Formula: Implementation Notes, Supplementary Test Data,
and Mathematical Observations". A difference of 1 is about the least that is seen; 2 colours above 10 have other names.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RGB_TO_XYZ = (  # IEC 61966-2-1, white D65
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1], (..., 3) -> CIELAB (..., 3) under its own white, float64: L in [0, 100]."""
    rgb = rgb.double()
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(_RGB_TO_XYZ, dtype=torch.float64, device=rgb.device)
    ratio = linear @ (matrix / matrix.sum(1, keepdim=True)).T  # to white, which is the sum of the three columns
    f = torch.where(ratio > (6 / 29) ** 3, ratio.clamp_min(0) ** (1 / 3), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def lab_to_srgb(lab: Tensor) -> Tensor:
    """The way back (..., 3), float64; colours that sRGB lacks are cut to [0, 1]."""
    L, a, b = lab.double().unbind(-1)
    y = (L + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], -1)
    ratio = torch.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    matrix = torch.tensor(_RGB_TO_XYZ, dtype=torch.float64, device=lab.device)
    linear = (ratio @ torch.linalg.inv(matrix / matrix.sum(1, keepdim=True)).T).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def ciede2000(lab1: Tensor, lab2: Tensor) -> Tensor:
    """(..., 3) and (..., 3), which broadcast -> differences (...), float64. Equations 2 to 22 of the paper, k = 1."""
    (L1, a1, b1), (L2, a2, b2) = lab1.double().unbind(-1), lab2.double().unbind(-1)
    C_mean = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    G = 0.5 * (1 - torch.sqrt(C_mean**7 / (C_mean**7 + 25.0**7)))
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = _hue(a1, b1), _hue(a2, b2)
    grey = C1 * C2 == 0

    dL, dC = L2 - L1, C2 - C1
    dh = torch.where(h2 - h1 > 180, h2 - h1 - 360, torch.where(h2 - h1 < -180, h2 - h1 + 360, h2 - h1))
    dh = torch.where(grey, 0.0, dh)
    dH = 2 * torch.sqrt(C1 * C2) * torch.sin(torch.deg2rad(dh / 2))

    L, C = (L1 + L2) / 2, (C1 + C2) / 2
    h = _mean_hue(h1, h2, grey)
    T = 1 - 0.17 * _cos(h - 30) + 0.24 * _cos(2 * h) + 0.32 * _cos(3 * h + 6) - 0.20 * _cos(4 * h - 63)
    S_L = 1 + 0.015 * (L - 50) ** 2 / torch.sqrt(20 + (L - 50) ** 2)
    S_C = 1 + 0.045 * C
    S_H = 1 + 0.015 * C * T
    R_C = 2 * torch.sqrt(C**7 / (C**7 + 25.0**7))
    R_T = -torch.sin(torch.deg2rad(60 * torch.exp(-(((h - 275) / 25) ** 2)))) * R_C
    l, c, hue = dL / S_L, dC / S_C, dH / S_H
    return torch.sqrt((l**2 + c**2 + hue**2 + R_T * c * hue).clamp_min(0))


def _hue(a: Tensor, b: Tensor) -> Tensor:
    """Degrees in [0, 360)."""
    return torch.rad2deg(torch.atan2(b, a)) % 360


def _mean_hue(h1: Tensor, h2: Tensor, grey: Tensor) -> Tensor:
    """On the shorter arc; of a grey and another colour the sum, which is the other's."""
    total = h1 + h2
    near = (h1 - h2).abs() <= 180
    far = torch.where(total < 360, total + 360, total - 360)
    return torch.where(grey, total, torch.where(near, total, far) / 2)


def _cos(degrees: Tensor) -> Tensor:
    return torch.cos(torch.deg2rad(degrees))

"""Colours as people see them: sRGB <-> CIELAB (D65), and the difference CIEDE2000; of scikit-image, on tensors.

Sharma, Wu, Dalal 2005, "The CIEDE2000 Color-Difference Formula: Implementation Notes".
"""

from __future__ import annotations

import torch
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from torch import Tensor


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """(..., 3) in [0, 1] -> (..., 3), float64 on the CPU."""
    return torch.from_numpy(rgb2lab(rgb.cpu().double().numpy()))


def lab_to_srgb(lab: Tensor) -> Tensor:
    """(..., 3) -> (..., 3), clipped to [0, 1]."""
    return torch.from_numpy(lab2rgb(lab.cpu().double().numpy()))


def ciede2000(lab1: Tensor, lab2: Tensor) -> Tensor:
    """(..., 3), (..., 3) -> (...), float64: 1 is a difference that is just seen."""
    return torch.as_tensor(deltaE_ciede2000(*(lab.double().numpy() for lab in torch.broadcast_tensors(lab1, lab2))))

"""Perceptual colour: sRGB to CIELAB (D65) and back, and the difference CIEDE2000; scikit-image on tensors.

Sharma, Wu, Dalal 2005, "The CIEDE2000 Color-Difference Formula: Implementation Notes".
"""

from __future__ import annotations

import torch
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from torch import Tensor


def srgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB (..., 3) in [0, 1] to CIELAB (..., 3), in float64 on the CPU."""
    return torch.from_numpy(rgb2lab(rgb.cpu().double().numpy()))


def lab_to_srgb(lab: Tensor) -> Tensor:
    """Convert CIELAB (..., 3) to sRGB (..., 3), clipped to [0, 1], in float64 on the CPU."""
    return torch.from_numpy(lab2rgb(lab.cpu().double().numpy()))


def ciede2000(lab1: Tensor, lab2: Tensor) -> Tensor:
    """Return the difference (...) of CIELAB colours (..., 3) in float64; a difference of 1 is just noticeable."""
    return torch.as_tensor(deltaE_ciede2000(*(lab.double().numpy() for lab in torch.broadcast_tensors(lab1, lab2))))

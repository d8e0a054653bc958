"""Stable Diffusion's autoencoder: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models".

The encoder returns a normal distribution of each latent: mean and log variance, the moments. With the posterior's own noise,

    latents = (mean + exp(log_variance / 2) * noise - shift) * scale
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffusion_train.autoencoder.base import Autoencoder
from diffusion_train.pretrained.diffusers_model import load_model, model_folder
from diffusion_train.utils.files import sha256_of_files
from diffusion_train.utils.rng import Rng

Precision = Literal["float32", "bfloat16", "float16"]
_FORMAT = 1  # raised when the same files would give other moments by more than a rounding
_LEAST, _MOST = -30.0, 20.0  # of a log variance, as in the model's own code


class KL(Autoencoder):
    """`source` is the folder of an AutoencoderKL of diffusers, or of a pipeline that has one in vae/.

    It runs in `dtype` whatever precision surrounds it, and its weights belong to no module, so that nothing casts, trains or
    saves them: float32 keeps the latents that the base model was trained on. Images are decoded one by one, for memory.
    """

    def __init__(self, source: str, dtype: Precision = "float32") -> None:
        super().__init__()
        if dtype not in get_args(Precision):
            raise ValueError(f"autoencoder.dtype={dtype}: one of {', '.join(get_args(Precision))}")
        self.dtype = getattr(torch, dtype)
        self.folder = model_folder(source, "vae")
        vae = load_model(source, "vae", ["AutoencoderKL"], "autoencoder.source", self.dtype)
        self._held = [vae.eval().requires_grad_(False)]  # in a list, which nn.Module does not look into
        config = vae.config
        if dtype == "float16" and config.get("force_upcast"):
            raise ValueError("autoencoder.dtype=float16: this autoencoder overflows in it; use float32 or bfloat16")
        self.scale, self.shift = config.scaling_factor, config.shift_factor or 0.0
        self.in_channels, self.channels = config.in_channels, config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    @cached_property
    def fingerprint(self) -> str:
        files = {file.name: file for kind in ("*.safetensors", "config.json") for file in self.folder.glob(kind)}
        return hashlib.sha256(f"{_FORMAT} {self.dtype} {sha256_of_files(files)}".encode()).hexdigest()[:32]

    def moments(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2 * channels, H / factor, W / factor) in float32: means, then log variances."""
        self.latent_shape(tuple(x.shape[1:]))
        with self._alone(x) as vae:
            moments: Tensor = vae.encode(x.to(self.dtype)).latent_dist.parameters
            return moments.float()

    def latents(self, moments: Tensor, rng: Rng | None = None) -> Tensor:
        mean, log_variance = moments.chunk(2, dim=1)
        if rng is not None:
            noise = rng.normal("posterior", mean.shape[1:], mean.device)
            mean = mean + torch.exp(log_variance.clamp(_LEAST, _MOST) / 2) * noise
        return (mean - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        with self._alone(latents) as vae:
            moved = (latents.float() / self.scale + self.shift).to(self.dtype)
            return torch.cat([vae.decode(row).sample.float() for row in moved.split(1)])

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        channels, height, width = shape
        if channels != self.in_channels:
            raise ValueError(f"the autoencoder takes {self.in_channels} channels, but the data have {channels}")
        if height % self.factor or width % self.factor:
            sides = sorted(
                {side // self.factor * self.factor + more for side in (height, width) for more in (0, self.factor)}
            )
            raise ValueError(
                f"data.image_size: the autoencoder takes images whose sides are multiples of {self.factor}, but these have "
                f"{height} x {width} pixels; the nearest are {', '.join(str(side) for side in sides if side)}"
            )
        return self.channels, height // self.factor, width // self.factor

    @contextmanager
    def _alone(self, like: Tensor) -> Iterator[Any]:
        """The model on the device of `like`, without gradients and outside of any autocast."""
        with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            yield self._held[0].to(like.device)

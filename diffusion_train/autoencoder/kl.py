"""Stable Diffusion's autoencoder: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models".

The encoder returns the moments of a normal distribution of each latent: mean and log variance. With noise ~ N(0, 1),

    latents = (mean + exp(log_variance / 2) * noise - shift) * scale

The model's config gives shift and scale: shift_factor and scaling_factor for all channels, or latents_mean and
scaling_factor / latents_std for each, as diffusers applies them.
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
from diffusion_train.utils.tensor import to_device

Precision = Literal["float32", "bfloat16", "float16"]
_FORMAT = 1  # increased if the same files would give moments that differ by more than rounding
_LEAST, _MOST = -30.0, 20.0  # bounds of a log variance, as in the code of Rombach et al.


class KL(Autoencoder):
    """The KL autoencoder in `source`: the folder of a diffusers AutoencoderKL, or of a pipeline that has one in vae/.

    It runs in `dtype` whatever the precision of training; float32 gives the latents that the base model was trained on.
    Its weights are in no module, so that nothing casts, trains or saves them. Images are decoded one at a time to save
    memory.
    """

    def __init__(self, source: str, dtype: Precision = "float32") -> None:
        super().__init__()
        if dtype not in get_args(Precision):
            raise ValueError(f"autoencoder.dtype={dtype}: must be one of {', '.join(get_args(Precision))}")
        self.dtype = getattr(torch, dtype)
        self.folder = model_folder(source, "vae")
        vae = load_model(source, "vae", ["AutoencoderKL"], "autoencoder.source", self.dtype)
        self._held = [vae.eval().requires_grad_(False)]  # in a list, so that nn.Module does not register it
        config = vae.config
        if dtype == "float16" and config.get("force_upcast"):
            raise ValueError(
                "autoencoder.dtype=float16: this autoencoder overflows in float16; use float32 or bfloat16"
            )
        self.scale, self.shift = _scale_and_shift(config, f"autoencoder.source={source}")
        self.in_channels, self.channels = config.in_channels, config.latent_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    @cached_property
    def fingerprint(self) -> str:
        files = {file.name: file for kind in ("*.safetensors", "config.json") for file in self.folder.glob(kind)}
        return hashlib.sha256(f"{_FORMAT} {self.dtype} {sha256_of_files(files)}".encode()).hexdigest()[:32]

    def moments(self, x: Tensor) -> Tensor:
        """Encode x (B, 3, H, W) to (B, 2 * channels, H / factor, W / factor) in float32: means, then log variances."""
        self.latent_shape(tuple(x.shape[1:]))
        with self._alone(x) as vae:
            moments: Tensor = vae.encode(x.to(self.dtype)).latent_dist.parameters
            return moments.float()

    def latents(self, moments: Tensor, rng: Rng | None = None) -> Tensor:
        mean, log_variance = moments.chunk(2, dim=1)
        if rng is not None:
            noise = rng.normal("posterior", mean.shape[1:], mean.device)
            mean = mean + torch.exp(log_variance.clamp(_LEAST, _MOST) / 2) * noise
        return (mean - to_device(self.shift, mean.device)) * to_device(self.scale, mean.device)

    def decode(self, latents: Tensor) -> Tensor:
        with self._alone(latents) as vae:
            scale, shift = to_device(self.scale, latents.device), to_device(self.shift, latents.device)
            moved = (latents.float() / scale + shift).to(self.dtype)
            return torch.cat([vae.decode(row).sample.float() for row in moved.split(1)])

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (channels, H / factor, W / factor) for (C, H, W). Raises ValueError if the sizes do not fit."""
        channels, height, width = shape
        if channels != self.in_channels:
            raise ValueError(f"the data must have {self.in_channels} channels for the autoencoder, got {channels}")
        if height % self.factor or width % self.factor:
            sides = sorted(
                {side // self.factor * self.factor + more for side in (height, width) for more in (0, self.factor)}
            )
            raise ValueError(
                f"data.image_size: the sides of images must be multiples of {self.factor} for the autoencoder, got "
                f"{height} x {width} pixels; the nearest are {', '.join(str(side) for side in sides if side)}"
            )
        return self.channels, height // self.factor, width // self.factor

    @contextmanager
    def _alone(self, like: Tensor) -> Iterator[Any]:
        """Yield the model on the device of `like`, without gradients or autocast."""
        with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
            yield self._held[0].to(like.device)


def _scale_and_shift(config: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return scale and shift, each (1, 1, 1) or (channels, 1, 1). Raises ValueError if their settings do not fit."""
    mean, std = config.latents_mean, config.latents_std
    if mean is None and std is None:
        return torch.full((1, 1, 1), config.scaling_factor), torch.full((1, 1, 1), config.shift_factor or 0.0)
    if mean is None or std is None or config.shift_factor:
        raise ValueError(
            f"{where}: config.json: latents_mean={mean}, latents_std={std}, shift_factor={config.shift_factor}: "
            "must be latents_mean and latents_std, or shift_factor, or none of them; set the others to null"
        )
    if not (len(mean) == len(std) == config.latent_channels and all(value > 0 for value in std)):
        raise ValueError(
            f"{where}: config.json: latents_mean={mean}, latents_std={std}: must be one number for each of the "
            f"{config.latent_channels} channels, and latents_std above 0; correct the file"
        )
    scale = config.scaling_factor / torch.tensor(std, dtype=torch.float32)
    return scale[:, None, None], torch.tensor(mean, dtype=torch.float32)[:, None, None]

"""The peers of time_to_quality.py: other libraries' networks, losses and training loops, fed by our data.

time_to_quality_loop.py trains one of them. The settings are the defaults of their trainer or example: batches of 16,
Adam or AdamW at 1e-4, gradients clipped to norm 1, float32. Horizontal flips are a default of the first peer alone.
Samples are drawn with the averaged weights. `small` gives them a network of about 1.8 M parameters, as our default one
has.
"""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BATCH_SIZE = 16
EPOCHS, WARM_UP = 100, 500  # of the unconditional example's schedule
DROPOUT, GUIDANCE = 0.1, 3.0  # those of our default run; the text-to-image example has no dropout, its pipeline 7.5


class Peer:
    """`samples_text`: captions condition the network. `cond` holds "text" (B, L, D) and "text_mask" (B, L)."""

    samples_text = False
    network: torch.nn.Module

    def __init__(self, small: bool, learning_rate: float, sampling_steps: int, data: dict[str, Any]) -> None:
        raise NotImplementedError

    def step(self, x: Tensor, cond: dict[str, Tensor]) -> None:
        """x (B, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def sample(self, count: int, cond: dict[str, Tensor]) -> Tensor:
        """Return samples (count, 3, H, W) in [-1, 1]."""
        raise NotImplementedError


class DenoisingDiffusionPytorch(Peer):
    """The package's Unet, GaussianDiffusion and the loop of its Trainer.

    DDIM replaces the 1,000 steps of its default sampler, as `sampling_timesteps` does in its README.
    """

    def __init__(self, small: bool, learning_rate: float, sampling_steps: int, data: dict[str, Any]) -> None:
        from accelerate import Accelerator
        from ema_pytorch import EMA

        package = without_torchvision("denoising_diffusion_pytorch")
        self.network = package.Unet(dim=26, dim_mults=(1, 2, 4)) if small else package.Unet(dim=64)
        size = data["images"].shape[-1]
        model = package.GaussianDiffusion(self.network, image_size=size, sampling_timesteps=sampling_steps)
        self.accelerator = Accelerator(mixed_precision="no")
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.99))
        self.ema = EMA(model, beta=0.995, update_every=10).to(self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def step(self, x: Tensor, cond: dict[str, Tensor]) -> None:
        self.model.train()
        flipped = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
        loss = self.model((torch.where(flipped, x.flip(-1), x) + 1) / 2)
        loss.item()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def sample(self, count: int, cond: dict[str, Tensor]) -> Tensor:
        self.ema.ema_model.eval()
        samples: Tensor = self.ema.ema_model.sample(batch_size=count)
        return samples * 2 - 1


class Unconditional(Peer):
    """diffusers' examples/unconditional_image_generation/train_unconditional.py with `--use_ema`, as in its README.

    The cosine schedule of its 100 epochs stays at 0 after them. DDIM replaces the 1,000 steps of DDPMPipeline.
    """

    def __init__(self, small: bool, learning_rate: float, sampling_steps: int, data: dict[str, Any]) -> None:
        from accelerate import Accelerator
        from diffusers import DDIMScheduler, DDPMScheduler

        self.accelerator = Accelerator(mixed_precision="no")
        self.network = self._network(small, data)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        self.ddim = DDIMScheduler.from_config(self.scheduler.config)
        self.sampling_steps = sampling_steps
        self.ema = self._averages()
        optimizer, schedule = self._optimizer(learning_rate, -(-len(data["images"]) // BATCH_SIZE))
        self.network, self.optimizer, self.schedule = self.accelerator.prepare(self.network, optimizer, schedule)
        self.ema.to(self.accelerator.device)

    def _network(self, small: bool, data: dict[str, Any]) -> Any:
        from diffusers import UNet2DModel

        channels, attention, layers = ((32, 64, 96), 2, 1) if small else ((128, 128, 256, 256, 512, 512), 4, 2)
        down = ["AttnDownBlock2D" if level == attention else "DownBlock2D" for level in range(len(channels))]
        return UNet2DModel(
            sample_size=data["images"].shape[-1],
            in_channels=3,
            out_channels=3,
            layers_per_block=layers,
            block_out_channels=channels,
            down_block_types=tuple(down),
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        )

    def _averages(self) -> Any:
        from diffusers.training_utils import EMAModel

        return EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def _optimizer(self, learning_rate: float, steps_an_epoch: int) -> tuple[Any, Any]:
        from diffusers.optimization import get_scheduler

        settings: dict[str, Any] = {"betas": (0.95, 0.999), "weight_decay": 1e-6, "eps": 1e-8}
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=learning_rate, **settings)
        self.last_step = EPOCHS * steps_an_epoch
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=WARM_UP, num_training_steps=self.last_step)
        return optimizer, schedule

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = self.network(x, t).sample
        return prediction

    def step(self, x: Tensor, cond: dict[str, Tensor]) -> None:
        self.network.train()
        noise = torch.randn(x.shape, device=x.device)
        t = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(x),), device=x.device).long()
        prediction = self.predict(self.scheduler.add_noise(x, noise, t), t, cond)
        loss = F.mse_loss(prediction.float(), noise.float())
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        if self.schedule.scheduler.last_epoch < self.last_step:  # the cosine would rise again
            self.schedule.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())
        loss.detach().item()

    @torch.no_grad()
    def sample(self, count: int, cond: dict[str, Tensor]) -> Tensor:
        self.network.eval()
        self.ema.store(self.network.parameters())
        self.ema.copy_to(self.network.parameters())
        size = self.network.config.sample_size
        x = torch.randn(count, 3, size, size, device=self.accelerator.device)
        self.ddim.set_timesteps(self.sampling_steps)
        for t in self.ddim.timesteps:
            x = self.ddim.step(self.guided(x, t.expand(count).to(x.device), cond), t, x).prev_sample
        self.ema.restore(self.network.parameters())
        return x

    def guided(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.predict(x, t, cond)


class TextToImage(Unconditional):
    """diffusers' examples/text_to_image/train_text_to_image.py with `--use_ema`, on pixels and our text embeddings.

    The noise is that of the unconditional example, since that of Stable Diffusion's latents leaves pixels visible.
    """

    samples_text = True

    def __init__(self, small: bool, learning_rate: float, sampling_steps: int, data: dict[str, Any]) -> None:
        super().__init__(small, learning_rate, sampling_steps, data)
        self.null = {name: rows.to(self.accelerator.device) for name, rows in data["null"].items()}

    def _network(self, small: bool, data: dict[str, Any]) -> Any:
        from diffusers import UNet2DConditionModel

        down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
        size = {
            "block_out_channels": (32, 64, 64),
            "layers_per_block": 1,
            "down_block_types": down,
            "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        }
        return UNet2DConditionModel(
            sample_size=data["images"].shape[-1],
            in_channels=3,
            out_channels=3,
            cross_attention_dim=data["cond"]["text"].shape[-1],
            **(size if small else {}),
        )

    def _averages(self) -> Any:
        from diffusers.training_utils import EMAModel

        return EMAModel(self.network.parameters())

    def _optimizer(self, learning_rate: float, steps_an_epoch: int) -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=learning_rate)
        self.last_step = sys.maxsize
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

    def step(self, x: Tensor, cond: dict[str, Tensor]) -> None:
        dropped = torch.rand(len(x), device=x.device) < DROPOUT
        super().step(x, {name: self._null(rows, dropped, name) for name, rows in cond.items()})

    def _null(self, rows: Tensor, dropped: Tensor, name: str) -> Tensor:
        return torch.where(dropped.reshape(-1, *[1] * (rows.ndim - 1)), self.null[name], rows)

    def predict(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        prediction: Tensor = self.network(x, t, cond["text"], encoder_attention_mask=cond["text_mask"]).sample
        return prediction

    def guided(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        both = {name: torch.cat([self.null[name].expand_as(rows), rows]) for name, rows in cond.items()}
        null, prediction = self.predict(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return null + GUIDANCE * (prediction - null)


PEERS: dict[str, type[Peer]] = {
    "denoising-diffusion-pytorch": DenoisingDiffusionPytorch,
    "diffusers/unconditional": Unconditional,
    "diffusers/text-to-image": TextToImage,
}


def without_torchvision(name: str) -> Any:
    """Import a package that imports torchvision for images in files, which nothing here reads."""
    absent = find_spec("torchvision") is None
    if absent:
        stub = types.ModuleType("torchvision")
        stub.transforms, stub.utils = types.ModuleType("transforms"), types.ModuleType("utils")  # type: ignore[attr-defined]
        sys.modules["torchvision"] = stub
    try:
        return __import__(name)
    finally:
        if absent:
            del sys.modules["torchvision"]

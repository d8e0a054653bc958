"""The loop of diffusers' examples/unconditional_image_generation/train_unconditional.py, with its defaults.

    python benchmarks/step_peer.py <shard> <config of a UNet2DModel, as JSON> [--mixed-precision bf16] [--ema]

Images are in memory beforehand. There is no tracker, progress bar or checkpoint. Prints the figures of a Meter, and
what a step computes, as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
import webdataset
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from meter import Meter
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from diffusion_train.bench.arithmetic import FlopCount, matmul_dtype, matmul_peak

NUM_EPOCHS, WARM_UP_STEPS = 100, 500  # of the learning rate
WEIGHT_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Example:
    def __init__(self, images: Tensor, config: dict[str, object], asked: argparse.Namespace) -> None:
        self.accelerator = Accelerator(mixed_precision=asked.mixed_precision)
        self.dtype = WEIGHT_DTYPES.get(self.accelerator.mixed_precision, torch.float32)
        model = UNet2DModel.from_config(config)
        self.ema = average(model) if asked.ema else None
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        loader = DataLoader(images, batch_size=asked.batch_size, shuffle=True)  # type: ignore[arg-type]
        lr_scheduler = get_scheduler(
            "cosine", optimizer, num_warmup_steps=WARM_UP_STEPS, num_training_steps=len(loader) * NUM_EPOCHS
        )
        self.model, self.optimizer, self.loader, self.lr_scheduler = self.accelerator.prepare(
            model, optimizer, loader, lr_scheduler
        )
        if self.ema:
            self.ema.to(self.accelerator.device)

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield from self.loader

    def step(self, images: Tensor) -> float:
        """images (B, 3, H, W) in [-1, 1] -> the loss."""
        self.model.train()
        clean = images.to(self.dtype)
        noise = torch.randn(clean.shape, dtype=self.dtype, device=clean.device)
        num_times = self.noise_scheduler.config.num_train_timesteps
        times = torch.randint(0, num_times, (len(clean),), device=clean.device).long()
        noisy = self.noise_scheduler.add_noise(clean, noise, times)
        with self.accelerator.accumulate(self.model):
            prediction = self.model(noisy, times).sample
            loss = F.mse_loss(prediction.float(), noise.float())
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        if self.ema and self.accelerator.sync_gradients:
            self.ema.step(self.model.parameters())
        return loss.detach().item()


def average(model: UNet2DModel) -> EMAModel:
    return EMAModel(
        model.parameters(),
        decay=0.9999,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=3 / 4,
        model_cls=UNet2DModel,
        model_config=model.config,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shard")
    parser.add_argument("config", type=json.loads)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16", "fp16"])
    parser.add_argument("--matmul-precision", default="highest", help="of float32, as torch names it")
    parser.add_argument("--ema", action="store_true")
    asked = parser.parse_args()
    torch.set_float32_matmul_precision(asked.matmul_precision)
    example, flop, meter = Example(read(asked.shard), asked.config, asked), FlopCount(), Meter(asked.warm_up)
    batches = example.batches()
    meter.start()
    with flop.counting(example.model):
        example.step(next(batches))
    meter.step()
    for _ in range(1, asked.warm_up + asked.steps):
        example.step(next(batches))
        meter.step()
    figures = meter.figures  # before the products of matrices take memory
    dtype = matmul_dtype({"bf16": "bf16-mixed", "fp16": "16-mixed"}.get(asked.mixed_precision, "32-true"))
    peak = matmul_peak(example.accelerator.device, dtype)
    print(json.dumps({**figures, "flop": flop.total, "peak_flop": peak}))


def read(shard: str) -> Tensor:
    """Return all images (N, 3, H, W) in [-1, 1]."""
    images = [
        np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"), np.float32)
        for sample in webdataset.WebDataset(shard, shardshuffle=False)
    ]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


if __name__ == "__main__":
    main()

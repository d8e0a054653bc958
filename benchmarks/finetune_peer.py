"""The step of diffusers' examples/text_to_image/train_text_to_image_lora.py and train_text_to_image.py, in bfloat16.

    python benchmarks/finetune_peer.py <model> <shard> [--lora] [--checkpointed]

Their encoders and, of a LoRA, their network are in bfloat16; all weights in float32 where all are trained. Images and
tokens are in memory beforehand. Prints the figures of a Meter as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import webdataset
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from meter import Meter
from peft import LoraConfig
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16
RANK = 16  # that of experiment=sd15_lora


class Example:
    def __init__(self, folder: Path, lora: bool, checkpointed: bool) -> None:
        placed = {"device": DEVICE, "dtype": DTYPE}
        self.scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False).to(**placed)
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").requires_grad_(False).to(**placed)
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        if lora:
            self.unet.requires_grad_(False).to(**placed)
            targets = ["to_k", "to_q", "to_v", "to_out.0"]
            self.unet.add_adapter(
                LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets)
            )
            cast_training_params(self.unet, dtype=torch.float32)
        self.unet.to(DEVICE).train()
        if checkpointed:
            self.unet.enable_gradient_checkpointing()
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)

    def step(self, pixels: Tensor, tokens: Tensor) -> float:
        """pixels (B, 3, H, W) in [-1, 1], tokens (B, 77) -> the loss."""
        latents = self.vae.encode(pixels.to(DEVICE, DTYPE)).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=DEVICE)
        noisy = self.scheduler.add_noise(latents, noise, times)
        text = self.text_encoder(tokens.to(DEVICE), return_dict=False)[0]
        with torch.autocast(DEVICE, DTYPE):
            prediction = self.unet(noisy, times, text, return_dict=False)[0]
        loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shard")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointed", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    asked = parser.parse_args()
    example = Example(asked.folder, asked.lora, asked.checkpointed)
    samples = read(asked.shard, asked.folder, asked.batch_size)
    meter = Meter(asked.warm_up)
    meter.start()
    for number in range(asked.warm_up + asked.steps):
        example.step(*samples[number % len(samples)])
        meter.step()
    print(json.dumps(meter.figures))


def read(shard: str, folder: Path, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Whole batches: pixels (B, 3, H, W) in [-1, 1] and tokens (B, 77)."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    found = []
    for sample in webdataset.WebDataset(shard, shardshuffle=False):
        image = np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"), np.float32)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
        tokens = tokenizer(
            sample["txt"].decode(), max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        found.append((pixels, tokens))
    batches = (found[first : first + batch_size] for first in range(0, len(found) - batch_size + 1, batch_size))
    return [(torch.cat(pixels), torch.cat(tokens)) for pixels, tokens in (zip(*rows, strict=True) for rows in batches)]


if __name__ == "__main__":
    main()

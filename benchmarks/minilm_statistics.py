"""Makes diffusion_train/conditioner/minilm_statistics.safetensors: mean and spread of MiniLM's embeddings.

    python benchmarks/minilm_statistics.py

Measured over the names of OpenMoji's images: 1,707 short names of everyday things, faces, places and flags.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from diffusion_train.conditioner.packaged_text import STATISTICS, PackagedText
from diffusion_train.prepare.source.openmoji import captions


def main() -> None:
    rows = [row for _, row in PackagedText(normalized=False).embed(captions(), torch.device("cpu"))]
    tokens, pooled = torch.cat([row.text for row in rows]), torch.stack([row.pooled for row in rows])
    statistics = {
        "text_mean": tokens.mean(0),
        "text_std": tokens.std(0),
        "pooled_mean": pooled.mean(0),
        "pooled_std": pooled.std(0),
    }
    save_file(statistics, STATISTICS, {"source": "benchmarks/minilm_statistics.py"})
    print({name: round(float(value.abs().mean()), 4) for name, value in statistics.items()})


if __name__ == "__main__":
    main()

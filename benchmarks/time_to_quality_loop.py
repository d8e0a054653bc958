"""Trains a peer of time_to_quality.py, in a process of its own and in turns with others (turns.py)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from time_to_quality_peers import BATCH_SIZE, PEERS, Peer
from torch import Tensor
from turns import Turns

AT_ONCE = 64  # samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=[*PEERS])
    parser.add_argument("data", type=Path, help="the file that time_to_quality.py writes")
    parser.add_argument("goals", type=int)
    parser.add_argument("answers", type=int)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--sampling-steps", type=int, default=50)
    asked = parser.parse_args()
    torch.manual_seed(0)
    data = torch.load(asked.data, weights_only=True)
    peer = PEERS[asked.peer](asked.small, asked.learning_rate, asked.sampling_steps, data)
    device = next(peer.network.parameters()).device
    images, cond, asked_for = (moved(data[name], device) for name in ("images", "cond", "asked_for"))
    if not peer.samples_text:
        asked_for = {name: rows[: data["num_unconditional"]] for name, rows in asked_for.items()}
    turns = Turns(asked.goals, asked.answers, lambda file: torch.save(samples(peer, asked_for), file))
    turns.start(parameters=sum(parameter.numel() for parameter in peer.network.parameters()))
    for rows in batches(len(images), device):
        peer.step(images[rows], {name: values[rows] for name, values in cond.items()})
        turns.step(len(rows))


def moved(values: Any, device: torch.device) -> Any:
    """A tensor or a dict of tensors."""
    if isinstance(values, dict):
        return {name: moved(value, device) for name, value in values.items()}
    return values.to(device)


def batches(num_samples: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the rows of batches without end, in a new order each epoch, as a DataLoader that shuffles."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from torch.randperm(num_samples, generator=generator).to(device).split(BATCH_SIZE)


def samples(peer: Peer, cond: dict[str, Tensor]) -> Tensor:
    """Return a sample for each row of the conditions; the random numbers of training stay as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = zip(*(rows.split(AT_ONCE) for rows in cond.values()), strict=True)
        named = [dict(zip(cond, part, strict=True)) for part in parts]
        return torch.cat([peer.sample(len(part["text"]), part).float().cpu() for part in named])


if __name__ == "__main__":
    main()

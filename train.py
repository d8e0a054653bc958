"""Train a model: `python train.py --help`."""

import sys

from diffusion_train.command.cli import launch

if __name__ == "__main__":
    sys.exit(launch("train", sys.argv[1:]))

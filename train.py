"""Train a model: `python train.py --help`."""

import sys

from diffusion_train.program import main

if __name__ == "__main__":
    sys.exit(main("train"))

"""Sample from a trained model: `python sample.py --help`."""

import sys

from diffusion_train.command.cli import launch

if __name__ == "__main__":
    sys.exit(launch("sample", sys.argv[1:]))

"""Train noise-prediction (diffusion) models."""

__version__ = "0.1.0"

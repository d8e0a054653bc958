"""The mathematics of diffusion: torch alone, any shape (B, ...)."""

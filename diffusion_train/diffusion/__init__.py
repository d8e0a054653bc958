"""The mathematics of diffusion. It needs only torch and takes data of any shape (B, ...)."""

"""Every key of the configs of diffusers and transformers that we read: used, harmless or refused."""

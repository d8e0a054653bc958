"""Captions: where they stand, and what becomes of them in each epoch."""

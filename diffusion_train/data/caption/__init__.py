"""Captions: where they are read from, and how they vary by epoch."""

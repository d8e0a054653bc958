"""Ranges of objects over HTTP: addresses, signatures, requests with retries, and the meaning of responses."""

"""Ranges of objects over HTTP: where to ask, how to sign, one request with its retries, what a response means."""

"""Verified, ordered, resumable data."""

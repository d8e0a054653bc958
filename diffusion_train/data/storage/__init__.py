"""Bytes at named places, on this machine or far away, that are the bytes asked for or an error."""

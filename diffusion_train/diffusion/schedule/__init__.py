"""Noise schedules: how much data and how much noise a time t holds."""

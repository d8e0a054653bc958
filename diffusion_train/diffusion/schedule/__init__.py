"""Noise schedules: the weights alpha(t) of the data and sigma(t) of the noise."""

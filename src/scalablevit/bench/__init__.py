"""Measure what networks cost: parameters, FLOPs, time and memory."""

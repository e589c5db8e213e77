"""Runs of one recipe under different settings and seeds, beside each other."""

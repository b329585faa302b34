"""Compiled kernels: arithmetic on checked, padded arrays. Each file calls kernels of its own file only."""

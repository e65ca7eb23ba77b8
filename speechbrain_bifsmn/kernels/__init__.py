"""The binary kernels: numba prototype and compiled core."""

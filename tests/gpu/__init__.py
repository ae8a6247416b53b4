"""What only a machine with an NVIDIA GPU can show, each case with a verdict and figures: ``tests/gpu/run``."""

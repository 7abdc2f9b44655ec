"""What NVIDIA and PyTorch publish, as data with its source, and the functions that ask it."""

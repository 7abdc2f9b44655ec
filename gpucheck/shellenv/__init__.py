"""The shell environment that a machine's CUDA needs: decided, written, and undone exactly."""

"""Integer models compiled for NVIDIA GPUs."""

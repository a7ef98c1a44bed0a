"""Checkpoints in and out: official PyTorch files, safetensors, and a folder of our own."""

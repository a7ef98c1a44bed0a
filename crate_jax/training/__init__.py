"""Optimizer, state, step, checkpoints, loop; all else that watches a run is an observer."""

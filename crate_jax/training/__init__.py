"""Optimizer, state, step, checkpoints, loop; whatever else wants to watch a run plugs in as an observer."""

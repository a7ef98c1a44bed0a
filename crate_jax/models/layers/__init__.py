"""Layers, one file per family: modules, arithmetic, descriptions and names in foreign checkpoints."""

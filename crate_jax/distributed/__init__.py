"""What JAX's own engine is told: the mesh, what is split along it, and which hosts take part."""

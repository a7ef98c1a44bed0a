"""What JAX needs to know: the mesh, what is sharded over it, and which hosts take part."""

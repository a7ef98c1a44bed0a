"""The white box: what every layer does, measured against what the theory says it does."""

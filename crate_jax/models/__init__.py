"""Linen modules that give the operators their parameters."""

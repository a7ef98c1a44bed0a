"""The mathematics: pure functions of arrays. No Flax, no state, no config; nothing of the project is imported here."""

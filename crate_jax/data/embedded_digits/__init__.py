"""The TFDS data set `embedded_digits`: registered by importing `builder`."""

"""The TFDS data set `embedded_photographs`: registered by importing `builder`; origins in LICENSES.md."""

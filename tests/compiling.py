"""XLA flags of the tests: programs that compile in a fifth of the time and run once."""

import importlib.metadata
import os

# LLVM's passes and the MLIR fusion emitters are most of a tiny program's compile time (7.8 s without, 1.7 s with
# these, value and gradient of a three-layer encoder and two-layer decoder, one core of an AMD EPYC)
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# one thread gains nothing from 32 modules: 40 one-line programs take 1.1 s, 1.3 s in parts
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # later ones end the process at a flag that they do not know
DEVICES = "--xla_force_host_platform_device_count"


def with_devices(count):
    """XLA_FLAGS of the environment with so many simulated devices."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(DEVICES)]
    return " ".join([*flags, f"{DEVICES}={count}"])

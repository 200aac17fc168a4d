"""What else the last bits of a result depend on: recorded in run.json, and compared when the run is resumed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from gptlite.system import count_processors

# They choose other instructions, another order of sums, or another number of threads.
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "BLIS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA", "GLIBC_TUNABLES", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC", "OMP_SCHEDULE", "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "PYTORCH_MPS_FAST_MATH",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """The variables that are set, the instructions that torch uses, and the number of processors."""
    return {
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "processors": count_processors(),
    }


def differences(previous: Mapping[str, Any]) -> list[str]:
    """What is not as `previous`, a run.json, has it, such as "MKL_CBWR is not set and was COMPATIBLE"."""
    now, before = facts(), previous.get("numerics")
    unlike: list[str] = []
    if isinstance(before, dict):
        was, variables = before.get("variables", {}), now["variables"]
        unlike += [
            f"{name} is {variables.get(name, 'not set')} and was {was.get(name, 'not set')}"
            for name in VARIABLES
            if was.get(name) != variables.get(name)
        ]
        if before.get("instructions", now["instructions"]) != now["instructions"]:
            unlike.append(f"instructions {now['instructions']}, not {before['instructions']}")
    torch_before = previous.get("versions", {}).get("torch", torch.__version__)
    if torch_before != torch.__version__:
        unlike.append(f"torch {torch.__version__}, not {torch_before}")
    return unlike

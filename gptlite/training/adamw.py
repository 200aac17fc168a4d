"""torch's optimizers without its compiler.

`torch.optim` decorates some methods so that `torch.compile` does not trace into them, and for that it loads the
compiler, `torch._dynamo`: 0.7 s or more of a processor at the start of every run, and 75 MB. Here only losses are
compiled, never an optimizer, so the methods are taken without the decorators (`inspect.unwrap`).
"""

from __future__ import annotations

import inspect

import torch


class Optimizer(torch.optim.Optimizer):
    """`torch.optim.Optimizer`, of which an instance is made without the compiler."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class AdamW(Optimizer, torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) as in torch; its step is taken without the compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))

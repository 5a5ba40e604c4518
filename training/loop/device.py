"""Torch devices: whether one can be used, and copies to it that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor

from model_store.errors import ConfigError


def usable_device(name: torch.device | str) -> torch.device:
    """Return a torch device after putting a tensor on it.

    Raises:
        ConfigError: There is no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as cause:
        problem = str(cause).splitlines()[0]
        raise ConfigError(
            f"--device {name}: {problem}", "use cpu, or install torch for the device that you have"
        ) from cause


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device, queued behind the device's work; on the host itself return it as it is.

    The copy goes through pinned memory: from ordinary memory CUDA would make the host wait until all queued work is
    done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

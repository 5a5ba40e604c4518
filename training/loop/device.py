"""Copies of host tensors to the device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device, queued behind the device's work; on the host itself return it as it is.

    The copy goes through pinned memory: from ordinary memory CUDA would make the host wait until all queued work is
    done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

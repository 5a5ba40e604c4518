"""From the host to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, queued behind what the device has to do; on the host's own it is as it was.

    From ordinary memory CUDA would make the host wait until all work that is queued is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

"""Seconds until the device is done."""

import time
from collections.abc import Callable

import torch


def once(work: Callable[[], object], device: torch.device) -> float:
    """Do it and return the seconds until the device is done."""
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin

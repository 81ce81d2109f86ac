"""CUDA graphs: the kernels of a whole network, recorded once and launched together ever after."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

KEPT = 4  # recordings of different shapes that are held; each keeps its activations in the pool they share


def records(device: torch.device) -> bool:
    """Tell whether a device records graphs."""
    return device.type == "cuda"


class Recording(NamedTuple):
    """A graph with the tensors that it reads and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    output: Tensor

    def replay(self, inputs: dict[str, Tensor]) -> Tensor:
        """Run it on new inputs; what it returns lasts until the next run."""
        for name, place in self.inputs.items():
            place.copy_(inputs[name])
        self.graph.replay()
        return self.output


class Replayed:
    """A network called without gradients, ``network(x, t, **parts)``, its second call of a shape recorded.

    The first call of a shape runs as it is: a single call never pays for a recording, and libraries choose their
    algorithms in it. What is returned lasts until the next call.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network
        self.recordings: OrderedDict[object, Recording | None] = OrderedDict()
        self.pool: object = None

    def __call__(self, x: Tensor, t: Tensor, **parts: Tensor) -> Tensor:
        inputs = {"x": x, "t": t, **parts}
        if not records(x.device):
            return self.network(**inputs)
        shape = tuple((name, v.shape, v.stride(), v.dtype) for name, v in inputs.items())
        with torch.inference_mode():
            if shape not in self.recordings:
                self.recordings[shape] = None
                if len(self.recordings) > KEPT:
                    self.recordings.popitem(last=False)
                return self.network(**inputs)
            self.recordings.move_to_end(shape)
            recording = self.recordings[shape] or self.record(inputs)
            self.recordings[shape] = recording
            return recording.replay(inputs)

    def record(self, inputs: dict[str, Tensor]) -> Recording:
        """Record the network's kernels on inputs of its own."""
        own = {name: torch.empty_like(v).copy_(v) for name, v in inputs.items()}
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):  # type: ignore[arg-type]
            output = self.network(**own)
        return Recording(graph, own, output)

"""Sharded training (FSDP2): each process keeps a part of every parameter, gradient, average and moment.

For networks too large for one GPU with their optimizer's state. Checkpoints are folders to which each process writes
its part as safetensors; any number of processes resumes from them.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gen3d.core.distributed import barrier, is_main, world_size
from gen3d.core.error import UsageError, UserError
from gen3d.core.system import Objective, System

NAME = "checkpoint-{:09d}"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Trained(Protocol):
    """What a checkpoint holds of an objective."""

    objective: Objective
    parameters: list[nn.Parameter]
    optimizer: Any  # AdamW
    averages: Any


def shard(system: System, device: torch.device, validation_items: int) -> None:
    """Split the parameters of every component over all processes; each use of a component brings them together.

    Their memory becomes contiguous, as FSDP asks, where convolutions otherwise keep channels last.

    Raises:
        UsageError: The system has several objectives, or processes would use the networks for different numbers of
            validation items.
    """
    if len(system.objectives()) > 1:
        raise UsageError(f"train.shard: {system.name} has several objectives; expected one; use train.shard=false")
    if validation_items % world_size():
        raise UsageError(
            f"train.validation_items: {validation_items}; with train.shard expected a multiple of {world_size()}, "
            "the number of processes"
        )
    components = [
        part for part in map(partial(getattr, system), system.components) if next(part.parameters(), None) is not None
    ]
    for parameter in (parameter for component in components for parameter in component.parameters()):
        parameter.data = parameter.data.contiguous()
    if world_size() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size(),))
    for component in components:
        # gathered anew for the backward pass, since validation exchanges the parameters after a forward pass
        fully_shard(component, mesh=mesh, reshard_after_forward=True)
        for method in {"encode", "decode"} & set(dir(component)):
            register_fsdp_forward_method(component, method)


def whole(system: System) -> System:
    """Return a copy of the system with whole parameters on the CPU; all processes must ask for it together."""
    copy = type(system)(system.config)
    state = system.state_dict()
    copy.load_state_dict(
        {name: getattr(tensor, "full_tensor", lambda t=tensor: t)().cpu() for name, tensor in state.items()}
    )
    copy.provenance = system.provenance
    return copy


def tensors(system: System, trained: Sequence[Trained]) -> dict[str, Tensor]:
    """Return all that a checkpoint holds, under names that don't depend on the number of processes."""
    parts = {f"system/{name}": tensor.detach() for name, tensor in _named(system)}
    for each in trained:
        name = each.objective.name
        for i, parameter in enumerate(each.parameters):
            moments = each.optimizer.state[parameter]
            if not moments:  # what AdamW begins with
                zeros = torch.zeros_like(parameter.detach()), torch.zeros_like(parameter.detach())
                moments |= dict(zip(MOMENTS, (torch.zeros((), device=parameter.device), *zeros), strict=True))
            parts |= {f"{name}/{moment}/{i}": moments[moment] for moment in MOMENTS}
        for i, average in enumerate(each.averages.values if each.averages else []):
            parts[f"{name}/average/{i}"] = average
    return parts


def save_shards(run: Path, step: int, facts: dict[str, Any], parts: dict[str, Tensor]) -> None:
    """Write a checkpoint, whole or not at all; the one before it goes when the new one is there.

    Raises:
        UserError: It can't be written; the one before it is untouched.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    part, final = run / ".checkpoint.part", run / NAME.format(step)
    try:
        if is_main():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
        barrier()
        writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
        save(parts, storage_writer=writer, no_dist=world_size() == 1)
        if is_main():
            (part / "facts.json").write_text(json.dumps(facts))
            part.replace(final)
            for old in set(checkpoints(run)) - {final}:
                shutil.rmtree(old)
    except (OSError, CheckpointException) as error:
        reason = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        raise UserError(f"{final}: can't be written ({reason}); the checkpoint before it is untouched") from None


def load_shards(folder: Path, parts: dict[str, Tensor]) -> None:
    """Read a checkpoint into the tensors."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    load(parts, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world_size() == 1)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read what a checkpoint holds besides tensors."""
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    return facts


def checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, the newest last; there are two only if it was killed between writing and removing."""
    return sorted(run.glob(NAME.replace("{:09d}", "*")))


def _named(system: System) -> Iterator[tuple[str, Tensor]]:
    yield from system.named_parameters()
    yield from system.named_buffers()

"""``gen3d plan``."""

from typing import Annotated

import typer

from gen3d.cli.options import Config, Debug, Device, Overrides
from gen3d.core.error import UserError


def plan(
    config: Config,
    overrides: Overrides = None,
    gpu: Annotated[str, typer.Option(help="Memory of the GPU to train on.")] = "12GB",
    measure: Annotated[bool, typer.Option("--measure", help="Time training steps on this machine too.")] = False,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Say how a configuration trains on your GPU.

    Which settings fit its memory, and how long it would take.
    """
    from gen3d.tools.plan import described, measured_step, parse_memory
    from gen3d.tools.plan import plan as run
    from gen3d.tools.train import packaged_config

    memory = parse_memory(gpu, "--gpu")
    experiment, choice = run(packaged_config(config), overrides or [], memory=memory)
    seconds = measured_step(experiment, choice, device) if measure else None
    print("\n".join(described(experiment, choice, memory, seconds)))
    if not choice.fits:
        raise UserError(f"nothing of {config} fits {gpu}; the thriftiest way takes {choice.step.memory / 1e9:.1f} GB")

"""A saved model as a pipeline of diffusers: its network is asked in diffusers' terms, any of its schedulers walks."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen3d.core.checkpoint import diffusers_scheduler
from gen3d.core.error import UserError
from gen3d.core.system import Example, System
from gen3d.core.wrap import Denoise
from gen3d.systems import load


class Predictor(nn.Module):
    r"""The model as diffusers asks it: the state $x / \sqrt{1 + \sigma^2}$ at a time t of its chain -> ``prediction``.

    Args:
        system: A model on a chain of betas.
        prediction: ``sample``, ``epsilon`` or ``v_prediction``, as the scheduler's ``prediction_type`` says.
    """

    def __init__(self, system: System, prediction: str) -> None:
        super().__init__()
        self.system, self.prediction = system, prediction
        self.guess: Denoise | None = None

    def begin(self, example: Example) -> None:
        """Condition on an example; what is told of it is found once for all steps."""
        self.guess = self.system.denoise(self.system.condition(example), ["pipeline"])

    def forward(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Return the prediction, (B, C, x, y, z) -> (B, C, x, y, z)."""
        assert self.guess is not None, "begin() first"
        t = torch.as_tensor(timestep, dtype=torch.float64).flatten()[0]
        table = self.system.config.parameterization.levels.table
        low = int(t.clamp(0, len(table) - 2))
        sigma = torch.lerp(table[low].log(), table[low + 1].log(), (t.cpu() - low).clamp(0, 1)).exp()
        scale = (1 + sigma**2).sqrt().float()
        x0 = self.guess(sample * scale, sigma)
        eps = (sample * scale - x0) / sigma.float()
        v = eps / scale - x0 * (sigma.float() / scale)
        return {"sample": x0, "epsilon": eps, "v_prediction": v}[self.prediction]


def pipeline(model: str | Path | System) -> Any:
    """Return a ``diffusers.DiffusionPipeline`` of a saved model, with its own scheduler.

    ``pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`` exchanges it, and
    ``pipe(num_inference_steps=20, generator=...)`` returns voxels (1, C, X, Y, Z) on the model's axes and grey scale. A
    model that is given scans takes its ``example``: ``pipe(system.example(case))``.

    Raises:
        UserError: The model does not walk a chain of betas, which diffusers' schedulers would need.
    """
    from diffusers import DDPMScheduler, DiffusionPipeline

    system = model if isinstance(model, System) else load(model)
    settings = diffusers_scheduler(system.config)
    if settings is None:
        raise UserError(
            f"a {system.name} model has no linear chain of betas, as diffusers' schedulers need; use gen3d's own"
        )

    class Pipeline(DiffusionPipeline):
        """Draws as the pipelines of diffusers do."""

        def __init__(self, unet: Predictor, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(unet=unet, scheduler=scheduler)

        @torch.inference_mode()
        def __call__(
            self, example: Example | None = None, *, num_inference_steps: int = 50, generator: Any = None
        ) -> Tensor:
            system = self.unet.system
            example = system.blank() if example is None else example
            self.unet.begin(example)
            self.scheduler.set_timesteps(num_inference_steps)
            shape = system.start(example, ["pipeline"], 1.0).shape
            x = torch.randn(shape, generator=generator) * getattr(self.scheduler, "init_noise_sigma", 1.0)
            for t in self.scheduler.timesteps:
                state = self.scheduler.scale_model_input(x, t)
                x = self.scheduler.step(self.unet(state, t), t, x, return_dict=False)[0]
            finished: Tensor = system.finish(x, example)
            return finished

    known = {key: value for key, value in settings.items() if key != "_class_name"}
    return Pipeline(Predictor(system, settings["prediction_type"]), DDPMScheduler(**known))

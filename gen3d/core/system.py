"""What a saved model is: space, networks and losses under a published name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gen3d.core.condition import Condition
from gen3d.core.randomness import Key
from gen3d.core.volume import Case, Prepared, Triple
from gen3d.core.wrap import Denoise

Example = dict[str, Any]  # tensors with a leading batch axis, and for whole volumes what leads back to the case


@dataclass(frozen=True)
class Objective:
    """What one optimizer minimises; parameters that no objective lists are frozen.

    Attributes:
        name: Prefix of its terms in the log.
        parameters: What it trains.
        loss: (example, keys, one per item) -> named terms, which are summed, each logged.
        start: First step at which it is due.
        every: Steps between its updates.
        ema: Whether its parameters are averaged for the saved model.
        rate: Factor on the learning rate.
        at: (example, keys, sigma (B,)) -> the loss of each item at a noise level, (B,), for those who ask where a model
            learns; None where levels mean nothing.
        told: Names of terms that are logged only, such as how many codes are in use.
    """

    name: str
    parameters: Iterable[nn.Parameter]
    loss: Callable[[Example, Sequence[Key]], Mapping[str, Tensor]]
    start: int = 0
    every: int = 1
    ema: bool = True
    at: Callable[[Example, Sequence[Key], Tensor], Tensor] | None = None
    told: tuple[str, ...] = ()
    rate: float = 1.0

    def summed(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the terms that are minimised, ()."""
        return torch.stack([term for name, term in terms.items() if name not in self.told]).sum()

    def due(self, step: int) -> bool:
        """Tell whether the objective is trained at this step."""
        return step >= self.start and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled unless asked otherwise.

    Attributes:
        sampler: A name in gen3d.samplers.SAMPLERS.
        steps: Steps of the grid.
        grid: A name in gen3d.tools.sampling.GRIDS.
    """

    sampler: str = "dpmpp_2m"
    steps: int = 5
    grid: str = "karras"


class System(nn.Module):
    """A published method: what the trainer trains and what a tool asks.

    A subclass is built from its frozen configuration dataclass ``Config`` alone (which has at least ``contrasts``,
    ``parameterization`` and ``sampling``); the child modules in ``components`` are saved, one folder each.

    Attributes:
        config: The resolved configuration.
        provenance: Data, number of patients, licence, training envelope: whatever the model card says, JSON-like.
        step: The step that is being trained, for losses with terms that begin late.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    components: ClassVar[tuple[str, ...]] = ("network",)
    preparation: ClassVar[tuple[str, ...]] = ("contrasts", "axes", "intensity")  # configuration that prepare depends on

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = {}
        self.step = 0

    @property
    def training_size(self) -> Triple:
        """Voxels of a training example, (X, Y, Z)."""
        raise NotImplementedError

    def measure(self, cases: Sequence[Prepared]) -> "System":
        """Return the system with what it must know of the training set, such as subband statistics."""
        return self

    def cached(self, cases: Sequence[Prepared], folder: Path) -> list[Prepared]:
        """Return the cases with what frozen parts make of them, such as latents, kept in ``folder``."""
        return list(cases)

    def prepare(self, case: Case) -> Prepared:
        """Bring a case to the model's axes and intensity scale; what the training cache stores."""
        raise NotImplementedError

    def example(self, case: Case | Prepared, key: Key | None = None) -> Example:
        """Turn a case into tensors, batch axis 1: by key a random augmented crop, else the whole volume as it is.

        A whole volume's example also holds ``prepared``, the Prepared case with the way back to the file's grid.
        """
        raise NotImplementedError

    def accept(self, given: Sequence[str], missing: Sequence[str]) -> None:
        """Check that the model can make the ``missing`` contrasts from the ``given`` ones.

        Raises:
            UserError: It can't; one line says what it needs.
        """
        raise NotImplementedError

    def window(self, contrast: str) -> tuple[float, float]:
        """Return the values that become 0 and 1000 where no scan sets the scale, by default the ends of the model's."""
        ends: tuple[float, float] = self.config.intensity.to
        return ends

    def condition(self, example: Example) -> Condition:
        """Return what the networks are told of the example; run once per sample."""
        raise NotImplementedError

    def objectives(self) -> list[Objective]:
        """Return what is trained."""
        raise NotImplementedError

    def start(self, example: Example, keys: Sequence[Key], sigma: float) -> Tensor:
        """Return the initial coordinates: noise of standard deviation ``sigma``, one key per item."""
        raise NotImplementedError

    def denoise(self, condition: Condition, keys: Sequence[Key]) -> Denoise:
        """Return what a sampler walks, wrapped."""
        raise NotImplementedError

    def finish(self, coords: Tensor, example: Example) -> Tensor:
        """Return voxels on the model's axes and intensity scale, (B, C, X, Y, Z), C as in ``config.contrasts``."""
        raise NotImplementedError

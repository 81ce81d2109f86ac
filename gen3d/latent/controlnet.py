"""The trained half of a ControlNet, and the frozen network with it (Zhang, Rao & Agrawala 2023, section 3.2)."""

from torch import Tensor, nn

from gen3d.latent.biflownet import BiFlowEncoder, BiFlowNet, BiFlowNetConfig
from gen3d.nn.conv import Conv, zeroed


class ControlNet(nn.Module):
    """A copy of the encoder half whose features pass 1x1 convolutions that start at zero.

    (B, channels, x, y, z), times (B,) and the hint (B, hint_channels, x, y, z) -> one residual for each of the frozen
    encoder's features.
    """

    def __init__(self, config: BiFlowNetConfig, hint_channels: int) -> None:
        super().__init__()
        self.hint = zeroed(Conv(hint_channels, config.width, kernel=1))
        self.encoder = BiFlowEncoder(config)
        self.out = nn.ModuleList(zeroed(Conv(c, c, kernel=1)) for c in self.encoder.feature_channels)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None, vector: Tensor | None, hint: Tensor) -> list[Tensor]:
        features = self.encoder(x, t, label, vector, self.hint(hint)).features
        return [conv(h) for conv, h in zip(self.out, features, strict=True)]


class Controlled(nn.Module):
    """The frozen network with the residuals of its ControlNet, called like the network; ``channels`` is the hint."""

    def __init__(self, network: BiFlowNet, control: ControlNet) -> None:
        super().__init__()
        self.network, self.control = network, control
        self.stride = network.stride

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        *,
        channels: Tensor,
        label: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        residuals = self.control(x, t, label, vector, channels)
        out: Tensor = self.network(x, t, label=label, vector=vector, residuals=residuals)
        return out

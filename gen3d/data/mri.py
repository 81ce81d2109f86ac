"""What an MR scanner would measure: signal equations, and relaxation times of the tissues of a brain at 3 T."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Tissue:
    """Relaxation times in ms, proton density relative to water, uptake of contrast agent in mmol/l."""

    t1_ms: float
    t2_ms: float
    density: float
    agent_mmol: float = 0.0


# Stanisz et al. 2005, Wansapura et al. 1999 (3 T, rounded); pathology: typical of the ranges in the literature.
TISSUES = {
    "white": Tissue(850, 72, 0.70),
    "grey": Tissue(1350, 98, 0.82),
    "csf": Tissue(4000, 1500, 1.00),
    "blood": Tissue(1700, 35, 0.65, agent_mmol=0.8),
    "oedema": Tissue(1550, 150, 0.86),
    "enhancing": Tissue(1500, 125, 0.86, agent_mmol=0.22),
    "necrosis": Tissue(2400, 260, 0.93),
    "plaque": Tissue(1350, 150, 0.84),
}
RELAXIVITY = 4.5e-3  # 1 / (ms mmol/l): a gadolinium chelate in blood at 3 T

Protocol = Callable[[Tissue], float]


def spin_echo(tissue: Tissue, tr_ms: float, te_ms: float) -> float:
    """S = PD (1 - exp(-TR / T1)) exp(-TE / T2)."""
    return float(tissue.density * (1 - np.exp(-tr_ms / tissue.t1_ms)) * np.exp(-te_ms / tissue.t2_ms))


def inversion_recovery(tissue: Tissue, tr_ms: float, te_ms: float, ti_ms: float) -> float:
    """S = PD |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2)."""
    recovered = 1 - 2 * np.exp(-ti_ms / tissue.t1_ms) + np.exp(-tr_ms / tissue.t1_ms)
    return float(tissue.density * abs(recovered) * np.exp(-te_ms / tissue.t2_ms))


def spoiled_gradient_echo(tissue: Tissue, tr_ms: float, te_ms: float, flip_degrees: float) -> float:
    """S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2), E1 = exp(-TR / T1); T2 stands for T2* as TE is short."""
    angle, decay = np.deg2rad(flip_degrees), np.exp(-tr_ms / tissue.t1_ms)
    steady = np.sin(angle) * (1 - decay) / (1 - np.cos(angle) * decay)
    return float(tissue.density * steady * np.exp(-te_ms / tissue.t2_ms))


def nulling_time(tissue: Tissue, tr_ms: float) -> float:
    """Return the inversion time in ms at which the tissue gives no signal: T1 ln(2 / (1 + exp(-TR / T1)))."""
    return float(tissue.t1_ms * np.log(2 / (1 + np.exp(-tr_ms / tissue.t1_ms))))


def with_agent(tissue: Tissue) -> Tissue:
    """Return the tissue after contrast agent: 1 / T1' = 1 / T1 + r1 c."""
    return replace(tissue, t1_ms=1 / (1 / tissue.t1_ms + RELAXIVITY * tissue.agent_mmol))


def protocol(contrast: str, tissues: dict[str, Tissue], rng: np.random.Generator) -> Protocol:
    """Draw a scanner's protocol for "t1n", "t1c", "t2w" or "t2f"; FLAIR nulls the subject's own CSF, to 2 percent."""

    def about(value: float, spread: float = 0.1) -> float:
        return float(value * np.exp(spread * rng.standard_normal()))

    if contrast == "t2w":
        tr, te = about(4500), about(95)
        return lambda tissue: spin_echo(tissue, tr, te)
    if contrast == "t2f":
        tr, te = about(9000), about(115)
        ti = nulling_time(tissues["csf"], tr) * (1 + 0.02 * rng.standard_normal())
        return lambda tissue: inversion_recovery(tissue, tr, te, ti)
    is_echo = rng.random() < 0.4
    tr_se, te_se, tr_ge, te_ge, flip = about(560), about(12), about(9), about(3.5), about(16)
    agent = with_agent if contrast == "t1c" else lambda tissue: tissue
    if is_echo:
        return lambda tissue: spin_echo(agent(tissue), tr_se, te_se)
    return lambda tissue: spoiled_gradient_echo(agent(tissue), tr_ge, te_ge, flip)

"""Record what pyradiomics 3.0.1 and frd-score 1.0.1 answer, into radiomics.json and radiomic_frechet.json beside this.

Run by hand, with a Python that has them (and SimpleITK, scipy, opencv-python-headless); the tests read the two files:

    python tests/reference/record_radiomics.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SETTINGS: dict[str, dict[str, Any]] = {
    "width": {"binWidth": 5},
    "width-below-0": {"binWidth": 0.25},
    "count": {"binCount": 32},
    "few": {"binCount": 4},
}
SPACING = (1.0, 2.0, 0.5)


def volumes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Small images and their masks, from integers of a seeded generator so that every machine gets the same bits."""
    draw = np.random.default_rng(11)
    noise = draw.integers(0, 4096, (9, 8, 7)) / 64.0 - 20.0
    steps = draw.integers(0, 40, (6, 7, 8)).astype(np.float64)
    slope = np.add.outer(np.add.outer(np.arange(8), 2 * np.arange(6)), 3 * np.arange(5)).astype(np.float64)
    flat = draw.integers(0, 256, (12, 11, 1)) / 8.0
    ball = np.square(np.indices((9, 8, 7)) - 4).sum(0) < 11
    scattered = draw.integers(0, 3, (6, 7, 8)) > 0
    return {
        "noise": (noise, np.ones(noise.shape, bool)),
        "noise-in-a-ball": (noise, ball),
        "integers": (steps, np.ones(steps.shape, bool)),
        "integers-scattered": (steps, scattered),
        "slope": (slope, np.ones(slope.shape, bool)),
        "slice": (flat, np.ones(flat.shape, bool)),
        "constant": (np.full((4, 5, 6), 7.0), np.ones((4, 5, 6), bool)),
    }


def radiomic_answer(voxels: np.ndarray, mask: np.ndarray, settings: dict[str, Any]) -> dict[str, float]:
    """Ask pyradiomics for every first-order and co-occurrence feature of one volume."""
    import SimpleITK
    from radiomics import firstorder, glcm, setVerbosity

    setVerbosity(60)
    image, region = SimpleITK.GetImageFromArray(voxels), SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(SPACING)
    region.SetSpacing(SPACING)
    found: dict[str, float] = {}
    for name, family in (("firstorder", firstorder.RadiomicsFirstOrder), ("glcm", glcm.RadiomicsGLCM)):
        measured = family(image, region, **settings)
        measured.enableAllFeatures()
        found |= {f"{name}_{feature}": float(value) for feature, value in measured.execute().items()}
    return {name: found[name] for name in sorted(found) if not name.endswith(("MCC", "SumAverage"))}


def feature_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Real and fake features: plain ones, far apart in scale, and with all that a row or a column can go wrong with."""
    draw = np.random.default_rng(5)

    def drawn(n: int, d: int) -> np.ndarray:
        return draw.integers(-1000, 1000, (n, d)) / 256.0

    scale = 10.0 ** np.arange(-3, 5)
    mix = drawn(8, 8)
    plain = drawn(40, 8) @ mix, drawn(30, 8) @ mix * 1.25 + 2.0
    scaled = plain[0] * scale + 3 * scale, plain[1] * scale + 3 * scale
    broken = plain[0].copy(), plain[1].copy()
    broken[0][:, 1] = 2.5  # constant in the real set
    for side in broken:
        side[:, 3] = -4.0  # constant in both
    broken[0][7, 5] = np.nan  # a row of each set to drop
    broken[1][3, 0] = np.nan
    broken[1][4, 6] = np.inf  # a column to drop
    constant = plain[0].copy(), plain[1].copy()
    for side in constant:
        side[:, 3] = -4.0
    missing = constant[0].copy(), constant[1].copy()
    missing[0][7, 5] = missing[1][3, 0] = np.nan
    return {"plain": plain, "scaled": scaled, "broken": broken, "constant": constant, "missing": missing}


def frechet_answer(real: np.ndarray, fake: np.ndarray, version: str) -> float:
    """Ask frd-score for the distance of two sets, reading features where it would read images."""
    from frd_score import frd

    sets = {"real": real, "fake": fake}

    def read(files: list[str], **_: Any) -> tuple[np.ndarray, list[dict[str, float]], list[None]]:
        features = sets[files[0]]
        return features, [{f"feature_{k}": 0.0 for k in range(features.shape[1])}], [None]

    frd.compute_features, frd._ensure_radiomics = read, lambda: None
    frd.setVerbosity = lambda _: None
    frd.get_feature_extractor, frd._detect_image_dimensionality = lambda **_: None, lambda _: 3
    return float(frd.compute_frd([["real"], ["fake"]], frd_version=version))


def record() -> None:
    radiomic = {
        f"{name}, {setting}": radiomic_answer(voxels, mask, SETTINGS[setting])
        for name, (voxels, mask) in volumes().items()
        for setting in (SETTINGS if name == "noise" else ("width", "few"))
    }
    frechet = {
        name: {version: frechet_answer(real, fake, version) for version in ("v0", "v1")}
        for name, (real, fake) in feature_sets().items()
    }
    made = {"radiomics": "pyradiomics 3.0.1", "radiomic_frechet": "frd-score 1.0.1"}
    for name, answers in (("radiomics", radiomic), ("radiomic_frechet", frechet)):
        text = json.dumps({"made_by": made[name], "answers": answers}, indent=1)
        (HERE / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    record()

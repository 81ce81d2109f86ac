"""The codebook: nearest codes, running means, restarts; frozen and initialised are saved and kept."""

import pytest
import torch
from torch import Tensor

from gen3d.latent.codebook import Codebook


def batch(seed: int = 0, channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def state(codebook: Codebook) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in codebook.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_nearest_codes_are_the_nearest_however_the_search_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook, latent = Codebook(50, 4), batch()
    distances = torch.cdist(latent.movedim(1, -1).flatten(0, -2), codebook.vectors)
    expected = distances.argmin(1).view(2, 3, 4, 5)
    for held in (1, 50 * 7, 2**24):
        monkeypatch.setattr("gen3d.latent.codebook.DISTANCES", held)
        assert torch.equal(codebook.nearest(latent), expected)
    vectors, codes, _ = codebook.eval()(latent)
    assert torch.equal(codes, expected)
    assert torch.allclose(vectors, codebook.lookup(codes), atol=1e-6)
    assert torch.equal(codebook.lookup(codes)[0, :, 1, 2, 3], codebook.vectors[codes[0, 1, 2, 3]])


def test_gradient_goes_straight_through_and_commitment_draws_the_latent() -> None:
    codebook = Codebook(50, 4).eval()
    latent = batch().requires_grad_()
    vectors, codes, commitment = codebook(latent)
    weight = torch.randn_like(vectors)
    (vectors * weight).sum().backward(retain_graph=True)
    assert torch.equal(latent.grad, weight)
    latent.grad = None
    commitment.backward()
    nearest = codebook.lookup(codes)
    assert torch.allclose(commitment, 0.25 * (latent - nearest).square().mean())
    assert torch.allclose(latent.grad, 0.25 * 2 * (latent - nearest).detach() / latent.numel(), atol=1e-8)


def test_first_batch_gives_the_codes_and_only_the_first() -> None:
    codebook = Codebook(50, 4)
    rows = batch().movedim(1, -1).flatten(0, -2)
    drawn = codebook._drawn(rows)
    codebook(batch())
    assert codebook.initialised
    assert len(drawn.unique(dim=0)) == 50
    assert all((rows == vector).all(1).any() for vector in drawn)
    resumed = Codebook(50, 4)
    resumed.load_state_dict(codebook.state_dict())
    codebook(batch(1))
    resumed(batch(1))
    assert same(state(resumed), state(codebook))
    assert int(resumed.updates) == 2


def test_fewer_vectors_than_codes_make_different_codes() -> None:
    codebook = Codebook(500, 4)
    codebook(batch())
    assert len(codebook.vectors.unique(dim=0)) == 500


def test_update_is_the_running_mean_of_van_den_oord() -> None:
    codebook, latent = Codebook(6, 4, decay=0.9, restart=1e-3), batch()
    codebook(latent)
    before = state(codebook)
    codes = codebook.nearest(latent).flatten()
    rows = latent.movedim(1, -1).flatten(0, -2)
    codebook(latent)
    for code in range(6):
        mapped = rows[codes == code]
        count = 0.9 * before["counts"][code] + 0.1 * len(mapped)
        total = 0.9 * before["counts"][code] * before["vectors"][code] + 0.1 * mapped.sum(0)
        assert torch.allclose(codebook.counts[code], count)
        assert torch.allclose(codebook.vectors[code], total / count, atol=1e-5)


def test_dead_code_becomes_a_vector_of_the_batch() -> None:
    codebook, latent = Codebook(6, 4), batch()
    codebook(latent)
    codebook.vectors[2] = 100.0  # so far away that nothing is mapped to it
    codebook.counts[2] = 1.0
    codebook(latent)
    rows = latent.movedim(1, -1).flatten(0, -2)
    assert (rows == codebook.vectors[2]).all(1).any()
    assert codebook.dead == 0
    codebook.counts[:3] = 0.5
    assert codebook.dead == 0.5


def test_codes_learn_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    codebook = Codebook(12, 2, decay=0.8)
    for step in range(60):
        draw = torch.Generator().manual_seed(step)
        which = torch.randint(4, (1, 4, 4, 8), generator=draw)
        codebook((centres[which] + 0.1 * torch.randn(1, 4, 4, 8, 2, generator=draw)).movedim(-1, 1))
    assert torch.cdist(centres, codebook.vectors).min(1).values.max() < 0.2


def test_frozen_codebook_stays_bit_for_bit_whatever_the_mode() -> None:
    for initialised in (False, True):
        codebook = Codebook(50, 4)
        if initialised:
            codebook(batch())
        codebook.freeze()
        before = state(codebook)
        for mode in (True, False, True):
            codebook.train(mode)
            codebook(batch(1).requires_grad_())
        assert same(before, state(codebook))
        again = Codebook(50, 4)
        again.load_state_dict(before)
        again.train()(batch(1))
        assert same(before, state(again))
        again.freeze(False)
        again(batch(1))
        assert not same(before, state(again))


def test_codebook_learns_in_training_with_gradients_alone() -> None:
    codebook = Codebook(50, 4)
    before = state(codebook)
    codebook.eval()(batch())
    with torch.no_grad():
        codebook.train()(batch())
    assert same(before, state(codebook))


def test_perplexity_counts_codes_in_use() -> None:
    codebook = Codebook(8, 4)
    assert torch.allclose(codebook.perplexity(torch.arange(8).view(1, 2, 2, 2)), torch.tensor(8.0))
    assert torch.allclose(codebook.perplexity(torch.zeros(1, 2, 2, 2, dtype=torch.int64)), torch.tensor(1.0))

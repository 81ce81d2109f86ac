"""Keys: the same name gives the same numbers, whatever batch, order or process asks."""

import hashlib
import subprocess
import sys

import torch

from gen3d.core.randomness import derive, normal, seed_of, uniform


def test_a_key_is_the_first_eight_bytes_of_its_hash() -> None:
    key = derive(7, "case", 0)
    assert key == "7/case/0"
    assert seed_of(key) == int(hashlib.sha256(b"7/case/0").hexdigest()[:16], 16)


def test_items_do_not_depend_on_their_batch() -> None:
    alone = normal(["b"], (2, 3, 4))
    together = normal(["a", "b", "c"], (2, 3, 4))
    assert torch.equal(together[1:2], alone)
    assert torch.equal(normal(["c", "b"], (2, 3, 4))[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_nothing_hidden_moves() -> None:
    torch.manual_seed(0)
    one = torch.rand(1)
    torch.manual_seed(0)
    normal(["a"], (5,))
    uniform(["a"])
    assert torch.equal(torch.rand(1), one)


def test_another_process_draws_the_same() -> None:
    code = "from gen3d.core.randomness import normal; print(normal(['7/x'], (3,)).tolist())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(normal(["7/x"], (3,)).tolist())


def test_distribution() -> None:
    keys = [derive("n", i) for i in range(2000)]
    assert abs(float(uniform(keys).mean()) - 0.5) < 0.03
    assert abs(float(normal(keys, (4,)).std()) - 1) < 0.03

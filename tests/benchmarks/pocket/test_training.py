import json

import pytest
import torch

from benchmarks.pocket import training


class Matrix(torch.nn.Module):
    """A denoiser of one hidden matrix and a last layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.last = torch.nn.ModuleList([torch.nn.Linear(16, 8, bias=False)]), torch.nn.Linear(8, 8)

    def forward(self, values):
        return self.last(self.blocks[0](values))


def moved(monkeypatch, in_loops: bool) -> torch.Tensor:
    """By how much one update moves the matrix on a CPU that multiplies bfloat16 in loops, or one that does not."""
    monkeypatch.setattr(training, "multiplies_in_loops", lambda dtype: in_loops)
    model = Matrix()
    before = model.blocks[0].weight.detach().clone()
    values = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    training.Learner(model, rate=1e-2).update(model(values).square().mean(), progress=0.5)
    return model.blocks[0].weight.detach() - before


def test_muon_makes_the_same_updates_in_float32_where_bfloat16_is_slow(monkeypatch):
    exact, rounded = moved(monkeypatch, in_loops=True), moved(monkeypatch, in_loops=False)
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / rounded.norm()) < 0.15


@pytest.mark.parametrize("in_loops, expected", [(True, torch.float32), (False, torch.bfloat16)])
def test_the_model_computes_in_16_bits_unless_the_cpu_is_slow_at_it(monkeypatch, in_loops, expected):
    monkeypatch.setattr(training, "multiplies_in_loops", lambda dtype: in_loops)
    with training.in_16_bits("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_the_log_is_json_lines(tmp_path, capsys):
    training.log(tmp_path / "log.jsonl", step=50, loss=0.123456)
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 50, "loss": 0.1235}
    assert "0.1235" in capsys.readouterr().out

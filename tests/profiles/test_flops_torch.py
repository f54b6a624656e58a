"""Modules as people write them: tied weights, in-place operators, no_grad inside, what cannot be traced."""

from __future__ import annotations

import pytest

from profiles.errors import RequestError
from profiles.flops import count_module, count_program

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


def test_tied_weights_are_one_parameter_and_unused_ones_are_none():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode, self.unused = nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.Linear(9, 9)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(self.encode(x)) @ self.encode.weight

    counted = count_module(Tied(), torch.zeros(1, 4))
    assert (counted.macs, counted.parameters) == (48, 16 + 4)


def test_layers_are_named_by_their_modules_and_carry_their_own_costs():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3))
    counted = count_module(module, torch.zeros(1, 1, 6, 6))
    rows = [(layer.name, layer.op, layer.macs, layer.parameters, layer.activation_bytes) for layer in counted.layers]
    assert rows == [
        ("0", "conv2d", 16 * 2 * 9, 2 * 9 + 2, 4 * 32),
        ("1", "relu", 0, 0, 4 * 32),
        ("3", "linear", 32 * 3, 99, 4 * 3),
    ]
    assert [layer.output_shape for layer in counted.layers] == [(1, 2, 4, 4), (1, 2, 4, 4), (1, 3)]


def test_in_place_operators_and_views_take_no_memory():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(), nn.Unflatten(1, (2, 4)))
    counted = count_module(module, torch.zeros(1, 4))
    assert counted.activation_bytes == 4 * 8
    assert counted.peak_activation_bytes == 4 * (4 + 8)


def test_peak_activation_bytes_keep_a_residual_alive():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Linear(4, 16, bias=False), nn.Linear(16, 4, bias=False)

        def forward(self, x):
            return x + self.narrow(self.wide(x))

    # The largest moment: x (4), the wide tensor (16) and what it becomes (4).
    assert count_module(Residual(), torch.zeros(1, 4)).peak_activation_bytes == 4 * (4 + 16 + 4)


def test_half_precision_halves_the_activation_bytes():
    module = nn.Linear(4, 8)
    full = count_module(module, torch.zeros(1, 4))
    half = count_module(module.half(), torch.zeros(1, 4, dtype=torch.float16))
    assert half.activation_bytes * 2 == full.activation_bytes
    assert half.macs == full.macs


def test_what_runs_under_no_grad_inside_a_program_is_counted():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            with torch.no_grad():
                features = self.trunk(x)
            return self.head(features)

    program = torch.export.export(Frozen(), (torch.zeros(1, 4),))
    assert any(isinstance(n.target, torch._ops.HigherOrderOperator) for n in program.graph.nodes)
    counted = count_program(program)
    assert (counted.macs, counted.parameters, counted.uncounted) == (24 + 12, 30 + 14, {})


def test_decomposed_programs_count_the_same():
    """run_decompositions turns conv2d into convolution and linear into addmm: other names, the same work."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(2 * 49, 5)).eval()
    x = torch.zeros(1, 3, 8, 8)
    by_hand = 36 * 4 * 3 * 9 + 36 * 4 * 2 * 4 + 98 * 5
    assert count_module(module, x).macs == by_hand
    assert count_program(torch.export.export(module, (x,)).run_decompositions()).macs == by_hand


def test_an_operator_without_a_rule_is_uncounted_by_name():
    class Inverse(nn.Module):
        def forward(self, x):
            return torch.linalg.inv(x) + torch.fft.fft(x).real

    counted = count_module(Inverse(), torch.eye(3)[None])
    assert counted.macs == 0
    assert any("inv" in name for name in counted.uncounted)
    assert any("fft" in name for name in counted.uncounted)
    assert {layer.op for layer in counted.layers} >= set(counted.uncounted)


def test_a_branch_on_the_input_is_uncounted_by_name():
    class Choice(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: y @ y.T, lambda y: y @ y.T * 2, (x,))

    assert count_module(Choice(), torch.ones(1, 4)).uncounted == {"cond": 1}


def test_counting_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    module[1].eval()
    mean = module[0].running_mean.clone()
    count_module(module, torch.randn(8, 4))
    assert [child.training for child in module.modules()] == [True, True, False, True]
    assert torch.equal(module[0].running_mean, mean)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_module_that_cannot_be_traced_is_one_line_that_names_it():
    class Untraceable(nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else x.numpy()

    with pytest.raises(RequestError, match="Untraceable cannot be counted") as caught:
        count_module(Untraceable(), torch.zeros(1, 4))
    assert "\n" not in str(caught.value)


def test_a_broken_program_file_is_one_line(tmp_path, capfd):
    program = torch.export.export(nn.Linear(4, 2), (torch.zeros(1, 4),))
    torch.export.save(program, tmp_path / "cut.pt2")
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "cut.pt2").read_bytes()[:500])
    (tmp_path / "text.pt2").write_text("hello")
    for name, message in [("cut.pt2", "not a program"), ("text.pt2", "not a program"), ("none.pt2", "no such file")]:
        with pytest.raises(RequestError, match=message) as caught:
            count_program(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err

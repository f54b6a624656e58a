"""Quantisation-aware fine-tuning: its arithmetic, that nothing of it stays, and that it repairs what int8 breaks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.checkpoint import Checkpoints
from compressor.context import Context
from compressor.quantise_aware import FakeQuantisation, QuantiseAware, fake_quantise_input, fake_quantise_weight
from compressor.stage import OptimizerSpec, Stage
from profiles.errors import RequestError
from profiles.statistics import paired_bootstrap
from targets.parity import compare
from targets.sensitivity import fake_quantise_weights
from targets.target import get_target
from tests.compressor.engine import Toy, wait_for
from tests.targets import small_nets

TOY_STEPS = ("stages.teacher.steps=5", "stages.distill.steps=5", "stages.quantise.steps=24", "train.log_every=5")
TWO = ("train.devices=2", "train.strategy=ddp")


# --- arithmetic ---


@pytest.mark.parametrize("bits", [8, 4])
def test_inputs_and_their_gradients_are_those_of_torch_s_own_kernel(bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(4, 5, 6, generator=generator)).requires_grad_()
    out = fake_quantise_input(x, torch.tensor([-1.0, 2.0]), bits)
    (gradient,) = torch.autograd.grad((out * torch.arange(6.0)).sum(), x)
    largest = 2**bits - 1
    known = torch.fake_quantize_per_tensor_affine(x, 3 / largest, round(largest / 3), 0, largest)
    (known_gradient,) = torch.autograd.grad((known * torch.arange(6.0)).sum(), x)
    assert torch.allclose(out, known, atol=1e-6) and torch.equal(gradient, known_gradient)


def test_the_gradient_is_1_inside_the_range_and_0_where_it_saturates() -> None:
    x = torch.tensor([-1.1, -1.0, -0.3, 0.0, 1.9999, 2.0, 2.1], requires_grad=True)
    out = fake_quantise_input(x, torch.tensor([-1.0, 2.0]), 8)
    out.sum().backward()
    step = 3 / 255
    expected = [-85 * step, -85 * step, round(-0.3 / step) * step, 0.0, 170 * step, 170 * step, 170 * step]
    assert torch.allclose(out, torch.tensor(expected), atol=1e-6)
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_a_range_always_has_an_exact_zero() -> None:
    x = torch.tensor([0.0, 5.0, 6.0])
    assert fake_quantise_input(x, torch.tensor([5.0, 6.0]), 8)[0] == 0  # padding is 0, whatever the data
    assert fake_quantise_input(-x, torch.tensor([-6.0, -5.0]), 8)[0] == 0
    assert torch.equal(fake_quantise_input(torch.zeros(3), torch.zeros(2), 8), torch.zeros(3))


@pytest.mark.parametrize(
    "layer, operator", [(nn.Conv2d(3, 6, 3), "Conv"), (nn.ConvTranspose1d(3, 6, 3), "ConvTranspose")]
)
def test_weights_are_rounded_as_the_sensitivity_search_rounds_them_and_their_gradient_passes(
    layer: Any, operator: str
) -> None:
    seen: list[Tensor] = []
    with FakeQuantisation({"net": layer}).on(observe=False):
        seen.append(layer.weight)
        layer.weight.square().sum().backward()
    known = fake_quantise_weights(layer._parameters["weight"].detach().numpy(), operator, 1)
    np.testing.assert_allclose(seen[0].detach().numpy(), known, rtol=1e-6, atol=1e-8)
    assert torch.equal(layer.weight.grad, 2 * seen[0].detach())


def test_batch_norm_need_not_be_folded_because_it_commutes_with_the_rounding() -> None:
    """Rounded weights and then batch norm, against rounding of the folded weights."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8).eval()
    nn.init.normal_(norm.weight)  # also negative
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.1, 9)  # type: ignore[union-attr]
    folded = nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm)
    x = torch.randn(2, 4, 6, 6)
    with FakeQuantisation({"conv": conv}, weight_bits=4).on(observe=False):
        ours = norm(conv(x))
    weight = fake_quantise_weight(folded.weight, 4, 0)
    assert torch.allclose(ours, F.conv2d(x, weight, folded.bias), atol=1e-4)
    assert not torch.allclose(ours, folded(x), atol=0.01)


def test_a_range_widens_at_once_shrinks_slowly_and_moves_only_when_asked() -> None:
    net = nn.Linear(2, 2)
    fake = FakeQuantisation({"net": net})
    for batch, expected in (([-1.0, 3.0], [-1, 3]), ([-2.0, 1.0], [-2, 2.9]), ([0.0, 9.0], [-1.9, 9])):
        with fake.on(observe=True):
            net(torch.tensor([batch]))
        assert torch.allclose(fake.ranges["net"], torch.tensor(expected).float())
    with fake.on(observe=False):
        net(input=torch.tensor([[50.0, -50.0]]))
    assert torch.allclose(fake.ranges["net"], torch.tensor([-1.9, 9.0]))


# --- what is left behind ---


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ConvTranspose1d(4, 3, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(F.relu(self.norm(self.conv(x)))).mean(2))


def everything(net: nn.Module) -> list[Any]:
    return [{key: copy.copy(value) for key, value in vars(module).items()} for module in net.modules()]


def test_nothing_is_left_in_the_modules_also_after_an_error() -> None:
    torch.manual_seed(0)
    net, x = Mixed().eval(), torch.randn(5, 2, 9)
    before, keys, inside = net(x), list(net.state_dict()), everything(net)
    fake = FakeQuantisation({"net": net}, 4, 4)
    with fake.on(observe=True):
        rounded = net(x)
        assert list(net.state_dict()) == keys and len(list(net.parameters())) == 8
    with pytest.raises(RuntimeError), fake.on(observe=True):
        net(torch.randn(5, 3, 9))
    assert torch.equal(net(x), before) and not torch.allclose(rounded, before, atol=1e-3)
    after = everything(net)
    assert [vars_.keys() for vars_ in after] == [vars_.keys() for vars_ in inside]
    assert not any(vars_["_forward_hooks"] or vars_["_forward_pre_hooks"] for vars_ in after)
    rounded.sum().backward()  # later than the block: the weights get their gradients all the same
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_excluded_layers_stay_float_and_wrong_names_are_one_line() -> None:
    net = Mixed().eval()
    fake = FakeQuantisation({"net": net}, exclude=["net.conv", "net.up"])
    assert list(fake.layers) == ["net.head"]
    with pytest.raises(RequestError, match=r"no layer 'net.hed' \(did you mean net.head\?\)"):
        FakeQuantisation({"net": net}, exclude=["net.hed"])
    with pytest.raises(RequestError, match="no layer to quantise"):
        FakeQuantisation({"net": nn.ReLU()})
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(RequestError, match=r"layer net.0: its weight is computed .*exclude it"):
        FakeQuantisation({"net": normed})
    assert list(FakeQuantisation({"net": normed}, exclude=["net.0"]).layers) == ["net.1"]


# --- what it is for ---


class Classify(Stage):
    """Cross-entropy on the activities of a wrist: the stage that is wrapped."""

    name, steps = "classify", 100

    def __init__(self, net: nn.Module, data: tuple[np.ndarray, np.ndarray]) -> None:
        self.net, self.x, self.y = net, torch.from_numpy(data[0]), torch.from_numpy(data[1])

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def optimizers(self) -> list[OptimizerSpec]:
        optimizer = torch.optim.AdamW(self.net.parameters(), 1e-3)
        return [OptimizerSpec(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps))]

    def batch(self, step: int, rng: np.random.Generator) -> Any:
        rows = torch.from_numpy(rng.integers(0, len(self.x), 64))
        return {"x": self.x[rows], "y": self.y[rows]}

    def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(modules["net"](batch["x"]), batch["y"])}


@pytest.fixture(scope="module")
def training() -> tuple[np.ndarray, np.ndarray]:
    return small_nets.activities(1024, seed=1)


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray]:
    return small_nets.activities(1000, seed=3)


@pytest.fixture
def fine_tuned(toy: Toy, training: tuple[np.ndarray, np.ndarray]) -> Callable[..., nn.Module]:
    """fine_tuned(net, **options of QuantiseAware): a copy of it after the stage, in evaluation mode."""
    from lightning_fabric import Fabric

    from compressor.fit import Fit
    from compressor.interrupts import Interrupts
    from compressor.recipe import load_recipe
    from compressor.runlog import RunLog

    def run(net: nn.Module, **options: Any) -> nn.Module:
        net = copy.deepcopy(net)
        recipe = load_recipe(toy.recipe)
        fabric, cache = Fabric(accelerator="cpu", devices=1), None
        context = Context(fabric, 0, 1, toy.root, cache, recipe, RunLog(toy.root))  # type: ignore[arg-type]
        with Interrupts() as interrupts:
            Fit(QuantiseAware(Classify(net, training), **options), context, interrupts).run()
        return net.eval()

    return run


def scores(answers: Tensor | np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (np.asarray(answers).argmax(1) == truth).astype(float)


@torch.no_grad()
def after_calibration(net: nn.Module, x: np.ndarray, bits: int) -> Tensor:
    """Post-training quantisation, simulated: ranges from inputs of their own."""
    fake = FakeQuantisation({"net": net}, bits, bits)
    with fake.on(observe=True):
        net(torch.from_numpy(small_nets.activities(128, seed=2)[0]))
    with fake.on(observe=False):
        return net(torch.from_numpy(x))


def test_a_network_that_4_bits_break_is_better_after_the_stage(
    fine_tuned: Callable[..., nn.Module], held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    net, (x, truth) = small_nets.trained("imu"), held_out
    better = fine_tuned(net, weight_bits=4, input_bits=4)
    before, after = (scores(after_calibration(n, x, 4), truth) for n in (net, better))
    gain = paired_bootstrap(after, before)
    assert gain.ci95[0] > 0.1, f"{before.mean():.3f} -> {after.mean():.3f}, {gain}"
    floats = [scores(n(torch.from_numpy(x)).detach(), truth).mean() for n in (net, better)]
    assert floats[1] > floats[0] - 0.03


def skewed(net: nn.Module, factor: float) -> nn.Module:
    """The same function with every fourth channel in front of the pointwise layers `factor` times as large, so that
    int8 has few steps left for the others (what "cross-layer equalisation" undoes, arXiv:1906.04721)."""
    net = copy.deepcopy(net)
    for block in net.body:  # type: ignore[union-attr]
        norm, pointwise = block[1], block[3]
        with torch.no_grad():
            norm.weight[::4] *= factor
            norm.bias[::4] *= factor
            pointwise.weight[:, ::4] /= factor
    return net


def test_a_compiled_int8_file_agrees_better_and_answers_better_after_the_stage(
    fine_tuned: Callable[..., nn.Module], held_out: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    broken, (x, truth) = skewed(small_nets.trained("imu"), 30.0), held_out
    assert torch.allclose(broken(torch.from_numpy(x)), small_nets.trained("imu")(torch.from_numpy(x)), atol=1e-3)
    target, found = get_target("onnx"), []
    for name, net in (("before", broken), ("after", fine_tuned(broken))):
        source = small_nets.write_bundle(tmp_path / name, "imu", net).source("imu")
        out = tmp_path / f"{name}-int8"
        out.mkdir()
        files = tuple(out / file for file in target.compile(source, out, "int8", {}).files)
        answers = target.open(source.graph, files, "int8", {})({"window": x})["logits"]
        with torch.no_grad():
            reference = net(torch.from_numpy(x)).numpy()
        found.append((compare({"y": reference}, {"y": answers}).sqnr_db, scores(answers, truth)))
    (before_db, before), (after_db, after) = found
    gain = paired_bootstrap(after, before)
    assert before_db is not None and after_db is not None and after_db > before_db + 2, (before_db, after_db)
    assert gain.ci95[0] > 0, f"{before.mean():.3f} -> {after.mean():.3f}, {gain}"


# --- as a stage ---


def test_a_stage_with_a_run_of_its_own_is_not_wrapped() -> None:
    class Own(Stage):
        name = "own"

        def run(self, trainer: Any) -> None: ...

    with pytest.raises(ValueError, match="stage own has a run of its own"):
        QuantiseAware(Own())


def test_ranges_are_fixed_after_their_share_of_the_steps_and_batch_norm_from_the_start() -> None:
    stage = QuantiseAware(Classify(Mixed().train(), (np.zeros((4, 2, 9), np.float32), np.zeros(4, np.int64))))
    stage.start(SimpleNamespace(world_size=1, device=torch.device("cpu")))  # type: ignore[arg-type]
    net = stage.modules()["net"]
    assert not net.norm.training and net.conv.training and net.norm.weight.requires_grad  # type: ignore[union-attr]
    moved = []
    for step in range(100):
        x = torch.full((4, 2, 9), float(step + 1))
        stage.loss({"net": net}, {"x": x, "y": torch.zeros(4, dtype=torch.long)})
        stage.after_step(step)
        moved.append(float(stage.ranges["net.conv"][1]))
    assert moved == [float(min(step + 1, 50)) for step in range(100)]


@pytest.mark.slow
def test_killed_while_ranges_move_and_after_it_ends_in_the_same_bits(toy: Toy) -> None:
    assert toy.finish("whole", *TOY_STEPS) == 0, toy.said
    options = (*TOY_STEPS, "train.checkpoint_every=1", "pause_ms=15")
    newest = Checkpoints(toy.root / "killed" / "checkpoints" / "quantise")
    for step in (3, 15):
        process = toy.start("killed", *options)
        wait_for(lambda step=step: max(newest.steps(), default=0) >= step)  # type: ignore[misc]
        process.kill()
        process.join()
        assert not newest.has_final()
    assert toy.finish("killed", *options) == 0, toy.said
    assert toy.weights("killed") == toy.weights("whole")
    ends = [Checkpoints(toy.root / run / "checkpoints" / "quantise").load("final") for run in ("whole", "killed")]
    ranges = [end["own"]["stage"]["ranges"] for end in ends]
    assert list(ranges[0]) == ["student.0", "student.4"]
    assert all(torch.equal(ranges[0][name], ranges[1][name]) for name in ranges[0])
    assert not any("quantise" in key or "range" in key for key in ends[0]["shared"]["modules"]["student"])


def test_every_process_takes_the_widest_range_that_one_of_them_has() -> None:
    # What the other process hands in, for conv, up and head: -smallest and largest, or nothing seen.
    other = torch.tensor([[2.0, 1.0], [-torch.inf, -torch.inf], [5.0, 0.5]])
    fabric = SimpleNamespace(all_reduce=lambda own, reduce_op: {"max": torch.maximum}[reduce_op](own, other))
    ranges = {"net.conv": torch.tensor([-1.0, 3.0]), "net.up": torch.tensor([0.0, 4.0])}
    fake = FakeQuantisation({"net": Mixed()}, ranges=ranges)
    fake.widen(SimpleNamespace(world_size=2, device=torch.device("cpu"), fabric=fabric))  # type: ignore[arg-type]
    assert {name: value.tolist() for name, value in fake.ranges.items()} == {"net.conv": [-2, 3], "net.up": [0, 4]}


@pytest.mark.slow
def test_two_processes_end_with_the_same_ranges(toy: Toy) -> None:
    assert toy.finish("two", *TOY_STEPS, *TWO) == 0, toy.said
    folder = toy.root / "two" / "checkpoints" / "quantise"
    parts = [Checkpoints(folder, rank=rank, world_size=2).load("final")["own"]["stage"]["ranges"] for rank in (0, 1)]
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])

"""Quantisation-aware fine-tuning: a stage that trains its modules as if their layers computed in integers.

After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(arXiv:1712.05877). Weights are rounded symmetrically with one scale per output channel, layers' inputs with one scale
and zero point per tensor; gradients pass the rounding unchanged (straight-through) and stop where it saturates.

What remains after it is the float module with other weights: nothing is added to it, so export and the runtimes'
own calibration follow as ever and find weights that survive rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.recipe import nearest
from compressor.stage import OptimizerSpec, Stage
from profiles.errors import RequestError

if TYPE_CHECKING:
    from compressor.train import Context

# Axis of the output channels in `weight`, as the runtimes have it. Batch norm behind such a layer multiplies whole
# output channels, and so commutes with rounding that has one symmetric scale per output channel: it needs no folding.
WEIGHTED: dict[type[nn.Module], int] = {
    nn.Conv1d: 0,
    nn.Conv2d: 0,
    nn.Conv3d: 0,
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 1,
    nn.ConvTranspose3d: 1,
    nn.Linear: 0,
}
SHRINK = 0.05  # per batch, towards the range of that batch


class _RoundStraightThrough(torch.autograd.Function):
    """Forward: x on a grid of integers. Backward: the gradient where x is inside the grid, 0 where it saturates."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        integers = torch.round(x / scale).add_(zero_point)
        ctx.save_for_backward((integers >= low) & (integers <= high))
        return integers.clamp_(low, high).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def _round(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """In float32 at least: 16-bit floats cannot count to 255 in fractions of a scale."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return _RoundStraightThrough.apply(wide, scale, zero_point, low, high).to(x.dtype)


def fake_quantise_weight(weight: Tensor, bits: int, axis: int) -> Tensor:
    """Weight rounded to 2^bits - 1 steps around 0, one scale per index of `axis`: its largest magnitude is the last
    step. The gradient passes unchanged (nothing saturates)."""
    largest = 2 ** (bits - 1) - 1
    others = [i for i in range(weight.ndim) if i != axis]
    scale = weight.detach().float().abs().amax(others, keepdim=True) / largest
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
    return _round(weight, scale, torch.zeros_like(scale), -largest, largest)


def fake_quantise_input(x: Tensor, value_range: Tensor, bits: int) -> Tensor:
    """x rounded to 2^bits steps between the two values of `value_range` (2,), widened to contain 0 exactly."""
    low, high = value_range[0].clamp_max(0.0), value_range[1].clamp_min(0.0)
    largest = 2**bits - 1
    scale = ((high - low) / largest).clamp_min(torch.finfo(torch.float32).tiny)
    return _round(x, scale, torch.round(-low / scale), 0, largest)


class FakeQuantisation:
    """The layers of some modules, and the switch that makes them compute with rounded weights and inputs.

    `layers`: MODULE.LAYER -> layer. `ranges`: the same names -> (2,) smallest and largest input, running over batches;
    a layer that has seen no input yet takes it unrounded. Operands of sums, outputs of the network and what is computed
    without calling a layer have no ranges and stay float.

    Raises RequestError if there is no layer, for an excluded name that is none, and for a weight that is computed
    (weight norm): it cannot be rounded in its place.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        weight_bits: int = 8,
        input_bits: int = 8,
        exclude: Iterable[str] = (),
        ranges: dict[str, Tensor] | None = None,
    ) -> None:
        self.weight_bits, self.input_bits = weight_bits, input_bits
        self.layers = _weighted_layers(modules)
        for name in exclude:
            if name not in self.layers:
                known = nearest(name, self.layers) or f"; the layers are {', '.join(self.layers)}"
                raise RequestError(f"quantise: exclude: no layer {name!r}{known}")
            del self.layers[name]
        if not self.layers:
            raise RequestError(f"quantise: {', '.join(modules) or 'no module'}: no layer to quantise")
        for name, layer in self.layers.items():
            if "weight" not in layer._parameters:
                raise RequestError(f"quantise: layer {name}: its weight is computed (weight norm?): exclude it")
        self.ranges = {} if ranges is None else ranges

    @contextlib.contextmanager
    def on(self, observe: bool) -> Iterator[None]:
        """Within the block the layers compute with rounded weights and inputs; afterwards nothing is left in them.

        observe: forward passes move the ranges. Weights must not change within the block; a backward pass of what was
        computed in it may come later.
        """
        with contextlib.ExitStack() as undo:
            for name, layer in self.layers.items():
                hook = self._round_in_front(name, observe)
                undo.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
                # An instance's own attribute comes before its parameters. Those stay where they are: the state dict,
                # the optimiser and what averages gradients over processes see nothing of it.
                rounded = fake_quantise_weight(layer.weight, self.weight_bits, _output_axis(layer))  # type: ignore[arg-type]
                layer.__dict__["weight"] = rounded
                undo.callback(layer.__dict__.pop, "weight")
            yield

    def _round_in_front(self, name: str, observe: bool) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = args[0] if args else kwargs["input"]
            if observe:
                self._observe(name, x)
            if name in self.ranges:
                x = fake_quantise_input(x, self.ranges[name], self.input_bits)
            return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"input": x})

        return hook

    @torch.no_grad()
    def _observe(self, name: str, x: Tensor) -> None:
        """A range widens at once and shrinks slowly: the paper's average of batches is narrower than what calibration
        takes afterwards, the extremes of some hundred inputs, and the network would be trained for the wrong steps."""
        low, high = torch.aminmax(x.detach().float())
        if name in self.ranges:
            before_low, before_high = self.ranges[name]
            low = torch.minimum(low, torch.lerp(before_low, low, SHRINK))
            high = torch.maximum(high, torch.lerp(before_high, high, SHRINK))
        self.ranges[name] = torch.stack([low, high])

    @torch.no_grad()
    def widen(self, context: Context) -> None:
        """Give all processes the widest range that one of them has, for every layer. One collective."""
        if context.world_size == 1:
            return
        sign = torch.tensor([-1.0, 1.0], device=context.device)
        nothing = torch.full((2,), -torch.inf, device=context.device)
        own = torch.stack([sign * self.ranges[name] if name in self.ranges else nothing for name in self.layers])
        widest: Any = context.fabric.all_reduce(own, reduce_op="max")
        for name, value in zip(self.layers, widest, strict=True):
            if name in self.ranges:
                self.ranges[name] = sign * value


def _weighted_layers(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """MODULE.LAYER -> layer, each layer once."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for root, module in modules.items():
        for name, layer in module.named_modules():
            if any(isinstance(layer, kind) for kind in WEIGHTED):
                found.setdefault(id(layer), (f"{root}.{name}" if name else root, layer))
    return dict(found.values())


def _output_axis(layer: nn.Module) -> int:
    return next(axis for kind, axis in WEIGHTED.items() if isinstance(layer, kind))


class QuantiseAware(Stage):
    """Another stage with fake quantisation: its modules, batches, loss, optimisers and metrics, and its `steps`.

    The inner stage is one of its own, with few steps and a small learning rate, not the one that has run already:

        stages.append(QuantiseAware(DistillStage(self, settings), quantise=["student"]))

    Args:
        inner: a stage whose work is a loop over its loss (no `run` of its own).
        name: of this stage. quantise: which of the inner stage's modules are deployed; None: all.
        weight_bits, input_bits: 8, or fewer for what is harder than int8. exclude: layers that stay float, as
            MODULE.LAYER, such as "student.head".
        moving_share: of the steps in which the ranges of inputs still move; after them they are fixed. Each process
            moves them by its own batches, and after every step all take the widest.

    Batch norm is frozen: its running statistics are what deployment folds into the weights. Its scale and shift learn.
    """

    def __init__(
        self,
        inner: Stage,
        *,
        name: str = "quantise",
        quantise: Sequence[str] | None = None,
        weight_bits: int = 8,
        input_bits: int = 8,
        exclude: Iterable[str] = (),
        moving_share: float = 0.5,
    ) -> None:
        if type(inner).run is not Stage.run:
            raise ValueError(f"stage {inner.name} has a run of its own: there is no loss to quantise")
        self.inner, self.name, self.quantise = inner, name, quantise
        self.weight_bits, self.input_bits, self.exclude = weight_bits, input_bits, tuple(exclude)
        self.moving_share = moving_share
        self.done = 0  # steps
        self.ranges: dict[str, Tensor] = {}

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.inner.steps

    def modules(self) -> dict[str, nn.Module]:
        return self.inner.modules()

    def optimizers(self) -> list[OptimizerSpec]:
        return self.inner.optimizers()

    def start(self, context: Context) -> None:
        self.context = context
        self.inner.start(context)
        modules = self.inner.modules()
        chosen = modules if self.quantise is None else {name: modules[name] for name in self.quantise}
        self.ranges = {name: value.to(context.device) for name, value in self.ranges.items()}
        self.fake = FakeQuantisation(chosen, self.weight_bits, self.input_bits, self.exclude, self.ranges)
        for module in chosen.values():
            for layer in module.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    @property
    def _moving(self) -> bool:
        return self.done < self.moving_share * self.steps

    def batch(self, step: int, rng: np.random.Generator) -> Any:
        return self.inner.batch(step, rng)

    def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Tensor]:
        with self.fake.on(observe=self._moving):
            return self.inner.loss(modules, batch)

    def after_step(self, step: int) -> None:
        if self._moving:
            self.fake.widen(self.context)
        self.done = step + 1
        self.inner.after_step(step)

    def validate(self, context: Context) -> dict[str, float]:
        with self.fake.on(observe=False):
            return self.inner.validate(context)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "ranges": self.ranges, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self.ranges, self.done = dict(state["ranges"]), state["done"]

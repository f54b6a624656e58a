"""Pretrained weights from the data sources, under the names that our networks use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from compressor.models.encoder import Encoder
from profiles.errors import MissingError, RequestError

# lukemelas' EfficientNet (the weights' package) to timm's. Block numbers are handled apart: timm counts within stages.
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
DEPTHWISE_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED_RESIDUAL = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage, EfficientNet-B0's


def load_weights(encoder: Encoder, network: str, source: str) -> None:
    """Give an encoder the weights of a data source (its head stays as it is), or all of one trained before.

    source: a data source's name, fetched if need be; "timm", whose own for this network come from its cache or hub; or
    the path of a .safetensors file with an encoder's whole state, such as a bundle's weights/encoder.safetensors, or
    with a bare network's in timm's names.
    Raises RequestError if there are no such weights or they belong to another network, MissingError if they cannot be
    had from here.
    """
    if source == "timm":
        _load_network(encoder, _from_timm(network), source, network)
        return
    if source.endswith(".safetensors"):
        state = _read(Path(source))
        if any(name.startswith("network.") for name in state):
            _load(encoder, state, source, network)
        else:
            _load_network(encoder, state, source, network)
        return
    from compressor.data import fetch

    files = sorted(fetch(source).glob("*.safetensors"))
    if len(files) != 1:
        raise RequestError(f"weights {source}: that source holds none")
    if source != "efficientnet-lite0" or network != "timm:tf_efficientnet_lite0":
        raise RequestError(f"weights {source}: they are for timm:tf_efficientnet_lite0, not for {network}")
    _load(encoder.network, efficientnet_lite0_state(_read(files[0])), source, network)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"weights {path}: not readable ({error})") from None


def _from_timm(network: str) -> Mapping[str, Tensor]:
    import timm

    name = network.removeprefix("timm:")
    if not network.startswith("timm:") or not timm.models.is_model_pretrained(name):
        raise RequestError(f"weights timm: timm publishes no weights for {network}")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # hub, network and file errors of several libraries
        reason = " ".join(str(error).split())[:200]
        raise MissingError(
            f"weights timm: {name}'s could not be had ({reason}); fetch them where there is a network, or give "
            f"their model.safetensors"
        ) from None


def _load_network(encoder: Encoder, state: Mapping[str, Tensor], source: str, network: str) -> None:
    """The tensors of the encoder's network out of `state`; the classifier, which it lacks, is left out."""
    wanted = encoder.network.state_dict().keys()
    _load(encoder.network, {name: tensor for name, tensor in state.items() if name in wanted}, source, network)


def _load(module: nn.Module, state: Mapping[str, Tensor], source: str, network: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError:  # torch lists every tensor that does not fit
        raise RequestError(f"weights {source}: they belong to another network than {network}") from None


def efficientnet_lite0_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's state dict under timm's names, without the classifier.

    The network is timm's tf_efficientnet_lite0: TensorFlow's padding, batch norm's epsilon 1e-3, and RGB normalised
    by mean 0.5 and deviation 0.5 (the stem's running statistics imply it, and timm's configuration says the same).
    """
    return {_timm_name(name): tensor for name, tensor in state.items() if not name.startswith("_fc.")}


def _timm_name(name: str) -> str:
    module, _, rest = name.partition(".")
    if module in TOP:
        return f"{TOP[module]}.{rest}"
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    stage, number = _place(int(match[1])) if match else (0, 0)
    layers = DEPTHWISE_SEPARABLE if stage == 0 else INVERTED_RESIDUAL
    if match is None or match[2] not in layers:
        raise RequestError(f"{name}: not a tensor of EfficientNet-Lite0")
    return f"blocks.{stage}.{number}.{layers[match[2]]}.{match[3]}"


def _place(block: int) -> tuple[int, int]:
    """Stage and number in it of the block that stands at `block` in the whole network."""
    for stage, repeats in enumerate(LITE0_REPEATS):
        if block < repeats:
            return stage, block
        block -= repeats
    raise RequestError(f"EfficientNet-Lite0 has {sum(LITE0_REPEATS)} blocks, not more")

"""timm:NAME as a bundle; with random weights, and said so, where the learned ones cannot be reached."""

from __future__ import annotations

import difflib
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import RequestError, require
from targets.bundle import Bundle
from targets.graph import Graph, TensorSpec
from targets.import_bundle import GRAPH, fill, open_writer
from targets.import_data import Data, matched, synthetic_inputs

if TYPE_CHECKING:
    from torch import nn


def import_timm(model: str, out: Path, data: Data | None, metric: str | None, name: str) -> Bundle:
    timm = require("timm", "train")
    network, reason = _timm_model(model)
    config = {**getattr(network, "pretrained_cfg", {}), **timm.data.resolve_model_data_config(network)}
    shape = ("batch", *config["input_size"])
    wanted = Graph(GRAPH, (TensorSpec("image", "float32", shape),), ())
    if data is not None:
        data = matched(data, wanted)
    example = data.inputs["image"][:1] if data is not None else synthetic_inputs(wanted, 1)["image"]
    lineage = {
        "model": f"timm:{model}",
        "timm": timm.__version__,
        "licence": config.get("license"),
        "normalisation": {"mean": list(config["mean"]), "std": list(config["std"])},
        "random_weights": reason,
    }
    with open_writer(out, name, data, metric, lineage, random_weights=reason is not None) as writer:
        graph = writer.add_graph(GRAPH, network, {"image": example}, outputs=("logits",))
        fill(writer, graph, data, metric, learned=reason is None)
    return Bundle.open(out)


def _timm_model(model: str) -> tuple[nn.Module, str | None]:
    """The network and, if its weights could not be had, why they are random."""
    timm, torch = require("timm", "train"), require("torch", "train")
    architecture = model.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3)
        raise RequestError(f"timm:{model}: unknown model" + (f": did you mean {' or '.join(near)}?" if near else ""))
    constants = require("huggingface_hub", "train").constants
    offline = constants.HF_HUB_OFFLINE
    # without this the hub's client retries for most of a minute before it gives up
    constants.HF_HUB_OFFLINE = offline or not _reachable(constants.ENDPOINT)
    try:
        return timm.create_model(model, pretrained=True), None
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
    finally:
        constants.HF_HUB_OFFLINE = offline
    try:
        torch.manual_seed(0)
        return timm.create_model(model, pretrained=False), reason
    except RuntimeError as error:
        raise RequestError(f"timm:{model}: {str(error).splitlines()[0]}") from None


def _reachable(address: str, timeout_s: float = 5.0) -> bool:
    """Whether a connection can be tried: the host answers, or a proxy stands in between."""
    if urllib.request.getproxies():
        return True
    parts = urllib.parse.urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port or 443), timeout_s).close()
    except OSError:
        return False
    return True

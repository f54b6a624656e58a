"""A device has numpy and one runtime: nothing here may need more to be imported."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
blocked = ["torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "safetensors"]
blocked += ["ai_edge_litert", "ai_edge_quantizer", "litert_torch", "onnx2torch", "flatbuffers"]
for name in blocked:
    sys.modules[name] = None
import targets, profiles
for package in (targets, profiles):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
assert {"onnx", "openvino", "tflite"} <= set(targets.target.list_targets()), targets.target.list_targets()
assert not [name for name in sys.modules if name.split(".")[0] == "compressor"], "targets must not import compressor"
from profiles.errors import MissingError
try:
    targets.target.get_target("openvino").version()
except MissingError as error:
    print(error)
"""


def test_targets_and_profiles_import_without_torch_and_without_any_runtime() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "openvino is not installed: pip install 'edge-compressor[openvino]'"

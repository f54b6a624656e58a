"""Errors carry the exit code of the command line, and a missing extra is named."""

from __future__ import annotations

import sys

import pytest

from profiles.errors import CompressorError, GateError, MissingError, RequestError, require


def test_exit_codes_are_those_of_the_contract():
    codes = {error: error.exit_code for error in (GateError, RequestError, MissingError, CompressorError)}
    assert codes == {GateError: 1, RequestError: 2, MissingError: 3, CompressorError: 4}
    assert all(issubclass(error, CompressorError) for error in codes)


def test_require_gives_the_module():
    assert require("json", "onnx").loads("1") == 1
    assert require("os.path", "onnx").join("a", "b")


def test_a_missing_extra_is_named_with_the_command_that_brings_it():
    with pytest.raises(MissingError, match=r"no_such_runtime is not installed: pip install 'edge-compressor\[onnx\]'"):
        require("no_such_runtime.sub", "onnx")


def test_an_installed_package_that_misses_a_part_of_its_own_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_runtime.py").write_text("import a_dependency_of_theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_dependency_of_theirs"):
        require("broken_runtime", "onnx")


def test_counting_without_the_extras_names_them(monkeypatch, tmp_path):
    from profiles.flops import count_module, count_onnx

    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingError, match=r"onnx is not installed.*\[onnx\]"):
        count_onnx(tmp_path / "model.onnx")
    with pytest.raises(MissingError, match=r"torch is not installed.*\[train\]"):
        count_module(None, ())


def test_measuring_imports_no_heavy_package():
    import subprocess

    code = (
        "import sys, pkgutil, importlib, profiles\n"
        "for module in pkgutil.walk_packages(profiles.__path__, 'profiles.'): importlib.import_module(module.name)\n"
        "print(sorted({'torch', 'onnx', 'fvcore', 'scipy', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

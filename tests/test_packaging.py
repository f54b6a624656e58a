"""The promises of the packaging: a core install runs without torch, and the arrows between the packages point down."""

import ast
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def core_environment(tmp_path_factory):
    """A fresh virtual environment with the core install only."""
    root = tmp_path_factory.mktemp("core")
    venv.create(root / "env", with_pip=True)
    # pip builds in the source tree: give it a copy of what git knows, so that nothing is left in the checkout
    subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    source = root / "source"
    source.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["xargs", "-0", "cp", "--parents", "-t", str(source)], input=files, cwd=ROOT, check=True)
    pip = [str(root / "env/bin/python"), "-m", "pip", "install", "--quiet", str(source)]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        reason = f"no fresh environment: pip said {done.stderr.strip().splitlines()[-1:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return root / "env/bin"


def run(binary, *arguments):
    return subprocess.run([str(binary), *arguments], capture_output=True, text=True, cwd="/")


def test_core_install_lists_devices_without_torch(core_environment):
    assert run(core_environment / "python", "-c", "import torch").returncode != 0
    done = run(core_environment / "compressor", "devices", "--json")
    assert done.returncode == 0, done.stderr
    names = [device["name"] for device in json.loads(done.stdout)]
    assert "host" in names


def test_core_install_imports_every_module_of_targets_and_profiles(core_environment):
    code = (
        "import pkgutil, importlib, targets, profiles\n"
        "for package in (targets, profiles):\n"
        "    for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(m.name)\n"
        "import sys; assert 'torch' not in sys.modules\n"
    )
    done = run(core_environment / "python", "-c", code)
    assert done.returncode == 0, done.stderr


def test_core_install_names_the_missing_extra(core_environment, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a")
    done = run(
        core_environment / "compressor",
        "bench",
        str(tmp_path / "model.onnx"),
        "--device",
        "host",
        "--out",
        str(tmp_path),
    )
    assert done.returncode == 3, done.stderr
    assert "edge-compressor[onnx]" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


ALLOWED = {
    "profiles": {"profiles"},
    "targets": {"targets", "profiles"},
    "compressor": {"compressor", "targets", "profiles"},
}


@pytest.mark.parametrize("package", ALLOWED)
def test_arrows_between_packages_point_down(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top not in ALLOWED or top in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"


def test_package_init_files_import_nothing_heavy():
    code = "import sys, compressor.cli, compressor, targets, profiles; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

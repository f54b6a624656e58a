"""The commit that results name is the code that ran, or says that it is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from profiles.checkout import checkout_commit
from tests.tools import need


@pytest.fixture
def root(tmp_path: Path) -> Path:
    need("git")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / ".gitignore").write_text("*.log\n")
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e commit -q -m first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


def head(root: Path) -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()


def test_a_clean_checkout_is_its_commit_whatever_is_ignored_or_written_as_a_result(root: Path) -> None:
    (root / "run.log").write_text("ignored")
    (root / "benchmarks/results").mkdir(parents=True)
    (root / "benchmarks/results/one.json").write_text("{}")
    assert checkout_commit(root) == head(root)


def test_changed_and_new_files_are_said(root: Path) -> None:
    (root / "code.py").write_text("2")
    assert checkout_commit(root) == f"{head(root)}+uncommitted"
    (root / "code.py").write_text("1")
    assert checkout_commit(root) == head(root)
    (root / "new.py").write_text("3")
    assert checkout_commit(root) == f"{head(root)}+uncommitted"


def test_what_is_no_checkout_has_no_commit(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkout_commit(tmp_path / "elsewhere") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert checkout_commit(root) is None

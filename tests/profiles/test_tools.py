"""A missing tool is a failure under CI and a skip with the reason elsewhere."""

from __future__ import annotations

import pytest

from tests.tools import need, need_module


@pytest.mark.parametrize("check", [need, need_module])
def test_a_missing_tool_is_skipped_with_its_name_and_fails_under_ci(check, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool"):
        check("no-such-tool")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool"):
        check("no-such-tool")


def test_what_is_there_passes(monkeypatch):
    monkeypatch.setenv("CI", "true")
    need("sh")
    need_module("json", "numpy")

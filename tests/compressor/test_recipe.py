"""Recipes: what is refused, in which words, and what the hash covers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressor.recipe import RECIPES, find_task, list_recipes, list_tasks, load_recipe
from profiles.errors import RequestError
from tests.compressor.engine import RECIPE, ROOT, Toy


def refused(toy: Toy, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        load_recipe(toy.recipe, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "override, message",
    [
        ("stages.distill.stepz=5", "recipe toy: stages.distill.stepz: unknown key (did you mean steps?)"),
        ("stages.zzzz=5", "recipe toy: stages.zzzz: unknown key; known here: teacher, distill"),
        ("more.a.batchh=5", "recipe toy: more.a.batchh: unknown key (did you mean batch?)"),
        ("stages.distill.steps=many", "recipe toy: stages.distill.steps: input should be a valid integer"),
        ("train.devices=[a]", "recipe toy: train.devices"),
        ("train.precision=fp8", "recipe toy: train.precision: input should be '32-true'"),
        ("train.threads=0", "recipe toy: train.threads: input should be greater than or equal to 1 (got 0)"),
        ("name=../up", "recipe toy: name: string should match pattern"),
        ("task=toi", "recipe toy: task: unknown task 'toi' (did you mean toy?)"),
        ("task=os.path", "recipe toy: task: unknown task 'os.path'"),
        ("task=null", "recipe toy: task: missing"),
        ("train", "recipe toy: override 'train': expected key=value"),
        ("train..devices=1", "expected key=value"),
        ("seed.deep=1", "recipe toy: seed: is a plain value, 'deep' cannot be set in it"),
        ("seed=[1", "the value is not YAML"),
        ("seed=-1", "recipe toy: seed: input should be greater than or equal to 0 (got -1)"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_where_and_what(toy: Toy, override: str, message: str) -> None:
    assert message in refused(toy, override)


def test_overrides_are_yaml_and_reach_into_sections_that_the_file_leaves_out(toy: Toy) -> None:
    overrides = ["stages.distill.lr=1e-3", "train.devices=[0, 1]", "clip=null", "more.a.steps=2", "summary=two words"]
    recipe = load_recipe(toy.recipe, overrides)
    assert recipe.stages.distill.lr == 0.001 and recipe.stages.distill.steps == 30
    assert recipe.train.devices == [0, 1] and recipe.train.threads == 1
    assert recipe.clip is None and recipe.more["a"].steps == 2 and recipe.summary == "two words"


def test_a_number_in_an_override_is_an_index_where_a_list_stands(toy: Toy) -> None:
    recipe = load_recipe(toy.recipe, ["train.devices=[0, 1]", "train.devices.1=3"])
    assert recipe.train.devices == [0, 3]
    assert "train.devices: has 2 items, no item '2'" in refused(toy, "train.devices=[0, 1]", "train.devices.2=3")


def test_the_hash_covers_what_changes_the_result_and_nothing_else(toy: Toy) -> None:
    def hash_of(*overrides: str) -> str:
        return load_recipe(toy.recipe, overrides).hash

    base = hash_of()
    same = ["name=other", "summary=x", "train.log_every=1", "train.num_prefetch=0", "train.checkpoint_every=3"]
    assert {hash_of(override) for override in same} == {base}
    assert hash_of("stages.distill.steps=30", "clip=1") == base, "defaults written out are the same recipe"
    other = ["seed=4", "stages.distill.lr=0.1", "train.threads=2", "train.devices=2", "more.a.steps=1", "clip=2"]
    hashes = [hash_of(override) for override in other]
    assert len({base, *hashes}) == len(other) + 1


def test_the_resolved_recipe_is_the_same_recipe(toy: Toy, tmp_path: Path) -> None:
    recipe = load_recipe(toy.recipe, ["stages.distill.lr=0.3", "more.a.steps=1"])
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(path) == recipe and load_recipe(path).hash == recipe.hash


@pytest.mark.parametrize(
    "text, message",
    [
        ("name: a\ntask: toy\nseed: 1\nseed: 2\n", "key 'seed' stands twice"),
        ("[1, 2]", "not a recipe"),
        ("name: [", "not a readable recipe"),
        ("task: toy\n", "recipe broken: name: missing"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(toy: Toy, text: str, message: str) -> None:
    path = toy.root / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        load_recipe(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipes_and_missing_files_are_named() -> None:
    with pytest.raises(RequestError, match="recipe no-such-thing: unknown"):
        load_recipe("no-such-thing")
    with pytest.raises(RequestError, match=r"no/such\.yaml: no such file"):
        load_recipe("no/such.yaml")


def test_a_task_of_another_distribution_is_found_by_its_entry_point(toy: Toy) -> None:
    assert "toy" in list_tasks()
    assert find_task("toy").__module__ == "toy_tasks.toy.task"


def test_every_shipped_recipe_loads_and_is_named_as_its_file() -> None:
    names = [name for name, _ in list_recipes()]
    assert names == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    for name, summary in list_recipes():
        assert load_recipe(name).name == name and summary


def test_listing_recipes_imports_no_torch() -> None:
    code = "import sys, compressor.recipe as r; r.list_recipes(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_without_torch_a_recipe_names_the_extra(toy: Toy) -> None:
    """Exit code 3, one line, for a core install that is asked to train."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['compressor', 'distill', sys.argv[1]]\n"
        "from compressor.cli import main; main()"
    )
    environment: Any = os.environ | toy.environment
    done = subprocess.run(
        [sys.executable, "-c", code, str(toy.recipe)], cwd=toy.root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr.strip() == "error: torch is not installed: pip install 'edge-compressor[train]'"


def test_the_toy_recipe_is_what_these_tests_think() -> None:
    assert yaml.safe_load(RECIPE)["task"] == "toy"

"""Recipe: one YAML file is one experiment, complete and repeatable. Schema, overrides, hash; no torch here.

A task's own sections are fields of its `Config`, a subclass of `RecipeConfig`. Tasks are found by name in the packages
that the entry points "edge_compressor.tasks" name: task NAME is the class `Task` of `PACKAGE.NAME.task`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import pkgutil
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import to_jsonable_python

from compressor.extras import needs
from profiles.errors import RequestError

RECIPES = Path(__file__).parent / "recipes"
TASKS_GROUP = "edge_compressor.tasks"
BUILTIN_TASKS = "compressor.tasks"


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def operational(default: Any, **options: Any) -> Any:
    """A field that cannot change the result (a cadence, a label). It does not enter the recipe's hash."""
    return Field(default, json_schema_extra={"hashed": False}, **options)


class TrainConfig(Section):
    """How the loop runs. The names of accelerators, strategies and precisions are Lightning Fabric's."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | list[int] | Literal["auto"] = 1
    num_nodes: int = Field(1, ge=1, description="the command is started once per node; the run directory is shared")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "32-true"
    threads: int | None = Field(None, ge=1, description="torch threads per process; null: the processors, shared out")
    clip_norm: float | None = Field(None, gt=0, description="largest L2 norm of the gradients of one optimiser")
    validate_every: int | None = Field(None, ge=1, description="steps; null: at the end of a stage only")
    checkpoint_every: int | None = operational(None, ge=1, description="steps")
    checkpoint_seconds: float | None = operational(60.0, gt=0)
    keep_checkpoints: int = operational(2, ge=1)
    log_every: int = operational(20, ge=1, description="steps")
    num_prefetch: int = operational(4, ge=0, description="batches made ahead in a thread; 0: none")


class RecipeConfig(Section):
    """What every recipe has. `load_recipe` gives an instance of the task's own subclass."""

    name: str = operational(..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = operational("")
    task: str
    seed: int = Field(0, ge=0, lt=2**63)
    train: TrainConfig = TrainConfig()  # type: ignore[call-arg]

    _task_class: Any = PrivateAttr(default=None)

    def task_class(self) -> Any:
        """The class `Task` that this recipe names (imports torch)."""
        return self._task_class or find_task(self.task)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of everything in the recipe that can change the result.

        Left out: fields made with `operational` (name, summary, logging, checkpoint and prefetch settings). The number
        of threads is in: sums over threads round differently, and a resumed run must be bit-identical.
        """
        return canonical_hash(self.identity())

    def identity(self) -> dict[str, Any]:
        """What the hash covers, as plain JSON values."""
        return _identity(self)


def _identity(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {name: _identity(getattr(value, name)) for name, field in fields.items() if _is_hashed(field)}
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    return to_jsonable_python(value)


def _is_hashed(field: Any) -> bool:
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("hashed") is False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces. Raises TypeError or ValueError for what JSON cannot say exactly."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical_hash(value: Any) -> str:
    """Hex SHA-256 of `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The recipe of that name, or in that .yaml file, with overrides such as "stages.distill.steps=100" (YAML values).

    Returns an instance of the task's `Config`. Raises RequestError, one line: where, what, the nearest known name.
    """
    path = _recipe_path(str(name_or_path))
    data = _read_yaml(path)
    where = f"recipe {data.get('name', path.stem)}"
    for override in overrides:
        _apply(data, override, where)
    return parse_recipe(data, where)


def parse_recipe(data: Mapping[str, Any], where: str) -> Any:
    """Check plain values against the schema of the task that they name."""
    if not isinstance(data.get("task"), str):
        raise RequestError(f"{where}: task: missing; the known tasks are {', '.join(list_tasks()) or 'none'}")
    task_class = find_task(data["task"], where)
    try:
        recipe = task_class.Config.model_validate(data)
    except ValidationError as error:
        raise RequestError(f"{where}: {_first_problem(error, task_class.Config, data)}") from None
    recipe._task_class = task_class
    return recipe


def list_recipes() -> list[tuple[str, str]]:
    """Name and summary of the recipes that ship with this version."""
    return [(path.stem, str(_read_yaml(path).get("summary", ""))) for path in _shipped()]


def _shipped() -> list[Path]:
    """By name: "sketch" before "sketch-paper"."""
    return sorted(RECIPES.glob("*.yaml"), key=lambda path: path.stem)


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean X?)", or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


# --- files and overrides ---


def _recipe_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    path = RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    known = [item.stem for item in _shipped()]
    listing = ", ".join(known) or "none"
    raise RequestError(
        f"recipe {name}: unknown{nearest(name, known)}; known: {listing}; or give a path to a .yaml file"
    )


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a repeated key win in silence; a recipe does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        repeated = [key for index, key in enumerate(keys) if key in keys[:index]]
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"key {repeated[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, _UniqueKeys)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError, IsADirectoryError) as error:
        raise RequestError(f"{path}: not a readable recipe ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict):
        raise RequestError(f"{path}: not a recipe: keys and values are expected, such as 'task: sketch'")
    return data


def _apply(data: dict[str, Any], override: str, where: str) -> None:
    """Set "a.b.c=value" in `data`. A number in the path is an index where a list stands."""
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts):
        raise RequestError(f"{where}: override {override!r}: expected key=value, such as train.devices=2")
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError:
        raise RequestError(f"{where}: override {override!r}: the value is not YAML") from None
    here: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                raise RequestError(f"{where}: {'.'.join(parts[:depth])}: has {len(here)} items, no item {part!r}")
            index: Any = int(part)
        elif isinstance(here, dict):
            index = part
            if not last and here.get(part) is None:
                here[part] = {}
        else:
            raise RequestError(f"{where}: {'.'.join(parts[:depth])}: is a plain value, {part!r} cannot be set in it")
        if last:
            here[index] = value
        here = here[index]


# --- tasks ---


def _task_packages() -> list[str]:
    """Packages in which tasks are looked up: the built-in one (also when this distribution is not installed) first."""
    named = [point.value for point in importlib.metadata.entry_points(group=TASKS_GROUP)]
    return list(dict.fromkeys([BUILTIN_TASKS, *named]))


def list_tasks() -> list[str]:
    """Names of the tasks that are installed. Imports the packages of tasks, not the tasks."""
    names: set[str] = set()
    for package in _task_packages():
        module = importlib.import_module(package)
        names |= {item.name for item in pkgutil.iter_modules(module.__path__) if item.ispkg}
    return sorted(names)


def find_task(name: str, where: str = "recipe") -> Any:
    """The class `Task` of that name. Raises RequestError for an unknown name, MissingError if an extra is missing."""
    for package in _task_packages() if name.isidentifier() else []:
        if importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}.{name}") is None:
            continue
        with needs("train", package.split(".")[0]):
            return importlib.import_module(f"{package}.{name}.task").Task
    known = list_tasks()
    raise RequestError(
        f"{where}: task: unknown task {name!r}{nearest(name, known)}; known: {', '.join(known) or 'none'}"
    )


# --- one line out of pydantic's many ---


def _first_problem(error: ValidationError, config: type[BaseModel], data: Any) -> str:
    """The first problem as "path: what (hint)". A mistyped key comes before the missing key that it causes."""
    problems = error.errors(include_url=False, include_context=False)
    problem = next((item for item in problems if item["type"] == "extra_forbidden"), problems[0])
    path = _data_path(problem["loc"], data)
    where = ".".join(str(part) for part in path) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(config, path[:-1])
        hint = nearest(str(path[-1]), known) or f"; known here: {', '.join(known)}"
        return f"{where}: unknown key{hint}"
    if problem["type"] == "missing":
        return f"{where}: missing"
    # In a union every member complains: show all that were tried at this place.
    messages = [item["msg"] for item in problems if _data_path(item["loc"], data) == path]
    message = " or ".join(dict.fromkeys(messages))
    got = " ".join(repr(problem["input"]).split())
    return f"{where}: {message[:1].lower()}{message[1:]} (got {got if len(got) <= 60 else got[:57] + '...'})"


def _data_path(location: tuple[int | str, ...], data: Any) -> list[int | str]:
    """pydantic's location without the parts that name union members: only keys and indices of the data."""
    path: list[int | str] = []
    here = data
    for index, part in enumerate(location):
        inside = (isinstance(here, Mapping) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
            path.append(part)
        elif isinstance(here, Mapping) and index == len(location) - 1:  # a missing key
            path.append(part)
    return path


def _known_keys(config: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    models = [config]
    for part in path:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            models = [inner for field in fields for inner in _models_in(field.annotation)]
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model class in a type such as `dict[str, Stage | None]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]

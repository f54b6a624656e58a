"""YAML that people write by hand: no Python objects, no key twice, and one line on what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from profiles.errors import RequestError


class _UniqueKeys(yaml.SafeLoader):
    """YAML's loaders let the last of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML document. Raises yaml.YAMLError, also for a key that stands there twice."""
    return yaml.load(text, _UniqueKeys)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; `what` says what it should be ("a device profile").

    Raises RequestError, in one line with the file and, for broken YAML, the line.
    """
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RequestError(f"{path}{where}: not valid YAML ({problem})") from None
    if not isinstance(value, dict):
        raise RequestError(f"{path}: not {what}: keys and values are expected")
    return value

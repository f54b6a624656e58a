"""Iconify packages: icon sets as SVG bodies in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compressor.data.packages import Package

NEEDED = ("package/icons.json", "package/chars.json")


def icons_package(name: str, version: str, sha256: str, licence: str, url: str, note: str) -> Package:
    """An icon set's package on npm."""
    return Package("npm", f"@iconify-json/{name}", version, sha256, licence, url, note)


class IconSet:
    """The icons of a package's files (`NEEDED`, by path in the archive; chars.json where the icons are emoji)."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        content = json.loads(members["package/icons.json"])
        self.icons: dict[str, dict[str, Any]] = content["icons"]
        self.aliases: dict[str, dict[str, Any]] = content.get("aliases", {})
        self.size: dict[str, float] = {key: content.get(key, 16) for key in ("width", "height")}
        self.names: dict[str, str] = json.loads(members.get("package/chars.json", b"{}"))

    def emoji(self, hexcode: str) -> str | None:
        """The SVG of an emoji sequence, or None."""
        name = self.emoji_name(hexcode)
        return None if name is None else self.svg(name)

    def emoji_name(self, hexcode: str) -> str | None:
        """The icon's name of an emoji sequence, or None. The packages leave presentation selectors (FE0F) out."""
        codes = hexcode.lower().split("-")
        return self.names.get("-".join(codes)) or self.names.get("-".join(code for code in codes if code != "fe0f"))

    def has(self, name: str) -> bool:
        """Whether `svg(name)` has something to give."""
        return name in self.icons or name in self.aliases

    def svg(self, name: str) -> str:
        """The SVG of an icon or alias, `currentColor` as black. Raises KeyError if there is none."""
        while name in self.aliases:
            alias = self.aliases[name]
            if set(alias) - {"parent", "hidden"}:
                raise ValueError(f"icon {name}: aliases that transform their parent are not read")
            name = alias["parent"]
        icon = self.icons[name]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = (icon.get(key, default) for key, default in self.size.items())
        names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        body = icon["body"].replace("currentColor", "#000000")
        return f'<svg {names} viewBox="{left} {top} {width} {height}">{body}</svg>'

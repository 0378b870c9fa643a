"""The instruction set as data: isa.toml, read and checked at import."""

import tomllib
from importlib import resources
from typing import Any

RAW: dict[str, Any] = tomllib.loads(resources.files("npu_isa").joinpath("isa.toml").read_text(encoding="utf-8"))
TIMING: dict[str, int] = RAW["timing"]

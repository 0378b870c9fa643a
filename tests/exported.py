"""Graphs of real exporters in ../shared/data, whose weights are filled with seeded values: for a test and a script."""

import importlib.util
from pathlib import Path

import onnx

GRAPHS = Path(__file__).parents[2] / "shared" / "data" / "graphs"
EXPORTED = (
    *("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "mobilenet_v2", "vgg16_bn", "densenet121"),
    "inception_v3",
)


def write_exported(name: str, path: Path) -> None:
    """Write the model of torchvision with this name, its weights filled in."""
    spec = importlib.util.spec_from_file_location("materialize", GRAPHS / "materialize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    onnx.save(module.materialize(f"torchvision_{name}"), path)

"""Graphs of real exporters in ../shared/data, whose weights are filled with seeded values: for a test and a script."""

import importlib.util
from pathlib import Path

import onnx

GRAPHS = Path(__file__).parents[2] / "shared" / "data" / "graphs"
EXPORTED = (
    *("timm_efficientnet_lite0", "timm_repvgg_a0"),
    *("torchvision_densenet121", "torchvision_efficientnet_b0", "torchvision_googlenet", "torchvision_inception_v3"),
    *("torchvision_mnasnet1_0", "torchvision_mobilenet_v2"),
    *("torchvision_mobilenet_v3_large", "torchvision_mobilenet_v3_large_dynamo"),
    *("torchvision_regnet_y_400mf", "torchvision_resnet18", "torchvision_resnet34"),
    *("torchvision_resnet50", "torchvision_resnet50_dynamo", "torchvision_resnext50_32x4d"),
    *("torchvision_shufflenet_v2_x1_0", "torchvision_squeezenet1_1", "torchvision_vgg16_bn"),
)  # every one but transformers and ConvNeXt, whose LayerNormalization the machine cannot run


def write_exported(name: str, path: Path) -> None:
    """Write the graph of this name, its weights filled in."""
    spec = importlib.util.spec_from_file_location("materialize", GRAPHS / "materialize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    onnx.save(module.materialize(name), path)

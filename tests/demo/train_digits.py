"""Train the demo's network and write digits.onnx: `python -m tests.demo.train_digits [--check]` (extras dev, train).

One seed, one thread, a fixed number of steps, the last weights: about 40 seconds, 692 of the 700 test images right.
The arithmetic takes the paths that do not depend on the processor's model (oneDNN off, ATen's plain kernels, MKL's
compatible ones), so that a second run gives the same bytes: seen so with torch 2.13.0 (CPU wheel for x86-64), numpy
2.4.6 and onnx 1.23.2. Another release may round otherwise; `--check` shows how far its weights are from the file's.
"""

import argparse
import os
import time
from collections.abc import Sequence

os.environ["ATEN_CPU_CAPABILITY"] = "default"  # both are read when torch is imported
os.environ["MKL_CBWR"] = "COMPATIBLE"

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.demo import digits, digits_net
from tests.demo.digits_net import BLOCKS, CLASSES, EPSILON, SIDE, STEM_CHANNELS, Block

SEED = 0
EPOCHS = 20
BATCH = 64
PEAK_RATE = 0.1  # learning rate, up in 30 % of the steps and down in the rest
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-3
SMOOTHING = 0.05  # of labels
SHIFT = 1  # pixels an image is moved at most, in each direction


class Residual(nn.Module):
    """One `digits_net.Block`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(block.inputs, block.channels, 3, block.stride), _norm(block.channels)
        self.conv2, self.norm2 = _conv(block.channels, block.channels, 3), _norm(block.channels)
        self.projects = block.projects
        if block.projects:
            self.conv3, self.norm3 = _conv(block.inputs, block.channels, 1, block.stride), _norm(block.channels)

    def forward(self, x: Tensor) -> Tensor:
        around = self.norm3(self.conv3(x)) if self.projects else x
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + around)


class Network(nn.Module):
    """The network of `digits_net`; its arrays have the names used there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv": _conv(1, STEM_CHANNELS, 3), "norm": _norm(STEM_CHANNELS)})
        for block in BLOCKS:
            self.add_module(block.name, Residual(block))
        self.fc = nn.Linear(BLOCKS[-1].channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem["norm"](self.stem["conv"](x)))
        for block in BLOCKS:
            x = self.get_submodule(block.name)(x)
        return self.fc(x.mean((2, 3)))


def _conv(inputs: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, channels, kernel, stride, kernel // 2, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


def pixels(images: np.ndarray) -> Tensor:
    """Return images uint8 (N, 8, 8, 1) as the network's input, float32 (N, 1, 8, 8): pixel / 255."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images moved by up to SHIFT pixels, each by its own amount; what comes in is black."""
    padded = functional.pad(x, (SHIFT,) * 4)[:, 0]
    corner = torch.randint(0, 2 * SHIFT + 1, (len(x), 2, 1), generator=generator)
    at = corner + torch.arange(SIDE)
    image = torch.arange(len(x))[:, None, None]
    return padded[image, at[:, 0, :, None], at[:, 1, None, :]][:, None]


def train(images: np.ndarray, labels: np.ndarray) -> Network:
    """Return the network trained on images uint8 (N, 8, 8, 1) and their labels."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    x, y = pixels(images), torch.from_numpy(labels.astype(np.int64))
    network = Network()
    steps = len(x) // BATCH  # the rest of each shuffle is left out
    optimizer = torch.optim.SGD(
        network.parameters(), PEAK_RATE, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for batch in order[: steps * BATCH].split(BATCH):
            scores = network(shifted(x[batch], generator))
            loss = functional.cross_entropy(scores, y[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d} of {EPOCHS}: loss {total / steps:.4f}", flush=True)
    return network.eval()


def hits(network: Network, images: np.ndarray, labels: np.ndarray) -> int:
    """Return how many images get their label."""
    with torch.no_grad():
        return int((network(pixels(images)).argmax(1).numpy() == labels).sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; write the file, or compare with the committed one. Returns 1 if that differs."""
    parser = argparse.ArgumentParser(description="Train the demo's network on scikit-learn's digits.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with the committed file")
    check = parser.parse_args(arguments).check
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.mkldnn.enabled = False
    begin = time.monotonic()
    training, test = digits.make()
    network = train(**training)
    right = f"{hits(network, **test)} of {len(test['labels'])}"
    print(f"trained in {time.monotonic() - begin:.0f} s; test images right: {right}")
    data = digits_net.to_onnx({k: v.numpy() for k, v in network.state_dict().items()})
    if check:
        verdict = digits_net.difference(data, digits.MODEL_FILE.read_bytes())
        print(f"{digits.MODEL_FILE.name}: {verdict}")
        return int(verdict != digits_net.IDENTICAL)
    digits.MODEL_FILE.write_bytes(data)
    print(f"{digits.MODEL_FILE.name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

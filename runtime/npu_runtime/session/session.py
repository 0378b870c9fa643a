"""A loaded binary: turn the dial, run images, read the clock."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from npu_isa.check.program import check_binary
from npu_isa.errors import DataError, NpuError
from npu_isa.file.binary import Binary, OutputInfo
from npu_isa.file.container import load
from npu_isa.isa.tables import TIMING
from numpy.typing import NDArray

from npu_runtime.session.onnx_run import Result

if TYPE_CHECKING:
    from npu_sim.fast.time.model import Timing, TimingModel
    from npu_sim.fast.values.run import Values

    from npu_runtime.session.host import Host

Array = NDArray[Any]
Outputs = Result | dict[str, Result]  # the only one, or all by name


class Session:
    """One binary on one simulated machine.

    The binary is checked before anything runs. Values and times are computed by the fast simulator: values once per
    image, times once per boundary vector.

    Args:
        source: a .npubin file or a `Binary`.

    Raises:
        ContainerError: the file is missing or damaged.
        ProgramError: the program would race, deadlock, leave a memory or read what was not written.
    """

    def __init__(self, source: str | Path | Binary) -> None:
        self.binary = source if isinstance(source, Binary) else load(source)
        self.ops = check_binary(self.binary)
        self.switch_cycles_total = 0
        self._timing: dict[tuple[int, ...], Timing] = {}
        self._values: tuple[tuple[int, ...], Values] | None = None
        self._model: TimingModel | None = None
        self._boundaries = self.binary.boundaries_at(0)
        self._host: Host | None = None

    # -- the dial

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Boundary of each register, in groups of 16 channels."""
        return self._boundaries

    @property
    def switch_cycles(self) -> int:
        """Cycles that one change of the dial costs: a byte per layer to the staging bank, then the latch at START."""
        return self.binary.registers * TIMING["boundary_write_cycles"] + TIMING["start_cycles"]

    @property
    def effective_percent(self) -> float:
        """Share of the multiply-accumulates of the layers with a dial that now run in 4 bits, in percent."""
        return self.binary.percent(self.low_macs)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Every effective ratio that the dial reaches, in percent, ascending from 0."""
        return (0.0, *(self.binary.percent(step.low_macs) for step in self.binary.dial))

    @property
    def layer_low_macs(self) -> tuple[int, ...]:
        """Multiply-accumulates per image that now run in 4 bits, of each layer."""
        low = [0] * len(self.binary.layers)
        at = {layer.register: i for i, layer in enumerate(self.binary.layers) if layer.has_dial}
        before = 0
        for step in self.binary.dial:  # each step's own part is the growth of the sum
            part, before = step.low_macs - before, step.low_macs
            if step.boundary <= self._boundaries[step.register]:
                low[at[step.register]] += part
        return tuple(low)

    @property
    def low_macs(self) -> int:
        """Multiply-accumulates per image that now run in 4 bits."""
        return sum(self.layer_low_macs)

    def set_ratio(self, percent: float) -> float:
        """Turn the dial to the step nearest to a ratio of 4-bit multiply-accumulates.

        Args:
            percent: 0 (all in 8 bits) to 100.

        Returns:
            the effective ratio in percent.

        Raises:
            NpuError: the ratio is outside 0..100.
        """
        if not 0 <= percent <= 100:
            raise NpuError(f"ratio {percent:g} is outside 0..100", hint="the ratio is a percentage of 4-bit work")
        self._boundaries = self.binary.boundaries_at(percent)
        self.switch_cycles_total += self.switch_cycles
        return self.effective_percent

    def set_boundaries(self, vector: Sequence[int]) -> None:
        """Set the boundary of each register, in groups.

        Raises:
            NpuError: wrong length, or a boundary that is not legal for its layer.
        """
        layers = {layer.register: layer for layer in self.binary.layers if layer.has_dial}
        if len(vector) != len(layers):
            raise NpuError(f"{len(vector)} boundaries given, the binary has {len(layers)} boundary registers")
        for register, boundary in enumerate(vector):
            legal = layers[register].boundaries
            if boundary not in legal:
                raise NpuError(
                    f"boundary {boundary} is not legal for layer {layers[register].name}",
                    hint=f"legal boundaries (groups of 16 channels): {', '.join(map(str, legal))}",
                )
        self._boundaries = tuple(int(b) for b in vector)
        self.switch_cycles_total += self.switch_cycles

    # -- time

    @property
    def all_8bit(self) -> tuple[int, ...]:
        """Boundaries of the 8-bit model."""
        return (0,) * self.binary.registers

    def timing(self, boundaries: tuple[int, ...] | None = None) -> "Timing":
        """Return when every instruction runs; no data is needed.

        Args:
            boundaries: a legal boundary vector; the present one if None.
        """
        at = self._boundaries if boundaries is None else boundaries
        if at not in self._timing:
            from npu_sim.fast.time.model import TimingModel

            if self._model is None:
                self._model = TimingModel(self.ops, self.binary.machine)
            self._timing[at] = self._model.simulate(at)
        return self._timing[at]

    def latency_us(self) -> float:
        """Return the time of one inference at the machine's clock, in microseconds."""
        return self.timing().total_cycles / self.binary.machine.clock_hz * 1e6

    # -- values

    def prepare(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the input bytes of images: each pixel value through the table of the binary.

        Args:
            images: uint8 (N, height, width, channels), already resized and cropped.

        Raises:
            DataError: another dtype or shape.
        """
        info = self.binary.input
        want = (info.height, info.width, info.channels)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != want:
            raise DataError(
                f"images are {images.dtype} of shape {tuple(images.shape)}",
                hint=f"the model takes uint8 of shape (N, {want[0]}, {want[1]}, {want[2]})",
            )
        bytes_of = [np.take(row, images[..., channel]) for channel, row in enumerate(info.table)]
        return np.stack(bytes_of, axis=-1)

    def run(self, images: NDArray[np.uint8], observe: Callable[..., None] | None = None) -> Outputs:
        """Return the outputs of the whole model for images, in its units; the host's part is run too.

        Args:
            images: uint8 (N, height, width, channels): pixels.
            observe: see `npu_sim.fast.values.run.Values.run`.

        Returns:
            float32 (N, *output shape) where the model has one output; a dictionary of them by the outputs' ONNX names,
            in the order of the model, where it has several. What the host makes has the model's own type; where it
            has no shape without the batch (`npu_isa.file.binary.HostOutput`), a list of arrays, one for each image.

        Raises:
            DataError: the images do not fit.
            ContainerError, ModelError: the host's part is damaged or cannot be run.
        """
        found = self.run_all(images, observe)
        return next(iter(found.values())) if len(found) == 1 else found

    def run_integers(self, images: NDArray[np.uint8], observe: Callable[..., None] | None = None) -> Outputs:
        """Return the machine's outputs as its integers, int32; the host has no part in it."""
        found = self.run_all_integers(images, observe)
        return next(iter(found.values())) if len(found) == 1 else {**found}

    def run_all(self, images: NDArray[np.uint8], observe: Callable[..., None] | None = None) -> dict[str, Result]:
        """Return the outputs as `run` does, by name however many there are."""
        found = self.run_all_integers(images, observe)
        scales = {out.name: np.float32(out.scale) for out in self.binary.outputs}
        real = {name: (values * scales[name]).astype(np.float32) for name, values in found.items()}
        return {**real} if self.binary.host is None else self._host_part().run(real)

    def run_all_integers(
        self, images: NDArray[np.uint8], observe: Callable[..., None] | None = None
    ) -> dict[str, Array]:
        """Return the outputs as `run_integers` does, by name however many there are."""
        data = self.prepare(images).reshape(len(images), -1)
        outputs = self.binary.outputs
        raw = self._simulator().run(data, self.binary.input.address, self.binary.output_ranges, observe)
        parts = np.split(raw, np.cumsum([out.bytes for out in outputs])[:-1], axis=1)
        return {out.name: decode_output(out, part) for out, part in zip(outputs, parts, strict=True)}

    def _host_part(self) -> "Host":
        if self._host is None:
            from npu_runtime.session.host import Host

            self._host = Host(self.binary)
        return self._host

    def _simulator(self) -> "Values":
        if self._values is None or self._values[0] != self._boundaries:
            from npu_sim.fast.values.run import Values

            b = self.binary
            if self._values is None:
                made = Values(self.ops, b.machine, b.constants, self._boundaries, b.dram_bytes)
            else:
                made = self._values[1].at(self._boundaries)
            self._values = (self._boundaries, made)
        return self._values[1]


def decode_output(out: OutputInfo, raw: NDArray[np.uint8]) -> Array:
    """Return the bytes of an output, (N, bytes), as integers in the order of the ONNX output, int32 (N, *shape)."""
    planes = raw.reshape(len(raw), out.height, out.width, out.channels // 16, out.bits // 8, 16)
    values = planes[..., 0, :].astype(np.int32)
    if out.bits == 16:
        values = (values | planes[..., 1, :].astype(np.int32) << 8).astype(np.uint16).view(np.int16).astype(np.int32)
    elif out.signed:
        values = values.astype(np.uint8).view(np.int8).astype(np.int32)
    flat = values.reshape(len(raw), out.height, out.width, out.channels)
    logical = np.argsort([c if c >= 0 else out.channels for c in out.channel_map], kind="stable")
    chosen = flat[..., logical[: sum(c >= 0 for c in out.channel_map)]]
    return np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)).reshape(len(raw), *out.shape)

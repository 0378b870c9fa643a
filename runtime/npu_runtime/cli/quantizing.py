"""The options that turn an ONNX file into a quantized graph: `npu_compiler.options` has them, every command reads them.

Each is None where it is not given.
"""

import argparse
from typing import Any, Literal, get_args, get_origin

from npu_compiler.options import QuantizeOptions, offered
from npu_compiler.outputs import HostChoice

from npu_runtime.cli.arguments import numbers_of, refuse, shape
from npu_runtime.cli.paths import InputPath, kind_of
from npu_runtime.data.preprocess import PreprocessOptions, preprocess_options

MODEL_HELP = "float or quantized model; opsets outside 11 to 21 are converted"


def add_model(parser: argparse.ArgumentParser, *kinds: str, text: str = MODEL_HELP, parts: bool = True) -> None:
    """Add the model and all that quantizes it.

    Args:
        parser: of a command.
        kinds: of file that the model may be, besides ONNX.
        text: help of the model.
        parts: with the parts of the method, see `npu_compiler.options.Flag`.
    """
    parser.add_argument(
        "model", type=InputPath.of("onnx", *kinds), metavar="MODEL" if kinds else "MODEL.onnx", help=text
    )
    pre = parser.add_argument_group("preprocessing, stored in the binary: ((pixel * pixel-scale) - mean) / std")
    quant = parser.add_argument_group("quantization")
    added = [
        parser.add_argument(
            "--calibration", type=InputPath.of("data"), metavar="DATA", help=".npz, or folder or zip with labels.csv"
        ),
        parser.add_argument("--input-shape", type=shape, metavar="N,C,H,W", help="of a model that leaves sizes open"),
        parser.add_argument(
            "--host", choices=get_args(HostChoice),
            help="what the machine cannot do at the end of the model runs on the host, or is refused (auto)",
        ),
        pre.add_argument("--pixel-scale", type=float, metavar="X", help="(1/255)"),
        pre.add_argument("--mean", type=numbers_of, metavar="X[,X...]", help="one number, or one per channel (0)"),
        pre.add_argument("--std", type=numbers_of, metavar="X[,X...]", help="one number, or one per channel (1)"),
        pre.add_argument(
            "--resize", type=numbers_of, metavar="H,W|SIDE", help="resize, or the shorter side alone; bilinear"
        ),
        pre.add_argument("--crop", type=numbers_of, metavar="H,W", help="then crop from the centre"),
        pre.add_argument(
            "--preprocess", type=InputPath.of("toml"), metavar="FILE.toml",
            help="the same keys in a file; options above win",
        ),
        *_add_options(quant, parts),
        quant.add_argument(
            "--requantize", action="store_true", default=None, help="calibrate activations of a quantized model anew"
        ),
    ]  # fmt: skip
    parser.set_defaults(quantizing=tuple(action.dest for action in added))


def _add_options(group: Any, parts: bool) -> list[argparse.Action]:
    added = []
    for option in offered():
        name, text, default = option.flag.name, option.flag.help, option.default
        if option.flag.part and not parts:
            continue
        if option.kind is bool:
            more: dict[str, Any] = {"action": "store_const", "const": not default}
        else:
            text = text if text.endswith(")") else f"{text} ({default})"
            more = {"type": _budget if name == "budget" else option.kind, "metavar": option.flag.value}
            if get_origin(option.kind) is Literal:
                more = {"choices": get_args(option.kind)}
        added.append(group.add_argument(f"--{name}", help=text, **more))
    return added


def _budget(text: str) -> dict[str, float]:
    """Return the fields that --budget sets: the one flag of two options."""
    if text.endswith("s"):
        return {"seconds": float(text[:-1])}
    return {"generations": int(text)}


_budget.__name__ = "generations, or seconds as 60s"


def is_quantized(args: argparse.Namespace) -> bool:
    """Whether the model is a .npuq; then what quantizes is refused."""
    if kind_of(args.model) != "npuq":
        return False
    refuse(args, args.quantizing, "with a .npuq, which is quantized already")
    return True


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `npu_runtime.session.compiling.prepare`, checked as far as no file is needed.

    Raises:
        DataError: an option or the preprocessing is out of its range.
    """
    if args.calibration is None:
        args.parser.error("an ONNX model needs --calibration DATA")
    given = {name: getattr(args, name) for name in PreprocessOptions.__dataclass_fields__}
    return {
        "model": args.model,
        "calibration": args.calibration,
        "preprocess": preprocess_options(args.preprocess, given),
        "options": _options(args).check(),
        "requantize": bool(args.requantize),
        "input_shape": args.input_shape,
        "host": args.host or "auto",
    }


def _options(args: argparse.Namespace) -> QuantizeOptions:
    chosen: dict[str, Any] = {}
    for option in offered():
        value = getattr(args, option.flag.name.replace("-", "_"), None)
        if value is not None:
            chosen |= value if isinstance(value, dict) else {option.field: value}
    _refuse_idle(args, chosen)
    if chosen.get("uniform", "none") != "none":
        chosen.setdefault("rounding", "nearest")
    return QuantizeOptions(**chosen)


def _refuse_idle(args: argparse.Namespace, chosen: dict[str, Any]) -> None:
    """Refuse options that do nothing beside the others given."""
    by_field = {option.field: option for option in offered()}
    for option in by_field.values():
        if option.flag.beside is None:
            continue
        field, values = option.flag.beside
        other = by_field[field]
        if not hasattr(args, other.flag.name.replace("-", "_")):
            continue  # the command sets it
        now = chosen.get(field, other.default)
        if now not in values:
            reason = (
                f"with --{other.flag.name} {now}"
                if other.default in values
                else (f"without --{other.flag.name} {' or '.join(values)}")
            )
            refuse(args, (option.flag.name.replace("-", "_"),), reason)

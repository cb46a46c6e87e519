"""What the commands share: models, prompts, sizes and the arguments of a pipeline's call."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from accel.files import check_folder, lines_of
from accel.measure.pipeline_runs import check_seed
from accel.terminal import waiting

SOME_FAILED = 1
INPUTS = ("image", "mask_image", "control_image", "ip_adapter_image", "video", "strength", "lora", "argument")
_COUNTS = ("steps", "frames", "clips", "repeats")


def add_command(commands: Any, name: str, purpose: str, *examples: str, aliases: Sequence[str] = ()) -> Any:
    """A command that says in a sentence what it is for, and shows how it is called."""
    shown = "\n".join(f"  accel {example}" for example in examples)
    return commands.add_parser(
        name,
        aliases=list(aliases),
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"{'examples' if len(examples) > 1 else 'example'}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def check_given(options: argparse.Namespace) -> None:
    """Raises ValueError, in one sentence, for what no command can use, before anything is loaded or computed."""
    for name in _COUNTS:
        count = getattr(options, name, None)
        if count is not None and count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {count!r}.")
    seed = getattr(options, "seed", None)
    for each in [*(seed if isinstance(seed, list) else [seed]), *getattr(options, "seeds", ())]:
        if each is not None:
            check_seed(each)
    out = getattr(options, "out", None)
    if out is not None and getattr(options, "out_is_file", False):
        check_folder(out.parent)
        if out.is_dir():
            raise ValueError(f"{out} is a folder; give the name of a file (--out).")
    elif out is not None:
        check_folder(out)


def pocket_prompts(prompts: Sequence[str]) -> Sequence[str]:
    """The prompts, once all are known to be in the grammar that the pocket model and its verifier understand."""
    from accel.pocket.scenes import Caption

    for prompt in prompts:
        Caption.parse(prompt)
    return prompts


def recorded_prompts(given: str, model: str) -> Sequence[str]:
    """The lines of a file, or so many of the pocket model's own captions."""
    if given.isdigit():
        if not model.startswith("pocket:"):
            raise ValueError(
                f"{model!r} has no prompts of its own: give a file with one prompt per line, --prompts FILE."
            )
        from accel import pocket

        return pocket.prompts(int(given), seed=3)
    return [line.strip() for line in lines_of(given) if line.strip()]


def load(model: str, options: argparse.Namespace) -> Any:
    from accel.loading import load_pipeline

    with waiting(f"loading {model}"):
        return load_pipeline(model, dtype=options.dtype, device=options.device)


def call_arguments(options: argparse.Namespace, pipe: Any = None) -> dict[str, Any]:
    """What the options say of every call, by the names that this pipeline has for it; files are read. The pipeline can
    be left out where the command has no `add_inputs`."""
    from accel.rendering.inputs import FILES, read_inputs
    from accel.rendering.pipeline_arguments import call_name, plain_class

    kind = plain_class(pipe)
    given = {name: getattr(options, name, None) for name in (*FILES, "strength")}
    read = read_inputs({name: value for name, value in given.items() if value is not None})
    width, height = options.size or (None, None)
    named = {
        "guidance_scale": options.guidance,
        "width": width,
        "height": height,
        "num_frames": options.frames,
    }
    shown = {name: value for name, value in named.items() if value is not None}
    return (
        shown | {call_name(name, kind): value for name, value in read.items()} | dict(getattr(options, "argument", []))
    )


def with_lora(pipe: Any, options: argparse.Namespace) -> AbstractContextManager[None]:
    """The pipeline with the LoRA weights that the options name."""
    from accel.rendering.lora import lora_weights

    return lora_weights(pipe, getattr(options, "lora", []))


def _file(name: str) -> Callable[[str], str]:
    """A path that is checked before a model is loaded."""

    def read(text: str) -> str:
        from accel.rendering.inputs import FILES, check_input

        try:
            check_input(Path(text).expanduser(), FILES.get(name, name))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).partition("; paths")[0]) from None
        return str(Path(text).expanduser())

    return read


def _lora(text: str) -> dict[str, Any]:
    """ "style.safetensors" or "style.safetensors:0.8"."""
    from accel.rendering.lora import parse_lora

    lora = parse_lora(text)
    return lora | {"weights": _file("lora")(lora["weights"])}


def _argument(text: str) -> tuple[str, Any]:
    """ "audio_end_in_s=10": a value in JSON, or a word."""
    import json

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"write NAME=VALUE, such as audio_end_in_s=10, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def size(text: str) -> tuple[int, int]:
    """ "128" or "832x480" as (width, height)."""
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 128 or 832x480") from None


def add_model(command: argparse.ArgumentParser, default: str | None = None) -> None:
    """The model, which must be named where there is no default."""
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs=None if default is None else "?",
        default=default,
        help="pocket:video, a diffusers folder, or a model id",
    )


def add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dtype", help="torch type by name, such as bfloat16")
    command.add_argument("--device", help="torch device, such as cuda or cpu")


def add_measurement(command: argparse.ArgumentParser, out: str, steps: int | None) -> None:
    command.add_argument("--out", type=Path, default=Path(out), help=f"folder for the results ({out})")
    add_call(command, steps)
    command.add_argument("--repeats", type=int, default=1, help="timed runs per prompt and seed (1)")
    add_machine(command)


def add_call(command: argparse.ArgumentParser, steps: int | None) -> None:
    command.add_argument("--steps", type=int, default=steps, help="inference steps")
    command.add_argument("--guidance", type=float, help="guidance scale")
    command.add_argument("--size", type=size, help="size in pixels: 128 or 832x480")
    command.add_argument("--frames", type=int, help="number of frames")


def add_inputs(command: argparse.ArgumentParser) -> None:
    """What a call starts from besides a prompt, and weights on top of the model's."""
    command.add_argument("--image", type=_file("image"), metavar="FILE", help="the picture to start from")
    command.add_argument("--mask-image", type=_file("mask_image"), metavar="FILE", help="what of it is painted anew")
    command.add_argument("--control-image", type=_file("control_image"), metavar="FILE", help="of a ControlNet")
    command.add_argument("--ip-adapter-image", type=_file("ip_adapter_image"), metavar="FILE", help="of an IP-Adapter")
    command.add_argument("--video", type=_file("video"), metavar="FILE", help="the video to start from")
    command.add_argument("--strength", type=float, help="how much of the picture or video is made anew, 0 to 1")
    command.add_argument(
        "--lora", type=_lora, action="append", default=[], metavar="FILE[:SCALE]", help="LoRA weights, in safetensors"
    )
    command.add_argument(
        "--argument", type=_argument, action="append", default=[], metavar="NAME=VALUE", help="any other of the call"
    )


def add_calibration(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--calibration", type=Path, nargs="+", default=[], metavar="FILE",
        help="of this model, by accel calibrate: forecasts are corrected by it; several of different guidance scales",
    )  # fmt: skip


def calibrated_recipes(names: Sequence[str], options: argparse.Namespace) -> list[Any]:
    """The recipes by their names, as `accel.compare` takes them, made to fit the model if a calibration is given.
    To be asked before a model is loaded: it raises for a name or file that is none.
    """
    from accel.api import recipe_of
    from accel.caching.calibration.fitting import calibrated

    recipes = [recipe_of(name) for name in names]
    if options.calibration:
        recipes = [calibrated(recipe, options.calibration) for recipe in recipes]
    return [(Path(name).stem, recipe) for name, recipe in zip(names, recipes, strict=True)]


def verifier(model: str) -> Any:
    """The program that reads off a pocket model's clips whether they show what the prompt says; None for others."""
    if not model.startswith("pocket:"):
        return None
    from accel import pocket

    return pocket.verify

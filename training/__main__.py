"""`python -m training`: train a recipe, export what it gave, evaluate weights on annotated sequences."""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import load_model, save_model
from model.compiled import CompiledMixFormer
from model.mixformer import MixFormer
from model.official import CheckpointError
from model.quantised import quantised
from training.calibrate import (
    BAD_OVERLAP,
    GOOD_OVERLAP,
    CalibrationError,
    fitted,
    judged,
    left_out,
    vanishing,
    videos_of,
    watch,
    watch_first_template,
)
from training.evaluate import evaluate, followers, table, watched, write_json
from training.loop import Trainer, averaged
from training.quantise import PASSES_A_VIDEO, box_differences, chosen_ranges, sampled_passes
from training.recipe import Recipe, RecipeError, read_recipe
from training.sequences import SequenceError, read_sequences
from training.shards import ShardError, Shards, data_folder
from training.sources import Sources
from training.teacher import Teacher
from training.tune import TRIALS, tune

VIDEO_SHARDS = ("davis", "uavdt")
INITIAL = "init/vit_tiny_patch16_224_in1k_fp16.pth"


def main(words: list[str] | None = None) -> int:
    """Run a command; the exit code."""
    arguments = _parser().parse_args(words)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        code: int = arguments.run(arguments)
        return code
    except (CheckpointError, RecipeError, SequenceError, ShardError, CalibrationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="threads of the CPU (default: all)")
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="run a recipe, from its last checkpoint where there is one")
    train.add_argument("recipe", type=Path)
    train.add_argument("output", type=_weights_file, help="the .safetensors file to write at the end")
    train.add_argument("--run-dir", type=Path, help="checkpoints and log (default: runs/RECIPE)")
    train.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    train.set_defaults(run=_train)
    export = commands.add_parser("export", help="write the averaged weights of a run, finished or not")
    export.add_argument("recipe", type=Path)
    export.add_argument("output", type=_weights_file, help="the .safetensors file to write")
    export.add_argument(
        "--run-dir", type=Path, nargs="+", help="where the run's checkpoint is (default: runs/RECIPE); the mean of several"
    )
    export.set_defaults(run=_export)
    calibrate = commands.add_parser("calibrate", help="give weights the thresholds that fit their scores on held-out videos")
    calibrate.add_argument("weights", type=_weights_file, help="the .safetensors file to rewrite")
    calibrate.set_defaults(run=_calibrate)
    quantise = commands.add_parser("quantise", help="give weights the ranges that 8-bit integers need, from training videos")
    quantise.add_argument("weights", type=_weights_file, help="the .safetensors file to rewrite")
    limit_help = "pixels of the search crop by which rounding may move a box (root of the mean square)"
    quantise.add_argument("--limit", type=_pixels, default=0.2, help=limit_help)
    quantise.set_defaults(run=_quantise)
    settings = commands.add_parser("tune", help="what the tracker's settings are worth on the training data's videos")
    settings.add_argument("weights", type=Path)
    for command in (train, calibrate, quantise, settings):
        command.add_argument("--data", help="folder with train/*.tar and init/ (default: $MIXFORMER_DATA, else data)")
    settings.set_defaults(run=_tune)
    compare = commands.add_parser("evaluate", help="one pass over sequences in OTB or GOT-10k layout")
    compare.add_argument("sequences", type=Path)
    compare.add_argument("--weights", type=Path, required=True)
    compare.add_argument("--vittrack", type=Path, help="OpenCV Zoo's object_tracking_vittrack_2023sep.onnx, to compare with")
    compare.add_argument("--bfloat16", action="store_true", help="ours in bfloat16, too; for a CPU that has it")
    compare.add_argument("--frames", type=int, help="at most the first FRAMES of each sequence")
    compare.add_argument("--json", type=Path, help="write every box and figure here")
    compare.set_defaults(run=_evaluate)
    return parser


def _weights_file(text: str) -> Path:
    """What is written is safetensors, and is read as such by its name alone."""
    if not text.endswith(".safetensors"):
        raise argparse.ArgumentTypeError(f"{text} is no .safetensors file")
    return Path(text)


def _pixels(text: str) -> float:
    pixels = float(text)
    if not pixels > 0.0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return pixels


def _train(arguments: argparse.Namespace) -> int:
    recipe = read_recipe(arguments.recipe)
    data = data_folder(arguments.data)
    shards = Shards(data / "train")
    initial = data / INITIAL if recipe.pretrained else None
    teacher = Teacher(arguments.recipe.parent / recipe.teacher, arguments.device) if recipe.teacher else None
    sources = Sources(shards, shards.training())
    model = Trainer(
        recipe, sources, arguments.run_dir or _run_folder(arguments.recipe), initial, arguments.device, teacher
    ).run()
    return _write(model, recipe, arguments)


def _export(arguments: argparse.Namespace) -> int:
    recipe = read_recipe(arguments.recipe)
    return _write(averaged(recipe, *(arguments.run_dir or [_run_folder(arguments.recipe)])), recipe, arguments)


def _run_folder(recipe: Path) -> Path:
    return Path("runs") / recipe.stem


def _write(model: MixFormer, recipe: Recipe, arguments: argparse.Namespace) -> int:
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    notes = {"recipe": arguments.recipe.name, "seed": str(recipe.seed)}
    save_model(arguments.output, model.cpu().eval(), recipe.update_rule, notes)
    print(f"written: {arguments.output}")
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    """Fit to the held-out videos; judge each of them by the others, and all by videos that only the network has seen."""
    loaded = load_model(arguments.weights)
    network = CompiledMixFormer(loaded.model, torch.get_num_threads())
    shards = Shards(data_folder(arguments.data) / "train", VIDEO_SHARDS)
    scenes = list(vanishing(shards, videos_of(shards.validation())))
    seen = watch_first_template(network, loaded.update_rule, scenes)
    rule = fitted(loaded.update_rule, seen)
    print(rule)
    print(f"held-out videos, each with thresholds of the others: {left_out(network, loaded.update_rule, scenes, seen)}")
    trained = [watch(network, rule, scene) for scene in vanishing(shards, videos_of(shards.training()))]
    print(f"training videos, with the thresholds of the held-out ones: {judged(trained)}")
    save_model(arguments.weights, loaded.model, rule, loaded.metadata, ranges=loaded.ranges)
    print(f"written: {arguments.weights}")
    return 0


def _quantise(arguments: argparse.Namespace) -> int:
    loaded = load_model(arguments.weights)
    shards = Shards(data_folder(arguments.data) / "train", VIDEO_SHARDS)
    held_out, shown = (
        [each for video in videos_of(records) for each in sampled_passes(loaded.model, shards, video)]
        for records in (shards.validation(), shards.training())
    )
    if not held_out or not shown:
        raise CalibrationError(f"{len(shown)} frames of training videos and {len(held_out)} of held-out ones: both are needed")
    choice = chosen_ranges(loaded.model, shown, shown[PASSES_A_VIDEO // 2 :: PASSES_A_VIDEO], arguments.limit)
    differences = box_differences(loaded.model, quantised(loaded.model, choice.ranges), held_out)
    print(
        f"{len(choice.ranges)} of {choice.layers} layers with {choice.share:.0%} of their products; on {len(held_out)} frames of held-out "
        f"videos boxes differ from float32's by {np.median(differences):.2f} px of the search crop (median), at most {differences.max():.2f}"
    )
    save_model(arguments.weights, loaded.model, loaded.update_rule, loaded.metadata, ranges=choice.ranges)
    print(f"written: {arguments.weights}")
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    shards = Shards(data_folder(arguments.data) / "train", VIDEO_SHARDS)
    print("AUC; after something has passed in front of the target")
    for trial, worth in tune(load_model(arguments.weights), shards, videos_of(shards.records), TRIALS):
        print(f"{worth.auc:.3f}  {worth.after_sweeps:.3f}  {trial}", flush=True)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    videos = read_sequences(arguments.sequences, arguments.frames)
    loaded = load_model(arguments.weights)
    runs = evaluate(followers(loaded, arguments.vittrack, arguments.bfloat16), videos)
    print(table(runs))
    for name, of_one in runs.items():
        sights = watched(of_one, videos)
        if any(sights):
            trust = judged(sights)
            print(f'{name}: area under the ROC curve of "overlap below {BAD_OVERLAP}" against 1 - score: {trust.roc_area:.3f}')
            print(
                f"{name}: frames with an overlap of at least {GOOD_OVERLAP} called LOST: {100 * trust.good_called_lost:.1f} %"
            )
    if arguments.json:
        write_json(runs, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

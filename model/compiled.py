"""The tracking pass on a CPU by OpenVINO: what `MixFormer.track` computes in float32, in a third to a half of the time; or nearly
that with products in bfloat16 or of 8-bit integers (`quantised.py`), faster again.

The network is traced in parts, each stage and then the heads, so that the time of each can still be told. Every part runs one
target a request: on a CPU a batch gains nothing inside an operation, and targets side by side need not wait for each other.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.attention import KeyValue
from model.config import ModelConfig
from model.memory import TemplateMemory
from model.mixformer import MixFormer, Prediction, ignore_mark
from model.quantised import Ranges, quantised
from model.untold import openvino

Array = npt.NDArray[Any]
_ANY = -1  # a dimension that may differ from call to call
_TOKENS = 2  # the dimension of keys and values that grows with the number of online templates


class CompiledMixFormer:
    """A Network whose `track` is compiled for `threads` threads of this CPU; `encode`, once a template change, stays torch's."""

    def __init__(
        self,
        model: MixFormer,
        threads: int,
        cache_folder: Path | None = None,
        ranges: Ranges | None = None,
        in_bfloat16: bool = False,
    ) -> None:
        """`model` folded, in evaluation mode, float32, on the CPU. `cache_folder`: a folder that keeps the traced graphs, which take
        several seconds to make; OSError where it cannot be used. `ranges`: of the layers that are to run with 8-bit integers;
        `in_bfloat16`: everything up to the corner maps and the score's last layer runs in bfloat16, on a CPU that has it.
        Raises ValueError for a model of another precision, for ranges that do not fit it and for both together."""
        if model.precision != torch.float32 or model.device.type != "cpu":
            raise ValueError(f"compiled from float32 on the CPU, not from {model.precision} on {model.device}")
        if ranges and in_bfloat16:
            raise ValueError(f"{len(ranges)} layers with ranges for 8-bit integers and bfloat16: one or the other")
        self._model = model
        self._blocks = tuple(stage.depth for stage in model.config.stages)
        self._precision = torch.int8 if ranges else torch.bfloat16 if in_bfloat16 else torch.float32
        graphs = _graphs(quantised(model, ranges) if ranges else model, cache_folder)
        # One target gets all threads. Several run side by side, each on one thread: nothing waits inside an operation.
        hint = "bf16" if in_bfloat16 else "f32"
        self._alone = _Parts(graphs, hint, threads, streams=1)
        self._together = _Parts(graphs, hint, threads, streams=threads) if threads > 1 else self._alone

    @property
    def config(self) -> ModelConfig:
        """The variant."""
        return self._model.config

    @property
    def precision(self) -> torch.dtype:
        """int8 where it has ranges, bfloat16 where it was asked for, else float32."""
        return self._precision

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return self._model.device

    def encode(self, crops: Tensor) -> TemplateMemory:
        """As MixFormer's."""
        return self._model.encode(crops)

    def track(self, crops: Tensor, memory: TemplateMemory, mark: Callable[[str], None] = ignore_mark) -> Prediction:
        """As MixFormer's; `mark` is called when the part is done for the whole batch."""
        rows = range(len(crops))
        parts = self._alone if len(crops) == 1 else self._together
        keys = [tensor.contiguous().numpy() for layer in memory.layers for tensor in layer]
        template_tokens = memory.template_tokens.contiguous().numpy()
        maps: list[Array] = list(crops.contiguous().numpy()[:, None])
        first = 0
        for number, depth in enumerate(self._blocks):
            own = keys[2 * first : 2 * (first + depth)]
            maps = [out[0] for out in parts.run(number, [[maps[row], *(key[row : row + 1] for key in own)] for row in rows])]
            first += depth
            if len(self._blocks) > 1:
                mark(f"stage{number}")
        mark("backbone")
        found = parts.run(len(self._blocks), [[maps[row], template_tokens[row : row + 1]] for row in rows])
        mark("head")
        boxes, *scores = (torch.from_numpy(np.concatenate(column)) for column in zip(*found, strict=True))
        return Prediction(boxes, scores[0] if scores else None)


@cache
def _core() -> openvino.Core:
    """The one core of the process, never given up. A core moves the thread's stack for signals into memory of its own and back
    when it goes; where several come and go, that ends in freed memory, and the next signal in SIGSEGV."""
    return openvino.Core()


class _Graph(NamedTuple):
    """A traced part: the module, and inputs that show the shapes it takes."""

    part: nn.Module
    example: tuple[Tensor, ...]


class _Parts:
    """The parts, compiled for a number of threads shared out over `streams` requests that run side by side."""

    def __init__(self, graphs: Sequence[openvino.Model], hint: str, threads: int, streams: int) -> None:
        core = _core()
        # Pinned threads would meet those of every other process that pins its own to the first cores.
        settings = {
            "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": hint,
        }  # fmt: skip
        self._compiled = [core.compile_model(graph, "CPU", settings) for graph in graphs]
        self._requests: list[list[openvino.InferRequest]] = [[] for _ in graphs]

    def run(self, part: int, inputs: Sequence[Sequence[Array]]) -> list[list[Array]]:
        """The outputs of one part for several targets at once."""
        requests = self._requests[part]
        requests.extend(self._compiled[part].create_infer_request() for _ in range(len(inputs) - len(requests)))
        busy = requests[: len(inputs)]
        for request, own in zip(busy, inputs, strict=True):
            request.start_async(list(own), share_inputs=True)
        for request in busy:
            request.wait()
        return [[np.array(tensor.data) for tensor in request.output_tensors] for request in busy]


class _StagePart(nn.Module):
    """One stage of the backbone as a function of tensors alone; the first one takes the crop as it is."""

    def __init__(self, model: MixFormer, number: int) -> None:
        super().__init__()
        self.model, self.number = model, number

    def forward(self, maps: Tensor, *memory: Tensor) -> Tensor:
        """maps [1, C in, H, W], or a crop uint8 [1, S, S, 3]; keys and values of each block in turn -> maps [1, C, H', W']."""
        layers = [KeyValue(keys, values) for keys, values in zip(memory[::2], memory[1::2], strict=True)]
        return self.model.run_stage(self.number, maps, layers)


class _HeadPart(nn.Module):
    """The heads as a function of tensors alone."""

    def __init__(self, model: MixFormer) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, template_tokens: Tensor) -> tuple[Tensor, ...]:
        """features [1, C, H, W], template_tokens [1, N, C] -> boxes [1, 4] and, with a score head, scores [1]."""
        boxes, scores = self.model.predict(features, template_tokens)
        return (boxes,) if scores is None else (boxes, scores)


def _graphs(model: MixFormer, cache_folder: Path | None) -> list[openvino.Model]:
    if cache_folder is None:
        return _traced(model)
    folder = cache_folder / _fingerprint(model)
    names = [f"part{number}.xml" for number in range(len(model.config.stages) + 1)]
    if not folder.exists():
        _keep(_traced(model), folder, names)
    return [_core().read_model(folder / name) for name in names]


def _keep(graphs: Sequence[openvino.Model], folder: Path, names: Sequence[str]) -> None:
    """Write the graphs so that another process sees all of them or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        for graph, name in zip(graphs, names, strict=True):
            openvino.save_model(graph, unfinished / name, compress_to_fp16=False)
        os.replace(unfinished, folder)
    except (OSError, RuntimeError) as error:  # OpenVINO's own where the disk is full
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.exists():  # and no other process was first
            raise OSError(f"{folder}: {error}") from error


def _fingerprint(model: MixFormer) -> str:
    """Of all that decides what the graphs are: the weights, the variant, the code that is traced and the versions that trace it."""
    seen = sha256(f"{model.config} {openvino.__version__} {torch.__version__}".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        seen.update(source.read_bytes())
    for tensor in model.state_dict().values():
        seen.update(tensor.contiguous().numpy().tobytes())
    return seen.hexdigest()[:32]


@torch.inference_mode()
def _traced(model: MixFormer) -> list[openvino.Model]:
    return [_converted(graph) for graph in _examples(model)]


def _examples(model: MixFormer) -> list[_Graph]:
    """Every part with inputs as they are when it runs."""
    config = model.config
    memory = model.encode(torch.zeros(1, 2, config.template_size, config.template_size, 3, dtype=torch.uint8))
    maps = torch.zeros(1, config.search_size, config.search_size, 3, dtype=torch.uint8)
    layers = list(memory.layers)
    graphs = []
    for number, stage in enumerate(config.stages):
        own = [tensor for layer in layers[: stage.depth] for tensor in layer]
        del layers[: stage.depth]
        graphs.append(_Graph(_StagePart(model, number).eval(), (maps, *own)))
        maps = graphs[-1].part(maps, *own).contiguous()
    return [*graphs, _Graph(_HeadPart(model).eval(), (maps, memory.template_tokens))]


def _converted(graph: _Graph) -> openvino.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch prefers its newer exporter, which takes three times as long and gives the same
        traced: Any = torch.jit.trace(graph.part, graph.example, check_trace=False)  # type: ignore[no-untyped-call]
        converted = openvino.convert_model(traced, example_input=graph.example)
    shapes = [list(tensor.shape) for tensor in graph.example]
    for shape in shapes[1:] if len(graph.example) > 2 else []:
        shape[_TOKENS] = _ANY
    converted.reshape({number: openvino.PartialShape(shape) for number, shape in enumerate(shapes)})
    return converted

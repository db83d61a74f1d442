"""How a frozen backbone is run: PyTorch or OpenVINO, float32 or bfloat16, whichever is soonest done and says the same. Heavy: torch."""

import copy
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graft.backbones.base import State
from graft.device import tf32
from graft.errors import GraftError
from graft.features.batches import device_of, has_bfloat16, to_device
from graft.features.store import LAYOUT, cache_folder, recalled, remembered_here
from graft.features.taps import Tapped
from graft.optional import require
from graft.registry import Registry

Run = Callable[[State], torch.Tensor]

RUNTIMES = Registry("runtime")
REFERENCE = "torch"

# A runtime's features of an item must point where PyTorch's do in float32.
LEAST_COSINE = 0.999
# Below this many seconds of work nothing is measured: knowing better would cost more than it saves.
_WORTH_MEASURING = 1.0
# What opening an already converted network takes.
_OPENING = 0.5
# PyTorch, "CUDA semantics": TF32 is there since the generation called Ampere, whose compute capability is 8.0.
_LEAST_TF32 = (8, 0)
# What has not been measured may disappoint: it must promise to take so much less.
_DOUBT = 1.5


def costs(setup_seconds: float, gain: float, precision: str = "float32", on: tuple[str, ...] = ("cpu", "cuda")) -> Callable[[Any], Any]:
    """Decorator: what a runtime is expected to cost until it has been measured here.

    setup_seconds: of preparing it. gain: items a second, as a multiple of PyTorch's in float32. on: kinds of device it runs on.
    """

    def put(runtime: Any) -> Any:
        runtime.setup_seconds, runtime.gain, runtime.precision, runtime.devices = setup_seconds, gain, precision, on
        return runtime

    return put


@RUNTIMES.add("PyTorch as it is", name=REFERENCE)
@costs(0.0, 1.0, on=("cpu", "cuda", "mps"))
def plain(network: Tapped, sample: State | None = None, kept: Path | None = None, rounded: bool = False) -> Run:
    """PyTorch in float32: what every other runtime is measured and checked against."""
    device = device_of(network.backbone)

    def run(state: State) -> torch.Tensor:
        with tf32(device, rounded):
            return network(to_device(state, device))

    return run


@RUNTIMES.add("NVIDIA 2020, A100 Tensor Core GPU Architecture, TF32", name="torch-tf32")
@costs(0.0, 2.0, "tf32", on=("cuda",))
def _torch_tf32(network: Tapped, sample: State, kept: Path) -> Run:
    """PyTorch in float32 on a GPU that rounds what it multiplies to ten bits, where it has TF32."""
    return plain(network, rounded=True)


@RUNTIMES.add("Kalamkar et al. 2019, arXiv:1905.12322", name="torch-bf16")
@costs(0.1, 2.0, "bfloat16")
def _torch_bf16(network: Tapped, sample: State, kept: Path) -> Run:
    """PyTorch in bfloat16, where the processor has it."""
    return plain(_halved(network))


@RUNTIMES.add("TorchScript", name="frozen")
@costs(0.5, 1.8)
def _frozen(network: Tapped, sample: State, kept: Path) -> Run:
    """PyTorch traced and frozen: batch normalisation is folded into the convolutions."""
    device, example = device_of(network.backbone), _example(sample)
    names = sorted(example) if isinstance(example, dict) else []
    inputs = tuple(tensor.to(device) for tensor in _listed(example, names))
    with warnings.catch_warnings(), torch.no_grad():
        # What tracing warns of, lengths taken for constants, is found out by the check on the sample.
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(_Positional(network, names).eval(), inputs, check_trace=False))

    def run(state: State) -> torch.Tensor:
        # A trace takes no inference tensors that it might keep.
        with torch.no_grad(), tf32(device, False):
            return traced(*_listed(to_device(state, device), names))

    return run


@RUNTIMES.add("TorchScript; Kalamkar et al. 2019, arXiv:1905.12322", name="frozen-bf16")
@costs(0.5, 3.0, "bfloat16")
def _frozen_bf16(network: Tapped, sample: State, kept: Path) -> Run:
    """The same in bfloat16, where the processor has it."""
    return _frozen(_halved(network), sample, kept)


@RUNTIMES.add("Ansel et al. 2024, doi:10.1145/3620665.3640366", name="compile")
@costs(40.0, 1.5)
def _compiled(network: Tapped, sample: State, kept: Path) -> Run:
    """PyTorch compiled by torch.compile; needs a C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl"))):
        raise GraftError("runtime compile: no C++ compiler on this machine, expected g++ or clang++. Install one, or use runtime='torch'.")
    # A copy: compiling leaves its marks on a module.
    compiled, device = torch.compile(copy.deepcopy(network)), device_of(network.backbone)

    def run(state: State) -> torch.Tensor:
        state = to_device(state, device)
        for tensor in state.values() if isinstance(state, dict) else [state]:
            # Batches differ in items, texts in length too; marking no more than that spares minutes of compiling.
            torch._dynamo.maybe_mark_dynamic(tensor, [0, 1] if isinstance(state, dict) else 0)
        with tf32(device, False):
            return compiled(state)

    return run


@RUNTIMES.add("OpenVINO, github.com/openvinotoolkit/openvino", name="openvino")
@costs(2.5, 2.5, on=("cpu",))
def _openvino(network: Tapped, sample: State, kept: Path, precision: str = "f32") -> Run:
    """OpenVINO in float32; the extra `fast`."""
    openvino = require("openvino", "fast")
    core, example = openvino.Core(), _example(sample)
    names = sorted(example) if isinstance(example, dict) else []
    model = _opened(core, kept)
    if model is None:
        # A copy: converting patches the modules that it traces.
        whole = _Positional(copy.deepcopy(network), names).eval()
        with warnings.catch_warnings():
            # As for `frozen`.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(whole, example_input=tuple(_listed(example, names)))
        _keep(openvino, model, kept)
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings)

    def run(state: State) -> torch.Tensor:
        # A copy: the next call writes its answer to the same place.
        return torch.from_numpy(compiled([tensor.contiguous().numpy() for tensor in _listed(state, names)])[0].copy())

    return run


@RUNTIMES.add("OpenVINO; Kalamkar et al. 2019, arXiv:1905.12322", name="openvino-bf16")
@costs(2.5, 4.0, "bfloat16", on=("cpu",))
def _openvino_bf16(network: Tapped, sample: State, kept: Path) -> Run:
    """OpenVINO in bfloat16, where the processor has it."""
    return _openvino(network, sample, kept, precision="bf16")


def choose(network: Tapped, sample: State, n_items: int, *, name: str = "auto", keep: str | None = None) -> tuple[str, Run]:
    """(name, run): the runtime that has these items done soonest, of those whose features agree with PyTorch's in float32.

    network: in evaluation mode. sample: a batch of real items to measure on. n_items: still to be run; a conversion is only
    made where they pay for it. name: one of RUNTIMES to insist on. keep: fingerprint under which a converted network is
    kept in the cache folder; None: it is not.
    Speeds are measured once for each machine and architecture and remembered, agreement once for each fingerprint.
    Warns of a runtime that fails or disagrees (cosine of an item's features below 0.999), and passes it over.
    Raises GraftError where the named runtime is unknown, not to be had here, fails or disagrees.
    """
    bench = _Bench(network, sample, keep)
    if name != "auto":
        return name, bench.built(name)
    if n_items / bench.speed(REFERENCE) < _WORTH_MEASURING:
        return REFERENCE, bench.built(REFERENCE)
    failed: set[str] = set()
    while True:
        # Rounding to bfloat16 loses about the same in every runtime, so where one disagrees none of them is tried.
        wrong = {RUNTIMES[rival].precision for rival in RUNTIMES if bench.disagreed(rival)} - {"float32"}
        failed |= {rival for rival in RUNTIMES if bench.obstacle(rival) or bench.disagreed(rival) or RUNTIMES[rival].precision in wrong}
        best = min(set(RUNTIMES) - failed, key=lambda rival: (bench.seconds(rival, n_items), rival))
        try:
            run = bench.built(best)
        except GraftError as error:
            warnings.warn(f"{error} It is passed over.", stacklevel=4)
            failed.add(best)
            continue
        if bench.known(best):
            return best, run
        bench.speed(best)


class _Bench:
    """The runtimes of one network, built, checked and timed on one sample, each when it is first asked for."""

    def __init__(self, network: Tapped, sample: State, keep: str | None) -> None:
        self.network, self.sample, self.keep = network, sample, keep
        self.device = device_of(network.backbone)
        self.n = len(next(iter(sample.values())) if isinstance(sample, dict) else sample)
        shapes = [(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()]
        sizes = tuple(sample.shape[1:]) if isinstance(sample, torch.Tensor) else ()
        about = f"{machine(self.device)} {network.tap} {sizes} {shapes}"
        self.architecture = hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
        self.runs: dict[str, Run] = {}
        # Beside the disk, which may not be writable.
        self.speeds: dict[str, float] = {}
        self.away: dict[str, float] = {}
        self.wanted: list[torch.Tensor] | None = None
        folder = f"{keep}-{network.tap}-{_version('openvino')}"
        self.temporary = None if keep else tempfile.TemporaryDirectory()
        self.folder = cache_folder() / "models" / LAYOUT / folder if self.temporary is None else Path(self.temporary.name) / "model"

    def obstacle(self, name: str) -> str:
        """Why the runtime cannot be had on this machine; empty where it can."""
        runtime = RUNTIMES[name]
        if self.device.type not in runtime.devices:
            return f"runtime {name} does not run on {self.device}, expected {' or '.join(runtime.devices)}. Use runtime='torch'."
        if runtime.precision == "bfloat16" and not has_bfloat16(self.device):
            return f"runtime {name}: {self.device} has no bfloat16 in hardware, expected one that has. Use runtime='torch'."
        if runtime.precision == "tf32" and torch.cuda.get_device_capability(self.device) < _LEAST_TF32:
            return f"runtime {name}: {self.device} has no TF32, expected an NVIDIA GPU as new as A100. Use runtime='torch'."
        if name.startswith("openvino") and _version("openvino") == "absent":
            return f"runtime {name}: OpenVINO is not installed, and this needs it. Run: pip install 'graft[fast]'"
        return ""

    def known(self, name: str) -> float | None:
        """Its speed, where it was measured before."""
        return self.speeds.get(name) or recalled(self._speed(name))

    def seconds(self, name: str, n_items: int) -> float:
        """Expected for so many items, setting up among them unless that is done."""
        runtime = RUNTIMES[name]
        speed = self.known(name) or self.speed(REFERENCE) * runtime.gain / _DOUBT
        if name in self.runs:
            setup = 0.0
        elif self._opens(name):
            setup = _OPENING
        else:
            measured = recalled(self._setup(name))
            setup = runtime.setup_seconds if measured is None else measured
        return setup + n_items / speed

    def speed(self, name: str) -> float:
        """Items a second on the sample, remembered."""
        if name not in self.speeds:
            self.speeds[name] = remembered_here(self._speed(name), lambda: self.n / _seconds(self.built(name), self.sample))
        return self.speeds[name]

    def disagreed(self, name: str) -> bool:
        """Whether its features were found to differ from the reference's, now or before."""
        away = self.away.get(name)
        if away is None and self.keep:
            away = recalled(self._agreement(name))
        return away is not None and not away <= 1 - LEAST_COSINE

    def built(self, name: str) -> Run:
        """The runtime, ready and checked. Raises GraftError where it cannot be had, fails or disagrees."""
        RUNTIMES[name]
        if obstacle := self.obstacle(name):
            raise GraftError(obstacle)
        if name not in self.runs:
            begun, opened = time.perf_counter(), self._opens(name)
            try:
                run = RUNTIMES[name](self.network, self.sample, self.folder)
                if name != REFERENCE:
                    self._check(name, run)
            except GraftError:
                raise
            except Exception as error:  # A converter may raise anything at all; what it said is passed on.
                raise GraftError(
                    f"runtime {name} cannot run {self.network.backbone.name} ({type(error).__name__}: {_said(error)}), expected it to. "
                    "Use runtime='torch'."
                ) from error
            self.runs[name] = run
            if RUNTIMES[name].setup_seconds and not opened:
                remembered_here(self._setup(name), lambda: time.perf_counter() - begun)
        return self.runs[name]

    def _check(self, name: str, run: Run) -> None:
        """Raise GraftError unless the runtime's features of every item point where the reference's do."""

        def measure() -> float:
            with torch.inference_mode():
                if self.wanted is None:
                    with tf32(self.device, False):
                        self.wanted = [part.float().cpu() for part in self.network.parts(to_device(self.sample, self.device))]
                got = run(self.sample).float().cpu().split([part.shape[1] for part in self.wanted], dim=1)
            return max(1 - _least_cosine(one, other) for one, other in zip(got, self.wanted, strict=True))

        away = self.away[name] = remembered_here(self._agreement(name), measure) if self.keep else measure()
        if not away <= 1 - LEAST_COSINE:
            raise GraftError(
                f"runtime {name}: features of {self.network.backbone.name} have cosine {1 - away:.4g} to PyTorch's in float32 on the first "
                f"items, expected at least {LEAST_COSINE}. Use runtime='torch'."
            )

    def _opens(self, name: str) -> bool:
        """Whether a converted network is there to be opened."""
        return name.startswith("openvino") and self.folder.exists()

    def _speed(self, name: str) -> str:
        return f"speed {name} {self.architecture}"

    def _setup(self, name: str) -> str:
        return f"setup {name} {self.architecture}"

    def _agreement(self, name: str) -> str:
        return f"1 - cosine {name} {self.keep} {self.architecture}"


def machine(device: torch.device) -> str:
    """What a measured time depends on besides the network: the computer, its GPU where that computes, the threads and the libraries."""
    threads, where = torch.get_num_threads(), str(device)
    if device.type == "cuda":
        where = f"{device} {torch.cuda.get_device_name(device)}"
    return f"{platform.node()} {platform.machine()} {os.cpu_count()} {threads} {where} {torch.__version__} {_version('openvino')}"


def _version(package: str) -> str:
    if importlib.util.find_spec(package) is None:
        return "absent"
    return importlib.metadata.version(package)


def _least_cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """The smallest cosine between rows; rows that are both zero agree, and what is not finite agrees with nothing."""
    if not bool(torch.isfinite(one).all()):
        return float("nan")
    one, other = one.double(), other.double()
    lengths = one.norm(dim=1) * other.norm(dim=1)
    cosine = torch.where(lengths > 0, (one * other).sum(1) / lengths.clamp(min=1e-300), (one.norm(dim=1) == other.norm(dim=1)).double())
    return float(cosine.min())


def _seconds(run: Run, state: State) -> float:
    """The shorter of two runs after a warm-up."""
    taken = []
    with torch.inference_mode():
        for _ in range(3):
            begun = time.perf_counter()
            run(state).cpu()
            taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def _halved(network: Tapped) -> Tapped:
    """A copy that computes in bfloat16."""
    half = copy.deepcopy(network).to(torch.bfloat16)
    half.register_forward_pre_hook(lambda module, states: tuple(map(_as_bf16, states)))
    return half


def _as_bf16(state: State) -> State:
    """Numbers in bfloat16, indices and masks as they are."""
    if isinstance(state, dict):
        return {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return state.bfloat16()


def _listed(state: State, names: list[str]) -> list[torch.Tensor]:
    return [state[name] for name in names] if isinstance(state, dict) else [state]


class _Positional(nn.Module):
    """A network that takes the tensors of its batch one by one, as converters want them."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.network(dict(zip(self.names, tensors, strict=True)) if self.names else tensors[0])


def _example(sample: State) -> State:
    """Two items to trace. Texts among them padded, else the branch for padding is lost, and shorter than the sample's, so that a
    length that was traced as a constant shows when the sample is checked."""
    if not isinstance(sample, dict):
        return sample[:2]
    length = sample["attention_mask"].shape[1]
    example = {name: tensor[:2, : max(2, length - 1)].clone() for name, tensor in sample.items()}
    example["attention_mask"][:] = 1
    example["attention_mask"][0, -1] = 0
    return example


def _opened(core: Any, folder: Path) -> Any:
    """A network that was converted before; None where there is none, or, after a warning, none that can be read: it is removed."""
    if not folder.exists():
        return None
    try:
        return core.read_model(folder / "model.xml")
    except RuntimeError as error:
        warnings.warn(f"{folder}: the converted network cannot be read ({_said(error)}); it is converted again.", stacklevel=2)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _said(error: Exception) -> str:
    """What an error says, in one line: OpenVINO's first one names its own source file alone."""
    return " ".join((str(error).strip() or repr(error)).split())[:300]


def _keep(openvino: Any, model: Any, folder: Path) -> None:
    """Write a converted network, whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        openvino.save_model(model, unfinished / "model.xml", compress_to_fp16=False)
        unfinished.rename(folder)
    except (OSError, RuntimeError) as error:
        # Another process may have kept the same network meanwhile.
        if not folder.exists():
            warnings.warn(f"{folder}: the converted network cannot be kept ({error}); it is converted again the next time.", stacklevel=2)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)

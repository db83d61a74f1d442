"""The counted columns of graft/backbones/catalogue.csv: parameters, size, multiply-adds, numbers written. Needs no weights and no network.

    python benchmarks/catalogue.py            says where the file differs from what is counted here
    python benchmarks/catalogue.py --write    writes what is counted into the file

timm's networks are built by name; texts from what the configurations of their repositories say. Licences, data and scores are facts
that were read; the column `source` says where, and nothing here changes them.
"""

import argparse
import csv
import io
from pathlib import Path

import torch

import graft.backbones
from graft.backbones import _catalogue, _count, _encoders
from graft.files import replacing

FILE = Path(graft.backbones.__file__).parent / "catalogue.csv"
SMALL = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
MPNET = {"vocab_size": 30527, "max_position_embeddings": 514}
# repository -> (class of transformers, what differs from its defaults)
TEXTS = {
    "sentence-transformers/all-MiniLM-L6-v2": ("Bert", {**SMALL, "num_hidden_layers": 6}),
    "sentence-transformers/paraphrase-MiniLM-L3-v2": ("Bert", {**SMALL, "num_hidden_layers": 3}),
    "BAAI/bge-small-en-v1.5": ("Bert", {**SMALL, "num_hidden_layers": 12}),
    "sentence-transformers/all-distilroberta-v1": ("Roberta", {**ROBERTA, "num_hidden_layers": 6}),
    "sentence-transformers/all-mpnet-base-v2": ("MPNet", MPNET),
    "microsoft/mpnet-base": ("MPNet", MPNET),
    "google/bert_uncased_L-2_H-128_A-2": (
        "Bert",
        {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    ),
    "google/bert_uncased_L-4_H-256_A-4": (
        "Bert",
        {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    ),
    "google/bert_uncased_L-4_H-512_A-8": (
        "Bert",
        {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
    ),
    "google-bert/bert-base-uncased": ("Bert", {}),
    "distilbert/distilbert-base-uncased": ("DistilBert", {}),
    "FacebookAI/roberta-base": ("Roberta", ROBERTA),
    "xlnet/xlnet-base-cased": ("XLNet", {"vocab_size": 32000, "d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}),
    "openai-community/gpt2": ("GPT2", {}),
    "google-t5/t5-small": (
        "T5",
        {"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    ),
}


def counted(row):
    """The row with its counted columns."""
    if row["modality"] == "image":
        entry = graft.backbones.entry_of(graft.backbones.load_backbone(f"untrained:{row['name']}"))
        return {
            **row,
            "parameters": str(entry.parameters),
            "size_px": str(entry.size_px),
            "gmacs": f"{entry.gmacs:.3g}",
            "writes": f"{entry.writes:.3g}",
        }
    kind, settings = TEXTS[row["repository"]]
    transformers = _encoders.library()
    config = getattr(transformers, f"{kind}Config")(**settings)
    network = getattr(transformers, "T5EncoderModel" if kind == "T5" else f"{kind}Model")(config).eval()
    if getattr(network, "pooler", None) is not None:
        network.pooler = None

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, ids):
            return self.network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state

    gmacs, writes = _count.count(Encoder(), torch.full((1, _catalogue.TOKENS), 5))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return {**row, "parameters": str(parameters), "gmacs": f"{gmacs:.3g}", "writes": f"{writes:.3g}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    with FILE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    fresh = []
    for row in rows:
        fresh.append(counted(row))
        changed = {key: f"{row[key]} -> {value}" for key, value in fresh[-1].items() if row[key] != value}
        print(row["name"], *(f"{key}: {change}" for key, change in changed.items()), flush=True)
    if write:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(fresh)
        with replacing(FILE) as file:
            file.write(text.getvalue())


if __name__ == "__main__":
    main()

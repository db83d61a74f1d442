"""Rows of measurements: the machine they were taken on, and the CSV they are appended to. Never measures."""

import csv
import os
import subprocess
from pathlib import Path

from graft.device import cores

ROOT = Path(__file__).resolve().parents[1]


def machine():
    """What times depend on, in words: the processor, the cores this process may use, and whether it multiplies bf16 in hardware."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = about.get("flags", "").split()
    bf16 = "yes" if {"avx512_bf16", "amx_bf16"} & set(flags) else "no"
    return f"{about.get('model name', 'unknown processor')}, {cores()} cores, bf16 {bf16}"


def commit():
    """The checkout that is measured: its commit, and whether anything was changed since."""
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True)
    return told.stdout.strip()


def memory():
    """Freed memory is "returned" to the system, as by default, or "kept" for the next tensor. README.md says why it counts."""
    return "kept" if os.environ.get("MALLOC_MMAP_MAX_") == "0" and "MALLOC_TRIM_THRESHOLD_" in os.environ else "returned"


def append(path, row):
    """row: column -> value, the same columns in each row of one file; raises ValueError for one that the file lacks."""
    fresh = not path.exists()
    columns = list(row)
    if not fresh:
        with open(path, newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def markdown(header, lines):
    """A table as Markdown; lines: rows of text."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *lines])

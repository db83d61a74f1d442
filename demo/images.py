"""Writes two folders of images, one folder a class, from nothing but what is installed: scikit-learn's digits, and drawn shapes.

python demo/images.py OUT      # leaves OUT/digits and OUT/shapes
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

DIGITS, SHAPES = 60, 40  # of each class
SIDE_PX = 96
# Corners of each shape, distances from its middle by turns: a circle has many.
CORNERS = {"circle": (1.0,) * 40, "triangle": (1.0,) * 3, "square": (1.0,) * 4, "star": (1.0, 0.4) * 5, "cross": ()}


def digits(folder):
    """The 8 x 8 grey scans of handwritten digits as they are, dark on white."""
    scans = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for place, scan in enumerate(scans.images[scans.target == label][:DIGITS]):
            Image.fromarray((255 - 255 / 16 * scan).astype(np.uint8)).save(folder / str(label) / f"{place:03d}.png")


def shape(name, rng):
    """A picture of one shape: any colour, size, place and turn, on stripes of any colour, direction and width."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    turn, width = rng.uniform(0, np.pi), rng.uniform(3, 12)
    stripes = 0.5 + 0.5 * np.sin((columns * np.cos(turn) + rows * np.sin(turn)) * 2 * np.pi / width)
    ground = rng.uniform(0, 255, (2, 3))
    pixels = ground[0] + stripes[..., None] * (ground[1] - ground[0]) * rng.uniform(0, 0.6) + rng.normal(0, 8, (SIDE_PX, SIDE_PX, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    # A colour far from the ground's: what no one can see is no class.
    colour = tuple(int(value) for value in (ground.mean(0) + 128 + rng.uniform(-40, 40, 3)) % 256)
    radius, middle, tilt = rng.uniform(0.2, 0.4) * SIDE_PX, rng.uniform(0.4, 0.6, 2) * SIDE_PX, rng.uniform(0, 2 * np.pi)
    if name == "cross":
        arm = np.array([(1, 0.3), (0.3, 0.3), (0.3, 1)])
        points = np.concatenate([arm @ np.array([(np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))]) for a in np.pi / 2 * np.arange(4)])
        points = points @ np.array([(np.cos(tilt), np.sin(tilt)), (-np.sin(tilt), np.cos(tilt))])
    else:
        away = np.array(CORNERS[name])
        angles = tilt + 2 * np.pi * np.arange(len(away)) / len(away)
        points = away[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    ImageDraw.Draw(image).polygon([tuple(point) for point in middle + radius * points], fill=colour)
    return image


def shapes(folder, seed=0):
    rng = np.random.default_rng(seed)
    for name in CORNERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in range(SHAPES):
            shape(name, rng).save(folder / name / f"{place:03d}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    digits(out / "digits")
    shapes(out / "shapes")
    print(f"{10 * DIGITS} digits in {out / 'digits'}, {len(CORNERS) * SHAPES} shapes in {out / 'shapes'}")


if __name__ == "__main__":
    main()

"""Finds copies and near-copies among images and among texts, without comparing every pair. numpy and Pillow only."""

import re
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

DHASH_BITS = 3  # at most so many of 64 bits differ; four bands of 16 bits then share at least one
THUMB_PX = 16
# Root mean square difference of two thumbnails, as a share of their contrast: on photos saved again or resized it stays
# mostly below 0.2, on different photos with a close dHash it was above 0.9.
THUMB_DIFFERENCE = 0.25
MIN_WORDS = 12  # shorter texts differ in meaning when they differ in a word
WORDS_A_SHINGLE = 3
MIN_JACCARD = 0.7
MINHASHES, ROWS_A_BAND = 64, 4
BUCKET = 64  # a larger bucket is compared in a chain: still joined when all in it are alike, but never n squared


def image_print(image: Image.Image) -> tuple[np.uint64, np.ndarray]:
    """(dHash, thumbnail (16 x 16 x 3,) uint8) of an RGB image. dHash: 64 bits, is a pixel darker than its right neighbour.

    Source: dHash after N. Krawetz 2013, "Kind of Like That". Differs: pixels are means over areas.
    """
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(grey[:, :-1] < grey[:, 1:]).view(np.uint64)[0]
    return bits, np.asarray(image.resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX)).reshape(-1)


def near_images(hashes: np.ndarray, thumbs: np.ndarray) -> np.ndarray:
    """Pairs (m, 2) of images that show the same picture: saved again, at another size or quality.

    hashes: (n,) uint64. thumbs: (n, t) uint8. A close dHash alone also joins unlike flat or dark images, so the
    thumbnails must agree as well, measured against their contrast: an even grey picture is near to nothing.
    """
    bands = [(hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF) for band in range(4)]
    pairs = _unique_pairs([_bucket_pairs(band, order_by=hashes) for band in bands])
    first, second = pairs[:, 0], pairs[:, 1]
    pairs = pairs[np.bitwise_count(hashes[first] ^ hashes[second]) <= DHASH_BITS]
    alike = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), 10_000):
        part = slice(start, start + 10_000)
        a, b = thumbs[pairs[part, 0]].astype(np.float32), thumbs[pairs[part, 1]].astype(np.float32)
        difference = np.sqrt(np.mean((a - b) ** 2, axis=1))
        alike[part] = difference < THUMB_DIFFERENCE * np.minimum(_contrast(a), _contrast(b))
    return pairs[alike]


def _contrast(thumbs: np.ndarray) -> np.ndarray:
    """(m,) spread over the place, colour by colour: an even blue has none, though its blue differs from its red."""
    return thumbs.reshape(len(thumbs), -1, 3).std(axis=1).mean(axis=1)


def plain_text(text: str) -> str:
    """The text without case, punctuation and extra spaces; the text itself where nothing would be left."""
    words = re.findall(r"\w+", text.casefold())
    return " ".join(words) or text.strip()


def near_texts(texts: Sequence[str]) -> np.ndarray:
    """Pairs (m, 2) of texts of at least 12 words that share most of their runs of three words (Jaccard index >= 0.7).

    texts: as `plain_text` gives them.
    Source: MinHash with banding, Broder 1997, doi:10.1109/SEQUEN.1997.666900. Differs: candidates are verified exactly.
    """
    rng = np.random.default_rng(0)
    factors = rng.integers(1, 2**63, MINHASHES, dtype=np.uint64) | np.uint64(1)
    offsets = rng.integers(0, 2**63, MINHASHES, dtype=np.uint64)
    vocabulary: dict[str, int] = {}
    shingles = [_shingles(text, vocabulary) for text in texts]
    long = np.array([i for i, found in enumerate(shingles) if len(found)], dtype=np.int64)
    if len(long) < 2:
        return np.empty((0, 2), dtype=np.int64)
    # Multiply-shift hashing: only the upper half of the product is well mixed.
    signatures = np.array([((shingles[i][:, None] * factors + offsets) >> np.uint64(32)).min(axis=0) for i in long])
    bands = signatures.reshape(len(long), -1, ROWS_A_BAND)
    keys = [np.unique(bands[:, band], axis=0, return_inverse=True)[1].reshape(-1) for band in range(bands.shape[1])]
    pairs = long[_unique_pairs([_bucket_pairs(key, order_by=key) for key in keys])]
    alike = [_jaccard(shingles[a], shingles[b]) >= MIN_JACCARD for a, b in pairs]
    return pairs[np.array(alike, dtype=bool)]


def join(n: int, pairs: np.ndarray) -> np.ndarray:
    """(n,) int: items joined by pairs (m, 2), directly or through others, share a number."""
    edges = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(edges, directed=False)[1]


def _shingles(text: str, vocabulary: dict[str, int]) -> np.ndarray:
    """Sorted hashes, uint64, of a text's runs of words; none for a short text."""
    words = text.split()
    if len(words) < MIN_WORDS:
        return np.empty(0, dtype=np.uint64)
    codes = np.empty(len(words), dtype=np.uint64)
    for place, word in enumerate(words):
        if word not in vocabulary:
            vocabulary[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        codes[place] = vocabulary[word]
    mixed = np.zeros(len(words) - WORDS_A_SHINGLE + 1, dtype=np.uint64)
    for step in range(WORDS_A_SHINGLE):
        mixed = (mixed ^ codes[step : step + len(mixed)]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _bucket_pairs(keys: np.ndarray, order_by: np.ndarray) -> np.ndarray:
    """Pairs (m, 2) of items with equal keys; in buckets above BUCKET only neighbours in the order of order_by."""
    order = np.lexsort((order_by, keys))
    ends = np.flatnonzero(np.append(keys[order][1:] != keys[order][:-1], True)) + 1
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start, end in zip(np.append(0, ends[:-1]), ends, strict=True):
        size = end - start
        if size < 2:
            continue
        members = order[start:end]
        if size <= BUCKET:
            upper = np.triu_indices(size, 1)
            pairs.append(np.column_stack([members[upper[0]], members[upper[1]]]))
        else:
            pairs.append(np.column_stack([members[:-1], members[1:]]))
    return np.concatenate(pairs)


def _unique_pairs(parts: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.sort(np.concatenate(parts), axis=1), axis=0)

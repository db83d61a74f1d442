"""Word vectors as a backbone: the mean by hand, the slips of a file, training and saving."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graft.backbones import entry_of, load_backbone
from graft.errors import GraftError

SHARED = Path(__file__).parents[2] / "shared"
WORDS = ["the", "bank", "money", "don", "t", "don't", "NATO", "bank"]
VECTORS = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "words.npz", words=np.array(WORDS), vectors=VECTORS)
    return tmp_path / "words.npz"


def features(backbone, texts):
    with torch.inference_mode():
        return backbone(backbone.prepare(texts)).numpy()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("The bank, the MONEY!", [0, 1, 0, 2]),
        ("bank bank money", [1, 1, 2]),
        ("I don't", [5]),
        ("Don’t", [5]),
        ("bank's t'money", [1, 4, 2]),
        ("NATO nato", [6]),
        ("the_bank", [0, 1]),
    ],
)
def test_a_text_is_the_mean_of_its_words_vectors(path, text, places):
    backbone = load_backbone(f"vectors:{path}")
    np.testing.assert_allclose(features(backbone, [text])[0], VECTORS[places].mean(0), rtol=1e-5, atol=1e-6)
    # Beside a longer text, padding changes nothing.
    np.testing.assert_allclose(features(backbone, [text, "the bank " * 9])[0], VECTORS[places].mean(0), rtol=1e-5, atol=1e-6)
    assert (backbone.width, backbone.stage_names, backbone.modality) == (5, ("words",), "text")


def test_texts_without_a_known_word_are_zeros(path):
    assert not features(load_backbone(f"vectors:{path}"), ["", "xyzzy ...", "NAT O"]).any()


def test_vectors_learn_are_saved_and_loaded_and_reset(path, tmp_path):
    backbone = load_backbone(f"vectors:{path}")
    backbone.set_trainable([True])
    backbone(backbone.prepare(["the bank", ""])).sum().backward()
    gradient = backbone.groups()[0][0].grad
    assert torch.equal(gradient[:2], torch.full((2, 5), 0.5)) and not gradient[2:].any()
    with torch.no_grad():
        backbone.groups()[0][0].mul_(2)
    backbone.save(tmp_path / "saved")
    again = load_backbone(f"checkpoint:{tmp_path / 'saved'}")
    assert again.fingerprint() == backbone.fingerprint()
    np.testing.assert_allclose(features(again, ["money"])[0], 2 * VECTORS[2], rtol=1e-6)
    backbone.reset(seed=1)
    assert backbone.fingerprint() != again.fingerprint()
    assert load_backbone(f"untrained:vectors:{path}").card["pretrained_on"] == "nothing: random weights"
    assert entry_of(again).parameters == VECTORS.size


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"words": np.array(WORDS)}, "holds words, expected words and vectors"),
        ({"words": np.array(WORDS), "vectors": VECTORS[:3]}, r"vectors float32 of shape \(3, 5\); expected m words"),
        ({"words": np.arange(8), "vectors": VECTORS}, "words are int64"),
        ({"words": np.array(WORDS, object), "vectors": VECTORS}, "cannot be read .* words as text"),
        (
            {"words": np.array(WORDS), "vectors": np.where(VECTORS[2, 0] == VECTORS, np.nan, VECTORS)},
            "1 of 8 vectors hold what is no number",
        ),
    ],
)
def test_a_file_of_something_else_is_explained(tmp_path, arrays, said):
    np.savez(tmp_path / "words.npz", **arrays)
    with pytest.raises(GraftError, match=said):
        load_backbone(f"vectors:{tmp_path / 'words.npz'}")


def test_a_file_that_is_not_there_or_no_archive_is_explained(tmp_path):
    with pytest.raises(GraftError, match="there is no file"):
        load_backbone(f"vectors:{tmp_path / 'absent.npz'}")
    (tmp_path / "words.npz").write_text("the 0.1 0.2")
    with pytest.raises(GraftError, match="cannot be read"):
        load_backbone(f"vectors:{tmp_path / 'words.npz'}")


@pytest.mark.skipif(not (SHARED / "weights" / "word_vectors").exists(), reason="no weights/word_vectors beside the repository")
def test_gloves_neighbours_are_related():
    backbone = load_backbone(f"vectors:{SHARED / 'weights' / 'word_vectors' / 'glove_twitter_25d_12k.npz'}")
    near = features(backbone, ["monday morning", "friday night", "software company"])
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    assert near[0] @ near[1] > near[0] @ near[2] + 0.1

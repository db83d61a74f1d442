"""Pretexts of texts: each is its paper's equation or a reference library's loss, and learns through the real loop."""

import copy
import math

import numpy as np
import pytest
import torch
from backbone_samples import save_text, write_tokenizer
from test_train import assert_same, make_data, make_head, numbers, weights

from graft.backbones import load_backbone
from graft.backbones.base import Vocabulary
from graft.errors import GraftError
from graft.losses import Other, Seen
from graft.pretext import PRETEXTS
from graft.pretext.contrastive import info_nce
from graft.pretext.texts import _TEMPERATURE, Decoder, Guess, hide, sines, told, without
from graft.records import Phase, Plan, Recipe
from graft.train import Checkpoints, checkpoint, train

NAMES = ("masked_language", "simcse", "tsdae")
# Begin, end, padding, unknown, mask: what a text is made of starts at 5.
VOCABULARY = Vocabulary(200, (0, 1, 2, 3, 4), 4, torch.nn.Embedding(200, 8))
TEXTS = ["the quick brown fox jumps over the lazy dog", "the dog sleeps", "one", "", "a fox and a dog meet at the lazy river by the hill"]


def lively():
    """tiny:text with the dropout that encoders of transformers have."""
    backbone = load_backbone("tiny:text")
    layer = backbone.stages[1]
    layer.linear = torch.nn.Sequential(layer.linear, torch.nn.Dropout(0.1))
    return backbone


def batch_of_lengths(*lengths, seed=0):
    """Texts of these many own tokens, each between a begin and an end mark, padded."""
    generator = torch.Generator().manual_seed(seed)
    longest = 2 + max(lengths)
    ids, mask = torch.zeros(len(lengths), longest, dtype=torch.long), torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, 0], ids[row, 1 + length] = 1, 2
        ids[row, 1 : 1 + length] = torch.randint(5, 200, (length,), generator=generator)
        mask[row, : 2 + length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def plan(name, epochs=6, others=()):
    return Plan((Phase(epochs, (3e-3,) * 4, 0.0),), losses=((name, 1.0), *others), supervised=False)


def playing(plan, items, backbone, **options):
    recipe = Recipe(batch_size=16, augment=False, precision="fp32")
    return train(backbone, make_head(1), plan, [], np.empty(0), task="regression", others=items, recipe=recipe, **options)


def seen_of(backbone, items, progress=0.5):
    """A batch as the loop hands it to a pretext."""
    batch, nothing = backbone.prepare(items), torch.empty(0, backbone.width)
    other = Other([batch], nothing, nothing, torch.arange(len(items)))

    def run(state, stop):
        return backbone(state, 0, stop)

    return Seen(0, [batch], nothing, nothing, torch.empty(0), None, False, other, progress, run)


def made(name, backbone, seed=0):
    class Started:
        target = torch.zeros(0)

    Started.backbone, Started.seed = backbone, seed
    return PRETEXTS[name](Started())


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_and_the_same_call_gives_the_same_numbers(name):
    items = make_data("text", 90)[0]
    first, second = lively(), lively()
    # What was drawn before has no say.
    torch.manual_seed(1)
    events = list(playing(plan(name), items, first))
    torch.manual_seed(2)
    again = list(playing(plan(name), items, second))
    assert events[-1].loss < 0.9 * events[0].loss
    assert numbers(events) == numbers(again)
    assert_same(weights(first), weights(second))


@pytest.mark.parametrize("name", [*NAMES, "keep_features"])
def test_a_killed_run_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", math.inf)
    items, beside = make_data("text", 40)[0], () if name == "simcse" else (("simcse", 0.1),)
    whole, backbone = plan(name, 3, beside), lively()
    events = list(playing(whole, items, backbone))
    killed = playing(whole, items, lively(), checkpoints=Checkpoints(tmp_path))
    next(killed)
    fresh = lively()
    assert numbers(playing(whole, items, fresh, checkpoints=Checkpoints(tmp_path))) == numbers(events)
    assert_same(weights(fresh), weights(backbone))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("items", [["one"], [""], ["", "one"], ["", "", ""], TEXTS])
def test_a_text_of_one_word_and_an_empty_one_give_a_finite_loss_and_gradients(name, items, tmp_path):
    save_text("BERT", tmp_path)
    for backbone in (lively(), load_backbone(f"hf:{tmp_path}")):
        pretext = made(name, backbone)
        backbone.train()
        loss = pretext(seen_of(backbone, items))
        assert loss.shape == () and loss.isfinite()
        loss.backward()
        assert all(one.grad is None or one.grad.isfinite().all() for one in (*backbone.parameters(), *pretext.parameters()))


@pytest.mark.parametrize("family", ["BERT", "RoBERTa", "ELECTRA", "MPNet", "DistilBERT", "XLNet", "GPT-2", "T5 (encoder)"])
def test_a_text_network_knows_its_vocabulary(family, tmp_path):
    save_text(family, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    vocabulary = backbone.vocabulary
    assert (vocabulary.size, vocabulary.special, vocabulary.mask) == (22, (0, 1, 2, 3, 4), 4)
    assert any(weight is vocabulary.table.weight for weight in backbone.stages[0].parameters())
    assert vocabulary.table.num_embeddings == 120
    twin = copy.deepcopy(backbone)
    assert any(weight is twin.vocabulary.table.weight for weight in twin.stages[0].parameters())
    for name in NAMES:
        # Every family reads what the pretexts make of a batch.
        twin.train()
        assert made(name, twin)(seen_of(twin, TEXTS)).isfinite()


def test_hidden_tokens_are_never_special_and_each_text_has_one():
    batch = batch_of_lengths(40, 1, 0, 7, 3)
    for seed in range(200):
        torch.manual_seed(seed)
        shown, hidden = hide(batch, VOCABULARY)
        own = (batch["input_ids"] >= 5) & batch["attention_mask"].bool()
        assert not (hidden & ~own).any()
        assert hidden.any(1).tolist() == [True, True, False, True, True]
        torch.testing.assert_close(shown["input_ids"][~hidden], batch["input_ids"][~hidden])
        assert (shown["input_ids"][hidden] >= 4).all()


def test_tokens_are_hidden_as_often_and_in_the_ways_that_transformers_does(tmp_path):
    """Truth: DataCollatorForLanguageModeling on the same 400 x 100 tokens. Shares of 6000 hidden ones: standard errors below 0.006."""
    transformers = pytest.importorskip("transformers")
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    vocabulary = Vocabulary(len(tokenizer), tuple(tokenizer.all_special_ids), tokenizer.mask_token_id, torch.nn.Embedding(22, 8))
    ids = torch.randint(5, 22, (400, 100), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    torch.manual_seed(0)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    theirs = collator([{"input_ids": row} for row in ids])
    shown, hidden = hide({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, vocabulary)

    def shares(shown, hidden):
        changed = shown[hidden] != ids[hidden]
        masked = shown[hidden] == tokenizer.mask_token_id
        return [hidden[:, 1:-1].float().mean().item(), masked.float().mean().item(), (changed & ~masked).float().mean().item()]

    mine, their_own = shares(shown["input_ids"], hidden), shares(theirs["input_ids"], theirs["labels"] != -100)
    np.testing.assert_allclose(mine, their_own, atol=0.02)
    # Of the random ones 1 in 17 is the token itself.
    np.testing.assert_allclose(mine, [0.15, 0.8, 0.1 * 16 / 17], atol=0.015)


def test_masked_language_is_the_cross_entropy_of_the_hidden_tokens_alone():
    """Truth: -log softmax of BERT's head at the hidden places, written out in numpy from the network's own states."""
    backbone = load_backbone("tiny:text").eval()
    pretext, seen = made("masked_language", backbone), seen_of(backbone, TEXTS)
    torch.manual_seed(3)
    loss = pretext(seen).item()
    torch.manual_seed(3)
    batch = backbone.prepare(TEXTS)
    shown, hidden = hide(batch, backbone.vocabulary)
    states = backbone(shown, 0, backbone.depth - 1)["hidden"][hidden].detach().double().numpy()
    parts = {name: tensor.double().numpy() for name, tensor in pretext.guess.state_dict().items()}
    inner = states @ parts["layer.weight"].T + parts["layer.bias"]
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    inner = (inner - inner.mean(1, keepdims=True)) / np.sqrt(inner.var(1, keepdims=True) + 1e-5)
    inner = inner * parts["norm.weight"] + parts["norm.bias"]
    logits = inner @ backbone.vocabulary.table.weight.detach().double().numpy().T + parts["bias"]
    top = logits.max(1)
    truth = logits[np.arange(len(logits)), batch["input_ids"][hidden].numpy()]
    expected = (np.log(np.exp(logits - top[:, None]).sum(1)) + top - truth).mean()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_simcse_is_the_loss_of_sentence_transformers():
    """Truth: MultipleNegativesRankingLoss with scale 20 = 1 / 0.05 over cosines, as their SimCSE example has it."""
    losses = pytest.importorskip("sentence_transformers.losses")
    library = losses.MultipleNegativesRankingLoss(None, scale=20.0)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(9, 16, generator=generator) for _ in range(2))
    expected = library.compute_loss_from_embeddings([first, second], torch.arange(9))
    torch.testing.assert_close(info_nce(first, second, _TEMPERATURE), expected)


def test_simcse_sees_each_text_under_two_draws_of_dropout(monkeypatch):
    seen, items = [], make_data("text", 16)[0]
    monkeypatch.setattr("graft.pretext.texts.info_nce", lambda *given: seen.append(given[:2]) or info_nce(*given))
    list(playing(plan("simcse", 1), items, lively()))
    first, second = seen[0]
    assert not torch.allclose(first, second) and torch.cosine_similarity(first, second).mean() > 0.5


def test_deleted_tokens_are_60_in_100_and_what_is_left_keeps_its_order():
    """Truth: the binomial of Wang et al. 2021, section 4.1: of 20000 tokens the share's standard error is 0.0035."""
    torch.manual_seed(0)
    batch = batch_of_lengths(*[100] * 200)
    shorter = without(batch, VOCABULARY)
    left = (shorter["input_ids"] >= 5) & shorter["attention_mask"].bool()
    assert left.sum().item() / 20000 == pytest.approx(0.4, abs=0.014)
    for before, after, mask in zip(batch["input_ids"].tolist(), shorter["input_ids"].tolist(), shorter["attention_mask"], strict=True):
        row = after[: int(mask.sum())]
        assert (row[0], row[-1]) == (1, 2) and mask[: len(row)].all()
        places = iter(before)
        assert all(token in places for token in row)


def test_deleting_leaves_one_token_of_a_text_and_all_marks():
    batch = batch_of_lengths(3, 1, 0, 2)
    for seed in range(100):
        torch.manual_seed(seed)
        shorter = without(batch, VOCABULARY)
        left = shorter["attention_mask"].sum(1) - 2
        assert (left[[0, 1, 3]] >= 1).all() and left[2] == 0
        assert {tensor.shape for tensor in shorter.values()} == {(4, int(shorter["attention_mask"].sum(1).max()))}


def test_tsdae_is_the_cross_entropy_of_each_next_token_and_padding_has_none():
    """Truth: as DenoisingAutoEncoderLoss: labels are the tokens from the second on, padding is ignored; told text by text, unpadded."""
    backbone = load_backbone("tiny:text").eval()
    items = [text for text in TEXTS if text]
    pretext, seen = made("tsdae", backbone).eval(), seen_of(backbone, items)
    torch.manual_seed(1)
    loss = pretext(seen)
    torch.manual_seed(1)
    features = backbone(without(backbone.prepare(items), backbone.vocabulary))
    errors = []
    for row, text in enumerate(items):
        ids = backbone.prepare([text])["input_ids"]
        if ids.shape[1] > 1:
            table = backbone.vocabulary.table.weight
            logits = pretext.decoder.guess(pretext.decoder(features[row : row + 1], ids[:, :-1], table), table)[0]
            errors.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    torch.testing.assert_close(loss, torch.cat(errors).mean())


def test_a_decoder_tells_a_token_from_those_before_it_and_the_features():
    torch.manual_seed(0)
    decoder = Decoder(12, VOCABULARY.table).eval()
    ids, features = torch.randint(0, 200, (2, 7)), torch.randn(2, 12)
    table = VOCABULARY.table.weight
    before, later = decoder(features, ids, table), ids.clone()
    later[:, 4:] = 7
    torch.testing.assert_close(decoder(features, later, table)[:, :4], before[:, :4])
    assert not torch.allclose(decoder(features, later, table)[:, 4], before[:, 4])
    assert not torch.allclose(decoder(-features, ids, table)[:, 0], before[:, 0])


def test_positions_are_those_of_the_paper():
    """Truth: Vaswani et al. 2017, section 3.5: sin(p / 10000^(2i / d)) in place 2i, the cosine in 2i + 1."""
    table = sines(9, 6)
    for position in range(9):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert sines(3, 5).shape == (3, 5)


def test_the_table_of_tokens_is_the_networks_own_and_learns_once():
    backbone = load_backbone("tiny:text")
    for name in ("masked_language", "tsdae"):
        mine = {id(parameter) for parameter in made(name, backbone).parameters()}
        assert mine and not mine & {id(parameter) for parameter in backbone.parameters()}


def test_no_tokens_to_tell_give_no_loss():
    seen = seen_of(load_backbone("tiny:text"), [""])
    nothing = torch.zeros(0, 8, requires_grad=True)
    loss = told(seen, Guess(8, VOCABULARY.table), nothing, VOCABULARY.table.weight, torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0
    loss.backward()


def test_what_was_known_is_kept_where_a_pull_to_the_starting_features_is_added():
    items = make_data("text", 60)[0]
    start = load_backbone("tiny:text")

    def strayed(others):
        backbone = load_backbone("tiny:text")
        list(playing(plan("masked_language", 3, others), items, backbone))
        now, was = backbone(backbone.prepare(items)), start(start.prepare(items))
        return (1 - torch.cosine_similarity(now, was)).mean().item()

    assert strayed((("keep_features", 300.0),)) < 0.5 * strayed(())


def test_keep_features_is_one_minus_the_cosine_to_the_start():
    backbone, start = load_backbone("tiny:text").eval(), load_backbone("tiny:text").eval()
    pretext = made("keep_features", backbone)
    assert pretext(seen_of(backbone, TEXTS)).item() == pytest.approx(0, abs=1e-6)
    backbone.reset(3)
    now, was = (one(one.prepare(TEXTS)).detach().numpy() for one in (backbone, start))
    cosines = (now * was).sum(1) / np.linalg.norm(now, axis=1) / np.linalg.norm(was, axis=1)
    assert pretext(seen_of(backbone, TEXTS)).item() == pytest.approx(1 - cosines.mean(), rel=1e-4)
    assert not pretext.state_dict()
    drawing = lively().train()
    pretext = made("keep_features", drawing)
    drawing.eval()
    # The start is as judged, however the run began.
    assert pretext(seen_of(drawing, TEXTS)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["masked_language", "tsdae"])
def test_words_without_tokens_are_refused(name, tmp_path):
    path = tmp_path / "words.npz"
    np.savez(path, words=np.array(["the", "dog"]), vectors=np.eye(2))
    backbone = load_backbone(f"vectors:{path}")
    refusal = PRETEXTS[name].refusal(backbone, make_head(1), "regression", Plan((Phase(1, (1e-3,), 0.0),), losses=((name, 1.0),)))
    assert "expected a network of tokens" in refusal and f"vectors:{path}" in refusal and "sentence:minilm" in refusal


def test_a_network_without_dropout_or_without_a_mask_is_refused(monkeypatch):
    backbone = load_backbone("tiny:text")
    with pytest.raises(GraftError, match="which has no dropout, expected some"):
        playing(plan("simcse"), TEXTS, backbone)
    monkeypatch.setattr(backbone, "vocabulary", Vocabulary(512, (0,), None, backbone.vocabulary.table))
    with pytest.raises(GraftError, match="no token for a hidden one, expected a mask token"):
        playing(plan("masked_language"), TEXTS, backbone)
    with pytest.raises(GraftError, match="reads images, expected texts"):
        playing(plan("tsdae"), TEXTS, load_backbone("tiny:image"))


def test_what_is_new_learns_at_the_highest_rate():
    phase = Phase(1, (1e-5,) * 4, 0.0)
    assert made("masked_language", load_backbone("tiny:text")).rate(phase) == 1e-3
    assert made("tsdae", load_backbone("tiny:text")).rate(Phase(1, (1e-2,) * 4, 0.0)) == 1e-2


@pytest.mark.parametrize("name", ["masked_language", "tsdae"])
def test_what_is_new_learns_alone_for_a_fifth_of_a_phase(name):
    backbone = load_backbone("tiny:text")
    pretext = made(name, backbone)
    pretext(seen_of(backbone, TEXTS, progress=0.19)).backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in pretext.parameters())
    pretext(seen_of(backbone, TEXTS, progress=0.2)).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())

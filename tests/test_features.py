"""Features: equal to running the backbone, computed once, kept on disk whatever happens to the disk."""

import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from graft import features
from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.features import cache_folder, extract, known_throughput, one_ahead, store, throughput
from graft.features.store import LAYOUT
from graft.items import content_key


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_images(n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(n)]


def make_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [f"number {i} " + "word " * int(rng.integers(1, 30)) for i in range(n)]


def counting(backbone):
    """The backbone, and a list that grows by every item it prepares."""
    seen, prepare = [], backbone._prepare
    backbone._prepare = lambda items, rng: (seen.extend(items), prepare(items, rng))[1]
    return backbone, seen


@pytest.mark.parametrize(("kind", "items"), [("image", make_images(23)), ("text", make_texts(23))])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_features_equal_the_backbone_run_item_by_item(kind, items, batch_size):
    """Truth: float32 rounding differs with the batch's shape, by far less than 1e-5 on features of order 1."""
    backbone = load(kind)
    with torch.no_grad():
        expected = np.concatenate([backbone(backbone.prepare([item])).numpy() for item in items])
    got = extract(backbone, items, batch_size=batch_size)
    assert got.dtype == np.float32 and got.shape == (23, 32)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_second_run_computes_nothing_and_gives_the_same_numbers():
    items = make_texts(10)
    first = extract(load("text"), items)
    backbone, seen = counting(load("text"))
    np.testing.assert_array_equal(extract(backbone, items[::-1]), first[::-1])
    assert seen == []


def test_ten_more_items_compute_ten():
    items = make_texts(30)
    extract(load("text"), items[:20])
    backbone, seen = counting(load("text"))
    extract(backbone, items)
    assert sorted(seen) == sorted(items[20:])


@pytest.mark.parametrize("kept", [True, False])
def test_equal_items_are_computed_once(kept):
    backbone, seen = counting(load("text"))
    got = extract(backbone, ["a b", "c", "a b", "a b"], cache=kept)
    assert sorted(seen) == ["a b", "c"]
    np.testing.assert_array_equal(got[0], got[3])


@pytest.mark.parametrize("kind", ["image", "text"])
def test_late_is_the_mean_over_places_of_each_stage_in_the_later_half(kind):
    """Truth: the stages run by hand."""
    backbone, items = load(kind), make_images(5) if kind == "image" else make_texts(5)
    got = extract(backbone, items, tap="late", cache=False)
    for row, item in zip(got, items, strict=True):
        with torch.no_grad():
            first = backbone(backbone.prepare([item]), stop=3)
            mean = first["hidden"].mean(1) if kind == "text" else first.mean((2, 3))
            wanted = torch.cat([mean, backbone(first, start=3)], 1)[0]
        np.testing.assert_allclose(row, wanted.numpy(), atol=1e-5)


def test_what_a_wider_tap_kept_serves_the_narrower_ones():
    items = make_texts(9)
    stages = extract(load("text"), items, tap="stages")
    for tap in ("late", "pooled"):
        backbone, seen = counting(load("text"))
        got = extract(backbone, items, tap=tap)
        np.testing.assert_array_equal(got, stages[:, -got.shape[1] :])
        # One item is run to learn how wide the tap is.
        assert len(seen) <= 1


def test_without_cache_nothing_is_written(cache):
    extract(load("text"), make_texts(3), cache=False)
    assert not cache.exists()


def test_without_cache_decoded_images_are_not_compared_but_files_are(tmp_path, monkeypatch):
    picture = make_images(1)[0]
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    hashed = []
    monkeypatch.setattr("graft.features.content_key", lambda item, modality: hashed.append(item) or content_key(item, modality))
    backbone, seen = counting(load("image"))
    got = extract(backbone, [picture, path, Image.fromarray(picture), str(path)], cache=False)
    assert list(map(str, hashed)) == [str(path)] * 2
    assert len(seen) == 3
    np.testing.assert_allclose(got, np.repeat(got[:1], 4, 0), atol=1e-6)


def test_other_weights_have_features_of_their_own():
    items = make_images(4)
    assert not np.allclose(extract(load("image"), items), extract(load("image-1"), items))


def test_texts_of_like_length_share_a_batch():
    widths = []
    backbone, _ = counting(load("text"))
    prepare = backbone._prepare
    backbone._prepare = lambda items, rng: (widths.append({len(item) for item in items}), prepare(items, rng))[1]
    extract(backbone, ["a" * (1 + i % 2) + f" {i}" for i in range(8)], batch_size=4)
    assert widths == [{4}, {3}]


def test_no_items_give_no_rows():
    assert extract(load("text"), []).shape == (0, 32)


def test_progress_ends_at_the_total():
    steps = []
    extract(load("text"), ["a", "b", "a"], batch_size=1, progress=steps.append)
    assert [(step.done, step.total) for step in steps] == [(2, 3), (3, 3)]
    extract(load("text"), ["a", "b", "a"], progress=steps.append)
    assert (steps[-1].what, steps[-1].done, steps[-1].total) == ("extracting tiny:text", 3, 3)


def test_the_backbone_is_run_in_evaluation_mode():
    backbone = load("image")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.train()
    extract(backbone, make_images(4))
    assert not backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("part", ["keys", "features"])
def test_a_damaged_part_of_the_cache_is_named_and_computed_again(cache, part):
    items = make_texts(6)
    first = extract(load("text"), items)
    (path,) = cache.glob(f"features/*/*/*/*.{part}.npy")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.warns(UserWarning, match=r"\.keys\.npy: this part of the feature cache cannot be read .* computed again"):
        np.testing.assert_array_equal(extract(load("text"), items), first)


def test_features_of_another_version_are_named_left_alone_and_computed_again(cache):
    items = make_texts(6)
    first = extract(load("text"), items)
    (cache / "features" / LAYOUT).rename(cache / "features" / "v0")
    with pytest.warns(UserWarning, match=r"v0: features of this backbone, written by another version of graft, are not read"):
        np.testing.assert_array_equal(extract(load("text"), items), first)
    assert len(list((cache / "features" / "v0").rglob("*.keys.npy"))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract(load("text"), items)


def test_a_read_only_cache_is_read(cache, monkeypatch):
    items = make_texts(6)
    first = extract(load("text"), items[:4])

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(store, "replacing", refuse)
    with pytest.warns(UserWarning, match=r"the cache cannot be written \(.*Read-only file system\); this goes on without it"):
        np.testing.assert_array_equal(extract(load("text"), items)[:4], first)


def test_a_part_of_another_width_is_not_believed(cache):
    extract(load("text"), make_texts(6))
    (path,) = cache.glob("features/*/*/*/*.features.npy")
    np.save(path, np.zeros((6, 7), np.float32))
    with pytest.warns(UserWarning, match=r"features \(6, 7\), expected \(m, 16\) and \(m, 32\)"):
        assert extract(load("text"), make_texts(6)).any()


def test_a_cache_that_cannot_be_written_is_warned_of_once_and_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(store, "_SHARD_ITEMS", 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert extract(load("text"), make_texts(6), batch_size=2).shape == (6, 32)
    assert len(caught) == 1 and "the cache cannot be written" in str(caught[0].message) and "GRAFT_CACHE" in str(caught[0].message)


def test_an_unwritable_cache_is_warned_of_once_a_process_and_numbers_are_known_until_it_ends(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file"))
    measured = iter([1.5, 2.5, 3.5])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in ("text", "image"):
            extract(load(kind), make_texts(3) if kind == "text" else make_images(3))
        assert [features.remembered("speed", lambda: next(measured)) for _ in range(2)] == [1.5, 1.5]
        assert store.recalled("speed") == 1.5 and store.recalled("another") is None
        assert store.remembered_here("another", lambda: next(measured)) == store.remembered_here("another", lambda: next(measured)) == 2.5
    assert [str(warning.message).count("the cache cannot be written") for warning in caught] == [1]
    # A cache elsewhere is asked, and told of, by itself.
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="the cache cannot be written"):
        assert features.remembered("speed", lambda: next(measured)) == 3.5


def test_equal_items_are_copied_in_pieces(monkeypatch):
    copied = []

    class Watched(np.ndarray):
        def __setitem__(self, places, rows):
            copied.append(len(rows))
            super().__setitem__(places, rows)

    monkeypatch.setattr(features, "room_for", lambda shape: np.empty(shape, np.float32).view(Watched))
    monkeypatch.setattr(features, "BLOCK_ITEMS", 5)
    texts = make_texts(4)
    found = extract(load("text"), [texts[place % 4] for place in range(20)], cache=False)
    assert max(copied) == 5 and sum(copied) == 20
    np.testing.assert_array_equal(found, np.tile(extract(load("text"), texts, cache=False), (5, 1)))


def test_a_full_disk_leaves_no_half_written_file(cache, monkeypatch):
    def full(file, array):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        extract(load("text"), make_texts(3))
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_what_was_computed_before_an_interruption_is_kept():
    items = make_texts(12)

    def stop(step):
        if step.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(load("text"), items, batch_size=4, progress=stop)
    backbone, seen = counting(load("text"))
    extract(backbone, items)
    assert len(seen) == 4


def test_two_processes_share_one_cache():
    code = (
        "import sys; from graft.features import extract, store; from graft.backbones.tiny import load; store._SHARD_ITEMS = 4\n"
        "start = int(sys.argv[1]); extract(load('text'), [f'text {i}' for i in range(start, start + 40)], batch_size=2)"
    )
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, start]) for start in ("0", "20")]
    assert [process.wait() for process in running] == [0, 0]
    items = [f"text {i}" for i in range(60)]
    backbone, seen = counting(load("text"))
    np.testing.assert_allclose(extract(backbone, items), extract(load("text"), items, cache=False), atol=1e-5)
    assert seen == []


def test_unreadable_items_are_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(GraftError, match=r"1 items cannot be read, .*item 1 .*broken\.jpg.*graft check"):
        extract(load("image"), [make_images(1)[0], str(tmp_path / "broken.jpg")])
    with pytest.raises(GraftError, match=r"2 items cannot be read, .*item 0 .*absent\.jpg.*item 2 .*gone\.jpg"):
        extract(load("image"), [str(tmp_path / "absent.jpg"), make_images(1)[0], str(tmp_path / "gone.jpg")])


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(GraftError, match="batch_size is 0, expected at least 1"):
        extract(load("text"), ["a"], batch_size=0)


def test_throughput_is_measured_once_and_remembered(cache):
    items = make_texts(40)
    speed = throughput(load("text"), items)
    assert speed > 0
    assert throughput(load("text"), items) == speed
    (path,) = [path for path in cache.glob("measured/*/*.json") if "throughput" in path.read_text()]
    path.write_text(json.dumps({"value": 12.5}))
    assert throughput(load("text"), items) == 12.5
    path.write_text("{")
    with pytest.warns(UserWarning, match="measured again"):
        assert throughput(load("text"), items) > 0


@pytest.mark.parametrize(("known", "new"), [(40, 1), (40, 10), (200, 20), (12, 1)])
def test_throughput_is_not_that_of_a_few_new_items(known, new, monkeypatch):
    """Most are found in the cache; the few others would be timed together with the setting up of the runtime."""
    choose = features.choose
    monkeypatch.setattr(features, "choose", lambda *given, **named: (time.sleep(0.5), choose(*given, **named))[1])
    items = make_texts(known + new)
    extract(load("text"), items[:known], runtime="torch")
    # So many take a tenth of a second and less.
    assert throughput(load("text"), items) > 30


def test_a_measured_throughput_is_known_by_the_backbones_name(cache):
    assert known_throughput("tiny:text") is None
    speed = throughput(load("text"), make_texts(40))
    assert known_throughput("tiny:text") == speed and known_throughput("tiny:image") is None


def test_throughput_of_nothing_is_refused():
    with pytest.raises(GraftError, match="0 items, expected at least 1"):
        throughput(load("text"), [])


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GRAFT_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "graft"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "graft" / "cache"


def test_one_ahead_is_map_in_order_and_passes_errors_on():
    assert list(one_ahead(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
    assert list(one_ahead(str, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(one_ahead(lambda x: 1 // x, [1, 0]))


def test_twenty_times_the_items_need_no_more_memory():
    """Peak of memory that is no file's, in another process: 20,000 items against 1,000. What grows is keys, 64 bytes an item."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("memory is read from /proc")
    code = """if True:
        import sys
        import numpy as np
        from graft.backbones.tiny import load
        from graft.features import extract, store

        class Images:
            def __init__(self, n): self.n = n
            def __len__(self): return self.n
            def __iter__(self): return map(self.__getitem__, range(self.n))
            def __getitem__(self, i): return np.full((8, 8, 3), [i % 256, i // 256, 0], np.uint8)

        def megabytes():
            return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1024

        store._IN_MEMORY_BYTES, store._SHARD_ITEMS = 2**18, 500
        backbone, peaks = load("image"), []
        for n in (1000, 1000, 20000):
            seen = [0.0]
            features = extract(backbone, Images(n), tap="stages", cache=n > 1000, progress=lambda step: seen.append(megabytes()))
            assert features.shape == (n, 112) and isinstance(features, np.memmap)
            peaks.append(max(seen))
        print(peaks[2] - peaks[1])
    """
    grown = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    # The features alone are 9 MB.
    assert grown < 6

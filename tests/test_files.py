"""Files are whole or not there."""

import os
from pathlib import Path

import pytest

from graft.files import replacing


def test_a_finished_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with replacing(path) as file:
        file.write("né\r\n")
        assert path.read_text() == "old"
    assert path.read_bytes() == b"n\xc3\xa9\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_keeps_the_old_file_and_leaves_no_half_of_the_new(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def write():
        with replacing(path) as file:
            file.write("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: done.append(("bytes", os.fstat(number).st_size)) or fsync(number))
    monkeypatch.setattr(Path, "replace", lambda self, other: done.append("name") or replace(self, other))
    with replacing(tmp_path / "a.csv") as file:
        file.write("whole")
    assert done == [("bytes", 5), "name"]

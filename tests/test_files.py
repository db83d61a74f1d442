"""Files are whole or not there."""

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

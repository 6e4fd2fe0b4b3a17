"""Files that are there whole, or not at all."""

import errno

import pytest

from mlaas_condor.errors import StorageFull
from mlaas_condor.training.writing import replacing


def test_a_file_is_replaced_once_it_is_complete(tmp_path):
    path = tmp_path / "one.model"
    path.write_text("before")
    with replacing(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageFull),
        (ValueError("a framework's own"), ValueError),
    ],
)
def test_a_file_stays_as_it_was_where_the_writing_fails(tmp_path, raised, expected):
    path = tmp_path / "one.model"
    path.write_text("before")
    with pytest.raises(expected), replacing(path) as part:
        part.write_text("half")
        raise raised
    assert path.read_text() == "before"

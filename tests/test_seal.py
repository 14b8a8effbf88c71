"""A sealed file is as it was made, or refused."""

from pathlib import Path

import pytest

from intvit.errors import IntvitError
from intvit.seal import SIZE, check_seal, seal


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "m.so"
    path.write_bytes(bytes(range(256)) * 10)
    seal(path)
    return path


def test_a_seal_is_accepted_and_made_once(sealed: Path) -> None:
    check_seal(sealed)
    before = sealed.read_bytes()
    seal(sealed)
    assert sealed.read_bytes() == before and len(before) == 2560 + SIZE


@pytest.mark.parametrize("place", [0, 1234, 2559, 2600])
def test_a_changed_byte_is_found(sealed: Path, place: int) -> None:
    content = bytearray(sealed.read_bytes())
    content[place] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(IntvitError, match="damaged, its digest does not fit"):
        check_seal(sealed)


@pytest.mark.parametrize("size", [0, 1, 1000, 2560, 2560 + SIZE - 1])
def test_a_file_that_is_cut_short_is_found(sealed: Path, size: int) -> None:
    sealed.write_bytes(sealed.read_bytes()[:size])
    with pytest.raises(IntvitError, match="no seal at its end"):
        check_seal(sealed)

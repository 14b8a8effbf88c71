"""Small configurations of every family through every back end: what `bench/families.py` shows of the published ones."""

from pathlib import Path

import families
import pytest

from intvit.bench.matrix import LEAST_SQNR, PROOFS, examine
from intvit.bench.subjects import subject


@pytest.mark.parametrize("name", families.SMALL)
def test_every_proof_holds(name: str, tmp_path: Path) -> None:
    options, size = families.SMALL[name]
    finding = examine(subject(name, options, size), tmp_path)
    assert finding.reasons == {}
    assert {proof: getattr(finding, proof) for proof in PROOFS} == dict.fromkeys(PROOFS, True)
    assert min(finding.sqnr) >= LEAST_SQNR
    assert finding.passed

"""The memory plan: nothing that is alive at once overlaps, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from intvit.memory import ALIGNMENT, Lifetime, aligned, plan

LIFETIMES = st.lists(
    st.builds(lambda size, first, length: Lifetime(size, first, first + length), *[st.integers(0, 400)] * 3),
    max_size=30,
)


@given(LIFETIMES)
def test_what_is_alive_at_once_does_not_overlap(lifetimes: list[Lifetime]) -> None:
    found = plan(lifetimes)
    places = [
        (offset, offset + lifetime.size, lifetime) for offset, lifetime in zip(found.offsets, lifetimes, strict=True)
    ]
    for i, (begin, end, mine) in enumerate(places):
        assert begin % ALIGNMENT == 0 and end <= found.size
        for other_begin, other_end, other in places[:i]:
            apart = mine.last < other.first or other.last < mine.first
            assert apart or end <= other_begin or other_end <= begin


@given(LIFETIMES)
def test_it_is_between_what_lives_at_once_and_the_sum(lifetimes: list[Lifetime]) -> None:
    phases = range(max((x.last for x in lifetimes), default=0) + 1)
    at_once = [sum(aligned(x.size) for x in lifetimes if x.first <= phase <= x.last) for phase in phases]
    assert max(at_once) <= plan(lifetimes).size <= sum(aligned(x.size) for x in lifetimes)


def test_a_chain_needs_two_places() -> None:
    chain = [Lifetime(640, phase, phase + 1) for phase in range(10)]
    assert plan(chain).size == 2 * 640

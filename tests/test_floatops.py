"""Float operations of the graph: the forms that an attention takes in torch give the same."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from intvit import floatops


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_attention_without_bias_is_one_with_zeros(
    batch: int, windows: int, heads: int, tokens: int, by_head: bool
) -> None:
    generator = torch.Generator().manual_seed(batch * 1000 + windows * 100 + heads * 10 + tokens)
    q, k, v = (torch.randn(batch, windows * tokens, heads * 8, generator=generator) for _ in range(3))
    scale = tuple(0.1 * (head + 1) for head in range(heads)) if by_head else 0.35
    zeros = torch.zeros(1, 1, tokens, tokens)
    plain = floatops.attention(q, k, v, heads, scale, windows)
    biased = floatops.attention(q, k, v, heads, scale, windows, zeros, (0,) * windows)
    assert plain.shape == (batch, windows * tokens, heads * 8)
    torch.testing.assert_close(plain, biased, rtol=1e-4, atol=1e-5)

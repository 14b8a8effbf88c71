"""Matrix product with constant weights: int8 [rows, K] x int8 [N, K] -> epilogue -> [rows, N].

    y[r, n] = epilogue(sum_k x[r, k] * w[n, k])

Accumulators are int32: exact for every K up to 2^16 (each product is at most 2^14), and the caller proves the bias.
A task is a block of at most `most_rows` rows and some panels of columns. It makes its rows left operands once, then
keeps a tile of rows x panel accumulators in registers over the whole of K, and stores the tile through the epilogue
(where two lanes are one column's, `tile.of_columns`, a panel is two such tiles). Weights are asked for some KB ahead:
the first block of rows finds them in no cache of its core.
Rows past the end repeat the last row: nothing is read outside the tensors and equal values are stored twice. Columns
past N are computed (the packing padded them) and not stored. On AMX `product_tiles` does the same in its own way.

Weights of 4 bits lie two to a byte, and a load makes right operands of two steps, 16 times the weights
(`tile.columns_of`). So are the sums, of at most 2^16 products of 255 and 128: they are shifted back, which is exact,
and the bias is added then.

The tile scheme is Goto and van de Geijn's (Anatomy of High-Performance Matrix Multiplication, 2008) without its cache
blocking of K: a row block (14 rows x K) stays in L1 and a panel of int8 weights streams from L2.
"""

from __future__ import annotations

from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from intvit.kernels import product_tiles
from intvit.kernels.arith import LINE, Buffer, Expr, let, load, prefetch
from intvit.kernels.cut import RULE, Cut
from intvit.kernels.epilogue import Epilogue
from intvit.kernels.finish import Finish, operand_tensors
from intvit.kernels.function import Tensor, function, scratch, symbol
from intvit.kernels.isa import Isa
from intvit.kernels.pack import MOST_DEPTH, packed_shape, round_up
from intvit.kernels.tile import (
    add_products,
    add_start,
    columns_of,
    even_blocks,
    halves_of_pass,
    of_columns,
    padded_depth,
    registers_from,
    row_stride,
    widen_row,
)

MOST_SCRATCH = 1 << 16  # bytes of left operands
FEW = 8  # columns whose sums are kept whole: `of_columns`
AHEAD = 1 << 12  # bytes of weights between what is multiplied and what the caches are asked for
LEAST_TASK = 1 << 16  # multiply-adds that are worth a task
TASKS = 16  # tasks of one batch element that let 2, 4, 8 and 16 threads share the work
TASKS_ON_TILES = 8
LEAST_ON_TILES = 1 << 20  # more: a task begins with products alone and ends with an epilogue alone


def _left(wide: Buffer, k: Expr, isa: Isa, r: int) -> Expr:
    """The left operands of row `r` for what packed weights hold together."""
    return load(wide, (r, k), isa.neighbours)


def tile_rows(tokens: int, k: int, isa: Isa) -> int:
    """Rows of a register tile; on AMX, of a task."""
    if isa.tiles:
        return product_tiles.rows_of_task(tokens)
    return even_blocks(tokens, most_tile_rows(k, isa))


def most_tile_rows(k: int, isa: Isa) -> int:
    """Rows of a tile that registers and cache allow."""
    return max(1, min(isa.most_rows, MOST_SCRATCH // (isa.itemsize * k)))


def column_splits(tokens: int, rows: int, k: int, panels: int, isa: Isa) -> int:
    """In how many parts the columns of a row block are tasks of their own: enough tasks, none too small, even parts."""
    blocks = -(-tokens // rows)
    tasks, least = (TASKS_ON_TILES, LEAST_ON_TILES) if isa.tiles else (TASKS, LEAST_TASK)
    most = max(1, min(panels, rows * k * isa.columns * panels // least, -(-2 * tasks // blocks)))
    choices = range(1, most + 1)
    enough = [splits for splits in choices if blocks * splits >= tasks]

    def slowest(splits: int) -> tuple[int, int]:
        """Panels of the busier one of two threads; between equals fewest tasks, on tiles most if they are too few."""
        fewest = bool(enough) or not isa.tiles
        return round_up(blocks * splits, 2) // 2 * -(-panels // splits), splits if fewest else -splits

    return min(enough or choices, key=slowest)


def cuts(tokens: int, k: int, n: int, isa: Isa) -> tuple[Cut, ...]:
    """Cuts that are worth measuring, the rule first: tiles that share the rows evenly, and other numbers of splits."""
    panels = packed_shape(n, k, isa)[0]
    rule = tile_rows(tokens, k, isa)
    most = min(tokens, most_tile_rows(k, isa))
    blocks = {-(-tokens // size) for size in range(max(1, 2 * most // 3), most + 1)}
    tiles = {-(-tokens // count) for count in blocks} - {rule}
    splits = column_splits(tokens, rule, k, panels, isa)
    others = {1, splits // 2, splits - 1, splits + 1, 2 * splits} - {splits}
    found = [] if isa.tiles else [Cut(tile, None) for tile in sorted(tiles, reverse=True)]
    return (RULE, *found, *(Cut(None, other) for other in sorted(others) if 1 <= other <= panels))


def product(
    k: int,
    n: int,
    epilogue: Epilogue,
    isa: Isa,
    *,
    tokens: int = 197,
    cut: Cut = RULE,
    bits: int = 8,
    name: str = "product",
) -> tirx.PrimFunc:
    """Inputs: x int8 [rows, k], packed weights, the epilogue's operands; output [rows, n] of the epilogue's type.

    `tokens` is a hint, the rows of one batch element: tiles are chosen so that two threads share them evenly, unless
    `cut` says how. `bits` are those of a packed weight, 8 or 4. Raises `ValueError` where sums that do not begin with a
    bias (`pack.bias`) are asked of an instruction that needs one, for weights of 4 bits beyond a K of 2^16, and for a
    cut that the instruction set or the shape does not allow.
    """
    if isa.zero and not epilogue.biased:
        raise ValueError(f"a product on {isa.name} begins with a bias")
    if bits not in (8, 4) or (bits == 4 and k > MOST_DEPTH):
        raise ValueError(f"no product of depth {k} with weights of {bits} bits")
    rows = symbol("rows")
    packed = packed_shape(n, k, isa, bits)
    panels, together = packed[0], 8 // bits
    step, width = isa.neighbours * together, isa.lanes * isa.group
    loads = padded_depth(k, step) // step
    spare = 8 - bits
    late = spare > 0 or isa.spread > 1
    passes = halves_of_pass(isa) if bits == 4 else ((0,),)
    tile = cut.tile or tile_rows(tokens, k, isa)
    splits = cut.splits or column_splits(tokens, tile, k, panels, isa)
    allowed = (tile_rows(tokens, k, isa),) if isa.tiles else range(1, most_tile_rows(k, isa) + 1)
    if tile not in allowed or not 1 <= splits <= panels:
        raise ValueError(f"a product of {k} by {n} on {isa.name} cannot be cut into {tile} rows and {splits} splits")
    tiles = isa.columns // isa.panel

    def ask(w: Buffer, panel: Expr, s: Expr, offset: Expr) -> None:
        for line in range(isa.panel * isa.neighbours // LINE):  # none where a line has several steps
            prefetch(w, (panel, s + AHEAD // packed[2], offset + line * LINE))

    def body(x: Buffer, w: Buffer, *rest: Buffer) -> None:
        finish = Finish(epilogue, rest[:-1], rest[-1], n, isa, biased=epilogue.biased)
        with T.parallel((rows + (tile - 1)) // tile * splits) as task:
            first = let(task // splits * tile)
            begin, end = (let((task % splits + i) * panels // splits) for i in (0, 1))
            if isa.tiles:
                product_tiles.multiply(x, w, first, tile, (begin, end), k, finish, bits)
                return
            lines = [let(tirx.min(first + r, rows - 1)) for r in range(tile)]
            wide = scratch((tile, row_stride(k, isa)), isa.element)
            for r, line in enumerate(lines):
                widen_row(x, (line, 0), wide, r, k, isa, step)
            with T.serial(tirx.min(end * tiles, -(-n // isa.panel)) - begin * tiles) as j:
                at = let(begin * tiles + j)
                panel, offset = let(at // tiles), let(at % tiles * (isa.panel * isa.neighbours))
                start = [finish.start(at * isa.panel + v * isa.lanes) for v in range(isa.vectors)]
                found: list[list[Buffer]] = [[] for _ in lines]
                for part in range(isa.spread):
                    sums = registers_from([None] * isa.vectors if late else start, tile, isa)
                    places = [offset + (part * isa.vectors + v) * width for v in range(isa.vectors)]
                    for halves in passes:
                        with T.serial(loads) as s:
                            if part == 0 and halves is passes[0]:
                                ask(w, panel, s, offset)
                            vectors = [let(load(w, (panel, s, place), width)) for place in places]
                            for half in halves:
                                columns = [columns_of(vector, bits, half, isa) for vector in vectors]
                                left = partial(_left, wide, (s * together + half) * isa.neighbours, isa)
                                add_products(sums, left, columns, isa)
                    for row, columns in zip(found, of_columns(sums, isa, whole=n <= FEW), strict=True):
                        row.extend(columns)
                if late:
                    add_start(found, start, spare, isa)
                finish.tile(found, lines, at)

    tensors = [
        Tensor("x", (rows, k), "int8"),
        Tensor("weights", packed, "int8"),
        *operand_tensors(epilogue, rows, n, isa),
        Tensor("y", (rows, n), epilogue.dtype),
    ]
    return function(name, tensors, body)

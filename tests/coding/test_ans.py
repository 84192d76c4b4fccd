"""ANS against the entropy, against the decoder printed in docs/file-format.md, and against bare constriction."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import constriction
import numpy as np
import pytest

from quantree.coding import Ans, Symbols
from quantree.errors import FormatError, LeafError

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]
SPARSE = np.array([0.97, 0.01, 0.005, 0.005, 0.004, 0.003, 0.002, 0.001])


def sparse(size: int, seed: int = 0) -> Symbols:
    return Symbols(np.random.default_rng(seed).choice(8, size, p=SPARSE), 8)


@pytest.fixture(scope="module")
def printed_decoder() -> Callable[[bytes, bytes, int, int], list[int]]:
    """The decoder that docs/file-format.md prints: plain integers, and none of quantree's code."""
    document = Path(__file__).parents[2] / "docs" / "file-format.md"
    code = re.search(r"```python\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert code
    namespace: dict[str, Any] = {}
    exec(compile(code[1], str(document), "exec"), namespace)
    return namespace["decode_ans"]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 4000, 70_000])
@pytest.mark.parametrize("alphabet", [2, 8, 300, 65_536])
@pytest.mark.parametrize("used", [1, 2, 7, 200])
def test_printed_decoder(size: int, alphabet: int, used: int, printed_decoder: Callable[..., list[int]]) -> None:
    rng = np.random.default_rng(size + alphabet + used)
    values = (rng.geometric(0.2, size) % used * 31 + 5) % alphabet
    symbols = Symbols(values, alphabet)
    table = Ans().table(symbols)
    assert printed_decoder(Ans().encode(symbols, table), table, size, alphabet) == values.tolist()


@pytest.mark.parametrize("alphabet", [2, 16, 256, 65_536])
@pytest.mark.parametrize("spread", [0.001, 0.1, 10])
def test_near_the_entropy(alphabet: int, spread: float) -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(min(alphabet, 3000), spread))
    symbols = Symbols(rng.choice(np.arange(len(share)) * (alphabet // len(share)), 400_000, p=share), alphabet)
    table = Ans().table(symbols)
    bits = 8 * len(Ans().encode(symbols, table))
    assert bits <= 1.01 * symbols.entropy + 32
    # The table is worth its bytes: a parameter of a model costs about log2(n) / 2 bits (Rissanen 1978), and its name.
    occurring = np.count_nonzero(symbols.counts)
    assert 8 * len(table) <= 8 + min(alphabet, 40 + 16 * occurring) + 14 * occurring


def test_precise_frequencies_where_they_pay() -> None:
    values = np.clip(np.rint(np.random.default_rng(0).normal(128, 20, 1_000_000)), 0, 255).astype(np.uint8)
    symbols = Symbols(values, 256)
    table = Ans().table(symbols)
    assert len(table) + len(Ans().encode(symbols, table)) <= 1.0004 * symbols.entropy / 8


def test_small_file_of_a_pruned_net() -> None:
    symbols = Symbols(np.random.default_rng(0).choice(8, 400_000, p=[0.995, *[0.005 / 7] * 7]), 8)
    table = Ans().table(symbols)
    assert len(table) <= 9
    assert len(table) + len(Ans().encode(symbols, table)) <= 1.005 * symbols.entropy / 8


def test_few_symbols_of_a_large_alphabet_have_a_small_table() -> None:
    symbols = Symbols(np.random.default_rng(0).choice([3, 500, 60_000], 1000), 65_536)
    assert len(Ans().table(symbols)) <= 10


def test_one_used_symbol_has_no_payload() -> None:
    symbols = Symbols(np.full(1000, 77), 65_536)
    table = Ans().table(symbols)
    assert len(table) <= 4 and Ans().encode(symbols, table) == b""


def test_the_tail_of_the_commonest_symbol_is_free() -> None:
    values = np.array([1, 2, 5, 1, 2] + [5] * 3000)
    table = Ans().table(Symbols(values, 6))
    assert len(Ans().encode(Symbols(values, 6), table)) == len(Ans().encode(Symbols(values[:100], 6), table))


def test_a_table_that_lacks_a_symbol() -> None:
    table = Ans().table(Symbols(np.array([0, 1, 1]), 8))
    with pytest.raises(LeafError, match="lacks"):
        Ans().encode(Symbols(np.array([2]), 8), table)


def test_payload_must_end_where_the_symbols_end() -> None:
    symbols = sparse(3000)
    table = Ans().table(symbols)
    payload = Ans().encode(symbols, table)
    for wrong in (payload[:-1], payload + b"\0", payload + b"\1"):
        with pytest.raises(FormatError):
            Ans().decode(wrong, table, (3000,), 8)
    with pytest.raises(FormatError):
        Ans().decode(payload, table, (100,), 8)


def test_extreme_frequencies() -> None:
    values = np.zeros(3_000_000, np.uint8)
    values[[5, -1]] = 1
    symbols = Symbols(values, 2)
    table = Ans().table(symbols)
    payload = Ans().encode(symbols, table)
    assert len(payload) <= 10
    assert (Ans().decode(payload, table, values.shape, 2) == values).all()


@pytest.mark.slow
def test_as_fast_as_bare_constriction() -> None:
    values = np.clip(np.rint(np.random.default_rng(0).normal(8, 2, 5_000_000)), 0, 15).astype(np.int32)
    symbols = Symbols(values, 16)
    table = Ans().table(symbols)
    model = _stream.model.Categorical(symbols.counts.astype(np.float32), perfect=False)

    def bare() -> None:
        coder = _stream.stack.AnsCoder()
        coder.encode_reverse(values, model)
        _stream.stack.AnsCoder(coder.get_compressed()).decode(model, values.size)

    def ours() -> None:
        Ans().decode(Ans().encode(symbols, table), table, values.shape, 16)

    def seconds(job: Callable[[], None]) -> float:
        start = time.perf_counter()
        job()
        return time.perf_counter() - start

    assert min(seconds(ours) for _ in range(7)) <= 1.5 * min(seconds(bare) for _ in range(7))

"""PyTorch's data sets and loaders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dlfb_lab import data
from dlfb_lab.data.prefetch import Prefetch
from dlfb_lab.data.stream import Stream
from dlfb_lab.data.torch import open_loader
from dlfb_lab.data.tree import Tree
from dlfb_lab.errors import DataError

torch = pytest.importorskip("torch")
utils = torch.utils.data

pytestmark = pytest.mark.guests("torch")

X, Y = torch.arange(30.0).reshape(10, 3), torch.arange(10)


class Squares(utils.Dataset):
    """A map-style data set."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return X[row], row


class Endless(utils.IterableDataset):
    def __init__(self, rows: int | None) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        row = 0
        while row != self.rows:
            yield {"x": X[row % 10], "y": row % 10}
            row += 1


def rows_of(found: Any, number: int = 0, seed: int = 0) -> list[list[int]]:
    assert isinstance(found, Stream)
    return [
        (batch[1] if isinstance(batch, list | tuple) else batch["y"]).tolist() for batch in found.epoch(number, seed)
    ]


def test_a_tensor_dataset_is_rows_that_share_its_memory() -> None:
    found = data.read(utils.TensorDataset(X, Y))
    assert isinstance(found, data.Examples)
    assert np.shares_memory(found.x, X.numpy())
    assert found.y.tolist() == list(range(10))
    tree = data.read_tree(utils.TensorDataset(X, Y))
    assert isinstance(tree, Tree)
    assert tree.rows == 10
    inputs = data.read_inputs(utils.TensorDataset(X))
    assert isinstance(inputs, data.Examples)
    assert inputs.y is inputs.x


def test_parts_of_a_tensor_dataset_are_rows() -> None:
    train, valid = utils.random_split(utils.TensorDataset(X, Y), [7, 3])
    rows = [data.read(part).y.tolist() for part in (train, valid, utils.Subset(train, [2, 0]))]
    assert sorted(rows[0] + rows[1]) == list(range(10))
    assert rows[2] == [rows[0][2], rows[0][0]]


def test_tensors_are_arrays() -> None:
    weights = X.clone().requires_grad_()
    for x, dtype in ((X, np.float32), (weights, np.float32), (X.to(torch.bfloat16), np.float32)):
        found = data.read((x, Y))
        assert found.x.dtype == dtype
        np.testing.assert_array_equal(found.x, X.numpy())


def test_a_map_style_data_set_is_drawn_in_the_seeds_order() -> None:
    found = data.read(Squares(), batch_size=4, seed=1)
    assert isinstance(found, Stream)
    assert (found.name, found.batches, found.rows) == ("Squares", 3, 4)
    first = rows_of(found, 0, 1)
    assert sorted(sum(first, [])) == list(range(10))  # noqa: RUF017
    assert first == rows_of(found, 0, 1) != rows_of(found, 1, 1)
    np.testing.assert_array_equal(found.first[0], X.numpy()[first[0]])
    assert data.read(utils.Subset(Squares(), [1, 2])).batches == 1


def test_a_loader_brings_its_batches() -> None:
    found = data.read(utils.DataLoader(Squares(), batch_size=4))
    assert isinstance(found, Stream)
    assert (found.name, found.batches, found.rows, found.once) == ("DataLoader", 3, 4, False)
    assert found.first[0].dtype == np.float32
    assert found.first[1].dtype == np.int32
    for number in range(2):
        assert rows_of(found, number) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not found.notices


@pytest.mark.slow
def test_a_loader_may_have_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker of pytest's own is started by a command, and has no module that another process could import.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    rows = utils.TensorDataset(X, Y)
    loader = utils.DataLoader(rows, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    found = data.read(loader)
    with Prefetch(found.epoch(0, 0), lambda batch: batch[1].tolist()) as batches:
        assert list(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not found.notices
    forked = utils.DataLoader(rows, num_workers=2, multiprocessing_context="fork")
    items = open_loader(forked)
    assert items is not None
    assert "The 2 workers of the DataLoader are forked off this process" in items.notice


def test_a_loader_without_batches_brings_examples() -> None:
    found = data.read(utils.DataLoader(Squares(), batch_size=None), batch_size=5)
    assert rows_of(found) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert found.batches == 2


def test_a_loader_of_dicts_and_strings() -> None:
    rows = [{"x": X[i], "kind": "ab"[i % 2]} for i in range(10)]
    found = data.read(utils.DataLoader(rows, batch_size=4), target="kind")
    assert isinstance(found, Stream)
    assert found.first["kind"].tolist() == ["a", "b", "a", "b"]


def test_an_iterable_data_set_is_a_stream() -> None:
    found = data.read(Endless(6), batch_size=4)
    assert isinstance(found, Stream)
    assert found.batches is None
    assert rows_of(found) == rows_of(found, 1) == [[0, 1, 2, 3], [4, 5]]
    loader = data.read(utils.DataLoader(Endless(None), batch_size=4))
    assert isinstance(loader, Stream)
    going = loader.epoch(0, 0)
    assert [next(going)["y"].tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


def test_other_data_sets_are_refused() -> None:
    with pytest.raises(DataError, match=r"type tuple cannot be read. Give \(x, y\)"):
        data.read(utils.TensorDataset(X, Y, Y))
    with pytest.raises(DataError, match=r"One array alone, of shape .* has no targets"):
        data.read(X)
    with pytest.raises(DataError, match="The Squares failed at item 0: KeyError"):

        class Broken(Squares):
            def __getitem__(self, row: int) -> Any:
                raise KeyError(row)

        Broken.__name__ = "Squares"
        data.read(Broken())

"""Iterables, generators and functions as data: what is read, in which batches, and what is refused."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from dlfb_lab import data
from dlfb_lab.data.batch import pair
from dlfb_lab.data.stream import Stream, joined, read_all
from dlfb_lab.data.tree import Tree
from dlfb_lab.errors import DataError, OptionError

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(10, 3)).astype(np.float32), np.arange(10, dtype=np.int32)


def batches(size: int = 4, x: np.ndarray = X, y: np.ndarray = Y) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def examples() -> Iterator[dict[str, Any]]:
    """The book's first data: a dict for each example."""
    for feature in range(10):
        yield {"feature": feature, "label": feature % 2}


class Fresh:
    """Starts anew each time, and notes how often."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.passes = items, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        yield from self.items


class Rows:
    """Items by number, as a map-style data set has them."""

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        assert type(row) is int
        return X[row], row


class Graph(NamedTuple):
    nodes: Any
    edges: Any


def stream(given: Any, **options: Any) -> Stream:
    found = data.read(given, **options)
    assert isinstance(found, Stream)
    return found


def equal(left: Any, right: Any) -> bool:
    same = jax.tree.structure(left) == jax.tree.structure(right)
    return same and all(map(np.array_equal, jax.tree.leaves(left), jax.tree.leaves(right)))


def rows_of(found: Stream, number: int = 0, seed: int = 0, of: int = 1) -> list[list[int]]:
    return [np.asarray(batch[of]).tolist() for batch in found.epoch(number, seed)]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for rows in batches for row in rows]


@pytest.mark.parametrize(
    ("make", "name", "once", "count"),
    [
        (batches, "list", False, 3),
        (lambda: iter(batches()), "list_iterator", True, None),
        (lambda: (batch for batch in batches()), "generator", True, None),
        (lambda: Fresh(batches()), "Fresh", False, None),
        (lambda: batches, "function batches", False, None),
        (lambda: lambda: iter(batches()), "function <lambda>", False, None),
        (lambda: map(lambda b: b, batches()), "map", True, None),
    ],
)
def test_batches_come_as_they_are_given(make: Callable[[], Any], name: str, once: bool, count: int | None) -> None:
    found = stream(make())
    assert (found.name, found.once, found.batches, found.endless, found.rows) == (name, once, count, False, 4)
    assert equal(found.first, batches()[0])
    assert not found.notices
    assert equal(list(found.epoch(0, 0)), batches()), "the batch that was read in advance is not lost"
    if not once:
        assert equal(list(found.epoch(1, 0)), batches())
        return
    with pytest.raises(DataError, match=f"The {name} was used up by the first epoch.*Give a list of batches, or the"):
        found.epoch(1, 0)


def test_nothing_is_read_twice() -> None:
    fresh = Fresh(batches())
    found = stream(fresh)
    list(found.epoch(0, 0))
    assert fresh.passes == 1
    list(found.epoch(1, 0))
    assert fresh.passes == 2


def test_only_the_first_batch_is_read_in_advance() -> None:
    read: list[int] = []

    def slow() -> Iterator[Any]:
        for number, batch in enumerate(batches()):
            read.append(number)
            yield batch

    found = stream(slow())
    assert read == [0]
    going = found.epoch(0, 0)
    next(going)
    assert read == [0]
    next(going)
    assert read == [0, 1]


def test_an_endless_generator_is_read_as_long_as_one_likes() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from batches()

    assert len(list(itertools.islice(stream(endless()).epoch(0, 0), 100))) == 100
    cycle = stream(itertools.cycle(batches()))
    assert cycle.endless
    assert len(list(itertools.islice(cycle.epoch(0, 0), 100))) == 100


def test_single_examples_are_told_apart_and_batched() -> None:
    found = stream(examples(), batch_size=4)
    assert found.rows == 4
    assert found.notices == ("The generator gives one example at a time; batches of 4 are made of them.",)
    made = list(found.epoch(0, 0))
    assert [batch["feature"].tolist() for batch in made] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [batch["label"].tolist() for batch in made] == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1]]
    x, y = pair(made[0])
    assert (x.dtype, y.dtype) == (np.int32, np.int32)
    assert stream(examples()).rows == 10, "32 where nothing was asked for, or all there are"
    assert len(list(stream(examples(), batch_size=1).epoch(0, 0))) == 10


def test_a_list_of_examples_is_rows() -> None:
    by_dict = data.read(list(examples()))
    assert isinstance(by_dict, data.Examples)
    assert by_dict.x.tolist() == list(range(10))
    by_pair = data.read([(x, int(y)) for x, y in zip(X, Y, strict=True)])
    assert isinstance(by_pair, data.Examples)
    np.testing.assert_array_equal(by_pair.x, X)
    named = data.read([{"a": x, "b": y} for x, y in zip(X, Y, strict=True)], target="b", groups=Y)
    assert isinstance(named, data.Examples)
    assert named.y.tolist() == Y.tolist()
    two = data.read([{"x": 1.0, "y": 0}, {"x": 2.0, "y": 1}])
    assert isinstance(two, data.Examples)
    assert len(two) == 2


def test_two_batches_in_a_list_are_no_pair() -> None:
    assert rows_of(stream(batches(5))) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    dicts = stream([{"x": x, "y": y} for x, y in batches(5)])
    assert dicts.batches == 2
    assert isinstance(data.read([X.tolist(), Y.tolist()]), data.Examples)
    assert isinstance(data.read([X, Y]), data.Examples)


IMAGE, MASK, ONE_HOT = np.zeros((6, 6, 3)), np.zeros((6, 6)), np.eye(4)[0]


@pytest.mark.parametrize(
    ("item", "batched", "assumed"),
    [
        ((X[:4], Y[:4]), True, False),
        ((np.zeros((4, 5, 5, 3)), np.zeros(4)), True, False),
        ((X[:1], Y[:1]), True, False),
        ((X[:4], np.zeros((4, 2))), True, False),
        ({"a": X[:4], "b": Y[:4], "y": Y[:4]}, True, False),
        ((X[0], 1), False, False),
        ((X[0], np.float32(1)), False, False),
        (([1.0, 2.0], 1), False, False),
        (([1.0, 2.0, 3.0], [1, 0]), False, False),
        ((IMAGE, ONE_HOT), False, False),
        ({"feature": 0, "label": 0}, False, False),
        ({"image": IMAGE, "mask": MASK, "label": 3}, False, False),
        ((np.zeros(5), np.zeros(5)), True, True),
        ((IMAGE, MASK), True, True),
    ],
)
def test_what_an_item_is(item: Any, batched: bool, assumed: bool) -> None:
    options = {"target": "label"} if isinstance(item, dict) and "label" in item else {}
    found = stream((item for _ in range(5)), **options)
    leaves = jax.tree.leaves(found.first)
    given = jax.tree.leaves(item, is_leaf=lambda node: isinstance(node, list))
    assert [leaf.ndim - np.ndim(own) for leaf, own in zip(leaves, given, strict=True)] == [0 if batched else 1] * len(
        leaves
    )
    assert any("was read as a batch of" in notice for notice in found.notices) == assumed


def test_what_was_assumed_can_be_put_right() -> None:
    def pixels() -> Iterator[Any]:
        for _ in range(7):
            yield IMAGE, MASK

    assert stream(pixels()).first[0].shape == (6, 6, 3)
    assert "If it is a single example, say how many make a batch" in stream(pixels()).notices[0]
    assert stream(pixels(), batch_size=4).first[0].shape == (4, 6, 6, 3)
    assert stream(pixels(), batch_size=6).first[0].shape == (6, 6, 3), "as many as asked for: they are batches"


def test_a_batch_size_that_has_no_effect_is_said() -> None:
    assert stream(batches(), batch_size=8).notices == (
        "--batch-size 8 has no effect: the list brings batches of 4 rows.",
    )
    assert not stream(batches(), batch_size=4).notices


def test_a_function_is_given_a_key_of_its_epoch() -> None:
    keys: list[Any] = []

    def draw(key: jax.Array) -> Iterator[Any]:
        keys.append(key)
        order = np.asarray(jax.random.permutation(key, 10))
        return iter([(X[rows], Y[rows]) for rows in np.split(order, 2)])

    found = stream(draw, seed=7)
    epochs = [rows_of(found, number, 7) for number in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert rows_of(found, 0, 8) != epochs[0]
    assert sorted(flat(epochs[1])) == list(range(10))
    assert len(keys) == 4, "once for each epoch: the first went on where reading began"
    assert equal(found.first, next(found.epoch(0, 7)))


@pytest.mark.parametrize(
    "function",
    [
        lambda key: batches(),
        lambda: batches(),
        lambda size=5: batches(size),
        lambda key=None, size=5: [] if key is None else batches(size),
        lambda *, rng: batches(),
        lambda *rest: [] if rest else batches(),
        Fresh(batches()).__iter__,
    ],
)
def test_a_function_says_whether_it_takes_a_key(function: Any) -> None:
    assert flat(rows_of(stream(function))) == list(range(10))


def test_a_function_may_return_whatever_can_be_read() -> None:
    assert stream(lambda: examples(), batch_size=5).rows == 5
    assert stream(lambda: list(examples()), batch_size=5).rows == 5
    assert sorted(flat(rows_of(stream(lambda key: Rows(), batch_size=5)))) == list(range(10))


def test_rows_by_number_are_drawn_in_the_seeds_order() -> None:
    found = stream(Rows(), batch_size=4, seed=3)
    assert found.batches == 3
    first = rows_of(found, 0, 3)
    assert [len(rows) for rows in first] == [4, 4, 2]
    assert sorted(flat(first)) == list(range(10))
    assert first != rows_of(found, 1, 3)
    assert first == rows_of(found, 0, 3) == rows_of(stream(Rows(), batch_size=4), 0, 3)
    assert first != rows_of(found, 0, 4)
    assert stream(deque(batches())).batches == 3


def test_strings_may_be_targets() -> None:
    found = stream(({"x": x, "label": "ab"[i % 2]} for i, x in enumerate(X)), batch_size=4)
    assert found.first["label"].tolist() == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: [], "The list is empty"),
        (lambda: iter([]), "The list_iterator is empty: it gave no batch and no example"),
        (lambda: Rows(0), "The Rows is empty"),
        (lambda: lambda: [], "The function <lambda> is empty"),
        (lambda: iter([()]), "first item of the data is a tuple of .., which holds no array"),
        (lambda: iter([(object(), 1)]), r"Item 0 of the list_iterator\[0\] is a object .*not an array or a number"),
        (lambda: iter([(X[0], 1), (X[0, :2], 1)]), r"example 1 has shape \(2,\) at \[0\], example 0 has \(3,\). Pad"),
        (lambda: [(X[0], 1), (X[0, :2], 1)] * 2, r"example 1 has shape \(2,\) at \[0\]"),
        (lambda: iter([(np.zeros((5, 4)), np.eye(3)[0]), (np.zeros((7, 4)), np.eye(3)[0])]), "cannot be stacked.*Pad"),
        (lambda: iter([(X, Y, Y)]), r"A batch is a tuple of \(shape \(10, 3\).*Give pairs"),
        (lambda: iter([{"a": X, "b": Y}]), "Which of the arrays a, b is the target"),
        (lambda: iter([(np.full((4, 2), np.nan), Y[:4])]), "x holds NaN: 8 values in 4 of 4 rows"),
        (lambda: lambda a, b: None, r"<lambda> takes 2 arguments \(a, b\). Give a function of a JAX key"),
        (lambda: lambda: (X, Y), "<lambda> returned a tuple; it is called for each epoch and must return an iterable"),
        (lambda: lambda: None, "<lambda> returned a NoneType"),
        (lambda: lambda: 1 / 0, r"failed at item 0: ZeroDivisionError: division by zero"),
        (lambda: {1, 2}.__class__, "Data of type type cannot be read"),
    ],
)
def test_bad_streams_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises((DataError, OptionError), match=said):
        data.read(make())


def test_groups_of_a_stream_are_refused() -> None:
    with pytest.raises(OptionError, match="--groups: the rows of a generator are not divided here"):
        data.read(examples(), groups="label")


def test_an_error_of_the_users_is_kept_as_the_cause() -> None:
    def broken() -> Iterator[Any]:
        yield from batches()[:2]
        raise OSError("disk gone")

    going = stream(broken()).epoch(0, 0)
    next(going), next(going)
    with pytest.raises(DataError, match=r"The generator failed at item 2: OSError: disk gone \(at `raise") as caught:
        next(going)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_epoch_that_ends_early_is_refused() -> None:
    lengths = iter([3, 2])

    def fewer() -> list[Any]:
        return batches()[: next(lengths)]

    found = stream(fewer)
    assert len(list(found.epoch(0, 0))) == 3
    going = found.epoch(1, 0)
    assert len(list(itertools.islice(going, 2))) == 2
    with pytest.raises(DataError, match="ended early in epoch 2: after 2 of 3 batches"):
        next(going)


def test_more_batches_than_before_are_welcome() -> None:
    lengths = iter([2, 3])
    found = stream(lambda: batches()[: next(lengths)])
    assert [len(list(found.epoch(number, 0))) for number in (0, 1)] == [2, 3]


def test_a_length_that_was_promised_is_expected() -> None:
    class Liar(Fresh):
        def __len__(self) -> int:
            return 5

    with pytest.raises(DataError, match="The Liar ended early in epoch 1: after 3 of 5 batches"):
        list(stream(Liar(batches())).epoch(0, 0))


def test_what_is_used_up_without_saying_so_is_found() -> None:
    used = iter(batches())

    class Used:
        def __iter__(self) -> Iterator[Any]:
            yield from used

    found = stream(Used())
    assert len(list(found.epoch(0, 0))) == 3
    with pytest.raises(DataError, match="The Used gave nothing in epoch 2: it seems that it can be read only once"):
        next(found.epoch(1, 0))


def test_batches_keep_their_structure() -> None:
    going = stream(iter([*batches()[:1], {"x": X, "y": Y}])).epoch(0, 0)
    next(going)
    with pytest.raises(DataError, match=r"Batch 1 is a dict of \(x: .*\); the first was a tuple of"):
        next(going)


def test_the_users_generator_is_closed() -> None:
    closed: list[int] = []

    def watched() -> Iterator[Any]:
        try:
            yield from batches()
        finally:
            closed.append(1)

    going = stream(watched()).epoch(0, 0)
    next(going)
    going.close()
    assert closed == [1]


def test_a_stream_that_ends_can_be_read_as_a_whole() -> None:
    whole = read_all(stream(batches()))
    np.testing.assert_array_equal(whole.x, X)
    np.testing.assert_array_equal(whole.y, Y)
    named = read_all(stream(examples(), target="feature", batch_size=3), "feature")
    assert named.y.tolist() == list(range(10))
    inputs = data.read_inputs(iter([X[:4], X[4:]]))
    assert isinstance(inputs, Stream)
    all_inputs = read_all(inputs, reconstruct=True)
    assert all_inputs.y is all_inputs.x
    np.testing.assert_array_equal(all_inputs.x, X)
    assert equal(joined(stream(batches())), (X, Y))


def test_what_cannot_be_read_as_a_whole_is_refused() -> None:
    with pytest.raises(DataError, match=r"The cycle has no end.*islice"):
        read_all(stream(itertools.cycle(batches())))

    def endless() -> Iterator[Any]:
        while True:
            yield from batches()

    with pytest.raises(DataError, match=r"The generator does not fit into memory: 16 batches take 8.64e-07 GB.*islice"):
        read_all(stream(endless()), limit_bytes=850)
    with pytest.raises(DataError, match=r"rows of shape \(3,\) and \(2,\) cannot be joined. Pad"):
        read_all(stream(iter([(X[:4], Y[:4]), (X[:4, :2], Y[:4])])))
    late = X.copy()
    late[9, 1] = np.inf
    with pytest.raises(DataError, match="x holds infinity: 1 value in 1 of 10 rows"):
        read_all(stream(batches(x=late)))


def test_inputs_alone_may_be_rows_or_a_stream() -> None:
    for rows in (X, X.tolist(), (X,), (X, X), list(X), {"x": X}, {"x": X, "donor": Y}, jax.numpy.asarray(X)):
        found = data.read_inputs(rows, groups="donor" if isinstance(rows, dict) and "donor" in rows else None)
        assert isinstance(found, data.Examples)
        assert found.y is found.x
        np.testing.assert_allclose(found.x, X)
        part = found.take(np.array([3, 1]))
        assert part.y is part.x
        assert len(part) == 2
    several = data.read_inputs({"a": X, "b": Y})
    assert isinstance(several, data.Examples)
    assert several.y is several.x
    assert (len(several), len(several.take(np.arange(3)))) == (10, 3)
    for form in ([X[:4], X[4:8], X[:4]], (batch for batch in (X[:4], X[4:]))):
        found = data.read_inputs(form)
        assert isinstance(found, Stream)
        assert found.first.shape == (4, 3)
        assert "was read as a batch of 4 rows" in found.notices[0]
    vectors = data.read_inputs((x for x in X), batch_size=5)
    assert isinstance(vectors, Stream)
    assert vectors.first.shape == (5, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((X, Y), "a tuple of 2, and a reconstruction has no targets"),
        ({}, "dict without any array"),
        ({"a": X, "b": Y[:3]}, "a has 10 rows, b has 3 rows"),
        (X[:0], "0 rows"),
        (iter(batches()), r"x is a tuple of .* in a batch; give one array"),
        (3, "type int cannot be read"),
    ],
)
def test_other_inputs_are_refused(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.read_inputs(given)


NODES, EDGES = np.zeros((6, 4), np.float32), np.zeros((9, 2), np.int32)


def test_a_tree_keeps_its_structure() -> None:
    given = {"x": X.astype(float), "y": [Y.astype(np.int64), Y > 3]}
    found = data.read_tree(given)
    assert isinstance(found, Tree)
    assert found.rows == 10
    assert isinstance(found.tree["y"], list)
    assert [leaf.dtype for leaf in jax.tree.leaves(found.tree)] == [np.float32, np.int32, bool]
    assert data.read_tree((X, Y)).rows == 10
    assert data.read_tree(X).tree is X
    stacked = data.read_tree(list(examples()))
    assert isinstance(stacked, Tree)
    assert stacked.tree["feature"].tolist() == list(range(10))


def test_a_graph_is_taken_whole() -> None:
    graph = Graph(NODES, EDGES)
    found = data.read_tree(graph)
    assert found == Tree(graph, None)
    assert data.read_tree({"x": X, "y": Y, "beta": 0.5}).rows is None
    key = jax.random.key(0)
    assert data.read_tree({"graph": graph, "key": key}).tree["key"] is key


def test_a_tree_leaves_files_where_they_are(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", X.astype(">f8"))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = data.read_tree((mapped, Y)).tree[0]
    assert not isinstance(rows, np.ndarray)
    assert rows.dtype == rows[:2].dtype == np.float32
    np.testing.assert_array_equal(rows[[3, 1]], X[[3, 1]])
    whole = data.read_tree((mapped, EDGES))
    assert isinstance(whole.tree[0], np.ndarray), "what is taken whole is read"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "an empty dict"),
        (None, "an empty NoneType"),
        ({"x": X[:0]}, "0 rows"),
        ({"x": np.array(["a"])}, r"data\['x'\] holds strings .such as .*Number them first"),
        ({"x": object()}, r"data\['x'\] is a object"),
        (3.5j, "type complex cannot be read"),
    ],
)
def test_other_trees_are_refused(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        data.read_tree(given)


def tree_stream(given: Any, **options: Any) -> Stream:
    found = data.read_tree(given, **options)
    assert isinstance(found, Stream)
    return found


def test_a_step_of_ones_own_takes_any_batch() -> None:
    def with_a_graph() -> Iterator[Any]:
        graph = Graph(NODES, EDGES)
        for x, y in batches():
            yield {"x": x, "y": y}, graph

    found = tree_stream(with_a_graph())
    assert found.first[0]["x"].shape == (4, 3)
    assert isinstance(found.first[1], Graph)
    assert found.first[1].nodes.shape == NODES.shape

    def negatives_anew(key: jax.Array) -> Iterator[Any]:
        yield {"nodes": NODES, "edges": EDGES, "negatives": np.asarray(jax.random.randint(key, (5, 2), 0, 6))}

    drawn = tree_stream(negatives_anew)
    assert (drawn.first["negatives"].shape, drawn.rows) == ((5, 2), 1)
    (one,), (other,) = list(drawn.epoch(0, 0)), list(drawn.epoch(1, 0))
    assert not np.array_equal(one["negatives"], other["negatives"])

    graphs = [Graph(np.zeros((n, 4)), np.zeros((2 * n + 1, 2))) for n in (3, 5, 4)]
    assert [batch.nodes.shape[0] for batch in tree_stream(iter(graphs)).epoch(0, 0)] == [3, 5, 4]
    assert [batch.nodes.shape[0] for batch in tree_stream(graphs).epoch(0, 0)] == [3, 5, 4]
    alone = tree_stream(lambda: iter([Graph(NODES, EDGES)]))
    assert equal(joined(alone), Graph(NODES, EDGES))
    with pytest.raises(DataError, match="whose arrays have different lengths: it cannot be joined"):
        joined(tree_stream(graphs))
    assert tree_stream(examples(), batch_size=5).first["label"].shape == (5,)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), ValueError("late")])
def test_whatever_an_iterator_raises_in_its_thread_is_a_sentence(error: BaseException) -> None:
    def failing() -> Iterator[Any]:
        yield X[:4], Y[:4]
        raise error

    stream = data.read(failing, apart=True)
    assert isinstance(stream, Stream) and stream.reader is not None
    with pytest.raises(DataError, match=f"failed at item 1: .*{type(error).__name__}"):
        stream.reader.call(lambda: list(stream.epoch(0, 0)))
    stream.close()


def test_a_list_of_two_batches_is_read_as_one_of_three() -> None:
    for count in (2, 3):
        stream = data.read([[X[i : i + 3], Y[i : i + 3]] for i in range(count)])
        assert isinstance(stream, Stream) and stream.batches == count
    assert not isinstance(data.read([X.tolist(), Y.tolist()]), Stream)


def test_texts_in_place_of_numbers_are_told() -> None:
    with pytest.raises(DataError, match=r"not numbers .*for example"):
        data.read((["a", "b"], [0, 1]))
    with pytest.raises((DataError, OptionError)) as found:
        data.read(["a", "b"])
    assert len(str(found.value)) < 300

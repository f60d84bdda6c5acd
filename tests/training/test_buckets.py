"""Buckets and the order of examples: which size a picture goes to, and which step shows it."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from scedit_core.fitting.order import Order
from scedit_core.pictures.framing import bucket_of, bucket_sizes


@pytest.mark.parametrize("resolution", [64, 128, 512, 768, 1024])
def test_buckets_have_about_one_area_and_whole_pixels_of_every_skip(resolution):
    for width, height in bucket_sizes(resolution, True, 2.0):
        assert width % 64 == 0
        assert height % 64 == 0
        assert width * height <= resolution**2
        assert max(width, height) <= 2 * min(width, height)
    assert (resolution, resolution) in bucket_sizes(resolution)
    assert bucket_sizes(resolution, False) == [(resolution, resolution)]


def test_a_picture_goes_to_the_bucket_that_cuts_the_least():
    sizes = bucket_sizes(512)
    assert bucket_of((4000, 3000), sizes) == (576, 448)
    assert bucket_of((3000, 4000), sizes) == (448, 576)
    assert bucket_of((500, 500), sizes) == (512, 512)
    assert bucket_of((20000, 100), sizes) == (640, 384)


def test_each_epoch_of_a_bucket_shows_every_example_once():
    order = Order([list(range(7))], seed=1)
    seen = [i for step in range(7) for i in order.rows(step, 3)]
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert Order([list(range(7))], seed=1).rows(4, 3) == seen[12:15]
    assert [i for step in range(7) for i in Order([list(range(7))], seed=2).rows(step, 3)] != seen


@pytest.mark.parametrize(("count", "size"), [(5, 4), (4, 4), (7, 3), (9, 8), (20, 7)])
def test_no_picture_is_twice_in_a_batch_where_there_are_as_many(count, size):
    order = Order([[*range(count), *range(count // 2)], list(range(count, count + 2))], seed=1)  # some seen twice
    batches = [order.rows(step, size) for step in range(200)]
    for batch in batches:
        assert len(batch) == size
        few = batch[0] >= count
        most = size / 2 if few else size * 2 / (count + count // 2)
        assert max(Counter(batch).values()) <= math.ceil(most)
    for step in (199, 0, 150, 7, 8, 6):  # whoever looks back sees the same
        assert order.rows(step, size) == batches[step]
    assert Order([[*range(count), *range(count // 2)], [count, count + 1]], seed=1).rows(150, size) == batches[150]
    seen = Counter(i for batch in batches for i in batch)
    share = 200 * size / (count + count // 2 + 2)
    for i in range(count):
        assert seen[i] == pytest.approx(share * (2 if i < count // 2 else 1), abs=size)


@pytest.mark.parametrize(("count", "size"), [(5, 4), (4, 4), (7, 3), (9, 8), (20, 7)])
def test_no_batch_repeats_a_picture_over_the_end_of_an_epoch(count, size):
    order = Order([list(range(count))], seed=3)
    assert all(len(set(order.rows(step, size))) == size for step in range(200))


def test_small_buckets_are_neither_left_out_nor_preferred():
    groups = [list(range(60)), list(range(60, 90)), [90, 91], [92]]
    order = Order(groups, seed=0)
    seen = Counter(i for step in range(930) for i in order.rows(step, 4))
    assert set(seen) == set(range(93))
    assert all(34 <= count <= 46 for count in seen.values())  # 40 each

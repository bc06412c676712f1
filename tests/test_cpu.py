from __future__ import annotations

import os

import pytest

from edgeface import cpu

UNLIMITED = 1000


class Tree:
    """A made-up /sys/fs/cgroup and /proc/self/cgroup."""

    def __init__(self, folder):
        self.root = folder / "cgroup"
        self.root.mkdir()
        self.membership = folder / "self"

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return self

    def member_of(self, text):
        self.membership.write_text(text)
        return self

    @property
    def quota(self):
        return cpu.cgroup_quota(self.root, self.membership)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_without_control_groups_there_is_no_limit(tree):
    assert tree.quota > UNLIMITED


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("10000 100000\n", 1), ("400000 50000", 8)],
)
def test_version_2_rounds_up(tree, text, cpus):
    assert tree.write("cpu.max", text).member_of("0::/\n").quota == cpus


@pytest.mark.parametrize(
    "text", ["max 100000\n", "max", "", "\n", "0 100000", "100000 0", "-1 100000", "a b", "1 2 3"]
)
def test_version_2_without_a_limit_or_damaged_is_no_limit(tree, text):
    assert tree.write("cpu.max", text).member_of("0::/\n").quota > UNLIMITED


def test_version_2_bytes_that_are_no_text_are_no_limit(tree):
    (tree.root / "cpu.max").write_bytes(b"\xff\xfe 100000")
    assert tree.member_of("0::/\n").quota > UNLIMITED


def test_version_2_reads_its_own_group(tree):
    tree.write("a/b/cpu.max", "300000 100000").member_of("0::/a/b\n")
    tree.write("other/cpu.max", "100000 100000")
    assert tree.quota == 3


@pytest.mark.parametrize("strict", ["cpu.max", "a/cpu.max", "a/b/cpu.max"])
def test_version_2_takes_the_strictest_of_its_ancestors(tree, strict):
    for path in ("cpu.max", "a/cpu.max", "a/b/cpu.max"):
        tree.write(path, "max 100000")
    tree.write("a/cpu.max", "800000 100000")
    tree.write(strict, "200000 100000").member_of("0::/a/b\n")
    assert tree.quota == 2


def test_version_2_does_not_look_above_the_root(tree):
    (tree.root.parent / "cpu.max").write_text("100000 100000")
    assert tree.write("cpu.max", "max 100000").member_of("0::/a\n").quota > UNLIMITED


def test_version_2_in_a_container_whose_group_is_not_mounted(tree):
    tree.write("cpu.max", "200000 100000").member_of("0::/system.slice/docker-1.scope\n")
    assert tree.quota == 2


def test_version_2_without_membership_reads_the_root(tree):
    assert tree.write("cpu.max", "200000 100000").quota == 2


@pytest.mark.parametrize(
    ("quota", "period", "cpus"), [("200000", "100000", 2), ("250000\n", "100000\n", 3)]
)
def test_version_1_rounds_up(tree, quota, period, cpus):
    tree.write("cpu/cpu.cfs_quota_us", quota).write("cpu/cpu.cfs_period_us", period)
    assert tree.member_of("4:cpu,cpuacct:/x\n").quota == cpus


@pytest.mark.parametrize(("quota", "period"), [("-1", "100000"), ("", "100000"), ("100000", "0")])
def test_version_1_without_a_limit_or_damaged_is_no_limit(tree, quota, period):
    tree.write("cpu/cpu.cfs_quota_us", quota).write("cpu/cpu.cfs_period_us", period)
    assert tree.quota > UNLIMITED


def test_version_1_without_a_period_is_no_limit(tree):
    assert tree.write("cpu/cpu.cfs_quota_us", "100000").quota > UNLIMITED


def test_both_versions_give_the_stricter(tree):
    tree.write("cpu/cpu.cfs_quota_us", "300000").write("cpu/cpu.cfs_period_us", "100000")
    tree.write("cpu.max", "200000 100000").member_of("4:cpu:/x\n0::/\n")
    assert tree.quota == 2


@pytest.mark.parametrize(
    ("cpus", "quota", "threads"), [(8, 1000, 4), (2, 1000, 2), (8, 3, 3), (8, 1, 1), (1, 9, 1)]
)
def test_the_default_is_the_strictest_and_at_most_four(monkeypatch, cpus, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    monkeypatch.setattr(cpu, "cgroup_quota", lambda: quota)
    assert cpu.default_num_threads() == threads


def test_the_default_where_there_is_no_affinity_mask(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpu, "cgroup_quota", lambda: UNLIMITED)
    for count, threads in ((3, 3), (64, 4), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert cpu.default_num_threads() == threads


def test_the_default_here_is_one_to_four():
    assert 1 <= cpu.default_num_threads() <= 4

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

import reference
from edgeface import BackendError, FaceDetector, cpu
from edgeface import spec as specs
from edgeface.backends import BACKENDS
from edgeface.formats import onnx

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


def test_version_1_takes_the_strictest_of_its_own_group_and_those_above(tree):
    for path, quota in (("", "-1"), ("/a", "300000"), ("/a/b", "400000"), ("/c", "100000")):
        tree.write(f"cpu{path}/cpu.cfs_quota_us", quota).write(
            f"cpu{path}/cpu.cfs_period_us", "100000"
        )
    tree.member_of("5:memory:/c\n4:cpu,cpuacct:/a/b\n0::/\n")
    assert tree.quota == 3


def test_version_1_may_be_mounted_under_its_two_controllers_names(tree):
    for name, value in (("quota", "200000"), ("period", "100000")):
        tree.write(f"cpu,cpuacct/x/cpu.cfs_{name}_us", value)
    assert tree.member_of("4:cpu,cpuacct:/x\n").quota == 2


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


# --- Clusters ---------------------------------------------------------------------------------------------


def write_cpus(folder, cpus, *, package=None, cluster=None, siblings=str, **files):
    """A made-up /sys/devices/system/cpu of those CPUs; a function makes a text of a CPU's number."""
    files = {
        "topology/physical_package_id": package,
        "topology/cluster_id": cluster,
        "topology/thread_siblings_list": siblings,
        "cpu_capacity": files.get("capacity"),
        "cpufreq/cpuinfo_max_freq": files.get("khz"),
    }
    for number in cpus:
        for name, value in files.items():
            if value is None:
                continue
            file = folder / f"cpu{number}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value(number) if callable(value) else value}\n")


def eaidk_310(folder):
    """RK3228H: four Cortex-A53, a kernel that tells no capacity."""
    write_cpus(folder, range(4), package=0, khz=1296000)


def raspberry_pi_4(folder):
    write_cpus(folder, range(4), package=0, cluster=-1, capacity=1024, khz=1800000)


def rk3399(folder):
    """Four Cortex-A53 and two A72, as a new kernel tells it."""
    write_cpus(folder, range(4), package=0, cluster=0, capacity=485, khz=1416000)
    write_cpus(folder, (4, 5), package=0, cluster=1, capacity=1024, khz=1800000)


def rk3399_of_old(folder):
    """The vendor's kernel 4.4: clusters are packages, and only frequencies differ."""
    write_cpus(folder, range(4), package=0, khz=1416000)
    write_cpus(folder, (4, 5), package=1, khz=1800000)


def rk3399_without_frequencies(folder):
    write_cpus(folder, range(4), package=0)
    write_cpus(folder, (4, 5), package=1)


def rk3588(folder):
    """Four Cortex-A55, two pairs of A76 of which one is a little faster."""
    write_cpus(folder, range(4), package=0, cluster=0, capacity=530, khz=1800000)
    write_cpus(folder, (4, 5), package=0, cluster=1, capacity=1024, khz=2400000)
    write_cpus(folder, (6, 7), package=0, cluster=2, capacity=1007, khz=2352000)


def kirin_620(folder):
    """Two clusters of four alike."""
    write_cpus(folder, range(8), package=0, cluster=lambda n: n // 4, capacity=1024)


def odroid_n2(folder):
    """The Cortex-A53 have the higher frequency, and do less."""
    write_cpus(folder, (0, 1), package=0, cluster=0, capacity=592, khz=1896000)
    write_cpus(folder, range(2, 6), package=0, cluster=1, capacity=1024, khz=1800000)


def x86_server(folder):
    """Two threads a core, each core a cluster; every core has a frequency of its own."""
    write_cpus(
        folder,
        range(8),
        package=0,
        cluster=lambda n: n // 2,
        siblings=lambda n: f"{n // 2 * 2}-{n // 2 * 2 + 1}",
        khz=lambda n: 4900000 + 50000 * (n // 2),
    )


def x86_hybrid(folder):
    write_cpus(
        folder, range(4), package=0, siblings=lambda n: f"{n // 2},{n // 2 + 2}", khz=5100000
    )
    write_cpus(folder, range(4, 12), package=0, khz=3900000)


def nothing_told(folder):
    for number in range(4):
        (folder / f"cpu{number}").mkdir(parents=True)


def damaged(folder):
    write_cpus(folder, range(4), package="?", cluster="", capacity="fast", khz=-1)


# A board, its clusters from the fastest, and what big and little are of it.
BOARDS = [
    (eaidk_310, [range(4)], range(4), range(4)),
    (raspberry_pi_4, [range(4)], range(4), range(4)),
    (rk3399, [(4, 5), range(4)], (4, 5), range(4)),
    (rk3399_of_old, [(4, 5), range(4)], (4, 5), range(4)),
    (rk3399_without_frequencies, [range(4), (4, 5)], range(4), range(6)),
    (rk3588, [(4, 5), (6, 7), range(4)], range(4, 8), range(4)),
    (kirin_620, [range(4), range(4, 8)], range(4), range(4, 8)),
    (odroid_n2, [range(2, 6), (0, 1)], range(2, 6), (0, 1)),
    (x86_server, [range(8)], range(8), range(8)),
    (x86_hybrid, [range(4), range(4, 12)], range(4), range(4, 12)),
    (nothing_told, [range(4)], range(4), range(4)),
    (damaged, [range(4)], range(4), range(4)),
]


@pytest.fixture
def allow(monkeypatch):
    def allow(cpus):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus), raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)

    return allow


@pytest.mark.parametrize(
    ("board", "clusters", "big", "little"), BOARDS, ids=[board[0].__name__ for board in BOARDS]
)
def test_the_clusters_of_boards(tmp_path, allow, board, clusters, big, little):
    board(tmp_path)
    cpus = sorted(number for group in clusters for number in group)
    allow(cpus)
    found = cpu.clusters(cpus, tmp_path)
    assert [cluster.cpus for cluster in found] == [tuple(group) for group in clusters]
    assert cpu.named_cpus("big", tmp_path) == frozenset(big)
    assert cpu.affinity_cpus("little", tmp_path) == frozenset(little)


def test_only_cpus_that_are_allowed_are_counted(tmp_path, allow):
    rk3399(tmp_path)
    for mask, big, little in (
        ((0, 1, 5), {5}, {0, 1}),
        ((2, 3), {2, 3}, {2, 3}),
        ((4,), {4}, {4}),
    ):
        allow(mask)
        assert cpu.named_cpus("big", tmp_path) == big
        assert cpu.named_cpus("little", tmp_path) == little


@pytest.mark.parametrize(
    ("board", "threads"),
    [
        (eaidk_310, 4),
        (raspberry_pi_4, 4),
        (rk3399, 2),
        (rk3588, 4),
        (odroid_n2, 4),
        (x86_server, 4),
    ],
)
def test_the_default_stays_among_the_fast_cpus(tmp_path, monkeypatch, allow, board, threads):
    board(tmp_path)
    allow(range(len(list(tmp_path.iterdir()))))
    monkeypatch.setattr(cpu.named_cpus, "__defaults__", (tmp_path,))
    monkeypatch.setattr(cpu, "cgroup_quota", lambda: UNLIMITED)
    assert cpu.default_num_threads() == threads
    assert cpu.default_num_threads({0}) == 1
    assert cpu.default_num_threads(range(6)) == 4


# --- Affinity ---------------------------------------------------------------------------------------------

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks"
)


@pytest.mark.parametrize(
    ("affinity", "error"),
    [
        ("middle", ValueError),
        ("", ValueError),
        ("4,5", ValueError),
        (4, TypeError),
        (2.5, TypeError),
    ],
)
def test_an_affinity_that_names_nothing_is_refused(affinity, error):
    with pytest.raises(error, match='expected "big", "little" or CPUs'):
        cpu.check_affinity(affinity)


@pytest.mark.parametrize("affinity", [["0"], [True], [0.0], {None}])
def test_an_affinity_of_other_things_than_numbers_is_refused(affinity):
    with pytest.raises(TypeError, match="expected CPUs' numbers"):
        cpu.check_affinity(affinity)


def test_cpus_that_may_not_be_used_are_refused(allow):
    allow({0, 1, 5})
    assert cpu.affinity_cpus([1, 5]) == {1, 5}
    for cpus in ([], [2], [0, 6]):
        with pytest.raises(ValueError, match=r"expected some of the CPUs \[0, 1, 5\]"):
            cpu.affinity_cpus(cpus)


def test_affinity_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert cpu.affinity_cpus(None) is None
    with pytest.raises(ValueError, match="affinity is for Linux"):
        cpu.affinity_cpus("big")


@needs_affinity
def test_a_thread_is_pinned_and_then_free_again():
    before = os.sched_getaffinity(0)
    last = frozenset([max(before)])
    masks = []

    def fail():
        with cpu.pinned(last):
            masks.append(os.sched_getaffinity(0))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert masks == [last]
    assert os.sched_getaffinity(0) == before
    with cpu.pinned(None):
        assert os.sched_getaffinity(0) == before


@needs_affinity
def test_cpus_that_went_away_are_named():
    with pytest.raises(BackendError, match=r"the CPUs \[1023\] are gone"), cpu.pinned({1023}):
        pass


TASKS = Path("/proc/self/task")


def thread_masks():
    """Of every thread of this process."""
    return {int(task.name): os.sched_getaffinity(int(task.name)) for task in TASKS.iterdir()}


def detector_file(folder):
    graph = reference.detector_graph()
    path = folder / "little.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(reference.detector_spec(graph)))
    return path


@needs_affinity
@pytest.mark.skipif(not TASKS.is_dir(), reason="/proc does not list threads")
@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
def test_a_detectors_threads_stay_on_its_cpus_and_the_callers_does_not(tmp_path, backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    before, allowed = thread_masks(), cpu.allowed_cpus()
    last = max(allowed)
    with FaceDetector(
        detector_file(tmp_path), backend=backend, num_threads=3, affinity=[last]
    ) as detector:
        detector.detect(reference.picture())
        assert detector.affinity == (last,)
        assert cpu.allowed_cpus() == allowed
        started = {task: mask for task, mask in thread_masks().items() if task not in before}
        assert len(started) >= 2
        assert set(map(frozenset, started.values())) == {frozenset([last])}


@needs_affinity
def test_the_caller_is_pinned_while_it_detects(tmp_path, monkeypatch):
    masks = []
    path = detector_file(tmp_path)
    last = max(cpu.allowed_cpus())

    class Slow:
        NAME = "slow"

        @staticmethod
        def unavailable():
            return None

        @staticmethod
        def open_graph(graph, num_threads):
            masks.append(os.sched_getaffinity(0))
            return Watched(BACKENDS["native"].open_graph(graph, num_threads))

    class Watched:
        def __init__(self, engine):
            self.input, self.output, self._engine = engine.input, engine.output, engine

        def run(self):
            masks.append(os.sched_getaffinity(0))
            self._engine.run()

    monkeypatch.setitem(BACKENDS._modules, "slow", Slow())
    detector = FaceDetector(path, backend="slow", affinity=[last])
    detector.detect(reference.picture())
    assert masks == [{last}] * 3
    assert detector.num_threads == 1
    copy = pickle.loads(pickle.dumps(detector))
    assert copy.affinity == (last,)


def test_by_default_nothing_is_pinned(tmp_path):
    detector = FaceDetector(detector_file(tmp_path))
    assert detector.affinity is None
    assert detector.num_threads == cpu.default_num_threads()

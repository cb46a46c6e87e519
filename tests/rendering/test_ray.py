"""Ray on a cluster of two nodes, all of this machine. Half a minute goes by before the first job."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.rendering import Ray
from tests.rendering import hands
from tests.rendering.studio import check_exactly_once, ledger_lines
from tests.rendering.test_processes import LINES, alive, contents, workers_of

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    found.add_node(**small)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = str(Path(__file__).parents[2])
    ray.init(
        found.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}},
    )
    yield found
    ray.shutdown()
    found.shutdown()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_a_killed_actor_and_a_lost_node_lose_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are those of a single process, bit for bit, and poison fails alone."""
    monkeypatch.setattr("accel.loading.load_pipeline", hands.load)
    lost = []

    def destroy() -> None:
        end = time.monotonic() + 200
        while len(workers_of(tmp_path / "ray")) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(next(pid for pid in workers_of(tmp_path / "ray") if alive(pid)), signal.SIGKILL)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        lost.append(len(ledger_lines(tmp_path / "ray")))

    destroyer = threading.Thread(target=destroy, daemon=True)
    destroyer.start()
    lines = [*LINES, *(f"more {number}" for number in range(100)), "fail", "kill"]
    summary = accel.render(
        "plain", lines, tmp_path / "ray", recipe="off", engine=Ray(load=hands.load), progress_bar=False
    )
    destroyer.join()
    assert lost[0] < 150, "the actors were too fast for this test to mean anything"
    assert (summary.rendered, summary.failed, summary.left) == (150, 2, 0), str(summary)
    check_exactly_once(tmp_path / "ray", 150)
    accel.render("plain", lines[:-1], tmp_path / "single", recipe="off", progress_bar=False)
    assert contents(tmp_path / "ray") == contents(tmp_path / "single")

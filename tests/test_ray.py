"""Studies on a Ray cluster of two machines, simulated by two raylets on one, which are killed meanwhile."""

import os
import signal
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.networks import IRIS, holding, release
from tests.studies import EPOCHS, STEPS, StudyFolder

# A dead machine is noticed after 3 seconds, and trainings do not give way to other tests.
QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
    "worker_niceness": 0,
}


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return a cluster with one machine, of no core for trainings unless the test asks for some."""
    head = {"num_cpus": getattr(request, "param", 0), "include_dashboard": False, "_system_config": QUICK}
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()
    signal.signal(signal.SIGTERM, before)  # Ray has replaced the handler, which later tests would inherit


def test_a_study_continues_when_a_machine_is_lost_and_when_one_joins(
    folder: StudyFolder, cluster: Cluster, two: StudyFolder
):
    lost = cluster.add_node(num_cpus=1)
    process = folder.start("--engine", "ray", "--address", cluster.address, "--trials", "1", *holding(folder))
    folder.wait_for(folder.has_checkpoint, process)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    release(folder)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "was lost with its process" in output
    assert "Traceback" not in output
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == [row for row in two.values() if row[0] == 0]
    trained = [[point for point in each.curves() if not point[1].startswith("test/")] for each in (folder, two)]
    assert trained[0] == [point for point in trained[1] if point[0] == "0"]


@pytest.mark.slow
def test_without_a_cluster_one_is_started_and_an_interrupt_ends_after_the_epoch(
    folder: StudyFolder, undisturbed: StudyFolder
):
    own = holding(folder)
    process = folder.start("--engine", "ray", "--per-device", "2", *own)
    folder.wait_for(folder.has_checkpoint, process)
    os.killpg(process.pid, signal.SIGINT)
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert folder.optuna("select count(*) from trials where state = 'RUNNING'") == [(0,)]
    folder.call(*own)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_study_ends_with_a_message_when_the_node_of_its_machine_dies(folder: StudyFolder, cluster: Cluster):
    process = folder.start("--engine", "ray", "--address", cluster.address, "--trials", "1000", study=IRIS)
    folder.wait_for(lambda: folder.optuna("select 1 from trials where state = 'COMPLETE'"), process)
    cluster.head_node.kill_raylet()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "the Ray node of this machine has ended" in output
    assert "Traceback" not in output
    assert folder.optuna("select count(*) from trials where state = 'RUNNING'") == [(0,)]
    assert folder.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]


def test_a_cluster_that_does_not_answer_is_reported_before_anything_starts(folder: StudyFolder):
    folder.has_databases = False
    output = folder.run("--engine", "ray", "--address", "127.0.0.1:9", expect=2)
    assert "--address: no Ray cluster answers at 127.0.0.1:9" in output
    assert "Traceback" not in output
    assert list(folder.path.iterdir()) == []

"""Studies on a Ray cluster of two machines, simulated by two raylets on one, which are killed meanwhile."""

import os
import signal
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.conftest import EPOCHS, STEPS, StudyFolder
from tests.networks import IRIS, holding, release

# A dead machine is noticed after 3 seconds.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 6}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a cluster with one machine of one core."""
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK}
    before = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()
    signal.signal(signal.SIGTERM, before)  # Ray has replaced the handler, which later tests would inherit


def test_a_study_continues_when_a_machine_is_lost_and_when_one_joins(
    folder: StudyFolder, cluster: Cluster, two: StudyFolder
):
    lost = cluster.add_node(num_cpus=1)
    process = folder.start("--engine", "ray", "--address", cluster.address, "--trials", "2", *holding(folder))
    both = "select count(distinct trial_id) from trial_intermediate_values join trials using (trial_id) where state = "
    folder.wait_for(lambda: folder.has_checkpoint() and folder.optuna(both + "'RUNNING'") == [(2,)], process)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    release(folder)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    assert "was lost with its process" in output
    assert "Traceback" not in output
    folder.check(trials=2, epochs=EPOCHS, steps=STEPS)
    assert folder.values() == two.values()
    assert folder.curves() == two.curves()
    assert folder.weights() == two.weights()


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

"""A study uses only the GPUs and CPUs that it is allowed to use."""

from pathlib import Path

import pytest
import torch

from tests.networks import IRIS
from tuner.config.loader import load_study
from tuner.config.search_space import corners
from tuner.config.trial import TrialConfig
from tuner.engines import machine, slots
from tuner.engines.machine import processor_quota
from tuner.engines.slots import make_slots
from tuner.errors import BadInputError, StudyFailedError
from tuner.protocol import Slot
from tuner.runner.environment import environment
from tuner.training.lightning_cli import lightning_config


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Make torch report GPUs that do not exist, and set CUDA_VISIBLE_DEVICES."""
    found, visible = request.param
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("gpus", "names"),
    [
        ((2, None), ["0", "1"]),
        ((2, "2,3"), ["2", "3"]),
        ((1, "3"), ["3"]),
        ((1, " 1 , 7"), ["1"]),
        ((2, "GPU-8932f937,GPU-d72c4106"), ["GPU-8932f937", "GPU-d72c4106"]),
        ((1, "MIG-a1,MIG-b2"), ["MIG-a1", "MIG-b2"]),  # CUDA shows one of them to a process
        ((0, "MIG-a1"), []),
        ((0, ""), []),
        ((0, "-1"), []),
        ((1, "1,-1,0"), ["1"]),
        ((0, "0,0"), []),
        ((0, None), []),
    ],
    indirect=["gpus"],
)
def test_the_gpus_of_slots_have_the_names_that_cuda_visible_devices_has(gpus: None, names: list[str]):
    used = [slot.gpus for slot in make_slots("auto", None)]
    if names:
        assert used == [(name,) for name in names]
    else:
        assert not any(used), "the CPU is used"


@pytest.mark.parametrize("gpus", [(3, "5,GPU-x,7")], indirect=True)
def test_a_gpu_is_asked_for_by_its_number_among_the_visible_ones(gpus: None):
    assert [slot.gpus for slot in make_slots("2,0", None)] == [("7",), ("5",)]
    assert [slot.gpus for slot in make_slots("0,2", None, ranks=2)] == [("5", "7")]
    numbers = "auto, cpu, or numbers of GPUs in CUDA_VISIBLE_DEVICES, where they are counted from 0: 0, 1, 2"
    with pytest.raises(BadInputError, match=f"--devices: there is no GPU 5 \\(got 5\\). Allowed: {numbers}\\."):
        make_slots("5", None)


@pytest.mark.parametrize("gpus", [(0, None)], indirect=True)
def test_without_a_gpu_the_devices_that_are_allowed_are_named(gpus: None):
    with pytest.raises(BadInputError, match=r"--devices: no GPU was found \(got 0\)\. Allowed: auto or cpu\."):
        make_slots("0", None)


def group(root: Path, membership: str, **files: str) -> Path:
    """Write Linux's description of the control groups of this process."""
    for name, content in {"proc/self/cgroup": membership, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        (
            "0::/jobs/one\n",
            {"sys/fs/cgroup/jobs/cpu.max": "100000 50000\n", "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n"},
            2.0,
        ),
        ("0::/docker/abc\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),  # the path is that outside of it
        (
            "4:cpu,cpuacct:/docker/abc\n0::/\n",
            {
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            "4:cpu,cpuacct:/\n3:memory:/\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None):
    assert processor_quota(group(tmp_path, membership, **files)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path):
    assert processor_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "expected"), [(2.5, 2), (0.5, 1), (64.0, 8), (None, 8)])
def test_a_cpu_has_as_many_slots_as_its_quota_allows(
    quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(slots, "cores", lambda: list(range(8)))
    monkeypatch.setattr(slots, "processor_quota", lambda: quota)
    made = make_slots("cpu", None)
    assert len(made) == expected
    assert {slot.threads for slot in made} == {1}
    limited = expected < 8
    assert [slot.cores for slot in made] == [() if limited else (core,) for core in range(expected)]


def test_the_machine_of_the_tests_can_be_asked():
    assert processor_quota() is None or processor_quota() > 0
    assert machine.cores()


def test_the_process_of_a_study_leaves_the_gpus_to_others(monkeypatch: pytest.MonkeyPatch):
    """Some GPUs admit one process only: a child process reads their names, and precisions come from the trainings."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("a GPU is used"))
    study = load_study(str(IRIS), ["trial.trainer.precision=auto"])
    config = TrialConfig.from_values(corners(study.trial)[0])
    described = lightning_config(config, study.objective, {"device": "NVIDIA X", "precision": "bf16-mixed"})
    assert described["trainer"]["precision"] == "bf16-mixed"
    slot = Slot(0, ("0",), 1)
    if torch.cuda.device_count():
        assert environment([slot])["devices"]
    else:
        with pytest.raises(StudyFailedError, match="the GPUs 0 cannot be used: "):
            environment([slot])

"""Detection of network file systems from Linux's list of mounts."""

from pathlib import Path

import pytest

from tests.studies import StudyFolder
from tuner import files as file_systems
from tuner.files import network_file_system

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw
41 22 0:40 / /home rw,relatime shared:2 - nfs4 server:/export/home rw,vers=4.2,addr=10.0.0.1
42 41 8:1 / /home/me/local rw,relatime shared:3 - xfs /dev/sda1 rw
43 22 0:41 / /data\040of\040all rw,relatime - cifs //server/data rw
44 22 0:42 / /scratch rw - lustre 10.0.0.2@tcp:/scratch rw
45 22 0:43 / /remote rw - fuse.sshfs me@host: rw
46 22 0:44 / /backup rw - ext4 /dev/sdb rw
47 22 0:45 / /backup rw - nfs server:/backup rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", ""),
        ("/var/tmp/study", ""),
        ("/homeless", ""),
        ("/dev/shm/study", ""),
        ("/home", "nfs4"),
        ("/home/me/study/.tuner", "nfs4"),
        ("/home/me/local/study", ""),
        ("/data of all/study", "cifs"),
        ("/scratch/me", "lustre"),
        ("/remote", "fuse.sshfs"),
        ("/backup/study", "nfs"),  # the last mount in a place hides the others
    ],
)
def test_a_path_is_on_the_innermost_mount_above_it(path: str, kind: str):
    assert network_file_system(Path(path), MOUNTS) == kind


def test_the_mounts_of_this_machine_can_be_read(tmp_path: Path):
    assert isinstance(network_file_system(tmp_path), str)
    assert len(file_systems.MOUNTS.read_text().splitlines()) > 0


def test_a_study_on_a_network_file_system_says_so_and_runs(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    mounts = folder.path / "mounts"
    mounts.write_text(MOUNTS + f"50 22 0:50 / {folder.path} rw - nfs4 server:/studies rw\n")
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    output = folder.call("--trials", "1", "--set", "trial.trainer.max_epochs=1")
    assert ".tuner/tiny is on a network file system (nfs4), where locks and SQLite are not safe; " in output

"""`python -m tuner.dashboard`: MLflow's server on this machine, and how it ends."""

import http.server
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launcher import Command
from tests.processes import children, command_of, is_alive
from tests.studies import StudyFolder, as_a_process
from tuner.dashboard import main
from tuner.tracking import local_server


@pytest.fixture
def started(reviewed: StudyFolder) -> Iterator[Command]:
    process = start(reviewed.path, "tiny")
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def start(folder: Path, *arguments: str) -> Command:
    options = ["--no-open", "--tracking-uri", "sqlite:///mlflow.db", *arguments]
    return Command("tuner.dashboard", options, folder, os.environ)


def test_it_serves_the_study_on_the_loopback_and_leaves_no_process(started: Command, reviewed: StudyFolder):
    assert started.stdout.readline() == "loading MLflow, which takes a while ...\n"
    url = started.stdout.readline().strip()
    address, _, page = url.partition("/#/")
    ((run,),) = reviewed.mlflow("select run_uuid from tags where key = 'tuner.study_id'")
    assert page == f"experiments/1/runs/{run}?workflowType=machine_learning"
    assert started.stdout.readline().startswith(f"its trials: {address}/#/experiments/1/runs?")
    assert started.stdout.readline() == "Press Ctrl-C to stop.\n"
    with urllib.request.urlopen(f"{address}/health") as answer:
        assert answer.read() == b"OK"
    port = int(address.rpartition(":")[2])
    elsewhere = socket.gethostbyname(socket.gethostname())
    if not elsewhere.startswith("127."):
        with socket.socket() as other:
            assert other.connect_ex((elsewhere, port)) != 0, "it listens on the loopback only"
    servers = [pid for pid in children(started.pid) if b"mlflow" in command_of(pid)]
    assert servers
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in servers]
    assert not [command for command in commands if "huey" in command or "job" in command], "no job runner"
    environment = Path(f"/proc/{servers[0]}/environ").read_text()
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in environment
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=60)[0] == ""
    assert started.returncode == 0
    assert not [pid for pid in servers if is_alive(pid)]


def test_an_interrupt_while_it_loads_ends_it_and_says_nothing_of_continuing(reviewed: StudyFolder):
    process = start(reviewed.path, "tiny")
    assert process.stdout.readline() == "loading MLflow, which takes a while ...\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
def test_the_server_ends_with_the_dashboard_however_and_whenever_it_is_killed(reviewed: StudyFolder):
    process = start(reviewed.path)

    def servers() -> list[int]:
        return [pid for pid in children(process.pid) if b"mlflow\0server" in command_of(pid)]

    wait_until(lambda: len(servers()) > 1)  # the supervisor and its command
    below = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(map(is_alive, below)))


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(folder: Path, *arguments: str) -> str:
    """Run the command in this process, in which it ends before it starts a server, and return its output."""
    with as_a_process(folder) as output:
        assert main(["--no-open", "--tracking-uri", "sqlite:///mlflow.db", *arguments]) == 2
    return output.getvalue()


def test_another_server_that_takes_the_port_in_the_meantime_is_not_taken_for_its_own(
    reviewed: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    """As with a second dashboard: the first one's server begins to listen seconds after its port was free."""
    ports, find = [], local_server._free_port

    def find_before_it_is_taken(wanted: int | None) -> int:
        ports.append(wanted)
        return wanted if wanted and len(ports) == 1 else find(wanted)

    monkeypatch.setattr(local_server, "_free_port", find_before_it_is_taken)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        other.RequestHandlerClass.log_message = lambda *_: None
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        port = other.server_port
        output = run(reviewed.path, "tiny", "--port", str(port))
        other.shutdown()
        thread.join()
    assert f"--port: cannot listen on {port}; omit the option for a free port." in output
    assert "http://" not in output
    assert ports == [port, port]


@pytest.mark.slow
def test_dashboards_that_are_started_together_have_different_ports(reviewed: StudyFolder):
    processes = [start(reviewed.path, "tiny") for _ in range(2)]
    addresses = set()
    try:
        for process in processes:
            assert process.stdout.readline() == "loading MLflow, which takes a while ...\n"
        for process in processes:
            address = process.stdout.readline().partition("/#/")[0]
            with urllib.request.urlopen(f"{address}/health") as answer:
                assert answer.read() == b"OK"
            addresses.add(address)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert len(addresses) == 2
    assert [process.returncode for process in processes] == [0, 0]


def test_an_unknown_study_is_reported(reviewed: StudyFolder):
    assert 'no study "tinny"' in run(reviewed.path, "tinny")


def test_a_store_that_does_not_exist_is_not_created(tmp_path: Path):
    assert "there is no such file" in run(tmp_path)
    assert f'no study "tiny": sqlite:///{tmp_path}/mlflow.db does not exist' in run(tmp_path, "tiny")
    assert list(tmp_path.iterdir()) == []

"""The server as a child: clear failures, death reported with the log's tail, no orphan."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from areal_gsm8k.children import ChildDied
from areal_gsm8k.serve.__main__ import bind
from areal_gsm8k.serve.process import ServerProcess

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")


def gone(pid: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_missing_model(tmp_path):
    with pytest.raises(ChildDied) as death:
        ServerProcess(str(tmp_path / "nowhere"), str(tmp_path / "logs" / "server.log"))
    message = str(death.value)
    assert f"error: model path {tmp_path / 'nowhere'} does not exist" in message
    assert "exited with code 2" in message
    assert "areal_gsm8k.serve" in message
    assert str(tmp_path / "logs" / "server.log") in message
    assert "Traceback" not in message


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(ChildDied, match=r"has no config\.json"):
        ServerProcess(str(tmp_path), str(tmp_path / "server.log"))


def test_occupied_port(folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ChildDied, match=f"port {port} on 127.0.0.1 is in use"):
            ServerProcess(folder, str(tmp_path / "server.log"), port=port)


def test_the_next_server_can_have_the_port_while_connections_linger():
    with bind("127.0.0.1", 0) as first:
        first.listen()
        client = socket.create_connection(first.getsockname())
        first.accept()[0].close()  # the kernel keeps this end until the client closes its own, and a while longer
        port = first.getsockname()[1]
    with client, bind("127.0.0.1", port) as second:
        assert second.getsockname()[1] == port


def test_killed_server_is_reported_with_its_log(folder, tmp_path):
    server = ServerProcess(folder, str(tmp_path / "server.log"))
    assert server.port > 0
    assert server.url == f"http://127.0.0.1:{server.port}"
    server.check()
    with server.log.open("a") as log:
        log.write("the last words\n")
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(ChildDied) as death:
        server.wait_healthy(timeout=60)
    assert "rollout server was ended by SIGKILL" in str(death.value)
    assert "the last words" in str(death.value)
    server.stop()  # harmless


def test_stop_ends_it_and_leaves_no_file(folder, tmp_path):
    with ServerProcess(folder, str(tmp_path / "server.log")) as server:
        pid = server.pid
    assert gone(pid)
    assert [p.name for p in tmp_path.iterdir()] == ["server.log"]


@pytest.mark.parametrize("thread", ["main", "other"])
def test_the_server_dies_with_its_parent(folder, tmp_path, thread):
    """Also when a thread other than the parent's main one started it and has ended since."""
    program = f"""
import sys, threading, time
from areal_gsm8k.children import ChildDied
from areal_gsm8k.serve.process import ServerProcess
keep = []
def start():
    server = ServerProcess({folder!r}, {str(tmp_path / "server.log")!r})
    keep.append(server)
    print(server.pid, flush=True)
if {thread!r} == "main":
    start()
else:
    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
    pid = int(parent.stdout.readline())
    time.sleep(1.0)
    assert psutil.pid_exists(pid)  # the end of the thread that started it is not the end of its parent
    assert not gone(pid, 0.1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)

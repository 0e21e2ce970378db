"""Child processes of the web app: a lost child is reported, and each child imports little."""

import signal
import subprocess
import sys
import threading

import pytest

from cxrbatch.webapp.children import ChildProcesses, ServerBusy, WorkQueue
from cxrbatch.workers.worker import WorkerFault, WorkerLimits


def test_a_child_imports_neither_torch_nor_flask_nor_duckdb() -> None:
    code = "import sys, cxrbatch.webapp.children\n"
    code += "print({'torch', 'flask', 'duckdb', 'werkzeug', 'pandas'} & sys.modules.keys())"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_killed_child_is_reported_as_reader_killed() -> None:
    children = ChildProcesses(WorkerLimits())
    try:
        fault = children.call(signal.raise_signal, signal.SIGKILL)
    finally:
        children.close()
    assert isinstance(fault, WorkerFault)
    assert fault.outcome == "reader_killed"


def test_the_queue_lets_as_many_threads_wait_as_it_may() -> None:
    queue = WorkQueue(running=1, waiting=1)
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with queue.turn():
            inside.set()
            leave.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    while queue._places.acquire(blocking=False):
        queue._places.release()  # until the second has taken the place to wait
    with pytest.raises(ServerBusy), queue.turn():
        pass
    leave.set()
    for thread in threads:
        thread.join()
    with queue.turn():
        pass

"""A web server in this process that stands for object storage: ranges, latency, failures."""

import contextlib
import functools
import http.server
import os
import re
import sys
import threading
import time
from typing import Any


class Store(http.server.ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
      url: of the folder.
      latency: seconds before every answer.
      gets: (name of the file, first byte, end) of every GET; end is None for a whole file.
      status_of: called with the same three, returns the status to fail with, or None.
      ranged: False answers ranges with the whole file, as simple servers do.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder, latency=0.0):
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.latency, self.gets, self.ranged = latency, [], True
        self.status_of = lambda name, start, end: None

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that has gone
            super().handle_error(request, client_address)


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2]) + 1) if found else (0, None)
        store: Any = self.server
        name = self.path.rsplit("/", 1)[-1]
        store.gets.append((name, start, end))
        time.sleep(store.latency)
        status = store.status_of(name, start, end)
        if status is not None:
            self.send_error(status)
        elif end is None or not store.ranged or not os.path.exists(self._file):
            super().do_GET()
        else:
            self._send_range(start, end)

    def _send_range(self, start, end):
        with open(self._file, "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    @property
    def _file(self):
        return self.translate_path(self.path)

    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def serve(folder, latency=0.0):
    """Runs a Store until the end of the block."""
    with Store(folder, latency) as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()

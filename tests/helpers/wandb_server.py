"""A stand-in for the Weights & Biases server on this machine: what `wandb` asks of it, and faults on demand.

It answers the GraphQL operations, the stream of history and the uploads of a run, an artifact, a saved view. A fault is
a function of the kind of a request ("graphql:UpsertBucket", "stream", "upload") and of how many of that kind there
were, which returns an HTTP status, `DROP` to hang up, or None.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROP = -1
Fault = Callable[[str, int], int | None]
ENTITY = "tester"
SWEEP = "sweep123"
_KEY = "0" * 40


@dataclass
class StoredRun:
    """What the server has of a run."""

    id: str
    project: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    def rows(self, *keys: str) -> list[tuple[Any, ...]]:
        """Values of these keys in every row of the history that has them all."""
        return [tuple(row[key] for key in keys) for row in self.history if all(key in row for key in keys)]


@dataclass
class Stored:
    """What the server has of everything, and what it was asked that it does not know."""

    runs: dict[str, StoredRun] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    sweep: str = ""
    commands: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


class WandbServer:
    """The server; `stored` is what it has been told."""

    def __init__(self, fault: Fault | None = None, port: int = 0) -> None:
        self.stored, self.fault = Stored(), fault
        self.counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make `wandb` log here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": _KEY, "WANDB_ERROR_REPORTING": "false"}

    def start(self) -> None:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def faulty(self, kind: str) -> int | None:
        with self._lock:
            self.counts[kind] += 1
            self.stored.requests.append(kind)
            return self.fault(kind, self.counts[kind]) if self.fault else None

    def graphql(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            answer = getattr(self, f"_{operation}", None)
            if answer is None:
                self.stored.unknown.append(operation)
                return {"data": None, "errors": [{"message": f"no operation {operation} here"}]}
            return {"data": answer(values)}

    def stream(self, run_id: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            run = self.stored.runs.setdefault(run_id, StoredRun(run_id))
            for name, part in (body.get("files") or {}).items():
                lines, start = part.get("content", []), part.get("offset", 0)
                if name == "wandb-history.jsonl":
                    run.history[start:] = [json.loads(line) for line in lines]
                elif name == "wandb-summary.json" and lines:
                    run.summary = json.loads(lines[-1])
            if body.get("complete"):
                run.exit_code = body.get("exitcode")
            return {"limits": {}, "exitcode": None}

    def upload(self, path: str, content: bytes) -> None:
        with self._lock:
            kind, _, rest = path.partition("/")
            if kind == "run":
                run_id, _, name = rest.partition("/")
                self.stored.runs[run_id].files[name] = content
            else:
                self.stored.uploads[rest] = content

    def _Viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        user = {"id": _id("User", 1), "email": "", "flags": "{}", "admin": False}
        user |= dict.fromkeys(("entity", "username", "name"), ENTITY)
        return {"viewer": user | {"teams": {"edges": [{"node": {"name": ENTITY}}]}}}

    _GetDefaultEntity = _GetViewer = _Viewer

    def _ServerInfo(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None}}

    def _ServerFeaturesQuery(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _UpsertBucket(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values["name"]
        new = name not in self.stored.runs
        run = self.stored.runs.setdefault(name, StoredRun(name))
        run.project = values.get("project") or run.project or "uncategorized"
        if values.get("config"):
            run.config = {k: v.get("value") for k, v in json.loads(values["config"]).items() if isinstance(v, dict)}
            run.about["config"] = values["config"]
        for key in ("displayName", "groupName", "jobType", "tags"):
            if values.get(key) is not None:
                run.about[key] = values[key]
        return {"upsertBucket": {"inserted": new, "bucket": {
            "id": _id("Run", name), "name": name, "displayName": run.about.get("displayName") or name,
            "description": None, "config": run.about.get("config", "{}"), "sweepName": None,
            "historyLineCount": len(run.history), "project": _project(run.project)}}}  # fmt: skip

    def _RunResumeStatus(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.stored.runs.get(values.get("name", ""))
        bucket = None
        if run is not None:
            bucket = {
                "id": _id("Run", run.id), "name": run.id, "displayName": run.about.get("displayName"), "notes": None,
                "summaryMetrics": json.dumps(run.summary), "config": run.about.get("config", "{}"),
                "tags": run.about.get("tags") or [], "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]",
                "historyLineCount": len(run.history), "wandbConfig": json.dumps({"t": 1}),
                "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            }  # fmt: skip
        return {"model": {"id": _id("Project", 1), "name": values.get("project"), "entity": {"id": _id("Entity", 1),
                          "name": ENTITY}, "bucket": bucket}}  # fmt: skip

    def _UpsertSweep(self, values: dict[str, Any]) -> dict[str, Any]:
        self.stored.sweep = values["config"]
        return {"upsertSweep": {"sweep": {"name": SWEEP, "project": _project(values["projectName"])},
                                "configValidationWarnings": []}}  # fmt: skip

    def _SweepWithRuns(self, values: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": _id("Sweep", SWEEP), "name": SWEEP, "state": "RUNNING", "config": self.stored.sweep}
        return {"project": {"sweep": sweep | {"runs": {"edges": []}}}}

    def _CreateAgent(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": _id("Agent", 1)}}}

    def _Heartbeat(self, values: dict[str, Any]) -> dict[str, Any]:
        commands, self.stored.commands = self.stored.commands, []
        return {"agentHeartbeat": {"agent": {"id": values["id"]}, "commands": json.dumps(commands)}}

    def _RunStoppedStatus(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def _QueryRunInfo(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.stored.runs[values["run"]]
        return {"project": {"run": {"displayName": run.id, "summaryMetrics": json.dumps(run.summary)}}}

    def _CreateRunFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        run_id = values["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/run/{run_id}/{name}"} for name in values["files"]]
        return {"createRunFiles": {"runID": _id("Run", run_id), "uploadHeaders": [], "files": files}}

    def _MarkRunFilesUploaded(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    def _CreateArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        key = _id("Artifact", secrets.token_hex(8))
        self.stored.artifacts[key] = dict(values["input"]) | {"state": "PENDING", "files": []}
        artifact = {"id": key, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:
        key = _id("Manifest", secrets.token_hex(8))
        file = {"id": key, "uploadUrl": f"{self.url}/artifact/{key}/manifest", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": key, "file": file}}}

    def _UpdateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:
        key = values["artifactManifestID"]
        file = {"id": key, "uploadUrl": f"{self.url}/artifact/{key}/manifest", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": key, "file": file}}}

    def _CreateArtifactFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in values.get("input", values)["artifactFiles"]:
            key, name = file["artifactID"], file["name"]
            self.stored.artifacts[key]["files"].append(name)
            url = f"{self.url}/artifact/{key}/{name}"
            edges.append({"node": {"storagePath": name, "uploadUrl": url, "uploadHeaders": [],
                                   "uploadMultipartUrls": None, "artifact": {"id": key}}})  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        artifact = self.stored.artifacts[values["artifactID"]]
        artifact["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": artifact.get("digest", "")}}}

    def _projectInternalId(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"internalId": _id("ProjectInternalId", 1)}}

    _ProjectInternalId = _projectInternalId

    def _upsertModel(self, values: dict[str, Any]) -> dict[str, Any]:
        project = {"id": _id("Project", 1), "name": values.get("name"), "entityName": ENTITY}
        return {"upsertModel": {"project": project, "model": project, "inserted": True}}

    _UpsertModel = _CreateProject = _upsertModel

    def _GetProjects(self, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "models": {"pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}, "edges": []}
        }

    def _upsertView(self, values: dict[str, Any]) -> dict[str, Any]:
        name = values.get("name") or secrets.token_hex(4)
        key = values.get("id") or _id("View", name)
        about: dict[str, Any] = {"id": key, "name": name, "project": _project(values["projectName"])}
        about |= dict.fromkeys(("createdAt", "updatedAt"), "2026-01-01T00:00:00")
        about |= {k: values.get(k) for k in ("type", "displayName", "description", "spec")}
        about["project"]["entityName"] = ENTITY
        self.stored.views[key] = about
        return {"upsertView": {"view": about, "inserted": True}}

    _UpsertView2 = _upsertView


@contextmanager
def serving(fault: Fault | None = None, port: int = 0) -> Iterator[WandbServer]:
    """Run a server for the length of a block."""
    server = WandbServer(fault, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _id(kind: str, key: object) -> str:
    return base64.b64encode(f"{kind}:{key}".encode()).decode()


def _project(name: str) -> dict[str, Any]:
    return {"id": _id("Project", name), "name": name, "entity": {"id": _id("Entity", 1), "name": ENTITY}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *about: Any) -> None:
            pass

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(data)

        def refused(self, kind: str) -> bool:
            status = server.faulty(kind)
            if status == DROP:
                self.close_connection = True
                self.connection.close()
            elif status is not None:
                self.answer({"errors": [{"message": f"fault {status}"}], "error": f"fault {status}"}, status)
            return status is not None

        def do_POST(self) -> None:
            body = self.body()
            if self.path == "/graphql":
                asked = json.loads(body)
                named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                operation = asked.get("operationName") or (named[1] if named else "")
                if not self.refused(f"graphql:{operation}"):
                    self.answer(server.graphql(operation, asked.get("variables") or {}))
            elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                if not self.refused("stream"):
                    self.answer(server.stream(match[1], json.loads(body)))
            else:
                server.stored.unknown.append(self.path)
                self.answer({}, 404)

        def do_PUT(self) -> None:
            body = self.body()
            if not self.refused("upload"):
                server.upload(self.path.split("?")[0].lstrip("/"), body)
                self.answer({})

        def do_GET(self) -> None:
            server.stored.unknown.append(f"GET {self.path}")
            self.answer({})

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except (ConnectionError, ValueError):
                self.close_connection = True

    return Handler

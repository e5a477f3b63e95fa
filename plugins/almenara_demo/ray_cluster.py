"""A simulated Ray cluster: a small server with the API of a dashboard.

The Ray plugin polls it as it polls a real one. `make run RAY=1` runs a real one instead.
"""

import asyncio
import contextlib
import itertools
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import uvicorn

from almenara_demo.context_graph import Deliberation

NAME: Final = "simulated"
VERSION: Final = "2.60.0"
JOB_LIMIT: Final = 400
ARRIVALS: Final = 10.0
"""Seconds between submissions, on average."""
PAST: Final = 3600.0
"""Seconds of history that the cluster starts with."""
SLOTS: Final = 8
"""Jobs that run at the same time."""
MAX_PENDING: Final = 3
"""Jobs that wait, from which on the deliberations of a fast fleet submit none."""
DELIBERATION: Final = "python -m fleet.deliberate --story {story} --task {task} --role {role}"
DELIBERATION_SECONDS: Final = 9.0
DELIBERATION_FAILURES: Final = 0.04
GIB: Final = 2**30
PROGRAMS: Final = (
    ("python embed_documents.py --model bge-large --batch 256", 14.0, 0.02),
    ("python train_reward_model.py --epochs 3 --config prod.yaml", 75.0, 0.06),
    ("python evaluate.py --suite agents --shard {number}", 25.0, 0.04),
    ("python refresh_context.py --since yesterday", 6.0, 0.01),
)  # fmt: skip
"""Entrypoint, usual seconds and share of failures."""
FAILURES: Final = (
    "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory",
    "ValueError: loss is nan at step 1840",
    "ConnectionError: the feature store refused the connection",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB",
)
NODES: Final = (
    ("simulated-head-0", True, 4.0, 0.0, 16 * GIB),
    ("simulated-worker-cpu-0", False, 16.0, 0.0, 64 * GIB),
    ("simulated-worker-cpu-1", False, 16.0, 0.0, 64 * GIB),
    ("simulated-worker-gpu-0", False, 8.0, 2.0, 96 * GIB),
)
"""Host, whether it is the head, CPUs, GPUs and memory. In Kubernetes, the host is a pod."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Job(msgspec.Struct, kw_only=True):
    """A job from its submission to its end; times are seconds since the epoch."""

    name: str
    entrypoint: str
    submitted: float
    seconds: float
    failure: str
    stopped: bool
    node: int
    started: float | None = None
    ended: float | None = None

    @property
    def status(self) -> str:
        if self.ended is not None:
            return "STOPPED" if self.stopped else "FAILED" if self.failure else "SUCCEEDED"
        return "PENDING" if self.started is None else "RUNNING"

    def log(self, moment: float) -> list[str]:
        """Return the lines it has written until a time."""
        if self.started is None:
            return []
        until = min(moment, self.ended or moment)
        steps = int((until - self.started) * 2) + 1
        lines = [f"Running entrypoint for job {self.name}: {self.entrypoint}"]
        lines += [
            f"step {step:4d}  loss {2.0 / (step + 1) + 0.1:.4f}  {step * 37 % 90 + 60} samples/s"
            for step in range(max(steps - 400, 0), steps)
        ]
        if self.ended is not None and self.failure:
            lines += ["Traceback (most recent call last):",
                      f'  File "{script_path(self.entrypoint)}", line 88, in <module>',
                      "    main()", self.failure]  # fmt: skip
        return lines


def script_path(entrypoint: str) -> str:
    """Return the path of the script that an entrypoint runs."""
    words = entrypoint.split()
    return words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]


class SimulatedRay:
    """Jobs that are submitted, wait for one of a few slots, run and end. The seed determines what
    happens; ids and times are always new."""

    def __init__(
        self,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        list_deliberations: Callable[[], Sequence[Deliberation]] = tuple,
        hosts: Sequence[str] = (),
    ) -> None:
        self._list_deliberations = list_deliberations
        """The deliberations that are running; each has a job."""
        self._submitted: deque[str] = deque(maxlen=JOB_LIMIT)
        """The tasks of the deliberations that have one."""
        self._hosts = [*hosts, *(name for name, *_ in NODES[len(hosts) :])]
        self.random = random.Random(seed)  # nosec B311 # simulates a cluster
        self.clock = clock
        self.numbers = itertools.count(101)
        self.session = f"session_simulated_{clock():.0f}"
        self.jobs: list[Job] = []
        self.next_submission = clock() - PAST
        self.nodes = [f"{number:x}" * 56 for number in range(1, len(NODES) + 1)]

    def advance(self) -> float:
        """Let everything happen that is due, and return the time."""
        now = self.clock()
        while self.next_submission <= now:
            self._submit(self.next_submission)
            self.next_submission += self.random.expovariate(1 / ARRIVALS)
            self._advance_jobs(min(self.next_submission, now))
        self._advance_jobs(now)
        for each in self._list_deliberations():
            if each.task not in self._submitted and self._count("PENDING") < MAX_PENDING:
                self._submitted.append(each.task)
                entrypoint = DELIBERATION.format(story=each.story, task=each.task, role=each.role)
                self._add(now, entrypoint, DELIBERATION_SECONDS, DELIBERATION_FAILURES)
        self.jobs = self.jobs[-JOB_LIMIT:]
        return now

    def _submit(self, moment: float) -> None:
        number = next(self.numbers)
        program, usual, failure_rate = self.random.choice(PROGRAMS)
        self._add(moment, program.format(number=number), usual, failure_rate)

    def _add(self, moment: float, entrypoint: str, usual: float, failure_rate: float) -> None:
        outcome = self.random.random()
        self.jobs.append(
            Job(
                name=f"sim-{uuid.uuid4().hex[:8]}",
                entrypoint=entrypoint,
                submitted=moment,
                seconds=usual * self.random.uniform(0.7, 1.4)
                * (2.5 if self.random.random() < 0.05 else 1.0),
                failure=self.random.choice(FAILURES) if outcome < failure_rate else "",
                stopped=outcome > 0.97,
                node=self.random.randrange(1, len(NODES)),
            )
        )  # fmt: skip

    def _advance_jobs(self, now: float) -> None:
        running = [job for job in self.jobs if job.started is not None and job.ended is None]
        for job in running:
            end = (job.started or now) + job.seconds * (0.6 if job.failure or job.stopped else 1.0)
            if end <= now:
                job.ended = end
        free = SLOTS - sum(job.ended is None for job in running)
        for job in [job for job in self.jobs if job.started is None][: max(free, 0)]:
            # The setup of its environment takes a moment.
            job.started = max(job.submitted + 0.6, now - 0.2)
            if job.started > now:
                job.started = None

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        """Return status and body of an answer; a string is sent as text, anything else as JSON."""
        now = self.advance()
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": VERSION, "session_name": self.session}
        if path == "/api/jobs/":
            return 200, [self._job(job) for job in self.jobs]
        if path.startswith("/api/jobs/"):
            job = self._find_job(path.removeprefix("/api/jobs/"))
            return (200, self._job(job)) if job else (404, "job does not exist")
        if path == "/api/v0/nodes":
            return 200, _rows([self._node(number) for number in range(len(NODES))])
        if path == "/nodes":
            return 200, _data(summary=[self._measure_node(number) for number in range(len(NODES))])
        if path == "/api/cluster_status":
            return 200, self._status()
        if path == "/api/v0/actors/summarize":
            return 200, _summary({"Worker": {"ALIVE": 3 * len(self._running)}})
        if path == "/api/v0/tasks/summarize":
            counts = {"RUNNING": 6 * len(self._running), "FINISHED": 12_000}
            return 200, _summary({"step": counts})
        if path == "/api/serve/applications/":
            return 200, {"applications": {"chat": _application("chat", 2)}}
        if path == "/api/v0/logs/file":
            name = query.get("filename", "").removeprefix("job-driver-").removesuffix(".log")
            job = self._find_job(name)
            if job is None:
                return 500, "A file is not found"
            lines = job.log(now)
            return 200, "\n".join(lines[-int(query.get("lines", "500")) :]) + "\n"
        return 404, "404: Not Found"

    @property
    def _running(self) -> list[Job]:
        return [job for job in self.jobs if job.status == "RUNNING"]

    def _count(self, status: str) -> int:
        return sum(job.status == status for job in self.jobs)

    def _find_job(self, name: str) -> Job | None:
        return next((job for job in self.jobs if job.name == name), None)

    def _job(self, job: Job) -> dict[str, Any]:
        last = "\n".join(job.log(self.clock())[-6:])
        message = {
            "FAILED": "Job entrypoint command failed with exit code 1, last available logs"
            f" (truncated to 20,000 chars):\n{last}\n",
            "PENDING": "Job has not started yet. It may be waiting for resources (CPUs, GPUs,"
            " memory, custom resources) to become available.",
        }.get(job.status, "")
        return {
            "type": "SUBMISSION", "submission_id": job.name, "job_id": None,
            "status": job.status, "entrypoint": job.entrypoint, "message": message,
            "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR" if job.status == "FAILED" else None,
            "start_time": int(job.submitted * 1000),
            "end_time": int(job.ended * 1000) if job.ended is not None else None,
            "metadata": {"simulated": "yes"},
            "runtime_env": {"env_vars": {"HF_HOME": "/models"}, "pip": ["torch==2.9.0"]},
            "driver_node_id": self.nodes[job.node] if job.started is not None else None,
            "driver_exit_code": {"FAILED": 1, "SUCCEEDED": 0}.get(job.status),
        }  # fmt: skip

    def _node(self, number: int) -> dict[str, Any]:
        _, head, cpus, gpus, memory = NODES[number]
        total = {"CPU": cpus, "memory": memory, "object_store_memory": memory * 0.3}
        return {
            "node_id": self.nodes[number], "is_head_node": head, "state": "ALIVE",
            "state_message": None, "resources_total": total | ({"GPU": gpus} if gpus else {}),
        }  # fmt: skip

    def _measure_node(self, number: int) -> dict[str, Any]:
        _, head, _, gpus, memory = NODES[number]
        busy = min(sum(job.node == number for job in self._running) / 3, 1.0)
        share = 0.12 + 0.6 * busy + self.random.uniform(-0.03, 0.03)
        stored = int(memory * 0.3 * (0.05 + 0.5 * busy))
        return {
            "hostname": self._hosts[number], "cpu": round(share * 100, 1),
            "mem": [memory, int(memory * (0.8 - 0.5 * busy)), 0.0, 0],
            "disk": {"/": {"percent": 41.0 + number}},
            "gpus": [
                {"name": "NVIDIA L40S", "utilizationGpu": round(95 * busy), "memoryUsed":
                 int(1000 + 40_000 * busy), "memoryTotal": 46_068} for _ in range(int(gpus))
            ],
            "raylet": {
                "nodeId": self.nodes[number], "isHeadNode": head, "state": "ALIVE",
                "objectStoreUsedMemory": stored,
                "objectStoreAvailableMemory": int(memory * 0.3) - stored, "storeStats": {},
            },
        }  # fmt: skip

    def _status(self) -> dict[str, Any]:
        running = len(self._running)
        pending = self._count("PENDING")
        cpus = sum(node[2] for node in NODES)
        memory = float(sum(node[4] for node in NODES))
        busy = running / SLOTS
        return _data(
            autoscalingError=None,
            clusterStatus={
                "autoscalerReport": {"pendingNodes": [], "failedNodes": [], "pendingLaunches": {}},
                "loadMetricsReport": {
                    "usage": {
                        "CPU": [round(cpus * busy * 0.9), cpus],
                        "GPU": [2.0 if running > 2 else 0.0, 2.0],
                        "memory": [memory * busy * 0.5, memory],
                        "objectStoreMemory": [memory * 0.3 * busy * 0.4, memory * 0.3],
                    },
                    "resourceDemand": [[{"CPU": 4.0}, pending]] if pending else [],
                    "pgDemand": [],
                },
            },
        )  # fmt: skip

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        query = {
            name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()
        }
        path = scope["path"]
        if path == "/api/v0/logs/stream":
            await self._stream(query, send)
            return
        status, body = (405, "") if scope["method"] != "GET" else self.answer(path, query)
        text = isinstance(body, str)
        content_type = b"text/plain" if text else b"application/json"
        encoded = body.encode() if text else msgspec.json.encode(body)
        headers = [(b"content-type", content_type)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": encoded})

    async def _stream(self, query: dict[str, str], send: Send) -> None:
        name = query.get("filename", "").removeprefix("job-driver-").removesuffix(".log")
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-type", b"text/plain")]})  # fmt: skip
        sent: str | None = None
        while (job := self._find_job(name)) is not None:
            lines = job.log(self.advance())
            new = lines[lines.index(sent) + 1 :] if sent in lines else lines[-100:]
            if new:
                sent = new[-1]
                await send({"type": "http.response.body", "body": ("\n".join(new) + "\n").encode(),
                            "more_body": True})  # fmt: skip
            if job.ended is not None:
                break
            await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b""})


def _data(**fields: Any) -> dict[str, Any]:
    return {"result": True, "msg": "", "data": fields}


def _rows(rows: list[Any]) -> dict[str, Any]:
    return _data(result={"total": len(rows), "result": rows})


def _summary(counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    summary = {name: {"state_counts": states} for name, states in counts.items()}
    return _data(result={"result": {"node_id_to_summary": {"cluster": {"summary": summary}}}})


def _application(name: str, replicas: int) -> dict[str, Any]:
    deployment = {
        "name": "LLM", "status": "HEALTHY", "message": "", "target_num_replicas": replicas,
        "replicas": [{"state": "RUNNING"}] * replicas,
    }  # fmt: skip
    return {"name": name, "route_prefix": "/chat", "status": "RUNNING", "message": "",
            "deployments": {"LLM": deployment}}  # fmt: skip


class _Server(uvicorn.Server):
    """A server that leaves signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def run_simulated_cluster(
    port: int,
    seed: int = 0,
    list_deliberations: Callable[[], Sequence[Deliberation]] = tuple,
    hosts: Sequence[str] = (),
) -> AsyncIterator[SimulatedRay]:
    """Run a simulated cluster whose dashboard listens on a port of 127.0.0.1. Its nodes have the
    names of `hosts`."""
    cluster = SimulatedRay(seed, list_deliberations=list_deliberations, hosts=hosts)
    server = _Server(
        uvicorn.Config(
            cluster, host="127.0.0.1", port=port, log_level="warning", lifespan="off",
            timeout_graceful_shutdown=1, access_log=False,
        )
    )  # fmt: skip
    serving = asyncio.create_task(server.serve(), name="simulated Ray")
    try:
        # uvicorn has no event to wait for.
        while not server.started and not serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
            raise RuntimeError(f"the simulated Ray cluster cannot listen on port {port}")
        yield cluster
    finally:
        server.should_exit = True
        await serving

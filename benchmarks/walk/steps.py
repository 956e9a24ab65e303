"""The steps of the walk (:mod:`benchmarks.walk`), each of which leaves a row of its table."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from alphagrpo.cli.ray_start import free_ports
from alphagrpo.record.folder import RunFolder
from benchmarks.walk.dashboard import Dashboard
from benchmarks.walk.hosts import ROOT, Host, kill_all, processes_of
from benchmarks.walk.plan import Plan, Row, WalkFailed

CPUS = 4.0
"""Logical ones of each node."""
NODE_SECONDS = SERVICE_SECONDS = RUN_SECONDS = 900.0
"""For a step on a busy machine; most take a tenth of it."""
POLL_S = 1.0
TERMINAL, NO_TOKEN, PACKAGE = (
    "alphagrpo serve, and a second terminal",
    "a terminal without the token",
    "a job that writes into its package",
)
WHOLE_ONLY = {TERMINAL, NO_TOKEN, PACKAGE}


class Walk:
    """The steps, each of which leaves a row."""

    def __init__(self, folder: Path, plan: Plan, tell: Callable[[Row], None]) -> None:
        self.plan, self._tell = plan, tell
        self.rows: list[Row] = []
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        self.hosts = [Host(pool, folder / pool, plan.pythonpath) for pool in plan.pools]
        self.head = self.hosts[0]
        self.laptop = Host("laptop", folder / "laptop")
        self.gcs_port, self.dashboard_port, self.http_port = free_ports(3)
        self.config = self.shared / "walk.yaml"

    def go(self) -> None:
        """All steps, in order; the nodes are ended whatever happens."""
        steps: list[tuple[str, Callable[[], str]]] = [
            (TERMINAL, self.second_terminal),
            ("ray start, a node per pool", self.start_nodes),
            (NO_TOKEN, self.refuse_without_token),
            ("serve deploy", self.deploy),
            (PACKAGE, self.refuse_relative_output),
            ("ray job submit", self.submit),
            ("where the actors are", self.look_at_places),
            ("the driver is killed", self.kill_driver),
            ("ray job submit ... --resume", self.resume),
            ("the report", self.read_report),
        ]
        try:
            for name, step in steps:
                if self.plan.is_whole or name not in WHOLE_ONLY:
                    started = time.monotonic()
                    seen = step()
                    self.rows.append(Row(name, time.monotonic() - started, seen))
                    self._tell(self.rows[-1])
        finally:
            for host in reversed(self.hosts):
                host.stop()

    # -- the steps

    def second_terminal(self) -> str:
        """A private cluster on the laptop, joined by a command from elsewhere on it."""
        path = self.shared / "laptop.yaml"
        content = self.services(only=("decomposer",), placed=False)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        with self.laptop.background("alphagrpo", "serve", str(path), RAY_ADDRESS="local") as serve:
            self.wait("services on the laptop", SERVICE_SECONDS, lambda: "serving" in serve.log())
            mode = self.laptop.token_path.stat().st_mode & 0o777
            started = time.monotonic()
            done = self.laptop.run(
                "alphagrpo", "decompose", "a red circle", "--serve-config", str(path),
                cwd=self.shared, RAY_ADDRESS=self.laptop.gcs_address(),
            )  # fmt: skip
            seconds = time.monotonic() - started
            if done.returncode or "red" not in done.stdout:
                raise WalkFailed(f"a second terminal: {tail(done)}")
        if mode != 0o600:
            raise WalkFailed(f"the token's file must be private, it has mode {mode:o}")
        self.wait("the laptop's end", NODE_SECONDS, lambda: not processes_of(self.laptop.folder))
        return f"asked from another folder in {seconds:.0f} s, token's file 0600, nothing left"

    def start_nodes(self) -> str:
        """A head and workers, each with a copy of the token, as ``ray up`` would start them."""
        token = secrets.token_hex(32)
        for host in (*self.hosts, self.laptop):
            host.give_token(token)
        self.head.start_node(
            "--head", f"--port={self.gcs_port}", f"--dashboard-port={self.dashboard_port}",
            "--dashboard-host=127.0.0.1", f"--ray-client-server-port={free_ports(1)[0]}",
            pool=self.head.name, cpus=CPUS,
        )  # fmt: skip
        self.wait_for_nodes(1, self.head)
        for host in self.hosts[1:]:
            address = f"--address=127.0.0.1:{self.gcs_port}"
            host.start_node(address, pool=host.name, cpus=CPUS)
        self.wait_for_nodes(len(self.hosts), self.hosts[-1])
        homes = len({host.token_path for host in self.hosts})
        return f"{len(self.hosts)} nodes, {homes} homes, token asked for"

    def refuse_without_token(self) -> str:
        """Its message is about the token, and comes at once."""
        stranger = Host("stranger", self.head.folder.parent / "stranger")
        started = time.monotonic()
        done = stranger.run(
            "alphagrpo", "serve", "--status", RAY_ADDRESS=f"127.0.0.1:{self.gcs_port}"
        )
        if done.returncode != 2 or "asks for a token, none is here" not in done.stderr:
            raise WalkFailed(f"a missing token has no message of its own: {tail(done)}")
        return f"refused in {time.monotonic() - started:.1f} s, naming the token"

    def deploy(self) -> str:
        """Ray's own command, on the head, with ``RAY_AUTH_MODE=token`` alone."""
        path = self.shared / "serve.yaml"
        path.write_text(yaml.safe_dump(self.services()), encoding="utf-8")
        done = self.head.run(
            "serve", "deploy", str(path), "-a", self.dashboard.url, RAY_AUTH_MODE="token"
        )
        if done.returncode:
            raise WalkFailed(f"serve deploy: {tail(done)}")
        names = set(self.plan.service_pools)

        def running() -> bool:
            states = self.dashboard.serve_status()
            failed = {n: s for n, s in states.items() if s["status"] == "DEPLOY_FAILED"}
            if failed:
                raise WalkFailed(f"services did not start: {failed}")
            return {n for n, s in states.items() if s["status"] == "RUNNING"} >= names

        self.wait("the services", SERVICE_SECONDS, running)
        return f"{', '.join(sorted(names))} running"

    def refuse_relative_output(self) -> str:
        """What it would train would go with the package."""
        done = self.job("refused", "deploy/configs/smoke.yaml")
        log = done.stdout + done.stderr
        if done.returncode == 0 or "output must be an absolute path" not in log:
            raise WalkFailed(f"a relative output inside a job is not refused: {tail(done)}")
        return "refused, with the remedy"

    def submit(self) -> str:
        """A run whose folder lies on shared storage, up to its second checkpoint."""
        self.write_config()
        done = self.job("walk", str(self.config), wait=False)
        if done.returncode:
            raise WalkFailed(f"ray job submit: {tail(done)}")
        folder = self.run_folder
        self.wait(
            "the second step", RUN_SECONDS, lambda: len(folder.checkpoints()) >= 2, job="walk"
        )
        return f"step {len(folder.metrics())} trained, checkpoints on shared storage"

    def look_at_places(self) -> str:
        """Nodes of the actors, from Ray's own state."""
        found = self.dashboard.places("alphagrpo:walked:", "SERVE_REPLICA::")
        expected = dict(self.plan.placement)
        if "rollout" in expected:
            expected["rollout-0"] = expected.pop("rollout")
        wrong = {
            role: found.get(role) for role, pool in expected.items() if found.get(role) != pool
        }
        if wrong:
            raise WalkFailed(f"actors are elsewhere than {expected}: {found}")
        return ", ".join(f"{role} on {pool}" for role, pool in sorted(found.items()))

    def kill_driver(self) -> str:
        """SIGKILL: nobody can clean up."""
        words = {"train", str(self.config)}
        drivers = [
            process
            for process in processes_of(self.head.folder)
            if words <= set(process.info["cmdline"] or []) and process.info["name"] != "sh"
        ]
        kill_all(drivers, signal.SIGKILL)
        if not drivers:
            raise WalkFailed("no driver of the job was found")
        self.wait(
            "the job's end", NODE_SECONDS, lambda: self.dashboard.job_status("walk") == "FAILED"
        )
        return f"{len(drivers)} process killed, the job failed"

    def resume(self) -> str:
        """Another submission goes on where the last checkpoint is, and ends."""
        before = len(self.run_folder.checkpoints())
        done = self.job("walk-resumed", str(self.config), "--resume")
        if done.returncode:
            raise WalkFailed(f"the resumed job failed: {tail(done)}")
        steps, summary = self.run_folder.metrics(), self.run_folder.summary()
        wanted = self.plan.run["training"]["num_steps"]
        if [line["step"] for line in steps] != list(range(1, wanted + 1)):
            raise WalkFailed(f"steps are not 1 to {wanted}: {[line['step'] for line in steps]}")
        if summary.samples.invalid:
            raise WalkFailed(f"{summary.samples.invalid} samples have no score")
        return f"went on after step {before}, {wanted} steps, every sample scored"

    def read_report(self) -> str:
        """On the laptop, which is no node."""
        done = self.laptop.run("alphagrpo", "report", str(self.run_folder.path))
        page = self.run_folder.report_path
        if done.returncode or "<html" not in page.read_text(encoding="utf-8"):
            raise WalkFailed(f"no report: {tail(done)}")
        return f"{page.stat().st_size / 1e6:.1f} MB of {page.name}"

    # -- what they use

    @property
    def dashboard(self) -> Dashboard:
        url = f"http://127.0.0.1:{self.dashboard_port}"
        return Dashboard(url, self.laptop.token_path.read_text(encoding="utf-8"))

    @property
    def run_folder(self) -> RunFolder:
        return RunFolder(self.shared / "runs" / "walked")

    def services(self, only: Sequence[str] = (), placed: bool = True) -> dict[str, Any]:
        """The Serve config with this walk's port and a pool for each application."""
        raw: dict[str, Any] = json.loads(json.dumps(self.plan.services))
        raw["http_options"] = {"host": "127.0.0.1", "port": self.http_port}
        names = only or self.plan.service_pools
        raw["applications"] = [app for app in raw["applications"] if app["name"] in names]
        for app in raw["applications"] if placed else []:
            selector = {"mesh.pool": self.plan.service_pools[app["name"]]}
            for deployment in app["deployments"]:
                deployment.setdefault("ray_actor_options", {})["label_selector"] = selector
        return raw

    def write_config(self) -> None:
        """The run, over the shipped ``smoke.yaml``."""
        placement = {role: {"mesh.pool": pool} for role, pool in self.plan.placement.items()}
        content = {
            "base": str(ROOT / "deploy/configs/smoke.yaml"),
            "name": "walked",
            "output": str(self.shared / "runs"),
            "placement": placement,
            **self.plan.run,
        }
        self.config.write_text(yaml.safe_dump(content), encoding="utf-8")

    def job(self, name: str, *arguments: str, wait: bool = True) -> Any:
        """``ray job submit`` of a training, typed on the laptop in the checkout."""
        options = [] if wait else ["--no-wait"]
        return self.laptop.run(
            "ray", "job", "submit", "--submission-id", name, "--working-dir", ".", *options,
            "--", "alphagrpo", "train", *arguments,
            cwd=ROOT, timeout_s=RUN_SECONDS, RAY_AUTH_MODE="token",
            RAY_API_SERVER_ADDRESS=self.dashboard.url,
        )  # fmt: skip

    def wait_for_nodes(self, number: int, last: Host) -> None:
        """Until so many are alive; ``last`` is the one that was started last."""
        self.wait(
            f"{number} nodes", NODE_SECONDS, lambda: len(self.dashboard.nodes()) == number, last
        )

    def wait(
        self,
        what: str,
        seconds: float,
        condition: Callable[[], bool],
        host: Host | None = None,
        job: str = "",
    ) -> None:
        """Until it holds; a node or a job that ended in the meantime ends the waiting."""
        until = time.monotonic() + seconds
        while not condition():
            if host is not None and host.node is not None and host.node.poll() is not None:
                raise WalkFailed(f"{what}: ray start ended: {host.log.read_text()[-2000:]}")
            if job and self.dashboard.job_status(job) in ("FAILED", "STOPPED"):
                raise WalkFailed(f"{what}: the job ended: {self.dashboard.job_log(job)[-3000:]}")
            if time.monotonic() > until:
                raise WalkFailed(f"{what}: not there after {seconds:.0f} s")
            time.sleep(POLL_S)


def tail(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a command said."""
    return f"exit {done.returncode}\n{done.stdout[-2500:]}\n{done.stderr[-2500:]}"

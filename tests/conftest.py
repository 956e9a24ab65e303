"""One Ray cluster for all tests that need one; started on first use, stopped at the end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from alphagrpo.cli.ray_start import set_environment, start_ray

# Before anything imports ray, which reads these once: token authentication, with a token of this
# run alone, so that no token file is read or written.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
# Ray runs its workers at niceness 15; beside other work on two cores they would hardly run at all.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# How often metrics are exported; a gauge that is not set again is dropped after twice that. Ray's
# own ten seconds would make a test of it wait for a minute.
METRICS_REPORT_MS = 2000
os.environ["RAY_metrics_report_interval_ms"] = str(METRICS_REPORT_MS)
set_environment(private=True)


@pytest.fixture(scope="session")
def mesh_cluster() -> Iterator[str]:
    """A local cluster with token authentication on; yields its address.

    Logical CPUs are generous, so that a two-core machine schedules every actor of a test.
    """
    import ray
    from ray import serve

    context = start_ray(
        num_cpus=16,
        object_store_memory=256 << 20,
        include_dashboard=False,
        log_to_driver=False,
        namespace="alphagrpo-tests",
    )
    yield str(context.address_info["gcs_address"])
    serve.shutdown()
    ray.shutdown()

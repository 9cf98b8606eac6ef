"""A node of a Ray cluster dies while it makes edits. A program, for a network namespace of its own; see test_serve_ray.

It starts three raylets on this machine and writes JSON, what the clients got, into the file that is its argument.
"""

import base64
import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "2000",
}

PORT = 8795
EDITS = 8
STEPS = 60
MEMORY = 100 << 20
"""Bytes of each raylet's store of objects."""


def main() -> None:
    """Start the cluster, make edits, kill a node when the first previews are there, and compare."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster
    from serving import COAST

    from sdedit.runtime import Editor
    from sdedit.runtime.bundle import SHIPPED
    from sdedit.serve.guard import served_hosts
    from sdedit.serve.ray import Plan, application

    begun = time.monotonic()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    workers = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": PORT})
    plan = Plan({"earth": str(SHIPPED)}, frozenset(served_hosts("127.0.0.1", ())), replicas=2)
    serve.run(application(plan), name="sdedit", route_prefix="/")
    started = time.monotonic() - begun

    previews = threading.Semaphore(0)
    with ThreadPoolExecutor(EDITS) as pool:
        answers = [pool.submit(streamed, COAST, seed, previews) for seed in range(EDITS)]
        for _ in range(EDITS // 2):
            previews.acquire(timeout=60)
        cluster.remove_node(workers[0], allow_graceful=False)
        results = [answer.result(180) for answer in answers]
    with Editor.open(threads=1) as editor:
        expected = [editor.edit(COAST, steps=STEPS, seed=seed).images[0].to_bytes() for seed in range(EDITS)]
    mistakes = [requests.post(url("/v1/edits"), {"model": "x"}, files={"guide": COAST}, timeout=60).status_code]
    mistakes.append(requests.post(url("/v1/edits"), files={"guide": b"no image"}, timeout=60).status_code)
    result = {
        "started": started,
        "right": sum(png == wanted for (_, png), wanted in zip(results, expected, strict=True)),
        "steps": [steps for steps, _ in results],
        "mistakes": mistakes,
        "models": [model["id"] for model in requests.get(url("/v1/models"), timeout=60).json()["data"]],
    }
    Path(sys.argv[1]).write_text(json.dumps(result), encoding="utf-8")
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def url(path: str) -> str:
    """The address of a path of the server."""
    return f"http://127.0.0.1:{PORT}{path}"


def streamed(guide: bytes, seed: int, previews: threading.Semaphore) -> tuple[list[int], bytes]:
    """The steps that a stream told, in their order, and the PNG at its end."""
    from serving import read_events

    steps, png, form = [], b"", {"steps": STEPS, "seed": seed, "preview_every": 4}
    accept = {"accept": "text/event-stream"}
    with requests.post(url("/v1/edits"), form, files={"guide": guide}, headers=accept, stream=True, timeout=120) as got:
        for name, data in read_events(got):
            if name == "image_edit.completed":
                png = base64.b64decode(data["b64_json"])
            elif name != "error":
                steps.append(data["step"])
                if name == "image_edit.partial_image":
                    previews.release()
    return steps, png


if __name__ == "__main__":
    sys.exit(main())

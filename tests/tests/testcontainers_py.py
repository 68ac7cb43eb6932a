"""testcontainers for Python against an engine: python3 testcontainers_py.py CHECK.

Runs on the engine's own host, as tests of users do: published ports are reached through localhost.
"""

import io
import pathlib
import sys
import tarfile
import tempfile
import urllib.request

import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

SERVE = "mkdir /www; echo {} > /www/index.html; echo ready to serve; exec httpd -f -p 80 -h /www"


def server(page, image="busybox"):
    box = DockerContainer(image).with_command(["sh", "-c", SERVE.format(page)])
    return box.with_exposed_ports(80)


def fetch(box):
    url = f"http://{box.get_container_host_ip()}:{box.get_exposed_port(80)}/"
    with urllib.request.urlopen(url, timeout=60) as page:
        return page.read().decode().strip()


def tc_ports_and_logs():
    with server("hello") as box:
        wait_for_logs(box, "ready to serve", timeout=60)
        assert fetch(box) == "hello"
        out, err = box.get_logs()
        assert (out, err) == (b"ready to serve\n", b""), (out, err)
        labels = box.get_wrapped_container().labels
        assert labels["org.testcontainers"] == "true", labels
        # Somebody's reaper finds it by its session.
        session = labels["org.testcontainers.session-id"]
        found = docker.from_env().containers.list(
            filters={"label": f"org.testcontainers.session-id={session}"}
        )
        assert [c.id for c in found] == [box.get_wrapped_container().id]
    assert docker.from_env().containers.list(all=True) == []


def tc_wait_strategies():
    from testcontainers.core.wait_strategies import (
        CompositeWaitStrategy,
        HealthcheckWaitStrategy,
        HttpWaitStrategy,
        LogMessageWaitStrategy,
        PortWaitStrategy,
    )

    ready = CompositeWaitStrategy(
        LogMessageWaitStrategy("ready to serve"), PortWaitStrategy(80), HttpWaitStrategy(80, "/")
    ).with_startup_timeout(60)
    with server("waited").waiting_for(ready) as box:
        assert fetch(box) == "waited"
    probe = {"test": ["CMD-SHELL", "wget -qO- http://127.0.0.1/"], "interval": 200_000_000}
    healthy = HealthcheckWaitStrategy().with_startup_timeout(60)
    with server("healthy").with_kwargs(healthcheck=probe).waiting_for(healthy) as box:
        assert fetch(box) == "healthy"


def tc_exec_and_settings():
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "note").write_text("from the host")
        box = DockerContainer("busybox").with_command("sleep 1000").with_env("COLOUR", "green")
        box = box.with_name("settled").with_volume_mapping(folder, "/host", "ro")
        with box.with_kwargs(stop_signal="SIGKILL", mem_limit="64m"):
            assert box.exec("echo hi") == (0, b"hi\n")
            assert box.exec(["sh", "-c", "echo $COLOUR"]).output == b"green\n"
            assert box.exec("cat /host/note").output == b"from the host"
            assert box.exec(["sh", "-c", "exit 3"]).exit_code == 3
            assert box.exec("touch /host/other").exit_code != 0
            tar = io.BytesIO()
            with tarfile.open(fileobj=tar, mode="w") as archive:
                entry = tarfile.TarInfo("sent")
                entry.size = 4
                archive.addfile(entry, io.BytesIO(b"data"))
            wrapped = box.get_wrapped_container()
            assert wrapped.put_archive("/tmp", tar.getvalue())
            assert box.exec("cat /tmp/sent").output == b"data"


def tc_networks():
    with Network() as network:
        with server("by name").with_network(network).with_network_aliases("web") as box:
            wait_for_logs(box, "ready to serve", timeout=60)
            script = "until wget -qO- http://web/; do sleep 0.1; done"
            other = DockerContainer("busybox").with_command(["sh", "-c", script])
            with other.with_network(network) as client:
                wait_for_logs(client, "by name", timeout=60)
    assert [n.name for n in docker.from_env().networks.list(filters={"type": "custom"})] == []


def tc_image_from_dockerfile():
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "page").write_text("built")
        recipe = 'FROM busybox\nARG WORD=none\nCOPY page /page\nRUN echo $WORD > /word\nCMD ["sh", "-c", "cat /page /word"]\n'
        pathlib.Path(folder, "Dockerfile").write_text(recipe)
        with DockerImage(path=folder, tag="tc:1", buildargs={"WORD": "argued"}) as image:
            assert image.short_id in image.get_wrapped_image().id
            with DockerContainer(str(image)) as box:
                wait_for_logs(box, "builtargued", timeout=60)
    assert [i.tags for i in docker.from_env().images.list("tc")] == []


if __name__ == "__main__":
    globals()[sys.argv[1]]()

"""docker-py's ordinary operations against an engine: python3 docker_py.py CHECK."""

import io
import sys
import tarfile
import threading

import docker

client = docker.from_env(timeout=60)


def py_system():
    assert client.ping()
    assert client.version()["Os"] == "linux"
    assert client.info()["OSType"] == "linux"
    assert client.df()["Images"]


def py_containers():
    out = client.containers.run("busybox", "echo hello", remove=True)
    assert out == b"hello\n", out
    box = client.containers.run("busybox", "sleep 1000", detach=True, name="box", labels={"a": "b"})
    assert box.status in ("created", "running")
    assert [c.name for c in client.containers.list(filters={"label": "a=b"})] == ["box"]
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.rename("bag")
    box.update(mem_limit="64m", memswap_limit="128m")
    assert client.containers.get("bag").attrs["HostConfig"]["Memory"] == 64 << 20
    assert box.top()["Processes"]
    assert box.stats(stream=False)["memory_stats"]
    box.restart(timeout=0)
    box.stop(timeout=0)
    assert box.wait()["StatusCode"] == 137
    image = box.commit("saved", "1")
    assert "saved:1" in image.tags
    box.remove()
    assert client.containers.list(all=True) == []


def py_logs():
    box = client.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2"], detach=True)
    assert box.wait()["StatusCode"] == 0
    assert box.logs(stdout=True, stderr=False) == b"out\n"
    assert box.logs(stdout=False, stderr=True) == b"err\n"
    assert b"".join(box.logs(stream=True, follow=True, stderr=False)) == b"out\n"
    assert box.logs(timestamps=True, tail=1).count(b"\n") == 1


def py_exec():
    box = client.containers.run("busybox", "sleep 1000", detach=True)
    assert box.exec_run("echo hi") == (0, b"hi\n")
    assert box.exec_run("sh -c 'exit 3'").exit_code == 3
    code, (out, err) = box.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, out, err) == (0, b"o\n", b"e\n")
    assert box.exec_run("env", environment={"X": "7"}).output.find(b"X=7") >= 0
    assert b"".join(box.exec_run("echo streamed", stream=True).output) == b"streamed\n"
    box.remove(force=True)


def py_build():
    dockerfile = b"FROM busybox\nARG A=1\nRUN echo $A > /a\nCMD [\"cat\", \"/a\"]\n"
    image, log = client.images.build(fileobj=io.BytesIO(dockerfile), tag="py:1", buildargs={"A": "2"})
    assert "py:1" in image.tags
    assert any("Successfully built" in line.get("stream", "") for line in log)
    assert client.containers.run("py:1", remove=True) == b"2\n"
    try:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 4\n"))
        raise AssertionError("a failing build succeeded")
    except docker.errors.BuildError as e:
        assert "non-zero code: 4" in str(e)
    assert client.api.prune_builds()["SpaceReclaimed"] >= 0


def py_images():
    image = client.images.get("busybox")
    assert image.tag("copy", "2")
    assert "copy:2" in client.images.get("copy:2").tags
    data = b"".join(image.save(named=True))
    client.images.remove("copy:2")
    client.images.remove("busybox")
    assert client.images.list() == []
    assert client.images.load(data)[0].id == image.id
    assert image.history()


def py_volumes():
    volume = client.volumes.create("data", labels={"a": "b"})
    bind = {"data": {"bind": "/d", "mode": "rw"}}
    client.containers.run("busybox", "touch /d/f", volumes=bind, remove=True)
    assert client.containers.run("busybox", "ls /d", volumes=bind, remove=True) == b"f\n"
    assert [v.name for v in client.volumes.list(filters={"label": "a"})] == ["data"]
    volume.remove()
    assert client.volumes.list() == []


def py_networks():
    names = {n.name for n in client.networks.list()}
    assert {"bridge", "host", "none"} <= names
    box = client.containers.run("busybox", "sleep 1000", detach=True, ports={"80/tcp": 8080})
    bridge = client.networks.get("bridge", scope="local")
    assert box in bridge.containers
    box.reload()
    assert box.ports["80/tcp"][0]["HostPort"] == "8080"
    box.remove(force=True)


def py_events():
    seen = []
    events = client.events(decode=True, filters={"type": "container"})

    def read():
        for event in events:
            seen.append(event["Action"])
            if event["Action"] == "destroy":
                return

    reader = threading.Thread(target=read)
    reader.start()
    while reader.is_alive():
        client.containers.run("busybox", "true", remove=True)
        reader.join(0.05)
    events.close()
    assert "start" in seen and "die" in seen, seen


def py_archive():
    box = client.containers.create("busybox", "cat /tmp/f")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("f")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"data"))
    assert box.put_archive("/tmp", buffer.getvalue())
    box.start()
    box.wait()
    assert box.logs() == b"data"
    stream, stat = box.get_archive("/etc/passwd")
    assert stat["name"] == "passwd"
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        assert b"alice" in tar.extractfile("passwd").read()
    box.remove()


def py_attach():
    box = client.containers.create("busybox", "cat", stdin_open=True)
    socket = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    socket._sock.sendall(b"through\n")
    frame = socket.read(8 + len("through\n"))
    assert frame[8:] == b"through\n", frame
    socket.close()
    box.remove(force=True)


def py_errors():
    for call, error in [
        (lambda: client.containers.get("gone"), docker.errors.NotFound),
        (lambda: client.images.get("gone"), docker.errors.ImageNotFound),
        (lambda: client.containers.run("busybox", "false", remove=True), docker.errors.ContainerError),
        (lambda: client.containers.create("busybox", name="b@d"), docker.errors.APIError),
    ]:
        try:
            call()
        except error:
            continue
        raise AssertionError(f"no {error}")


globals()[sys.argv[1]]()

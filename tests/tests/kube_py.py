"""Programs of the Kubernetes client for Python against `wharf kube serve`: one function per check, named on the command line."""

import datetime
import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core = client.CoreV1Api()
custom = client.CustomObjectsApi()
extensions = client.ApiextensionsV1Api()

GROUP = "py.example.com"


def configmap(name, data, labels=None):
    metadata = client.V1ObjectMeta(name=name, labels=labels)
    return client.V1ConfigMap(api_version="v1", kind="ConfigMap", metadata=metadata, data=data)


def objects():
    """Create, list in pages, patch, replace with a stale version, delete."""
    for i in range(5):
        core.create_namespaced_config_map("default", configmap(f"c{i}", {"n": str(i)}, {"of": "py"}))
    page = core.list_namespaced_config_map("default", label_selector="of=py", limit=2)
    names = [c.metadata.name for c in page.items]
    while page.metadata._continue:
        page = core.list_namespaced_config_map("default", label_selector="of=py", limit=2, _continue=page.metadata._continue)
        names += [c.metadata.name for c in page.items]
    assert names == [f"c{i}" for i in range(5)], names
    patched = core.patch_namespaced_config_map("c0", "default", {"data": {"n": None, "m": "1"}})
    assert patched.data == {"m": "1"}, patched.data
    stale = core.read_namespaced_config_map("c1", "default")
    core.patch_namespaced_config_map("c1", "default", {"data": {"x": "y"}})
    try:
        core.replace_namespaced_config_map("c1", "default", stale)
        raise AssertionError("a stale version was taken")
    except ApiException as e:
        assert e.status == 409, e
    core.delete_collection_namespaced_config_map("default", label_selector="of=py")
    assert not core.list_namespaced_config_map("default", label_selector="of=py").items


def watches():
    """A watch sees every change after the list it began from, in order."""
    begin = core.list_namespaced_config_map("default").metadata.resource_version
    core.create_namespaced_config_map("default", configmap("w", {"n": "0"}))
    core.patch_namespaced_config_map("w", "default", {"data": {"n": "1"}})
    core.delete_namespaced_config_map("w", "default")
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version=begin, timeout_seconds=20):
        if event["object"].metadata.name == "w":
            seen.append(event["type"])
        if event["type"] == "DELETED":
            break
    assert seen == ["ADDED", "MODIFIED", "DELETED"], seen


def definition():
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "minimum": 1, "default": 3}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"gadgets.{GROUP}"},
            "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]}}


def custom_resources():
    """Define, discover, create, apply from the server's side, be refused, remove."""
    extensions.create_custom_resource_definition(definition())
    conditions = extensions.read_custom_resource_definition(f"gadgets.{GROUP}").status.conditions
    assert any(c.type == "Established" and c.status == "True" for c in conditions), conditions
    body = {"apiVersion": f"{GROUP}/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {}}
    made = custom.create_namespaced_custom_object(GROUP, "v1", "default", "gadgets", body)
    assert made["spec"] == {"size": 3}, made
    gadgets = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=f"{GROUP}/v1", kind="Gadget")
    body["spec"] = {"size": 5}
    applied = gadgets.server_side_apply(body=body, namespace="default", field_manager="py", force_conflicts=True) \
        if hasattr(gadgets, "server_side_apply") \
        else gadgets.patch(body=body, namespace="default", content_type="application/merge-patch+json")
    assert applied.spec.size == 5, applied
    try:
        custom.patch_namespaced_custom_object(GROUP, "v1", "default", "gadgets", "g", {"spec": {"size": 0}})
        raise AssertionError("a size of 0 was taken")
    except ApiException as e:
        assert e.status == 422, e
    extensions.delete_custom_resource_definition(f"gadgets.{GROUP}")


def leaders():
    """Of several candidates that race for a lease, one at a time has it, and every loser learns why."""
    leases = client.CoordinationV1Api()
    won, lost = [], []

    def now():
        return datetime.datetime.now(datetime.timezone.utc)

    def candidate(name):
        spec = client.V1LeaseSpec(holder_identity=name, lease_duration_seconds=15, acquire_time=now(), renew_time=now())
        try:
            leases.create_namespaced_lease("default", client.V1Lease(metadata=client.V1ObjectMeta(name="py"), spec=spec))
            won.append(name)
        except ApiException as e:
            assert e.status == 409, e
            lost.append(name)

    threads = [threading.Thread(target=candidate, args=(f"c{i}",)) for i in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1 and len(lost) == 4, (won, lost)
    held = leases.read_namespaced_lease("py", "default")
    assert held.spec.holder_identity == won[0]
    other = leases.read_namespaced_lease("py", "default")
    held.spec.renew_time = now()
    leases.replace_namespaced_lease("py", "default", held)
    other.spec.holder_identity = "usurper"
    try:
        leases.replace_namespaced_lease("py", "default", other)
        raise AssertionError("the lease was taken over with an old version")
    except ApiException as e:
        assert e.status == 409, e


{"objects": objects, "watches": watches, "custom_resources": custom_resources, "leaders": leaders}[sys.argv[1]]()

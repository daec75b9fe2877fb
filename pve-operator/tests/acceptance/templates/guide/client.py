"""The guide's three scenarios, by the client that openapi-python-client makes of openapi.json.

    client.py URL TOKEN FOLDER

FOLDER has the images. Whatever is not as the guide says ends it with a traceback.
"""

import sys
import time
from pathlib import Path

from pve_api_client import AuthenticatedClient
from pve_api_client.api.templates import (
    list_sync_tasks,
    list_template_instances,
    retry_sync_task,
    show_sync_task,
    show_template,
    sync_template,
    upload_template,
)
from pve_api_client.models import (
    Error,
    ListSyncTasksStatus,
    ShowTemplateIncludeInstances,
    Targets,
    UploadTemplateBody,
)
from pve_api_client.types import UNSET, File

PATIENCE = 120

url, token, folder = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True)


def upload(name, storage, file, nodes=UNSET):
    with (Path(folder) / file).open("rb") as image:
        body = UploadTemplateBody(
            template_name=name,
            cluster_id=1,
            storage_id=storage,
            description=f"{name}, by a client",
            sync_node_ids=nodes,
            file=File(payload=image, file_name=file),
        )
        answer = upload_template.sync(client=client, body=body)
    assert not isinstance(answer, Error), answer
    return answer.data


def until(what, look):
    end = time.monotonic() + PATIENCE
    while True:
        seen, done = look()
        if done:
            return seen
        assert time.monotonic() < end, f"not in time: {what}: {seen}"
        time.sleep(0.2)


def all_available(template, count):
    def look():
        seen = list_template_instances.sync(template, client=client).data
        return seen, [it.status for it in seen.instances] == ["available"] * count

    return until(f"{count} instances of template {template}", look)


def all_completed(template, count):
    def look():
        seen = list_sync_tasks.sync(client=client, template_id=template, page_size=100).data
        return seen, [it.status for it in seen.list_] == ["completed"] * count

    return until(f"{count} tasks of template {template}", look)


# 1: one upload to shared storage, every node has it.
shared = upload("ubuntu-22.04", 15, "ubuntu-22.04-cloud.qcow2")
assert shared.is_shared and shared.sync_tasks == [], shared
instances = all_available(shared.template_id, 5).instances
assert len({it.vmid for it in instances}) == 1, "one guest for all nodes"
detail = show_template.sync(
    shared.template_id, client=client, include_instances=ShowTemplateIncludeInstances.TRUE
).data
assert detail.upload_info.status == "imported" and len(detail.instances) == 5, detail

# 2: local storage, on one node, then on two more.
local = upload("debian-12", 25, "debian-12.qcow2")
assert not local.is_shared and local.import_node.node_name == "pve-node1", local
all_available(local.template_id, 1)
synced = sync_template.sync(local.template_id, client=client, body=Targets(target_node_ids=[2, 3]))
tasks = [it.task_id for it in synced.data.sync_tasks]
assert len(tasks) == 2, synced
all_completed(local.template_id, 2)
task = show_sync_task.sync(tasks[0], client=client).data
assert task.progress == 100 and task.error_message is None, task
refused = retry_sync_task.sync(tasks[0], client=client)
assert isinstance(refused, Error) and refused.code == 409, refused

# 3: many templates, all nodes at once.
many = [
    upload(name, 25, f"{name}.qcow2", "2,3,4,5") for name in ("centos7", "ubuntu2204", "debian12")
]
for one in many:
    assert [it.target_node_id for it in one.sync_tasks] == [2, 3, 4, 5], one
for one in many:
    all_completed(one.template_id, 4)
    all_available(one.template_id, 5)
under_way = list_sync_tasks.sync(client=client, status=ListSyncTasksStatus.SYNCING).data
assert under_way.total == 0, under_way

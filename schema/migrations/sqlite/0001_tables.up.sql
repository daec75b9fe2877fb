-- Times are UTC as ISO text with milliseconds; flags are 0 or 1.

-- PVE clusters to mirror. People and the API write it; the operator only seals `user_token`.
CREATE TABLE pve_cluster (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    cluster_name VARCHAR(255) NOT NULL,
    cluster_name_alias VARCHAR(255) NULL,
    env VARCHAR(64) NULL,
    datacenter VARCHAR(255) NULL,
    api_url VARCHAR(1024) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    user_token TEXT NOT NULL,
    dns VARCHAR(255) NULL,
    describes TEXT NULL,
    region VARCHAR(255) NULL,
    is_schedulable SMALLINT NOT NULL DEFAULT 1,
    is_enabled SMALLINT NOT NULL DEFAULT 1,
    tls_fingerprint TEXT NULL,
    tls_ca TEXT NULL,
    tls_insecure SMALLINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    CONSTRAINT pve_cluster_cluster_key UNIQUE (cluster_name)
);

-- What the operator knows of its connection to a cluster: what is wrong and what to do.
CREATE TABLE pve_cluster_status (
    cluster_id BIGINT NOT NULL PRIMARY KEY,
    is_ready SMALLINT NOT NULL DEFAULT 0,
    reason VARCHAR(64) NOT NULL,
    message TEXT NULL,
    reason_since TIMESTAMP NULL,
    pve_version VARCHAR(64) NULL,
    quorate SMALLINT NULL,
    node_count INTEGER NOT NULL DEFAULT 0,
    online_node_count INTEGER NOT NULL DEFAULT 0,
    guest_count INTEGER NOT NULL DEFAULT 0,
    storage_count INTEGER NOT NULL DEFAULT 0,
    last_success TIMESTAMP NULL,
    last_error TEXT NULL,
    last_error_at TIMESTAMP NULL,
    missing_privileges TEXT NULL,
    learned_addresses TEXT NULL,
    learned_ca TEXT NULL,
    learned_fingerprints TEXT NULL,
    presented_fingerprint VARCHAR(255) NULL,
    suspicious_since TIMESTAMP NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);

-- Nodes. A node that left its cluster keeps its row with status `removed`.
CREATE TABLE pve_node (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    node_name VARCHAR(255) NOT NULL,
    ip_address VARCHAR(255) NULL,
    cluster_id BIGINT NOT NULL,
    is_schedulable SMALLINT NOT NULL DEFAULT 1,
    env VARCHAR(64) NULL,
    status VARCHAR(32) NOT NULL,
    pve_version VARCHAR(64) NULL,
    cpu_num INTEGER NULL,
    memory_size BIGINT NULL,
    annotations TEXT NULL,
    vm_limit INTEGER NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    resource_hash VARCHAR(64) NOT NULL,
    last_sync_time TIMESTAMP NULL,
    last_seen TIMESTAMP NULL,
    revision BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT pve_node_cluster_node_key UNIQUE (cluster_id, node_name)
);
CREATE INDEX pve_node_revision ON pve_node (revision);

-- Guests, QEMU and LXC. `node_name` is what PVE says; `node_id` and `node_ip` follow from `pve_node`.
CREATE TABLE pve_vm (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    vm_name VARCHAR(255) NULL,
    node_id BIGINT NULL,
    node_name VARCHAR(255) NOT NULL,
    vmid BIGINT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    cpu_num INTEGER NULL,
    memory_size BIGINT NULL,
    storages TEXT NULL,
    storage_cfg TEXT NULL,
    details_at TIMESTAMP NULL,
    appid VARCHAR(255) NULL,
    cluster_id BIGINT NOT NULL,
    status VARCHAR(32) NOT NULL,
    is_template SMALLINT NOT NULL DEFAULT 0,
    template_id BIGINT NULL,
    vm_user VARCHAR(255) NULL,
    vm_password TEXT NULL,
    node_ip VARCHAR(255) NULL,
    descriptions TEXT NULL,
    "lock" VARCHAR(64) NULL,
    tags TEXT NULL,
    pool VARCHAR(255) NULL,
    ha_state VARCHAR(64) NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    resource_hash VARCHAR(64) NOT NULL,
    last_sync_time TIMESTAMP NULL,
    last_seen TIMESTAMP NULL,
    revision BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT pve_vm_cluster_vmid_key UNIQUE (cluster_id, vmid)
);
CREATE INDEX pve_vm_revision ON pve_vm (revision);
CREATE INDEX pve_vm_node_id ON pve_vm (node_id);

-- Storages as each node sees them: one row per node and storage.
CREATE TABLE pve_storage (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    node_name VARCHAR(255) NOT NULL,
    cluster_id BIGINT NOT NULL,
    active SMALLINT NOT NULL DEFAULT 0,
    "type" VARCHAR(64) NOT NULL,
    avail BIGINT NULL,
    storage_name VARCHAR(255) NOT NULL,
    content TEXT NULL,
    used BIGINT NULL,
    total BIGINT NULL,
    enabled SMALLINT NOT NULL DEFAULT 1,
    used_fraction DOUBLE NULL,
    shared SMALLINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    resource_hash VARCHAR(64) NOT NULL,
    last_sync_time TIMESTAMP NULL,
    last_seen TIMESTAMP NULL,
    revision BIGINT NOT NULL DEFAULT 0,
    CONSTRAINT pve_storage_cluster_node_storage_key UNIQUE (cluster_id, node_name, storage_name)
);
CREATE INDEX pve_storage_revision ON pve_storage (revision);

-- Addresses of guests; `stale` when the guest stopped telling.
CREATE TABLE vm_ipaddress (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    ip_address VARCHAR(64) NOT NULL,
    network_id VARCHAR(255) NULL,
    nic_name VARCHAR(255) NOT NULL DEFAULT '',
    vm_id BIGINT NOT NULL,
    mac_address VARCHAR(64) NULL,
    cluster_id BIGINT NOT NULL,
    stale SMALLINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    CONSTRAINT vm_ipaddress_vm_nic_ip_address_key UNIQUE (vm_id, nic_name, ip_address)
);
CREATE INDEX vm_ipaddress_cluster_id ON vm_ipaddress (cluster_id);

-- Templates by name. `deleted_id` is 0 while live and the row's own id afterwards, so a name is free again.
CREATE TABLE vm_template (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    template_name VARCHAR(255) NOT NULL,
    cluster_id BIGINT NOT NULL,
    description TEXT NULL,
    status VARCHAR(32) NOT NULL DEFAULT 'active',
    blocked_reason TEXT NULL,
    generation BIGINT NOT NULL DEFAULT 1,
    observed_generation BIGINT NOT NULL DEFAULT 0,
    revision BIGINT NOT NULL DEFAULT 0,
    deleted_id BIGINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    CONSTRAINT vm_template_cluster_template_deleted_key UNIQUE (cluster_id, template_name, deleted_id)
);
CREATE INDEX vm_template_revision ON vm_template (revision);

-- One image that came in: a version of a template.
CREATE TABLE template_upload (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    template_id BIGINT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    cluster_id BIGINT NOT NULL,
    storage_id BIGINT NOT NULL,
    storage_name VARCHAR(255) NOT NULL,
    storage_type VARCHAR(64) NULL,
    is_shared SMALLINT NOT NULL DEFAULT 0,
    upload_node_id BIGINT NULL,
    upload_node_name VARCHAR(255) NULL,
    file_name VARCHAR(255) NOT NULL,
    file_path TEXT NULL,
    file_size BIGINT NOT NULL DEFAULT 0,
    file_format VARCHAR(32) NULL,
    sha256 VARCHAR(64) NULL,
    sha512 VARCHAR(128) NULL,
    os_type VARCHAR(32) NULL,
    cores INTEGER NULL,
    memory_mb INTEGER NULL,
    bridge VARCHAR(64) NULL,
    status VARCHAR(32) NOT NULL DEFAULT 'uploading',
    import_progress INTEGER NOT NULL DEFAULT 0,
    error_message TEXT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    generation BIGINT NOT NULL DEFAULT 1,
    observed_generation BIGINT NOT NULL DEFAULT 0,
    revision BIGINT NOT NULL DEFAULT 0,
    deleted_id BIGINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    CONSTRAINT template_upload_template_version_deleted_key UNIQUE (template_id, version, deleted_id)
);
CREATE INDEX template_upload_cluster_id ON template_upload (cluster_id);
CREATE INDEX template_upload_revision ON template_upload (revision);

-- A template as a guest on one node.
CREATE TABLE template_instance (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    template_id BIGINT NOT NULL,
    upload_id BIGINT NOT NULL,
    cluster_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    node_name VARCHAR(255) NOT NULL,
    storage_id BIGINT NULL,
    storage_name VARCHAR(255) NOT NULL,
    is_shared SMALLINT NOT NULL DEFAULT 0,
    vmid BIGINT NOT NULL DEFAULT 0,
    volume_id VARCHAR(255) NULL,
    status VARCHAR(32) NOT NULL DEFAULT 'pending',
    sync_task_id BIGINT NULL,
    is_primary SMALLINT NOT NULL DEFAULT 0,
    error_message TEXT NULL,
    blocked_reason TEXT NULL,
    generation BIGINT NOT NULL DEFAULT 1,
    observed_generation BIGINT NOT NULL DEFAULT 0,
    revision BIGINT NOT NULL DEFAULT 0,
    deleted_id BIGINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    modifier VARCHAR(255) NULL,
    CONSTRAINT template_instance_upload_node_storage_deleted_key UNIQUE (upload_id, node_id, storage_name, deleted_id)
);
CREATE INDEX template_instance_template_id ON template_instance (template_id);
CREATE INDEX template_instance_cluster_id ON template_instance (cluster_id);
CREATE INDEX template_instance_revision ON template_instance (revision);

-- Bringing one template to one node.
CREATE TABLE template_sync_task (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    template_id BIGINT NOT NULL,
    upload_id BIGINT NOT NULL,
    cluster_id BIGINT NOT NULL,
    source_node_id BIGINT NULL,
    source_node_name VARCHAR(255) NULL,
    target_node_id BIGINT NOT NULL,
    target_node_name VARCHAR(255) NOT NULL,
    storage_name VARCHAR(255) NOT NULL,
    file_path TEXT NULL,
    file_size BIGINT NOT NULL DEFAULT 0,
    status VARCHAR(32) NOT NULL DEFAULT 'pending',
    progress INTEGER NOT NULL DEFAULT 0,
    step VARCHAR(64) NULL,
    bytes_done BIGINT NOT NULL DEFAULT 0,
    bytes_total BIGINT NULL,
    sync_start_time TIMESTAMP NULL,
    sync_end_time TIMESTAMP NULL,
    error_message TEXT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    generation BIGINT NOT NULL DEFAULT 1,
    observed_generation BIGINT NOT NULL DEFAULT 0,
    revision BIGINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL
);
CREATE INDEX template_sync_task_template_id ON template_sync_task (template_id);
CREATE INDEX template_sync_task_cluster_id ON template_sync_task (cluster_id);
CREATE INDEX template_sync_task_revision ON template_sync_task (revision);

-- VMIDs that we are about to use, so that no two of our guests want the same.
CREATE TABLE vmid_reservation (
    cluster_id BIGINT NOT NULL,
    vmid BIGINT NOT NULL,
    holder VARCHAR(255) NOT NULL,
    instance_id BIGINT NULL,
    expires_at TIMESTAMP NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    PRIMARY KEY (cluster_id, vmid)
);

-- Who works on a cluster, until when by the database's clock. `epoch` rises with each holder.
CREATE TABLE cluster_lease (
    cluster_id BIGINT NOT NULL PRIMARY KEY,
    holder VARCHAR(255) NOT NULL,
    epoch BIGINT NOT NULL DEFAULT 0,
    expires_at TIMESTAMP NOT NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);

-- Tokens of the HTTP API, as SHA-256 only.
CREATE TABLE api_token (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    name VARCHAR(255) NOT NULL,
    token_sha256 VARCHAR(64) NOT NULL,
    scope VARCHAR(16) NOT NULL,
    expires_at TIMESTAMP NULL,
    last_used_at TIMESTAMP NULL,
    revoked_at TIMESTAMP NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL,
    CONSTRAINT api_token_name_key UNIQUE (name),
    CONSTRAINT api_token_token_sha256_key UNIQUE (token_sha256)
);

-- Who changed what. Names, not ids, so that it outlives what it tells of.
CREATE TABLE audit_event (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    actor VARCHAR(255) NOT NULL,
    action VARCHAR(64) NOT NULL,
    object_kind VARCHAR(64) NOT NULL,
    object_name VARCHAR(255) NULL,
    cluster_name VARCHAR(255) NULL,
    remote_address VARCHAR(64) NULL,
    request_id VARCHAR(64) NULL,
    result VARCHAR(32) NOT NULL,
    detail TEXT NULL
);
CREATE INDEX audit_event_gmt_create ON audit_event (gmt_create);

-- One counter per table, raised in the transaction that changes its rows.
-- Deletes up to `pruned` are no longer told by tombstones: who has read less must list again.
CREATE TABLE table_revision (
    table_name VARCHAR(64) NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL DEFAULT 0,
    pruned BIGINT NOT NULL DEFAULT 0
);

-- A row that is gone, for those who follow a table by revision.
CREATE TABLE tombstone (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    table_name VARCHAR(64) NOT NULL,
    cluster_id BIGINT NOT NULL,
    row_id BIGINT NOT NULL,
    row_key VARCHAR(600) NOT NULL,
    revision BIGINT NOT NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);
CREATE INDEX tombstone_table_name_revision ON tombstone (table_name, revision);
CREATE INDEX tombstone_cluster_id ON tombstone (cluster_id);

INSERT INTO table_revision (table_name) VALUES
    ('pve_node'),
    ('pve_vm'),
    ('pve_storage'),
    ('vm_template'),
    ('template_upload'),
    ('template_instance'),
    ('template_sync_task');

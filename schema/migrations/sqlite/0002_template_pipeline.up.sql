-- The template pipeline: what is wanted of a template, how far each instance has come, what was left
-- behind, and what one installation knows of itself.

-- `desired` is the API's (present, forgotten, absent), `status` the operator's.
ALTER TABLE vm_template ADD COLUMN desired VARCHAR(16) NOT NULL DEFAULT 'present';

-- What the image is, as it was found when it came in.
ALTER TABLE template_upload ADD COLUMN virtual_size BIGINT NULL;
ALTER TABLE template_upload ADD COLUMN ova_disk VARCHAR(255) NULL;

-- `desired` is the API's (available, cancelled, absent). All else is the operator's: what it is doing
-- (`step`, `progress`), what it asked PVE for (`asked`, `upid`), what it put where (`staged_file`).
ALTER TABLE template_instance ADD COLUMN desired VARCHAR(16) NOT NULL DEFAULT 'available';
ALTER TABLE template_instance ADD COLUMN attempt INTEGER NOT NULL DEFAULT 0;
ALTER TABLE template_instance ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE template_instance ADD COLUMN step VARCHAR(32) NULL;
ALTER TABLE template_instance ADD COLUMN progress INTEGER NOT NULL DEFAULT 0;
ALTER TABLE template_instance ADD COLUMN bytes_done BIGINT NOT NULL DEFAULT 0;
ALTER TABLE template_instance ADD COLUMN bytes_total BIGINT NULL;
ALTER TABLE template_instance ADD COLUMN staging_storage VARCHAR(255) NULL;
ALTER TABLE template_instance ADD COLUMN staged_file VARCHAR(255) NULL;
ALTER TABLE template_instance ADD COLUMN upid VARCHAR(600) NULL;
ALTER TABLE template_instance ADD COLUMN asked VARCHAR(32) NULL;
ALTER TABLE template_instance ADD COLUMN asked_at TIMESTAMP NULL;
ALTER TABLE template_instance ADD COLUMN started_at TIMESTAMP NULL;
ALTER TABLE template_instance ADD COLUMN ended_at TIMESTAMP NULL;

-- Privileges that the pipeline lacks here, one a line; NULL until somebody looked.
ALTER TABLE pve_cluster_status ADD COLUMN missing_template_privileges TEXT NULL;

-- Guests that are to be made from a template. `desired` is the API's, the rest the operator's.
CREATE TABLE template_clone (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    template_id BIGINT NOT NULL,
    upload_id BIGINT NOT NULL,
    cluster_id BIGINT NOT NULL,
    node_id BIGINT NOT NULL,
    node_name VARCHAR(255) NOT NULL,
    guest_name VARCHAR(255) NOT NULL,
    is_full SMALLINT NOT NULL DEFAULT 0,
    storage_name VARCHAR(255) NULL,
    cores INTEGER NULL,
    memory_mb INTEGER NULL,
    is_started SMALLINT NOT NULL DEFAULT 0,
    vmid BIGINT NOT NULL DEFAULT 0,
    source_vmid BIGINT NOT NULL DEFAULT 0,
    status VARCHAR(32) NOT NULL DEFAULT 'pending',
    step VARCHAR(32) NULL,
    upid VARCHAR(600) NULL,
    asked_at TIMESTAMP NULL,
    error_message TEXT NULL,
    revision BIGINT NOT NULL DEFAULT 0,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    creator VARCHAR(255) NULL
);
CREATE INDEX template_clone_template_id ON template_clone (template_id);
CREATE INDEX template_clone_cluster_id ON template_clone (cluster_id);
CREATE INDEX template_clone_revision ON template_clone (revision);

-- What an attempt left on a node and could not remove yet: a guest that carries our marker, or a file.
CREATE TABLE template_leftover (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    cluster_id BIGINT NOT NULL,
    instance_id BIGINT NOT NULL,
    node_name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    vmid BIGINT NOT NULL DEFAULT 0,
    volume_id VARCHAR(255) NOT NULL DEFAULT '',
    reason TEXT NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    gmt_modified TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    CONSTRAINT template_leftover_key UNIQUE (cluster_id, instance_id, node_name, kind, vmid, volume_id)
);

-- What this installation knows of itself: its id, which marks its guests, and the key that signs image URLs.
CREATE TABLE installation (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

INSERT INTO table_revision (table_name) VALUES ('template_clone');

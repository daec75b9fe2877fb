-- Uploads whose bytes come in several goes. `received_bytes` is what is safely in the image store;
-- `epoch`, `holder` and `held_until` say who may add to it, one at a time.
CREATE TABLE resumable_upload (
    id VARCHAR(32) NOT NULL PRIMARY KEY,
    cluster_id BIGINT NOT NULL,
    metadata MEDIUMTEXT NOT NULL,
    total_bytes BIGINT NOT NULL,
    received_bytes BIGINT NOT NULL DEFAULT 0,
    status VARCHAR(16) NOT NULL DEFAULT 'receiving',
    epoch BIGINT NOT NULL DEFAULT 0,
    holder VARCHAR(64) NULL,
    held_until DATETIME(3) NULL,
    expires_at DATETIME(3) NOT NULL,
    result MEDIUMTEXT NULL,
    error_code INTEGER NULL,
    error_reason VARCHAR(64) NULL,
    error_message MEDIUMTEXT NULL,
    gmt_create DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    gmt_modified DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),
    creator VARCHAR(255) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX resumable_upload_cluster_id ON resumable_upload (cluster_id);

-- What was answered to a POST that named an Idempotency-Key, so that a repeat gets the same. `holder` is
-- who works on it, `lease_until` for how long that is believed; `effects` counts what was committed by then.
-- `status` is NULL until there is an answer, `body` where the answer is not kept.
CREATE TABLE idempotency_key (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    actor VARCHAR(255) NOT NULL,
    request_key VARCHAR(255) NOT NULL,
    request_sha256 VARCHAR(64) NOT NULL,
    holder VARCHAR(32) NOT NULL,
    lease_until DATETIME(3) NOT NULL,
    effects BIGINT NOT NULL DEFAULT 0,
    status INTEGER NULL,
    headers TEXT NULL,
    body MEDIUMTEXT NULL,
    gmt_create DATETIME(3) NOT NULL,
    CONSTRAINT idempotency_key_actor_request_key_key UNIQUE (actor, request_key)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE INDEX idempotency_key_gmt_create ON idempotency_key (gmt_create);

-- Operators that are alive, so that they share the clusters: until when, by the database's clock.
CREATE TABLE operator_replica (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    expires_at DATETIME(3) NOT NULL,
    gmt_create DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3))
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

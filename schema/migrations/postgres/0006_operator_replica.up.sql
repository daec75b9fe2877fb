-- Operators that are alive, so that they share the clusters: until when, by the database's clock.
CREATE TABLE operator_replica (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    expires_at TIMESTAMP(3) NOT NULL,
    gmt_create TIMESTAMP(3) NOT NULL DEFAULT (now() AT TIME ZONE 'utc')
);

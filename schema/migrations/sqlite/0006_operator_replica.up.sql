-- Operators that are alive, so that they share the clusters: until when, by the database's clock.
CREATE TABLE operator_replica (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    expires_at TIMESTAMP NOT NULL,
    gmt_create TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);

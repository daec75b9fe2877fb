DROP TABLE IF EXISTS operator_replica;

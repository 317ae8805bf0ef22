-- 1: what people see and do in a cluster is what the cluster lets them.
ALTER TABLE clusters ADD COLUMN impersonate BIGINT NOT NULL DEFAULT 0;

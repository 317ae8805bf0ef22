-- Read by SQLite and by PostgreSQL: only types and words that both have. Times are milliseconds since 1970 (UTC).

CREATE TABLE clusters (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    connection TEXT NOT NULL CHECK (connection IN ('kubeconfig', 'in_cluster')),
    -- Sealed: base64 of what store/seal.rs makes.
    kubeconfig TEXT,
    context TEXT,
    server TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    CHECK ((connection = 'kubeconfig') = (kubeconfig IS NOT NULL))
);

CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- What was done stays when the cluster goes: no foreign key, and the cluster's name beside its id.
CREATE TABLE activities (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    actor_email TEXT NOT NULL,
    action TEXT NOT NULL,
    cluster TEXT,
    cluster_name TEXT,
    kind TEXT,
    namespace TEXT,
    name TEXT,
    outcome TEXT NOT NULL CHECK (outcome IN ('begun', 'succeeded', 'failed')),
    message TEXT NOT NULL,
    request_id TEXT NOT NULL,
    -- What a text is looked for in: lower case, so that both databases find the same.
    haystack TEXT NOT NULL
);

CREATE INDEX activities_by_time ON activities (at, id);
CREATE INDEX activities_by_actor ON activities (actor, at);
CREATE INDEX activities_by_cluster ON activities (cluster, at);

//! The schema and its migrations: one list for both databases.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// All migrations, oldest first. A published migration is never edited: a change is a new one.
pub(super) fn all() -> Migrator {
    let steps = [
        (1, "clusters, settings, activities", include_str!("migrations/0001_first.sql")),
        (2, "clusters that decide by person", include_str!("migrations/0002_impersonate.sql")),
        (3, "clusters that are looked at in part", include_str!("migrations/0003_namespaces.sql")),
    ];
    let steps = steps.map(|(version, what, sql)| {
        Migration::new(version, what.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.into())
}

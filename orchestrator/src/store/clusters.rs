//! The registered clusters, their kubeconfigs sealed.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;

use super::{Store, StoreError, within};
use crate::clock;
use crate::secret::Secret;

/// How many clusters there may be.
pub const CLUSTERS_MOST: i64 = 1000;

/// The row of `settings` that stays when the cluster that the program runs in was removed while it decided by person.
const IN_CLUSTER_IMPERSONATES: &str = "in_cluster_impersonates";

/// A cluster as it was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// 128 random bits in hex.
    pub id: String,
    /// The display name; unique.
    pub name: String,
    /// How it is reached.
    pub connection: Connection,
    /// The context of the kubeconfig, where one was chosen.
    pub context: Option<String>,
    /// The address of its API.
    pub server: String,
    /// When it was registered.
    pub created_at: OffsetDateTime,
    /// Who registered it.
    pub created_by: String,
    /// Whether requests to it impersonate the user.
    pub impersonate: bool,
    /// The only namespaces that are watched; empty means all.
    pub namespaces: Vec<String>,
}

/// How a cluster is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// By a kubeconfig, which is stored sealed.
    Kubeconfig,
    /// By the service account of the pod that this program runs in.
    InCluster,
}

impl Connection {
    /// The word for it, in the database and in responses.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kubeconfig => "kubeconfig",
            Self::InCluster => "in_cluster",
        }
    }
}

impl Store {
    /// All clusters, by name.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn clusters(&self) -> Result<Vec<Cluster>, StoreError> {
        let all = sqlx::query_as(
            "SELECT id, name, connection, context, server, created_at, created_by, impersonate, \
             namespaces FROM clusters ORDER BY name, id",
        );
        within(all.fetch_all(&self.0.reading)).await
    }

    /// One cluster.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or if the database does not respond.
    pub async fn cluster(&self, id: &str) -> Result<Cluster, StoreError> {
        let one = sqlx::query_as(
            "SELECT id, name, connection, context, server, created_at, created_by, impersonate, \
             namespaces FROM clusters WHERE id = $1",
        );
        within(one.bind(id).fetch_optional(&self.0.reading)).await?.ok_or(StoreError::NotFound)
    }

    /// Registers a cluster; seals its kubeconfig first, if it has one. Returns it as it is stored: the cluster that the program runs
    /// in decides by person if it did so before it was removed.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::TooManyClusters`], [`StoreError::InClusterTaken`], or if the database does not
    /// respond.
    pub async fn add_cluster(&self, cluster: &Cluster, kubeconfig: Option<&Secret>) -> Result<Cluster, StoreError> {
        let mut cluster = cluster.clone();
        // Its registration takes no credentials. Without these two checks anyone could have a second one, or a later one, that does
        // not decide by person. Callers take turns, and one program uses a database.
        if cluster.connection == Connection::InCluster {
            let mut registered = self.clusters().await?.into_iter();
            if let Some(other) = registered.find(|other| other.connection == Connection::InCluster) {
                return Err(StoreError::InClusterTaken(other.name));
            }
            let select = sqlx::query_scalar("SELECT value FROM settings WHERE name = $1").bind(IN_CLUSTER_IMPERSONATES);
            let before: Option<String> = within(select.fetch_optional(&self.0.reading)).await?;
            cluster.impersonate |= before.is_some();
        }
        let sealed = kubeconfig.map(|text| self.0.sealer.seal(&cluster.id, text)).transpose()?;
        let insert = sqlx::query(
            "INSERT INTO clusters (id, name, connection, kubeconfig, context, server, created_at, created_by, \
             impersonate, namespaces) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 WHERE (SELECT COUNT(*) FROM clusters) \
             < $11",
        )
        .bind(&cluster.id)
        .bind(&cluster.name)
        .bind(cluster.connection.word())
        .bind(sealed)
        .bind(cluster.context.as_deref())
        .bind(&cluster.server)
        .bind(clock::millis(cluster.created_at))
        .bind(&cluster.created_by)
        .bind(i64::from(cluster.impersonate))
        .bind(cluster.namespaces.join(","))
        .bind(CLUSTERS_MOST);
        let done = within(insert.execute(&self.0.writing)).await.map_err(name_taken)?;
        if done.rows_affected() == 0 { Err(StoreError::TooManyClusters) } else { Ok(cluster) }
    }

    /// Renames a cluster.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`], [`StoreError::NotFound`], or if the database does not respond.
    pub async fn rename_cluster(&self, id: &str, name: &str) -> Result<(), StoreError> {
        let update = sqlx::query("UPDATE clusters SET name = $1 WHERE id = $2").bind(name).bind(id);
        let done = within(update.execute(&self.0.writing)).await.map_err(name_taken)?;
        found(done.rows_affected())
    }

    /// Turns impersonation on for a cluster.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or if the database does not respond.
    pub async fn impersonate(&self, id: &str) -> Result<(), StoreError> {
        let update = sqlx::query("UPDATE clusters SET impersonate = 1 WHERE id = $1").bind(id);
        found(within(update.execute(&self.0.writing)).await?.rows_affected())
    }

    /// Limits a cluster to these namespaces; empty means all.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or if the database does not respond.
    pub async fn narrow(&self, id: &str, namespaces: &[String]) -> Result<(), StoreError> {
        let update =
            sqlx::query("UPDATE clusters SET namespaces = $1 WHERE id = $2").bind(namespaces.join(",")).bind(id);
        found(within(update.execute(&self.0.writing)).await?.rows_affected())
    }

    /// Replaces a cluster's kubeconfig with another, sealed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no cluster with a kubeconfig, or if the database does not respond.
    pub async fn replace_kubeconfig(
        &self,
        id: &str,
        kubeconfig: &Secret,
        context: Option<&str>,
        server: &str,
    ) -> Result<(), StoreError> {
        let sealed = self.0.sealer.seal(id, kubeconfig)?;
        let update = sqlx::query(
            "UPDATE clusters SET kubeconfig = $1, context = $2, server = $3 WHERE id = $4 AND kubeconfig IS NOT NULL",
        );
        let update = update.bind(sealed).bind(context).bind(server).bind(id);
        found(within(update.execute(&self.0.writing)).await?.rows_affected())
    }

    /// Removes a cluster and its kubeconfig. Remembers of the cluster that the program runs in whether it decided by person.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or if the database does not respond.
    pub async fn remove_cluster(&self, id: &str) -> Result<(), StoreError> {
        // First: if the removal then fails, nothing is lost.
        let remember = sqlx::query(
            "INSERT INTO settings (name, value) SELECT $1, 'true' FROM clusters WHERE id = $2 AND connection = 'in_cluster' \
             AND impersonate = 1 ON CONFLICT (name) DO NOTHING",
        );
        within(remember.bind(IN_CLUSTER_IMPERSONATES).bind(id).execute(&self.0.writing)).await?;
        let delete = sqlx::query("DELETE FROM clusters WHERE id = $1").bind(id);
        found(within(delete.execute(&self.0.writing)).await?.rows_affected())
    }

    /// Opens a cluster's kubeconfig. If an older key sealed it, seals it again with the first key.
    ///
    /// # Errors
    /// [`StoreError::Seal`] if no key opens it, [`StoreError::NotFound`] if there is none, or if the database does not respond.
    pub async fn kubeconfig(&self, id: &str) -> Result<Secret, StoreError> {
        let select = sqlx::query_scalar("SELECT kubeconfig FROM clusters WHERE id = $1 AND kubeconfig IS NOT NULL");
        let sealed: Option<String> = within(select.bind(id).fetch_optional(&self.0.reading)).await?;
        let sealed = sealed.ok_or(StoreError::NotFound)?;
        let opened = self.0.sealer.open(id, &sealed)?;
        if opened.by_older_key {
            let resealed = self.0.sealer.seal(id, &opened.text)?;
            let update = sqlx::query("UPDATE clusters SET kubeconfig = $1 WHERE id = $2 AND kubeconfig = $3");
            within(update.bind(resealed).bind(id).bind(sealed).execute(&self.0.writing)).await?;
            tracing::info!(cluster = id, "the kubeconfig was sealed again under the first ENCRYPTION_KEY");
        }
        Ok(opened.text)
    }
}

fn name_taken(error: StoreError) -> StoreError {
    if let StoreError::Database(sqlx::Error::Database(refusal)) = &error
        && refusal.is_unique_violation()
    {
        return StoreError::NameTaken;
    }
    error
}

fn names(text: &str) -> Vec<String> {
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn found(rows: u64) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

impl<'r> FromRow<'r, AnyRow> for Cluster {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let connection = match row.try_get("connection")? {
            "in_cluster" => Connection::InCluster,
            _ => Connection::Kubeconfig,
        };
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            connection,
            context: row.try_get("context")?,
            server: row.try_get("server")?,
            created_at: clock::from_millis(row.try_get("created_at")?),
            created_by: row.try_get("created_by")?,
            impersonate: row.try_get::<i64, _>("impersonate")? != 0,
            namespaces: names(row.try_get("namespaces")?),
        })
    }
}

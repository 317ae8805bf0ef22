//! The activity log: who did what, on which object, with which outcome.
//!
//! An action is recorded before it starts (`begun`), and again when it has ended; so no action goes unrecorded. Actions that
//! have begun and not ended are not shown.

use serde::{Serialize, Serializer};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{SealError, Store, StoreError, random, within};
use crate::clock;

const BEGUN: &str = "begun";
const COLUMNS: &str = "id, at, actor, actor_id, actor_email, action, cluster, cluster_name, kind, namespace, name, \
                       outcome, message, request_id";

/// An action that is about to be performed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewActivity {
    /// The user that the proxy named, or `anonymous`.
    pub actor: String,
    /// The provider's stable id of the actor; empty where there is none.
    pub actor_id: String,
    /// The actor's vouched email; empty where there is none.
    pub actor_email: String,
    /// The action: a word such as `suspend`.
    pub action: &'static str,
    /// The id of the cluster, and its name at the time.
    pub cluster: Option<String>,
    /// The name of the cluster.
    pub cluster_name: Option<String>,
    /// The object's kind.
    pub kind: Option<String>,
    /// The object's namespace.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// The request's id as the proxy gave it; empty where there is none.
    pub request_id: String,
}

/// What a user did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Activity {
    /// Sorts by time.
    pub id: String,
    /// When it began.
    #[serde(serialize_with = "clock::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// The user that the proxy named, or `anonymous`.
    pub actor: String,
    /// The provider's stable id of the actor; empty where there is none.
    pub actor_id: String,
    /// The actor's vouched email; empty where there is none.
    pub actor_email: String,
    /// What was done: a word such as `suspend`.
    pub action: String,
    /// The id of the cluster.
    pub cluster: Option<String>,
    /// The name of the cluster at that time.
    pub cluster_name: Option<String>,
    /// The object's kind.
    pub kind: Option<String>,
    /// The object's namespace.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, or what there is to say.
    pub message: String,
    /// The id of the request, to find it in the proxy's log; empty where there was none.
    pub request_id: String,
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Succeeded,
    /// It was not done, or nobody knows.
    Failed,
}

impl Outcome {
    /// The word for it, in the database and in responses.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

/// Which activities to select; unset fields match everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By this actor.
    pub actor: Option<String>,
    /// This action.
    pub action: Option<String>,
    /// On the cluster with this id.
    pub cluster: Option<String>,
    /// On objects of this kind.
    pub kind: Option<String>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// That contain this text; case does not count.
    pub text: Option<String>,
    /// At or after this time.
    pub since: Option<OffsetDateTime>,
    /// Before this time.
    pub until: Option<OffsetDateTime>,
    /// Older than this one: where the last page ended.
    pub after: Option<Mark>,
}

/// A position in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    at: i64,
    id: String,
}

impl Activity {
    /// Its position in the log.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { at: clock::millis(self.at), id: self.id.clone() }
    }
}

impl Store {
    /// Records that an action begins; returns its id, for [`Store::end_activity`].
    ///
    /// # Errors
    /// If the database does not respond: then the action must not be performed.
    pub async fn begin_activity(&self, new_activity: &NewActivity, now: OffsetDateTime) -> Result<String, StoreError> {
        let id = time_ordered_id(now)?;
        let insert = sqlx::query(
            "INSERT INTO activities (id, at, actor, actor_id, actor_email, action, cluster, cluster_name, kind, namespace, \
             name, outcome, message, request_id, haystack) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .bind(&id)
        .bind(clock::millis(now))
        .bind(&new_activity.actor)
        .bind(&new_activity.actor_id)
        .bind(&new_activity.actor_email)
        .bind(new_activity.action)
        .bind(new_activity.cluster.as_deref())
        .bind(new_activity.cluster_name.as_deref())
        .bind(new_activity.kind.as_deref())
        .bind(new_activity.namespace.as_deref())
        .bind(new_activity.name.as_deref())
        .bind(BEGUN)
        .bind("")
        .bind(&new_activity.request_id)
        .bind(haystack(new_activity));
        within(insert.execute(&self.0.writing)).await?;
        Ok(id)
    }

    /// Records how the action ended; returns the activity.
    ///
    /// # Errors
    /// If the database does not respond, or the action was not begun.
    pub async fn end_activity(&self, id: &str, outcome: Outcome, message: &str) -> Result<Activity, StoreError> {
        let update = sqlx::query(
            "UPDATE activities SET outcome = $1, message = $2, haystack = haystack || ' ' || $3 \
             WHERE id = $4 AND outcome = 'begun'",
        );
        let update = update.bind(outcome.word()).bind(message).bind(message.to_lowercase()).bind(id);
        within(update.execute(&self.0.writing)).await?;
        let select = AssertSqlSafe(format!("SELECT {COLUMNS} FROM activities WHERE id = $1 AND outcome <> 'begun'"));
        let ended = sqlx::query_as(select).bind(id);
        within(ended.fetch_optional(&self.0.reading)).await?.ok_or(StoreError::NotFound)
    }

    /// Closes the actions that began before `limit` and never ended, because the program stopped first.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn close_activities(&self, limit: OffsetDateTime) -> Result<u64, StoreError> {
        let update =
            sqlx::query("UPDATE activities SET outcome = 'failed', message = $1 WHERE outcome = 'begun' AND at < $2");
        let update = update.bind("The orchestrator ended before this did: whether it was done is not known");
        Ok(within(update.bind(clock::millis(limit)).execute(&self.0.writing)).await?.rows_affected())
    }

    /// The activities that match, newest first.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn activities(&self, filter: &Filter, limit: u32, offset: u32) -> Result<Vec<Activity>, StoreError> {
        let mut clauses = Clauses::of(filter);
        let (limit, offset) = (clauses.bind(i64::from(limit)), clauses.bind(i64::from(offset)));
        let select = AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM activities WHERE {} ORDER BY at DESC, id DESC LIMIT {limit} OFFSET {offset}",
            clauses.text
        ));
        let rows = within(clauses.fill(sqlx::query(select)).fetch_all(&self.0.reading)).await?;
        Ok(rows.iter().map(Activity::from_row).collect::<Result<_, _>>()?)
    }

    /// How many activities match.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn count_activities(&self, filter: &Filter) -> Result<u64, StoreError> {
        let clauses = Clauses::of(filter);
        let select = AssertSqlSafe(format!("SELECT COUNT(*) FROM activities WHERE {}", clauses.text));
        let row = within(clauses.fill(sqlx::query(select)).fetch_one(&self.0.reading)).await?;
        let count: i64 = row.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

/// The condition of a query: its text, which contains no user input, and the values bound to it.
struct Clauses {
    text: String,
    values: Vec<Value>,
}

enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Clauses {
    fn of(filter: &Filter) -> Self {
        let mut clauses = Self { text: "outcome <> 'begun'".into(), values: Vec::new() };
        clauses.equal("actor", filter.actor.as_deref());
        clauses.equal("action", filter.action.as_deref());
        clauses.equal("cluster", filter.cluster.as_deref());
        clauses.equal("kind", filter.kind.as_deref());
        clauses.equal("outcome", filter.outcome.map(Outcome::word));
        if let Some(since) = filter.since {
            let since = clauses.bind(clock::millis(since));
            clauses.and(&format!("at >= {since}"));
        }
        if let Some(until) = filter.until {
            let until = clauses.bind(clock::millis(until));
            clauses.and(&format!("at < {until}"));
        }
        if let Some(Mark { at, id }) = &filter.after {
            let (at, id) = (clauses.bind(*at), clauses.bind(id.as_str()));
            clauses.and(&format!("(at, id) < ({at}, {id})"));
        }
        if let Some(text) = &filter.text {
            let pattern = clauses.bind(pattern(text).as_str());
            clauses.and(&format!(r"haystack LIKE {pattern} ESCAPE '\'"));
        }
        clauses
    }

    fn equal(&mut self, column: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            let place = self.bind(value);
            self.and(&format!("{column} = {place}"));
        }
    }

    fn and(&mut self, clause: &str) {
        self.text.push_str(" AND ");
        self.text.push_str(clause);
    }

    /// Binds a value; returns its placeholder, which SQLite and PostgreSQL write alike.
    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn fill(self, query: Query<'static, Any, AnyArguments>) -> Query<'static, Any, AnyArguments> {
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
        })
    }
}

// Escapes the wildcards of LIKE.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

fn haystack(new_activity: &NewActivity) -> String {
    let names = [&new_activity.cluster_name, &new_activity.kind, &new_activity.namespace, &new_activity.name]
        .into_iter()
        .flatten();
    let words = [new_activity.actor.as_str(), &new_activity.actor_email, new_activity.action]
        .into_iter()
        .chain(names.map(String::as_str));
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

/// The time, then 80 random bits, in hex: ids sort by time.
fn time_ordered_id(now: OffsetDateTime) -> Result<String, SealError> {
    let [a, b, c, d, e, f, g, h, i, j] = random::<10>()?;
    let random = u128::from_be_bytes([0, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h, i, j]);
    Ok(format!("{:012x}{random:020x}", clock::millis(now)))
}

impl<'r> FromRow<'r, AnyRow> for Activity {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: clock::from_millis(row.try_get("at")?),
            actor: row.try_get("actor")?,
            actor_id: row.try_get("actor_id")?,
            actor_email: row.try_get("actor_email")?,
            action: row.try_get("action")?,
            cluster: row.try_get("cluster")?,
            cluster_name: row.try_get("cluster_name")?,
            kind: row.try_get("kind")?,
            namespace: row.try_get("namespace")?,
            name: row.try_get("name")?,
            outcome: match row.try_get("outcome")? {
                "succeeded" => Outcome::Succeeded,
                _ => Outcome::Failed,
            },
            message: row.try_get("message")?,
            request_id: row.try_get("request_id")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_text_mean_themselves() {
        assert_eq!(pattern(r"50%_\Ä"), r"%50\%\_\\ä%");
    }

    #[test]
    fn ids_sort_as_the_activities_happened() {
        let ids = [1, 2, 1_000_000_000_000].map(|millis| time_ordered_id(clock::from_millis(millis)).unwrap());
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 32), "{ids:?}");
    }
}

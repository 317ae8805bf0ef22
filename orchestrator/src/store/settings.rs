//! The settings that people change at run time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Store, StoreError, within};

const RETENTION: &str = "activity_retention_days";

/// All settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// For how many days activities are kept: 1 to 3,650; 90 unless changed.
    #[schema(minimum = 1, maximum = 3650)]
    pub activity_retention_days: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { activity_retention_days: 90 }
    }
}

impl Settings {
    /// Checks that every value is within its bounds.
    ///
    /// # Errors
    /// A sentence that names the setting and its bounds.
    pub fn check(&self) -> Result<(), &'static str> {
        if (1..=3650).contains(&self.activity_retention_days) {
            Ok(())
        } else {
            Err("activity_retention_days must be from 1 to 3650")
        }
    }
}

impl Store {
    /// Reads the settings; those never set have their defaults.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn settings(&self) -> Result<Settings, StoreError> {
        let select = sqlx::query_scalar("SELECT value FROM settings WHERE name = $1").bind(RETENTION);
        let value: Option<String> = within(select.fetch_optional(&self.0.reading)).await?;
        let Some(value) = value else { return Ok(Settings::default()) };
        let settings =
            Settings { activity_retention_days: value.parse().map_err(|_| StoreError::UnknownValue(RETENTION))? };
        settings.check().map_err(|_| StoreError::UnknownValue(RETENTION))?;
        Ok(settings)
    }

    /// Stores the settings, which the caller has checked.
    ///
    /// # Errors
    /// If the database does not respond.
    pub async fn set(&self, settings: Settings) -> Result<(), StoreError> {
        let upsert = sqlx::query(
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        );
        let upsert = upsert.bind(RETENTION).bind(settings.activity_retention_days.to_string());
        within(upsert.execute(&self.0.writing)).await?;
        Ok(())
    }
}

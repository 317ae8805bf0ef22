//! Floor 1, rendering: an identity as header fields, the usual ones, those of a table, and those of Kubernetes' impersonation.

mod identity_table;
mod impersonation;
mod ready_fields;

pub use identity_table::{ChosenField, ChosenValue, GroupPattern, IdentityTable, Several};
pub use impersonation::{Impersonated, ImpersonatedName, Impersonation, NotAPerson, PROVIDER_PLACE};
pub use ready_fields::{ReadyFields, X_SIDEGATE_ASSERTION};

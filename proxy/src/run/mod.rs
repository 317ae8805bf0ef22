//! Floor 5, the process: start, reload, drain, background tasks, and the operator's commands.

pub mod admin;
mod background;
pub mod explain;
mod kept;
mod listen;
pub mod operator;
pub mod simulate;
mod start;

pub use listen::Place;
pub use start::{Addresses, Running, rehearse, start};

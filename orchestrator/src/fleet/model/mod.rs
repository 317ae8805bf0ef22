//! The data types of the fleet: values only.

mod applied;
mod asked;
mod comparison;
mod detail;
mod names;
mod summary;
mod tree;

pub use applied::*;
pub use asked::*;
pub use comparison::*;
pub use detail::*;
pub use names::*;
pub use summary::*;
pub use tree::*;

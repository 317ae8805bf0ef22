//! Floor 4, what the operator wrote.

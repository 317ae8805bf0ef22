//! Sessions in this process's memory.

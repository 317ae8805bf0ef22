//! Floor 6, the configuration: flags, environment and file are turned into the settings of the floors below.

mod advice;
mod command;
mod faults;
mod files;
mod load;
mod names;
pub mod options;
mod parse;
mod raw;
mod reading;
pub mod reload;
mod tables;
#[cfg(test)]
mod trial;
mod words;

pub use command::{Command, Sources, command_line};
pub use faults::{Fault, Faults};
pub use files::Files;
pub use load::{Loaded, admin_address, load, load_to_serve};

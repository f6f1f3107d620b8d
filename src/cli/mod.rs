//! Commands of the program, each a function that writes to what it is given.
//!
//! [`check`] are these rules right?

pub mod check;
//! The commands of the program: arguments in, exit code out.

pub mod load;

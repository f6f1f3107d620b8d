//! The commands of the program: arguments in, exit code out.

pub mod load;

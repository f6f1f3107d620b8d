//! Rules from the files of other rate limiters.
//!
//! In reading order: `condition` reads what a limit asks of a request;
//! [`limitador`] what a limits file of Kuadrant's limitador says; `tree` makes
//! one tree of rules of the limits of a namespace.

mod condition;
pub mod limitador;
mod tree;

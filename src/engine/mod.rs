//! The engine: matching, counting, deciding. Pure: no I/O, no async, no
//! clock, no serde, no protobuf; time is an argument.
//!
//! In reading order: [`descriptor`] what is asked · [`limit`] how much is
//! granted · [`calendar`] days, weeks, months and years · [`rules`] the compiled tree · [`wildcard`] patterns ·
//! [`placement`] finding them by hash · [`matching`] descriptor → rule ·
//! [`key`] which requests count together · [`plan`] request × rules →
//! charges · [`algorithm`] hits → count · [`decision`] observations → answer ·
//! [`headers`] answer → headers · [`responses`]
//! answer → what clients see · [`metadata`] free data of rules · [`time`]
//! points in time.

pub mod algorithm;
pub mod calendar;
pub mod decision;
pub mod descriptor;
pub mod headers;
pub mod key;
pub mod limit;
pub mod matching;
pub mod metadata;
mod placement;
pub mod plan;
pub mod responses;
pub mod rules;
pub mod time;
pub mod wildcard;

//! Rules files: reading, checking, compiling.
//!
//! Everything that is wrong in any file is found in one go and told with
//! file, line, column and the path to the rule; a configuration with
//! mistakes is not loaded at all. Settings of the process are not here.
//!
//! In reading order: [`source`] where rules are · [`files`] a path → the files below it · `yaml` text →
//! nodes with places · `scalar` what a scalar means · `reader` nodes of an
//! expected kind · `schema` nodes → typed definitions · `metadata` free data
//! of rules · `responses` how answers look · `messages` a management server's
//! messages → typed definitions · [`mod@compile`] definitions →
//! `engine::rules` · `limits` a descriptor's limits · [`problem`] mistakes and
//! how they are shown · [`dump`] compiled rules → JSON · [`mod@json_schema`]
//! what a file may say, for editors.

pub mod compile;
pub mod dump;
pub mod files;
pub mod json_schema;
mod limits;
mod messages;
mod metadata;
pub mod problem;
mod reader;
mod responses;
pub(crate) mod scalar;
mod schema;
pub mod source;
pub(crate) mod yaml;

pub use self::{
    compile::{Options, SourceFile, compile, compile_messages},
    dump::{to_json, to_lines},
    files::{ReadError, ReadOptions, read},
    json_schema::json_schema,
    problem::{Problem, Problems},
    source::{LoadError, RulesSource},
};

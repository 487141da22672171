//! The dashboard: pages, their blocks, and the live updates that keep them true.
//!
//! # Purpose
//! Answer, for each page, the one question it is there for, in a sentence computed from what is known, with
//! charts and tables below as the evidence.
//!
//! # Rules
//! - A page is a function from a [`picture::Picture`] to HTML. Reading and drawing never mix, so that a page
//!   can be tested by painting a picture by hand and two blocks never disagree.
//! - A block is one template, under one name: in the page, alone in a live update, and when it fails.
//! - Everything that came from outside is escaped by the templates. The types that print HTML themselves
//!   ([`mark`], [`block::Block`]) print only text of this program or what a template has escaped.
//! - Numbers are written by [`format`], statuses by [`mark`], sentences by [`words`], and nowhere else.
//! - Pages work without scripts: forms post, links lead, charts are SVG. Scripts only make them live.
//!
//! # Reading order
//! [`picture`], [`history`], [`words`], then a page such as [`overview`], then [`live`].
//!
//! # What it does not do
//! It decides nothing: levels, scores and verdicts are made in `engine`. It keeps no session; who looks is
//! told by `crate::auth`.

mod alerting;
mod alerting_forms;
mod alerting_routes;
mod answers;
mod assets;
mod backups;
mod block;
mod charts;
mod counting;
mod course;
mod discovered;
mod format;
mod frame;
mod gate;
mod history;
mod horizon;
mod incident;
mod incidents;
mod installer;
mod installer_routes;
mod letters;
mod links;
mod live;
mod machine;
mod machines;
mod mark;
mod matrix;
mod mesh;
mod network;
mod overview;
mod picture;
mod pipeline;
mod plot;
mod probe;
mod range;
mod rates;
mod routes;
mod run;
mod servers;
mod setting_routes;
mod settings;
mod sky;
mod sparks;
mod target;
mod target_form;
mod task;
mod task_form;
mod tasks;
mod tiles;
mod tokens;
mod topics;
mod topology;
mod tries;
mod visits;
mod waterfall;
mod words;

#[cfg(test)]
mod tests;

pub use routes::{not_found, router};

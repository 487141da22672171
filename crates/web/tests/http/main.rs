//! The HTTP side on a real store and queue, asked without a socket.

mod alerts;
mod api;
mod counting;
mod events;
mod fixture;
mod fleet;
mod incidents;
mod links;
mod mcp;
mod packages;
mod pages;
mod scores;
mod ssh;
mod targets;
mod tasks;
mod trust;

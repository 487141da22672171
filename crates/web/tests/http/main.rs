//! The HTTP side on a real store and queue, asked without a socket.

mod alerts;
mod api;
mod counting;
mod events;
mod fixture;
mod incidents;
mod links;
mod pages;
mod scores;
mod targets;
mod tasks;
mod trust;

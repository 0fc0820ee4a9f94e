//! Everything that this crate does, over our own API server.

mod administration;
mod controllers;
mod registration;
mod watching;
mod world;

//! The PVE client against recordings of a real PVE 9.2.11, against small TLS servers that do what
//! they are told, and against the simulator.

mod changing;
mod decoding;
mod failing;
mod progress;
mod recorded;
mod refusals;
mod server;
mod simulated;
mod sources;
mod staging;
mod trust;
mod uploading;

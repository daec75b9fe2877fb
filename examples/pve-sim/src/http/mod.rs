//! Ports, TLS and HTTP/1.1: everything below PVE's API.

mod exchange;
mod form;
mod payload;
mod port;

pub(crate) use port::{Ports, bind, nth_address};

//! Ports, TLS and HTTP/1.1: everything below PVE's API.

mod ask;
mod exchange;
mod form;
mod payload;
mod port;
mod upload;

pub(crate) use port::{Ports, bind, nth_address};

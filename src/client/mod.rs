//! D-Bus proxies and the reader of the event stream, for our command line and for Rust applications.

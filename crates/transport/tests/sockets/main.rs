//! A real server on a real socket, with friends and strangers at the other end.

mod calls;
mod limits;
mod peers;
mod retirement;
mod world;

//! What decides: every request's way from its bytes to its answer, and what is counted and told of it.
//!
//! No socket, no clock, no environment, no file, nothing asynchronous: time is an argument, and what
//! holds a name is a type parameter. So all of it is tested, fuzzed and timed without a daemon. `desk`
//! leads a request through the rest. Uses nothing of the other rooms; all of them use it.

pub mod access;
pub mod audit;
pub mod counters;
pub mod desk;
pub mod follow;
pub mod holds;
pub mod lent;
pub mod names;
pub mod outcome;
pub mod registry;
pub mod slots;
pub mod status;
pub mod wire;

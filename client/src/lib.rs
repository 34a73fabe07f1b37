#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod admin;
mod builder;
mod client;
mod error;
mod identity;
mod retry;
mod session;
mod types;

pub use admin::messages;
pub use builder::Builder;
pub use client::Client;
pub use error::{Error, IdRefusal, WriteOutcome};
pub use paddock_proto::request_id::{InvalidRequestId, RequestId};
pub use session::{InvalidSessionToken, Session, SessionToken};
pub use types::{Consistency, Deleted, Mutation, Precondition, Record, Seen};

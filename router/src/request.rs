//! What users send, checked and turned into jobs: every rule on keys, values, preconditions and batches.
//!
//! Everything is checked before anything is sent, and each refusal names the field, the limit and the
//! actual figure; nothing is cut short to fit.

use std::sync::Arc;

use bytes::Bytes;
use paddock_proto::limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};
use paddock_proto::request_id::RequestId;
use paddock_proto::v1::{
    BatchGetRequest, BatchWriteRequest, DeleteRequest, ErrorReason, GetRequest, Mutation, Precondition,
    PutRequest, ReadConsistency, ReadOperation, mutation, operation, precondition,
    read_consistency::Requirement,
};

use crate::errors::{Failure, WriteFate};
use crate::route::{Job, Place, Server};
use crate::session::Session;

/// A read of one key.
///
/// # Errors
/// What is wrong with the request.
pub fn get(request: GetRequest) -> Result<Job, Failure> {
    let key = one_key(request.key, request.key_text)?;
    let freshness = Asked::of(request.consistency)?;
    Ok(freshness.read(key, request.omit_value))
}

/// A put of one key.
///
/// # Errors
/// What is wrong with the request.
pub fn put(request: PutRequest) -> Result<Job, Failure> {
    let put = |key| mutation::Operation::Put(mutation::Put { key, value: request.value.clone() });
    one_key(request.key, request.key_text)
        .and_then(|key| write(named(put(key), request.precondition, request.request_id)))
        .map_err(not_applied)
}

/// A delete of one key.
///
/// # Errors
/// What is wrong with the request.
pub fn delete(request: DeleteRequest) -> Result<Job, Failure> {
    let delete = |key| mutation::Operation::Delete(mutation::Delete { key });
    one_key(request.key, request.key_text)
        .and_then(|key| write(named(delete(key), request.precondition, request.request_id)))
        .map_err(not_applied)
}

fn named(operation: mutation::Operation, precondition: Option<Precondition>, request_id: String) -> Mutation {
    Mutation { operation: Some(operation), precondition, request_id }
}

/// A batch of reads.
///
/// # Errors
/// What is wrong with the request, or with the first item that breaks a rule.
pub fn batch_get(request: BatchGetRequest) -> Result<Vec<Job>, Failure> {
    check_item_count("keys", request.keys.len())?;
    check_batch_bytes("keys", request.keys.iter().map(Bytes::len).sum())?;
    let asked = Asked::of(request.consistency)?;
    let job = |(index, key): (usize, Bytes)| {
        // The item is the key: it has no field below it.
        let at_item = |failure: Failure| Failure { field: None, ..failure }.at_item("keys", index);
        check_key(&key).map_err(at_item)?;
        Ok(asked.read(key, request.omit_value))
    };
    request.keys.into_iter().enumerate().map(job).collect()
}

/// A batch of writes.
///
/// # Errors
/// What is wrong with the request, or with the first item that breaks a rule.
pub fn batch_write(request: BatchWriteRequest) -> Result<Vec<Job>, Failure> {
    let jobs = || {
        check_item_count("mutations", request.mutations.len())?;
        check_batch_bytes("mutations", request.mutations.iter().map(mutation_bytes).sum())?;
        let items = request.mutations.into_iter().enumerate();
        items
            .map(|(index, item)| write(item).map_err(|failure| failure.at_item("mutations", index)))
            .collect::<Result<Vec<Job>, Failure>>()
    };
    jobs().map_err(not_applied)
}

/// The key of a request that takes it as bytes or as text.
///
/// # Errors
/// Both, neither, or one that breaks a rule.
pub fn one_key(key: Bytes, key_text: String) -> Result<Bytes, Failure> {
    if !key.is_empty() && !key_text.is_empty() {
        let message = "set exactly one of key and key_text, not both";
        return Err(Failure::invalid(ErrorReason::InvalidRequest, "key", message));
    }
    let key = if key.is_empty() { Bytes::from(key_text) } else { key };
    check_key(&key)?;
    Ok(key)
}

/// A key may be any bytes, 1 to 4,096 of them.
fn check_key(key: &Bytes) -> Result<(), Failure> {
    if key.is_empty() {
        let message = format!("the key is empty: it must be 1 to {KEY_BYTES_MAX} bytes");
        return Err(Failure::invalid(ErrorReason::KeyInvalid, "key", message));
    }
    if key.len() > KEY_BYTES_MAX {
        let what = "the length in bytes";
        return Err(Failure::over_limit(ErrorReason::KeyInvalid, "key", what, KEY_BYTES_MAX, key.len()));
    }
    Ok(())
}

fn check_value(field: &str, value: &Bytes) -> Result<(), Failure> {
    if value.len() > VALUE_BYTES_MAX {
        let what = "the length in bytes";
        return Err(Failure::over_limit(
            ErrorReason::ValueTooLarge,
            field,
            what,
            VALUE_BYTES_MAX,
            value.len(),
        ));
    }
    Ok(())
}

fn check_item_count(list: &str, count: usize) -> Result<(), Failure> {
    if count > BATCH_ITEMS_MAX {
        let what = "the number of items";
        return Err(Failure::over_limit(ErrorReason::BatchTooLarge, list, what, BATCH_ITEMS_MAX, count));
    }
    Ok(())
}

fn check_batch_bytes(list: &str, bytes: usize) -> Result<(), Failure> {
    if bytes > BATCH_BYTES_MAX {
        let what = "the number of bytes of keys and values";
        return Err(Failure::over_limit(ErrorReason::BatchTooLarge, list, what, BATCH_BYTES_MAX, bytes));
    }
    Ok(())
}

fn mutation_bytes(mutation: &Mutation) -> usize {
    let operation = match &mutation.operation {
        Some(mutation::Operation::Put(put)) => put.key.len() + put.value.as_ref().map_or(0, Bytes::len),
        Some(mutation::Operation::Delete(delete)) => delete.key.len(),
        None => 0,
    };
    let condition = mutation.precondition.as_ref().and_then(|precondition| precondition.condition.as_ref());
    operation
        + match condition {
            Some(precondition::Condition::Value(value)) => value.len(),
            _ => 0,
        }
}

/// How fresh a read must be, checked.
struct Asked {
    server: Server,
    session: Option<Arc<Session>>,
    /// For the partition server; without the session's token, of which it needs one position only.
    consistency: Option<ReadConsistency>,
}

impl Asked {
    /// Who may serve a read: the leader, unless less than the latest will do.
    fn of(consistency: Option<ReadConsistency>) -> Result<Asked, Failure> {
        let unclear = |field: &str| {
            let message = format!("{field} can only be true: leave it out, or ask for another consistency");
            Failure::invalid(ErrorReason::InvalidRequest, field, message)
        };
        let anywhere = |requirement, session| Asked {
            server: Server::AnyReplica,
            session,
            consistency: Some(ReadConsistency { requirement: Some(requirement) }),
        };
        match consistency.and_then(|consistency| consistency.requirement) {
            None | Some(Requirement::Strong(true)) => {
                Ok(Asked { server: Server::Leader, session: None, consistency: None })
            }
            Some(requirement @ Requirement::Barrier(true)) => {
                let consistency = Some(ReadConsistency { requirement: Some(requirement) });
                Ok(Asked { server: Server::Leader, session: None, consistency })
            }
            Some(requirement @ (Requirement::Eventual(true) | Requirement::MaxStalenessMs(_))) => {
                Ok(anywhere(requirement, None))
            }
            Some(Requirement::SessionToken(token)) => {
                let session = Arc::new(Session::decode(&token)?);
                Ok(anywhere(Requirement::SessionToken(Bytes::new()), Some(session)))
            }
            Some(Requirement::Strong(false)) => Err(unclear("consistency.strong")),
            Some(Requirement::Eventual(false)) => Err(unclear("consistency.eventual")),
            Some(Requirement::Barrier(false)) => Err(unclear("consistency.barrier")),
        }
    }

    fn read(&self, key: Bytes, omit_value: bool) -> Job {
        let consistency = self.consistency.clone();
        let operation = ReadOperation { key: key.clone(), consistency, omit_value, at_least: None };
        Job {
            place: Place::Key(key),
            server: self.server,
            session: self.session.clone(),
            kind: operation::Kind::Read(operation),
        }
    }
}

fn write(mutation: Mutation) -> Result<Job, Failure> {
    let key = match &mutation.operation {
        Some(mutation::Operation::Put(put)) => {
            check_key(&put.key)?;
            let Some(value) = &put.value else {
                let message = "the value is missing: it may be empty, but it must be there";
                return Err(Failure::invalid(ErrorReason::InvalidRequest, "value", message));
            };
            check_value("value", value)?;
            put.key.clone()
        }
        Some(mutation::Operation::Delete(delete)) => {
            check_key(&delete.key)?;
            delete.key.clone()
        }
        None => {
            let message = "neither put nor delete is set";
            return Err(Failure::invalid(ErrorReason::InvalidRequest, "operation", message));
        }
    };
    check_precondition(mutation.precondition.as_ref())?;
    check_request_id(&mutation.request_id)?;
    let kind = operation::Kind::Write(mutation);
    Ok(Job { place: Place::Key(key), server: Server::Leader, session: None, kind })
}

/// A precondition without a condition is a mistake: passing it over would make an unguarded write of it.
fn check_precondition(precondition: Option<&Precondition>) -> Result<(), Failure> {
    let Some(precondition) = precondition else { return Ok(()) };
    match &precondition.condition {
        Some(precondition::Condition::Value(value)) => check_value("precondition.value", value),
        Some(_) => Ok(()),
        None => {
            let message = "the precondition has no condition: set exists, version or value";
            Err(Failure::invalid(ErrorReason::InvalidRequest, "precondition", message))
        }
    }
}

/// Empty, or an id.
fn check_request_id(text: &str) -> Result<(), Failure> {
    match text.parse::<RequestId>() {
        Err(error) if !text.is_empty() => {
            Err(Failure::invalid(ErrorReason::InvalidRequest, "request_id", error.to_string()))
        }
        _ => Ok(()),
    }
}

fn not_applied(failure: Failure) -> Failure {
    failure.of_write(WriteFate::NotApplied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_of(key: &[u8], value: Option<&[u8]>) -> PutRequest {
        PutRequest {
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
            ..PutRequest::default()
        }
    }

    #[test]
    fn keys_are_any_bytes_from_one_to_the_limit() {
        for key in [&b"\0"[..], b"a/b//c", b"\xff\xfe", b"..", &[7; KEY_BYTES_MAX]] {
            let job = put(put_of(key, Some(b""))).unwrap();
            assert_eq!(job.place, Place::Key(Bytes::copy_from_slice(key)));
            assert!(job.is_write());
        }
        let long = put(put_of(&[7; KEY_BYTES_MAX + 1], Some(b""))).unwrap_err();
        assert_eq!(long.reason, ErrorReason::KeyInvalid);
        assert!(long.message.contains("4097") && long.message.contains("4096"), "{long}");
        assert_eq!(long.write_fate, Some(WriteFate::NotApplied));
        let empty = get(GetRequest::default()).unwrap_err();
        assert_eq!((empty.reason, empty.write_fate), (ErrorReason::KeyInvalid, None));
        let both = GetRequest { key: "a".into(), key_text: "a".into(), ..GetRequest::default() };
        assert_eq!(get(both).unwrap_err().reason, ErrorReason::InvalidRequest);
        let text = GetRequest { key_text: "\u{e4}".into(), ..GetRequest::default() };
        assert_eq!(get(text).unwrap().place, Place::Key(Bytes::from("\u{e4}")));
    }

    #[test]
    fn a_value_must_be_there_and_fit() {
        let missing = put(put_of(b"k", None)).unwrap_err();
        assert_eq!((missing.reason, missing.field.as_deref()), (ErrorReason::InvalidRequest, Some("value")));
        assert!(put(put_of(b"k", Some(&vec![0; VALUE_BYTES_MAX]))).is_ok());
        let long = put(put_of(b"k", Some(&vec![0; VALUE_BYTES_MAX + 1]))).unwrap_err();
        assert_eq!(long.reason, ErrorReason::ValueTooLarge);
        assert!(long.message.contains("1048577") && long.message.contains("1048576"), "{long}");
    }

    #[test]
    fn an_empty_precondition_is_no_licence() {
        let request =
            PutRequest { precondition: Some(Precondition { condition: None }), ..put_of(b"k", Some(b"v")) };
        assert_eq!(put(request).unwrap_err().field.as_deref(), Some("precondition"));
    }

    #[test]
    fn a_request_id_carries_its_time() {
        let with = |text: &str| put(PutRequest { request_id: text.to_owned(), ..put_of(b"k", Some(b"v")) });
        assert!(!with("").unwrap().is_repeatable());
        assert!(with("017f22e2-79b0-7cc3-98c4-dc0c0c07398f").unwrap().is_repeatable());
        let random = with("919108f7-52d1-4320-9bac-f847db4148a8").unwrap_err();
        assert_eq!(
            (random.field.as_deref(), random.write_fate),
            (Some("request_id"), Some(WriteFate::NotApplied))
        );
    }

    #[test]
    fn consistency_chooses_the_server() {
        let get_with = |requirement| {
            get(GetRequest {
                key: "k".into(),
                consistency: Some(ReadConsistency { requirement }),
                ..GetRequest::default()
            })
        };
        use Requirement::{Barrier, Eventual, MaxStalenessMs, SessionToken, Strong};
        assert_eq!(get_with(None).unwrap().server, Server::Leader);
        assert_eq!(get_with(Some(Strong(true))).unwrap().server, Server::Leader);
        assert_eq!(get_with(Some(Eventual(true))).unwrap().server, Server::AnyReplica);
        assert_eq!(get_with(Some(MaxStalenessMs(0))).unwrap().server, Server::AnyReplica);
        let session = get_with(Some(SessionToken(Bytes::new()))).unwrap();
        assert_eq!((session.server, session.session.is_some()), (Server::AnyReplica, true));
        assert!(get_with(Some(SessionToken(Bytes::from_static(b"garbage")))).is_err());
        assert!(get_with(Some(Strong(false))).is_err());
        assert!(get_with(Some(Eventual(false))).is_err());
        assert!(get_with(Some(Barrier(false))).is_err());
        let barrier = get_with(Some(Barrier(true))).unwrap();
        assert_eq!(barrier.server, Server::Leader);
        let operation::Kind::Read(read) = barrier.kind else { panic!("a read") };
        assert_eq!(read.consistency.unwrap().requirement, Some(Barrier(true)), "the leader has to know");
    }

    #[test]
    fn batches_name_the_item_and_the_limit() {
        let put = |key: &[u8], value: &[u8]| Mutation {
            operation: Some(mutation::Operation::Put(mutation::Put {
                key: Bytes::copy_from_slice(key),
                value: Some(Bytes::copy_from_slice(value)),
            })),
            ..Mutation::default()
        };
        let batch = |mutations| batch_write(BatchWriteRequest { mutations });
        assert_eq!(batch(vec![]).unwrap().len(), 0);
        assert_eq!(batch(vec![put(b"k", b"v"); BATCH_ITEMS_MAX]).unwrap().len(), BATCH_ITEMS_MAX);
        let many = batch(vec![put(b"k", b"v"); BATCH_ITEMS_MAX + 1]).unwrap_err();
        assert_eq!(many.reason, ErrorReason::BatchTooLarge);
        assert!(many.message.contains("1001") && many.message.contains("1000"), "{many}");
        let heavy = batch(vec![put(b"k", &vec![0; VALUE_BYTES_MAX]); 4]).unwrap_err();
        assert_eq!(heavy.reason, ErrorReason::BatchTooLarge);
        assert!(heavy.message.contains(&BATCH_BYTES_MAX.to_string()), "{heavy}");
        let third = batch(vec![put(b"k", b""), put(b"k", b""), put(b"", b"")]).unwrap_err();
        assert_eq!(third.field.as_deref(), Some("mutations[2].key"));
        let nothing = batch(vec![Mutation::default()]).unwrap_err();
        assert_eq!(nothing.field.as_deref(), Some("mutations[0].operation"));
    }
}

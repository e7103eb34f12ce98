//! Connections that can't be finished at once, as tasks of the event loop.
//!
//! Two kinds: one whose request has not come, and one whose answer the peer does not read as fast as it
//! is made. Both have a [`Place`], and `request-timeout`. What is done with a request that has come is
//! `request`'s. Called by `accept`.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout_at};

use super::books::Failure;
use super::request::{After, Connection, READ_AT_ONCE, Unsent, cut_off};
use super::state::Server;
use super::waiting::Place;
use crate::core::desk::Reply;
use crate::core::outcome::Reason;
use crate::core::wire::{self, Decoded};

/// Has the event loop wait for the rest of a connection's request, of which `got` has come.
pub(super) fn wait_for_request(server: &Arc<Server>, connection: Connection, got: Vec<u8>) {
    let connection = connection.with_local();
    match server.waiting.enter(connection.ends()) {
        Ok(place) => {
            let server = Arc::clone(server);
            server
                .event_loop
                .clone()
                .spawn(async move { serve(&server, connection, got, place).await });
        }
        Err(limit) => server
            .state()
            .fail(connection.ends(), Failure::TooMany(limit)),
    }
}

/// Has the event loop send the rest of an answer.
pub(super) fn send_the_rest(server: &Arc<Server>, unsent: Unsent) {
    match server.waiting.enter(unsent.outcome.ends) {
        Ok(mut place) => {
            place.is_answering();
            let server = Arc::clone(server);
            server
                .event_loop
                .clone()
                .spawn(async move { send(&server, unsent, &mut place).await });
        }
        Err(limit) => {
            let outcome = unsent.outcome.with_node(unsent.node.as_deref());
            let outcome = outcome.failed(Reason::TooMany, Some(limit));
            server.state().conclude(&outcome);
        }
    }
}

/// Reads until the request is whole, answers it, and closes.
async fn serve(server: &Server, connection: Connection, mut got: Vec<u8>, mut place: Place) {
    let deadline = Instant::now() + server.waiting.request_timeout();
    let (stream, ends) = connection.into_parts();
    let fail = |why| server.state().fail(ends, why);
    let Ok(mut stream) = into_event_loop(stream) else {
        return fail(Failure::Closed);
    };
    loop {
        // The daemon ends: a request that has begun to come is waited for, if its peer may ask at all.
        if place.is_ending() && (got.is_empty() || !server.state().desk.rules.may_ask(&ends)) {
            return fail(Failure::Closed);
        }
        tokio::select! {
            biased;
            call = place.lost_or_ending() => if let Some(limit) = call {
                return fail(Failure::TooMany(limit));
            },
            read = timeout_at(deadline, read_request(&mut stream, &mut got)) => match read {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return fail(Failure::Closed),
                Err(_) => return fail(Failure::Timeout),
            },
        }
    }
    let Ok(stream) = stream.into_std() else {
        return fail(Failure::Closed);
    };
    place.is_answering();
    if !server.delays.write.is_zero() {
        sleep(server.delays.write).await;
    }
    match Connection::new(stream, ends).answer(server, &got) {
        After::Unsent(unsent) => send(server, unsent, &mut place).await,
        // `read_request` has seen to it that there is a whole request.
        After::Done | After::Wait(_) => {}
    }
}

/// Sends an answer as fast as the peer reads it, within `request-timeout`.
async fn send(server: &Server, unsent: Unsent, place: &mut Place) {
    let Unsent {
        stream,
        bytes,
        reply,
        outcome,
        node,
    } = unsent;
    let outcome = outcome.with_node(node.as_deref());
    let deadline = Instant::now() + server.waiting.request_timeout();
    let outcome = tokio::select! {
        biased;
        limit = place.lost() => outcome.failed(Reason::TooMany, Some(limit)),
        sent = timeout_at(deadline, send_all(server, stream, bytes, reply)) => match sent {
            Ok(Ok(())) => outcome,
            Ok(Err(error)) => cut_off(outcome, &error),
            Err(_) => outcome.failed(Reason::Timeout, None),
        },
    };
    server.state().conclude(&outcome);
}

/// Sends bytes, and the lines that are still to be made.
async fn send_all(
    server: &Server,
    stream: TcpStream,
    mut bytes: Vec<u8>,
    mut reply: Reply,
) -> io::Result<()> {
    let mut stream = into_event_loop(stream)?;
    loop {
        if let Reply::Listing(listing) = reply {
            reply = server.state().desk.continue_listing(listing, &mut bytes);
        }
        stream.write_all(&bytes).await?;
        let Reply::Listing(_) = reply else {
            return Ok(());
        };
        bytes.clear();
        // A long list to a fast reader must not hold up the others.
        tokio::task::yield_now().await;
    }
}

/// Reads until there is a whole request, or none that can become one.
async fn read_request(stream: &mut tokio::net::TcpStream, got: &mut Vec<u8>) -> io::Result<()> {
    while wire::decode(got) == Decoded::Incomplete {
        let mut buffer = [0; READ_AT_ONCE];
        match stream.read(&mut buffer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => got.extend(buffer.iter().take(count)),
        }
    }
    Ok(())
}

fn into_event_loop(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

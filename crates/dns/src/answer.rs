//! From a query and a table to an answer. Pure: no sockets, no clock; chance is an argument.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::Rng;
use rand::seq::SliceRandom;

use crate::table::{Addresses, Found, Table};

#[cfg(test)]
mod tests;

/// Seconds that an answer may be kept.
const TTL: u32 = 30;
/// Smallest message that every client takes over UDP (RFC 1035 section 4.2.1).
const UDP_DEFAULT: usize = 512;
/// What we take over UDP ourselves.
const UDP_OURS: u16 = 1232;
/// More addresses than this in one answer help nobody and may not fit a message.
const ADDRESSES: usize = 2000;
/// A message over TCP has a 16 bit length.
const TCP_LIMIT: usize = u16::MAX as usize;

/// How a query came, which limits its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// Length-prefixed.
    Tcp,
}

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send this back.
    Reply(Vec<u8>),
    /// Ask upstream, and let the client have at most so many bytes.
    Forward {
        /// Largest reply that the client takes.
        limit: usize,
    },
    /// Not a query at all: silence.
    Ignore,
}

/// Decides about one packet. Without a table (none received yet) nothing is known, so nothing is answered but a failure that
/// clients retry.
pub fn decide(table: Option<&Table>, packet: &[u8], transport: Transport, chance: &mut impl Rng) -> Verdict {
    let query = match Message::from_vec(packet) {
        Ok(query) => query,
        Err(_) => return malformed(packet),
    };
    if query.metadata.message_type != MessageType::Query {
        return Verdict::Ignore;
    }
    let limit = limit(&query, transport);
    let Some(table) = table else { return failure(&query, ResponseCode::ServFail) };
    if query.metadata.op_code != OpCode::Query {
        return Verdict::Forward { limit };
    }
    match query.queries.as_slice() {
        [] => failure(&query, ResponseCode::ServFail),
        [question] => match local(table, question, chance) {
            Some(answers) => Verdict::Reply(encode(reply(&query, answers), limit)),
            None => Verdict::Forward { limit },
        },
        // RFC 9619: a query has one question.
        _ => failure(&query, ResponseCode::FormErr),
    }
}

/// A failure in answer to this packet, when it can be answered at all.
#[must_use]
pub fn server_failure(packet: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(packet).ok()?;
    match failure(&query, ResponseCode::ServFail) {
        Verdict::Reply(bytes) => Some(bytes),
        Verdict::Forward { .. } | Verdict::Ignore => None,
    }
}

/// Cuts an upstream's reply to what the client takes. A server that ignored the limit gets its answer shortened and marked as
/// truncated, so that the client comes back over TCP (RFC 1035 section 4.2.1).
#[must_use]
pub fn fit(reply: Vec<u8>, limit: usize) -> Option<Vec<u8>> {
    if reply.len() <= limit {
        return Some(reply);
    }
    Some(encode(Message::from_vec(&reply).ok()?, limit))
}

/// Records for a question that the table answers; an empty list is a name without addresses of that family.
fn local(table: &Table, question: &Query, chance: &mut impl Rng) -> Option<Vec<Record>> {
    let kind = question.query_type();
    if question.query_class() != DNSClass::IN || !matches!(kind, RecordType::A | RecordType::AAAA) {
        return None;
    }
    let name = question.name().to_lowercase();
    Some(match table.find(&name)? {
        Found::Addresses(addresses) => records(&name, addresses, kind, chance),
        Found::Alias(target, addresses) => {
            let mut answers = vec![Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone())))];
            answers.extend(records(&target, addresses, kind, chance));
            answers
        }
    })
}

fn records(owner: &Name, addresses: &Addresses, kind: RecordType, chance: &mut impl Rng) -> Vec<Record> {
    let mut data: Vec<RData> = match kind {
        RecordType::A => addresses.v4.iter().map(|ip| RData::A(A(*ip))).collect(),
        _ => addresses.v6.iter().map(|ip| RData::AAAA(AAAA(*ip))).collect(),
    };
    data.shuffle(chance);
    data.truncate(ADDRESSES);
    data.into_iter().map(|data| Record::from_rdata(owner.clone(), TTL, data)).collect()
}

fn reply(query: &Message, answers: Vec<Record>) -> Message {
    let mut reply = base(query, ResponseCode::NoError);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    reply.add_answers(answers);
    reply
}

fn failure(query: &Message, code: ResponseCode) -> Verdict {
    Verdict::Reply(encode(base(query, code), UDP_DEFAULT))
}

fn base(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.response_code = code;
    reply.add_queries(query.queries.iter().take(1).cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_OURS);
        reply.set_edns(edns);
    }
    reply
}

/// FORMERR when there is at least the header of a query to answer.
fn malformed(packet: &[u8]) -> Verdict {
    let [id_high, id_low, flags, _, _, _, _, _, _, _, _, _, ..] = packet else { return Verdict::Ignore };
    if flags & 0x80 != 0 {
        return Verdict::Ignore;
    }
    let id = u16::from_be_bytes([*id_high, *id_low]);
    let reply = Message::error_msg(id, OpCode::from_u8((flags >> 3) & 0x0f), ResponseCode::FormErr);
    Verdict::Reply(encode(reply, UDP_DEFAULT))
}

/// Largest reply that the sender of this query takes.
fn limit(query: &Message, transport: Transport) -> usize {
    match transport {
        Transport::Tcp => TCP_LIMIT,
        Transport::Udp => usize::from(query.max_payload()).max(UDP_DEFAULT),
    }
}

/// Encodes, leaving records out from the end until it fits, which the TC bit then tells.
fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    loop {
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(bytes) => {
                message.metadata.truncation = true;
                shorten(&mut message, bytes.len() - limit);
            }
            // Larger than any message: start over from half.
            Err(_) => {
                message.metadata.truncation = true;
                shorten(&mut message, usize::MAX);
            }
        }
    }
}

/// Leaves out what surely must go to save `excess` bytes: additional records first, answers last. With nothing left to leave
/// out the question goes, so that this always ends.
fn shorten(message: &mut Message, excess: usize) {
    for section in [&mut message.additionals, &mut message.authorities, &mut message.answers] {
        if !section.is_empty() {
            // No record is larger than this guess on average; guessing low costs another round.
            let surely = (excess / 256).clamp(1, section.len().div_ceil(2));
            section.truncate(section.len() - surely);
            return;
        }
    }
    message.edns = None;
    message.queries.clear();
    message.signature = None;
}

//! DNS messages: what is asked, and what is said. RFC 1035.
//!
//! It reads questions with a library, and of an answer no more than its header: what upstream said goes on as it is.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use std::net::Ipv4Addr;

/// A virtual address stays what it is; but its service may leave the mesh.
pub(super) const TTL: u32 = 30;
/// Where upstream has not said whether the name exists outside.
pub(super) const BRIEF: u32 = 5;

/// The shortest message.
const HEADER: usize = 12;
/// In its third byte.
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RECURSION_DESIRED: u8 = 1;
const SERVER_FAILURE: u8 = 2;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// For the addresses of a name, in lower case and without the dot at its end.
    Address { name: String, v4: bool },
    /// For a zone, or what changed in it: over TCP the answer is many messages.
    Transfer,
    /// For anything else, which the mesh has nothing to say to: also what is no query, or cannot be read.
    Other,
}

impl Asked {
    /// `None`: it is an answer, or too short to be anything.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        if message.get(..HEADER)?[2] & RESPONSE != 0 {
            return None;
        }
        let asked = Message::from_vec(message).ok().filter(|asked| asked.metadata.op_code == OpCode::Query);
        let queries = asked.map(|asked| asked.queries).unwrap_or_default();
        let [question] = queries.as_slice() else { return Some(Self::Other) };
        if matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return Some(Self::Transfer);
        }
        let v4 = question.query_type() == RecordType::A;
        if question.query_class() != DNSClass::IN || !(v4 || question.query_type() == RecordType::AAAA) {
            return Some(Self::Other);
        }
        let name = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        Some(Self::Address { name, v4 })
    }

    /// Virtual addresses are of IPv4 only; who asks for another gets no records, which is not "no such name".
    pub(super) fn answer(&self, question: &[u8], address: Ipv4Addr, ttl: u32) -> Vec<u8> {
        respond(question, |said| {
            said.metadata.authoritative = true;
            if let (Self::Address { v4: true, .. }, Some(query)) = (self, said.queries.first()) {
                let name = query.name().clone();
                said.add_answer(Record::from_rdata(name, ttl, RData::A(A(address))));
            }
        })
    }
}

/// SERVFAIL: ask again. To what is no ordinary question without its words.
pub(super) fn failed(question: &[u8]) -> Vec<u8> {
    if is_ordinary(question) {
        let said = respond(question, |said| said.metadata.response_code = ResponseCode::ServFail);
        if !said.is_empty() {
            return said;
        }
    }
    let mut said = question.get(..HEADER).unwrap_or_default().to_vec();
    if let [_, _, flags, code, counts @ ..] = said.as_mut_slice() {
        *flags = *flags & (OPCODE | RECURSION_DESIRED) | RESPONSE;
        *code = SERVER_FAILURE;
        counts.fill(0);
    }
    said
}

/// A query with one question.
fn is_ordinary(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & OPCODE == 0) && message.get(4..6) == Some(&[0, 1])
}

fn respond(question: &[u8], fill: impl FnOnce(&mut Message)) -> Vec<u8> {
    let Ok(asked) = Message::from_vec(question) else { return Vec::new() };
    let mut said = Message::response(asked.metadata.id, OpCode::Query);
    said.metadata.recursion_desired = asked.metadata.recursion_desired;
    said.metadata.recursion_available = true;
    said.add_queries(asked.queries);
    fill(&mut said);
    said.to_vec().unwrap_or_default()
}

/// What upstream's answer means for the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The name exists, with or without such records.
    Known,
    NoSuchName,
    Failed,
}

impl Verdict {
    pub(super) fn of(said: &[u8]) -> Self {
        match said.get(3).map(|byte| byte & 0x0f) {
            Some(0) => Self::Known,
            Some(3) => Self::NoSuchName,
            _ => Self::Failed,
        }
    }
}

/// Whether it answers that question: the same id, the same words. RFC 5452, section 9.1.
pub(super) fn is_answer_to(said: &[u8], question: &[u8]) -> bool {
    let (Some(head), Some(asked)) = (said.get(..HEADER), question.get(..HEADER)) else { return false };
    let is_response = head[2] & RESPONSE != 0;
    if head[..2] != asked[..2] || !is_response {
        return false;
    }
    // one that could not read the question may leave it out, and who was asked for something else may too
    if head[4..6] == [0, 0] {
        return head[3] & 0x0f != 0 || !is_ordinary(question);
    }
    words(question).is_none_or(|end| said.get(HEADER..end) == question.get(HEADER..end))
}

/// Where the first question ends: its labels, its type and its class.
fn words(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 5).filter(|end| *end <= message.len()),
            length @ 1..64 => at += 1 + length,
            _ => return None, // a pointer: nothing comes before the first question
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, Query};
    use hickory_proto::rr::Name;
    use std::str::FromStr;

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    #[test]
    fn questions_for_addresses_are_the_meshs_and_all_others_are_not() {
        let address = |v4| Some(Asked::Address { name: "shop.example".into(), v4 });
        assert_eq!(Asked::read(&question("Shop.Example.", RecordType::A)), address(true));
        assert_eq!(Asked::read(&question("shop.example.", RecordType::AAAA)), address(false));
        for kind in [RecordType::SRV, RecordType::TXT, RecordType::ANY, RecordType::HTTPS] {
            assert_eq!(Asked::read(&question("shop.", kind)), Some(Asked::Other), "{kind}");
        }
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        let mut answer = question("shop.", RecordType::A);
        answer[2] |= 0x80;
        for message in [&answer[..], b"", b"\x12\x67", &question("shop.", RecordType::A)[..11]] {
            assert_eq!(Asked::read(message), None, "{message:?}");
        }
    }

    /// What upstream makes of it is its own affair: NOTIFY, UPDATE, no question or two, and what cannot be read.
    #[test]
    fn what_is_no_ordinary_question_is_for_upstream() {
        let ask = question("shop.", RecordType::A);
        let with = |at: usize, byte: u8| {
            let mut message = ask.clone();
            message[at] = byte;
            message
        };
        let header = with(5, 0)[..HEADER].to_vec();
        for message in [with(2, 4 << 3), with(2, 5 << 3), with(5, 2), header, ask[..20].to_vec()] {
            assert_eq!(Asked::read(&message), Some(Asked::Other), "{message:?}");
            let mut said = message.clone();
            said[2] |= RESPONSE;
            assert!(is_answer_to(&said, &message), "{message:?}");
            let failed = failed(&message);
            assert!(Verdict::of(&failed) == Verdict::Failed && is_answer_to(&failed, &message), "{failed:?}");
            assert_eq!(failed[2] & OPCODE, message[2] & OPCODE);
        }
        for kind in [RecordType::AXFR, RecordType::IXFR] {
            assert_eq!(Asked::read(&question("shop.", kind)), Some(Asked::Transfer));
        }
    }

    #[test]
    fn a_virtual_address_is_told_to_who_asks_for_ipv4_and_to_others_that_the_name_exists() {
        for (kind, records) in [(RecordType::A, 1), (RecordType::AAAA, 0)] {
            let question = question("shop.", kind);
            let said = Asked::read(&question).unwrap().answer(&question, Ipv4Addr::new(240, 1, 2, 3), TTL);
            assert!(is_answer_to(&said, &question));
            let said = Message::from_vec(&said).unwrap();
            assert_eq!((said.metadata.response_code, said.answers.len()), (ResponseCode::NoError, records));
            assert!(said.metadata.recursion_available && said.metadata.id == 4711);
        }
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let asked = question("shop.", RecordType::A);
        let failure = failed(&asked);
        assert!(is_answer_to(&failure, &asked) && Verdict::of(&failure) == Verdict::Failed);
        assert!(!is_answer_to(&asked, &asked), "a question");
        assert!(!is_answer_to(&failed(&question("shoq.", RecordType::A)), &asked));
        assert!(!is_answer_to(&failed(&question("shop.", RecordType::AAAA)), &asked));
        let mut other_id = failure.clone();
        other_id[1] ^= 1;
        assert!(!is_answer_to(&other_id, &asked) && !is_answer_to(&failure[..10], &asked));
        let mut wordless = failure[..12].to_vec();
        wordless[5] = 0;
        assert!(is_answer_to(&wordless, &asked), "FORMERR and the like");
    }
}

//! The DNS server of a network: it knows no name at all, and says so (NXDOMAIN) at once.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Context;

const HEADER: usize = 12;
const NAME_ERROR: u8 = 3;

/// Answers until the host is switched off.
///
/// # Errors
/// When the address cannot be bound.
pub fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("{listen}/udp"))?;
    let mut packet = [0; 1500];
    loop {
        // Errors of earlier answers (a client that is gone) surface here; they are its own affair.
        let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
        if let Some(answer) = no_such_name(&packet[..length]) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The question with the header of an answer; none for what is no question.
fn no_such_name(query: &[u8]) -> Option<Vec<u8>> {
    let is_answer = query.get(2)? & 0x80 != 0;
    let questions = u16::from_be_bytes([*query.get(4)?, *query.get(5)?]);
    if is_answer || questions != 1 || query.len() < HEADER {
        return None;
    }
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(*query.get(end)?);
    }
    // The root label, type and class.
    let mut answer = query.get(..end + 5)?.to_vec();
    answer[2] = 0x84 | (answer[2] & 0x01);
    answer[3] = 0x80 | NAME_ERROR;
    answer[6..HEADER].fill(0);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_with_no_such_name() {
        let mut query = vec![0xab, 0xcd, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend_from_slice(b"\x03foo\x04test\x00\x00\x01\x00\x01");
        query.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let answer = no_such_name(&query).unwrap();
        assert_eq!(answer[..2], [0xab, 0xcd]);
        assert_eq!(answer[3] & 0x0f, NAME_ERROR);
        assert_eq!(answer.len(), 12 + 10 + 4);
    }

    #[test]
    fn rubbish_is_not_answered() {
        for bad in [&[][..], &[0; 5], &[0; 12], &[0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]] {
            assert_eq!(no_such_name(bad), None);
        }
    }
}

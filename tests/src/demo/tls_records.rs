//! Reads what `tcpdump -x` printed and walks the TCP streams in it: is every byte part of a TLS record?

use std::collections::BTreeMap;

/// What a capture holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Streams {
    /// Directions of connections whose beginning was seen and that carried data.
    pub(super) tls: usize,
    /// Records in them.
    pub(super) records: usize,
    /// Bytes in them.
    pub(super) bytes: usize,
    /// Directions in which something else was seen, with its first bytes.
    pub(super) other: Vec<String>,
}

/// One direction of one connection.
#[derive(Debug, Default)]
struct Direction {
    /// Sequence number of the first byte, once the beginning was seen.
    first: Option<u32>,
    /// Payloads by their distance from the first byte.
    pieces: BTreeMap<u32, Vec<u8>>,
}

/// Reads the output of `tcpdump -nn -x` (IPv4 packets from their IP header on).
pub(super) fn read(text: &str) -> Streams {
    let mut directions: BTreeMap<[u8; 12], Direction> = BTreeMap::new();
    let mut packet = Vec::new();
    for line in text.lines().chain([""]) {
        if let Some((_, hex)) = line.strip_prefix('\t').and_then(|line| line.split_once(':')) {
            let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
            packet.extend(
                digits
                    .chunks_exact(2)
                    .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()),
            );
            continue;
        }
        if !packet.is_empty() {
            add(&packet, &mut directions);
            packet.clear();
        }
    }
    let mut streams = Streams::default();
    for (key, direction) in directions {
        if direction.first.is_none() {
            continue;
        }
        let bytes = in_order(direction);
        if bytes.is_empty() {
            continue;
        }
        match records(&bytes) {
            Some(count) => {
                streams.tls += 1;
                streams.records += count;
                streams.bytes += bytes.len();
            }
            None => {
                let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
                let port = |at: usize| u16::from_be_bytes([key[at], key[at + 1]]);
                streams.other.push(format!(
                    "{}.{}.{}.{}:{} to {}.{}.{}.{}:{}: {begin:?}",
                    key[0],
                    key[1],
                    key[2],
                    key[3],
                    port(8),
                    key[4],
                    key[5],
                    key[6],
                    key[7],
                    port(10)
                ));
            }
        }
    }
    streams
}

fn add(packet: &[u8], directions: &mut BTreeMap<[u8; 12], Direction>) -> Option<()> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let tcp = packet.get(header..total)?;
    let mut key = [0; 12];
    key[..8].copy_from_slice(packet.get(12..20)?);
    key[8..].copy_from_slice(tcp.get(..4)?);
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    let direction = directions.entry(key).or_default();
    let is_syn = tcp.get(13)? & 0x02 != 0;
    if is_syn {
        *direction = Direction { first: Some(sequence.wrapping_add(1)), pieces: BTreeMap::new() };
    }
    let first = direction.first?;
    if !payload.is_empty() {
        direction.pieces.insert(sequence.wrapping_sub(first), payload.to_vec());
    }
    Some(())
}

/// The bytes up to the first gap; what was sent again counts once.
fn in_order(direction: Direction) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, piece) in direction.pieces {
        let at = at as usize;
        if at > bytes.len() {
            break;
        }
        if let Some(new) = piece.get(bytes.len() - at..) {
            bytes.extend_from_slice(new);
        }
    }
    bytes
}

/// How many TLS records begin in these bytes; none when something else does.
fn records(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        let kind = bytes[at];
        let is_version =
            bytes.get(at + 1).is_none_or(|major| *major == 3) && bytes.get(at + 2).is_none_or(|v| *v <= 4);
        if !(20..=23).contains(&kind) || !is_version {
            return None;
        }
        count += 1;
        // A header that the capture cut off ends the stream.
        let (Some(high), Some(low)) = (bytes.get(at + 3), bytes.get(at + 4)) else { return Some(count) };
        at += 5 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As tcpdump prints a packet.
    fn packet(sequence: u32, syn: bool, payload: &[u8]) -> String {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend_from_slice(&[0x30, 0x39, 0x3c, 0x53]);
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 0, 0x50, if syn { 2 } else { 16 }, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(payload);
        let total = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes[2..4].copy_from_slice(&total);
        let mut text = String::from("12:00:00.0 IP 10.0.0.1.12345 > 10.0.0.2.15443: tcp\n");
        for (index, chunk) in bytes.chunks(16).enumerate() {
            let hex: Vec<String> =
                chunk.chunks(2).map(|two| two.iter().map(|b| format!("{b:02x}")).collect()).collect();
            text.push_str(&format!("\t0x{:04x}:  {}\n", index * 16, hex.join(" ")));
        }
        text
    }

    #[test]
    fn records_over_segments_out_of_order_and_sent_again_are_tls() {
        let text = [
            packet(100, true, &[]),
            packet(106, false, &[1, 2, 3, 4, 23, 3, 3, 0, 1, 9]),
            packet(101, false, &[22, 3, 1, 0, 4]),
            packet(101, false, &[22, 3, 1, 0, 4, 1, 2]),
        ]
        .concat();
        assert_eq!(read(&text), Streams { tls: 1, records: 2, bytes: 15, other: vec![] });
    }

    #[test]
    fn plain_text_is_seen() {
        let text = [packet(100, true, &[]), packet(101, false, b"GET / HTTP/1.1")].concat();
        assert_eq!(read(&text).other.len(), 1);
        // A TLS record, and then something else.
        let text = [packet(100, true, &[]), packet(101, false, b"\x17\x03\x03\x00\x01xSELECT 1")].concat();
        assert_eq!(read(&text).other.len(), 1);
    }

    #[test]
    fn a_connection_that_began_earlier_is_not_judged() {
        assert_eq!(read(&packet(500, false, b"whatever")), Streams::default());
    }
}

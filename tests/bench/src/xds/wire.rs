//! Reads discovery responses off a stream by hand: a thousand proxies in one process decode nothing that they do not look at.

use prost::encoding::decode_varint;

/// A field longer than this is counted, not kept.
const KEPT: usize = 64 * 1024;

/// What came.
pub enum Seen<'a> {
    /// A length-delimited field of a response.
    Field(u64, &'a [u8]),
    /// The response is over.
    End,
}

#[derive(Default)]
enum State {
    /// gRPC's header.
    #[default]
    Header,
    /// A field's number, type and length.
    Key,
    /// A field that is kept.
    Take(u64, usize),
    /// A field that is not.
    Skip(u64, usize),
}

/// The reader of one stream.
#[derive(Default)]
pub struct Reader {
    state: State,
    buffer: Vec<u8>,
    /// Bytes of the message that have not come.
    left: usize,
}

impl Reader {
    /// Takes the next bytes of a body.
    pub fn feed(&mut self, mut data: &[u8], mut see: impl FnMut(Seen<'_>)) {
        while !data.is_empty() {
            match self.state {
                State::Header => {
                    let taken = data.len().min(5 - self.buffer.len());
                    self.buffer.extend_from_slice(&data[..taken]);
                    data = &data[taken..];
                    if let [_, a, b, c, d] = self.buffer[..] {
                        self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                        self.next(&mut see);
                    }
                }
                State::Key => {
                    self.buffer.push(data[0]);
                    data = &data[1..];
                    self.left -= 1;
                    self.key(&mut see);
                }
                State::Take(number, length) => {
                    let taken = data.len().min(length - self.buffer.len());
                    self.left -= taken;
                    if self.buffer.is_empty() && taken == length {
                        see(Seen::Field(number, &data[..taken]));
                        self.next(&mut see);
                    } else {
                        self.buffer.extend_from_slice(&data[..taken]);
                        if self.buffer.len() == length {
                            see(Seen::Field(number, &self.buffer));
                            self.next(&mut see);
                        }
                    }
                    data = &data[taken..];
                }
                State::Skip(number, length) => {
                    let taken = data.len().min(length);
                    self.left -= taken;
                    data = &data[taken..];
                    if taken == length {
                        see(Seen::Field(number, &[]));
                        self.next(&mut see);
                    } else {
                        self.state = State::Skip(number, length - taken);
                    }
                }
            }
        }
    }

    /// A field begins when its key and, of a length-delimited one, its length are there.
    fn key(&mut self, see: &mut impl FnMut(Seen<'_>)) {
        let mut bytes = &self.buffer[..];
        let Ok(key) = decode_varint(&mut bytes) else { return };
        let Ok(value) = decode_varint(&mut bytes) else { return };
        // Responses hold strings, messages and nothing else that matters here.
        if key & 7 != 2 {
            return self.next(see);
        }
        let length = usize::try_from(value).unwrap_or(usize::MAX);
        self.buffer.clear();
        self.state = match length {
            0 => return self.next(see),
            1..=KEPT => State::Take(key >> 3, length),
            _ => State::Skip(key >> 3, length),
        };
    }

    fn next(&mut self, see: &mut impl FnMut(Seen<'_>)) {
        self.buffer.clear();
        if self.left == 0 {
            self.state = State::Header;
            see(Seen::End);
        } else {
            self.state = State::Key;
        }
    }
}

/// The length-delimited fields of a small message.
pub fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let key = decode_varint(&mut message).ok()?;
            let value = decode_varint(&mut message).ok()?;
            if key & 7 != 2 {
                continue;
            }
            let length = usize::try_from(value).ok().filter(|length| *length <= message.len())?;
            let (field, rest) = message.split_at(length);
            message = rest;
            return Some((key >> 3, field));
        }
    })
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
    use prost::Message;

    use super::*;

    #[test]
    fn fields_come_out_the_same_however_the_bytes_are_cut() {
        let resource = |name: &str| Resource { name: name.into(), version: "7".into(), ..Default::default() };
        let response = DeltaDiscoveryResponse {
            type_url: "t".into(),
            nonce: "n".repeat(300),
            resources: vec![resource("a"), resource(&"b".repeat(KEPT))],
            ..Default::default()
        };
        let mut bytes = Vec::new();
        for message in [response.encode_to_vec(), Vec::new()] {
            bytes.push(0);
            bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&message);
        }
        for cut in [1, 3, 1000, usize::MAX] {
            let (mut reader, mut found, mut ends) = (Reader::default(), Vec::new(), 0);
            for chunk in bytes.chunks(cut.min(bytes.len())) {
                reader.feed(chunk, |seen| match seen {
                    Seen::Field(number, field) => found.push((number, field.len())),
                    Seen::End => ends += 1,
                });
            }
            let first = response.resources[0].encoded_len();
            assert_eq!(found, [(2, first), (2, 0), (4, 1), (5, 300)], "cut at {cut}");
            assert_eq!(ends, 2);
        }
    }
}

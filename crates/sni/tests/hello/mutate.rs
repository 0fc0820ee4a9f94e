//! Damages hellos, the same way at each run.

/// Draws from a corpus and damages what it drew.
pub(crate) struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
}

/// Bytes at which parsers of TLS turn.
const TURNING: [u8; 9] = [0, 1, 3, 16, 20, 22, 0x40, 0x7f, 0xff];
/// Larger files would take all of the time.
const LARGEST: usize = 4096;

impl Mutator {
    pub(crate) fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        let corpus = corpus.into_iter().filter(|bytes| bytes.len() <= LARGEST).collect();
        Self { state: seed.max(1), corpus }
    }

    /// The next damaged hello.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        let mut bytes = self.corpus[at].clone();
        for _ in 0..=self.below(3) {
            self.damage(&mut bytes);
        }
        bytes.truncate(LARGEST * 2);
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(22);
        }
        let (from, to) = self.range(bytes.len());
        match self.below(9) {
            0 => bytes[from] ^= 1 << self.below(8),
            1 => bytes[from] = TURNING[self.below(TURNING.len())],
            2 => drop(bytes.drain(from..to)),
            3 => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(from..from, copy);
            }
            4 => bytes.truncate(from),
            5 => {
                let other = self.below(self.corpus.len());
                let (start, end) = self.range(self.corpus[other].len().max(1));
                let piece = self.corpus[other].get(start..end).unwrap_or_default().to_vec();
                bytes.splice(from..to, piece);
            }
            // A length that is a little wrong.
            6 if from + 1 < bytes.len() => {
                let length = u16::from_be_bytes([bytes[from], bytes[from + 1]]);
                let wrong = if self.below(2) == 0 { length.wrapping_add(1) } else { length.wrapping_sub(1) };
                bytes[from..from + 2].copy_from_slice(&wrong.to_be_bytes());
            }
            7 => self.fragment(bytes),
            _ => {
                for byte in &mut bytes[from..to] {
                    *byte = byte.wrapping_mul(167).wrapping_add(13);
                }
            }
        }
    }

    /// The first record's payload in records of another size.
    fn fragment(&mut self, bytes: &mut Vec<u8>) {
        let Some((&[kind, major, minor, high, low], rest)) = bytes.split_first_chunk::<5>() else { return };
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let size = 1 + self.below(200);
        let mut out = Vec::new();
        for piece in rest[..length].chunks(size) {
            out.extend([kind, major, minor, 0, u8::try_from(piece.len()).unwrap_or(u8::MAX)]);
            out.extend(piece);
        }
        out.extend(&rest[length..]);
        *bytes = out;
    }

    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length);
        (from, from + 1 + self.below((length - from).min(32)))
    }

    /// Xorshift: no randomness is needed, only variety.
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 11).unwrap_or(usize::MAX) % bound.max(1)
    }
}

//! The file of the last-good cache: one protobuf message behind a checksum. It is written and read piece by piece, so that neither
//! takes memory for all of it.
//!
//! ```text
//! message Contents { string owner = 1; repeated OneType types = 2; }
//! message OneType { string type_url = 1; repeated Kept entries = 2; }
//! message Kept { string name = 1; string version = 2; bytes body = 3; }
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_proto::resource::{FNV1A, fnv1a_more};
use isthmus_xds::client::Version;
use prost::{Message, encoding};

use super::{Entry, Types};

/// What the file begins with; eight bytes of checksum follow.
const MAGIC: &[u8; 8] = b"isthmus1";
const BEGINS: u64 = 16;
/// What is written or read at a time, but for a single larger resource.
const PIECE: usize = 64 * 1024;

/// An entry as it is in the file.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Kept {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
}

impl From<&Entry> for Kept {
    fn from(entry: &Entry) -> Self {
        Self { name: entry.name.to_string(), version: entry.version.to_string(), body: entry.body.clone() }
    }
}

/// All that is to be written, as it was at one moment.
pub(super) struct Contents<'a> {
    pub(super) owner: &'a str,
    pub(super) types: &'a [(Arc<str>, Vec<Entry>)],
}

/// Length of a field with these bytes.
fn field(length: usize) -> usize {
    1 + encoding::encoded_len_varint(length as u64) + length
}

/// Length of an entry without its key and length.
fn entry_length(entry: &Entry) -> usize {
    let version = entry.version.to_string().len();
    let present = |length: usize| if length == 0 { 0 } else { field(length) };
    present(entry.name.len()) + present(version) + present(entry.body.len())
}

fn type_length(type_url: &str, entries: &[Entry]) -> usize {
    field(type_url.len()) + entries.iter().map(|entry| field(entry_length(entry))).sum::<usize>()
}

/// Computes the checksum of what passes.
struct Summed<W> {
    to: W,
    sum: u64,
}

impl<W: Write> Summed<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum = fnv1a_more(self.sum, bytes);
        self.to.write_all(bytes)
    }

    /// Key and length of a field.
    fn begin(&mut self, number: u32, length: usize) -> io::Result<()> {
        let mut head = [0u8; 16];
        let mut rest = &mut head[..];
        encoding::encode_key(number, encoding::WireType::LengthDelimited, &mut rest);
        encoding::encode_varint(length as u64, &mut rest);
        let unused = rest.len();
        self.put(&head[..16 - unused])
    }

    fn field(&mut self, number: u32, bytes: &[u8]) -> io::Result<()> {
        self.begin(number, bytes.len())?;
        self.put(bytes)
    }
}

impl Contents<'_> {
    /// Bytes of the file.
    pub(super) fn length(&self) -> usize {
        let types = self.types.iter().map(|(type_url, entries)| field(type_length(type_url, entries)));
        MAGIC.len() + 8 + field(self.owner.len()) + types.sum::<usize>()
    }

    /// Writes the file.
    pub(super) fn write(&self, file: &mut File) -> io::Result<()> {
        let mut out = Summed { to: BufWriter::with_capacity(PIECE, &mut *file), sum: FNV1A };
        out.to.write_all(MAGIC)?;
        out.to.write_all(&[0; 8])?;
        out.field(1, self.owner.as_bytes())?;
        for (type_url, entries) in self.types {
            out.begin(2, type_length(type_url, entries))?;
            out.field(1, type_url.as_bytes())?;
            for entry in entries {
                out.begin(2, entry_length(entry))?;
                let version = entry.version.to_string();
                let fields = [(1, entry.name.as_bytes()), (2, version.as_bytes()), (3, &entry.body[..])];
                for (number, bytes) in fields.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
                    out.field(number, bytes)?;
                }
            }
        }
        out.to.flush()?;
        let sum = out.sum;
        drop(out);
        file.write_all_at(&sum.to_be_bytes(), MAGIC.len() as u64)
    }
}

/// Reads a file: whose resources they are, and which. None when it is damaged.
pub(super) fn read(mut file: File) -> io::Result<Option<(String, Types)>> {
    if !is_sound(&mut file)? {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(BEGINS))?;
    let most = file.metadata()?.len();
    match contents(&mut BufReader::with_capacity(PIECE, file), most) {
        Ok(contents) => Ok(Some(contents)),
        // The checksum holds: another program's file.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_sound(file: &mut File) -> io::Result<bool> {
    let mut head = [0; BEGINS as usize];
    match file.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let (magic, checksum) = head.split_at(MAGIC.len());
    let mut reader = BufReader::with_capacity(PIECE, file);
    let mut sum = FNV1A;
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(magic == MAGIC && checksum == sum.to_be_bytes());
        }
        sum = fnv1a_more(sum, piece);
        let length = piece.len();
        reader.consume(length);
    }
}

fn contents(file: &mut impl BufRead, most: u64) -> io::Result<(String, Types)> {
    let (mut owner, mut types, mut names) = (String::new(), Types::new(), HashSet::new());
    while let Some((number, length)) = begun(file, most)? {
        let mut part = (&mut *file).take(length);
        match number {
            1 => drop(part.read_to_string(&mut owner)?),
            2 => {
                let (type_url, entries) = one_type(&mut part, most, &mut names)?;
                types.insert(type_url, entries);
            }
            _ => drop(io::copy(&mut part, &mut io::sink())?),
        }
    }
    Ok((owner, types))
}

/// Names of one service are the same in several types, and one text for all.
fn one_type(
    file: &mut impl BufRead,
    most: u64,
    names: &mut HashSet<Arc<str>>,
) -> io::Result<(Arc<str>, Vec<Entry>)> {
    let (mut type_url, mut entries, mut bytes) = (String::new(), Vec::new(), Vec::new());
    while let Some((number, length)) = begun(file, most)? {
        let mut part = (&mut *file).take(length);
        match number {
            1 => drop(part.read_to_string(&mut type_url)?),
            2 => {
                bytes.clear();
                bytes.reserve_exact(usize::try_from(length).unwrap_or_default());
                part.read_to_end(&mut bytes)?;
                let kept = Kept::decode(&bytes[..]).map_err(|error| invalid(error.to_string()))?;
                let name = names.get(kept.name.as_str()).cloned().unwrap_or_else(|| {
                    let name: Arc<str> = kept.name.into();
                    names.insert(Arc::clone(&name));
                    name
                });
                entries.push(Entry { name, version: Version::from(kept.version.as_str()), body: kept.body });
            }
            _ => drop(io::copy(&mut part, &mut io::sink())?),
        }
    }
    entries.shrink_to_fit();
    Ok((type_url.into(), entries))
}

/// Number and length of the field that begins; none at the end. It is no longer than the file.
fn begun(file: &mut impl BufRead, most: u64) -> io::Result<Option<(u64, u64)>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let key = varint(file)?;
    if key & 7 != encoding::WireType::LengthDelimited as u64 {
        return Err(invalid("a field that is neither text nor message"));
    }
    match varint(file)? {
        length if length <= most => Ok(Some((key >> 3, length))),
        _ => Err(invalid("a field that is longer than the file")),
    }
}

fn varint(file: &mut impl BufRead) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(value);
        }
    }
    Err(invalid("a number that does not end"))
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct OneType {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(message, repeated, tag = "2")]
        entries: Vec<Kept>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct All {
        #[prost(string, tag = "1")]
        owner: String,
        #[prost(message, repeated, tag = "2")]
        types: Vec<OneType>,
    }

    #[test]
    fn the_file_is_the_message_that_it_is_said_to_be() {
        let entry = |name: &str, version: &str, body: &'static [u8]| Entry {
            name: name.into(),
            version: version.into(),
            body: Bytes::from_static(body),
        };
        let clusters =
            vec![entry("a", "1", b"1"), entry("b", "00000000000000ff", &[7; 300]), entry("", "", b"")];
        let types = [("cds".into(), clusters), ("lds".into(), Vec::new())];
        let contents = Contents { owner: "reviews", types: &types };
        let mut file = tempfile::tempfile().unwrap();
        contents.write(&mut file).unwrap();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), contents.length());
        let all = All::decode(&bytes[16..]).unwrap();
        assert_eq!(all.encode_to_vec(), bytes[16..], "in the order of its fields");
        let read_back: Vec<_> = all.types.into_iter().map(|one| (one.type_url, one.entries)).collect();
        let expected =
            types.iter().map(|(url, entries)| (url.to_string(), entries.iter().map(Kept::from).collect()));
        assert_eq!(read_back, expected.collect::<Vec<_>>());
        file.seek(SeekFrom::Start(0)).unwrap();
        let (owner, read) = read(file).unwrap().unwrap();
        assert_eq!((owner.as_str(), read), ("reviews", types.into_iter().collect()));
    }
}

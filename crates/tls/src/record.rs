//! The record layer of an established connection: RFC 8446 section 5, and RFC 5246 section 6 with RFC 5288 and 7905 for peers
//! that speak TLS 1.2. Keys come from rustls, ciphers from aws-lc.
//!
//! rustls has a record layer of its own, which the handshake uses. It copies each record twice and reads sockets four kilobytes
//! at a time; here a record is sealed and opened where it lies, and a read brings several.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, PeerMisbehaved, ProtocolVersion};

/// Bytes before a record's body.
pub(crate) const HEADER: usize = 5;
/// Plaintext of one record.
pub(crate) const MOST_PLAIN: usize = 16 * 1024;
const TAG: usize = 16;
const EXPLICIT_NONCE: usize = 8;
/// A key seals so many records; RFC 8446 section 5.5 allows a few more.
const MOST_RECORDS: u64 = 1 << 24;
/// From here on a new key is asked for.
const RENEW_AT: u64 = 1 << 23;

pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const DATA: u8 = 23;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tls13,
    /// The rest of the nonce travels in the record.
    Tls12Gcm,
    Tls12ChaCha,
}

/// One direction of a connection: its key and how often it was used.
pub(crate) struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    form: Form,
}

impl Keys {
    pub(crate) fn new(
        version: ProtocolVersion,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, Error> {
        let tls13 = version == ProtocolVersion::TLSv1_3;
        let gcm = if tls13 { Form::Tls13 } else { Form::Tls12Gcm };
        let (algorithm, key, iv, form) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, gcm),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, gcm),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&CHACHA20_POLY1305, key, iv, if tls13 { Form::Tls13 } else { Form::Tls12ChaCha })
            }
            _ => return Err(Error::General("a cipher that the record layer does not know".into())),
        };
        let wrong = || Error::General("a key of a wrong length".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| wrong())?;
        let iv = iv.as_ref().try_into().map_err(|_| wrong())?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence, form })
    }

    /// Whether it is time for the next key. TLS 1.2 has none.
    pub(crate) fn is_worn(&self) -> bool {
        self.form == Form::Tls13 && self.sequence >= RENEW_AT
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= sequence;
        }
        nonce
    }

    /// Bytes that a record of so much plaintext has.
    pub(crate) fn sealed_length(&self, plain: usize) -> usize {
        let beside = match self.form {
            Form::Tls13 => 1,
            Form::Tls12Gcm => EXPLICIT_NONCE,
            Form::Tls12ChaCha => 0,
        };
        HEADER + plain + beside + TAG
    }

    /// Writes one record to the front of `out`, which has room for it. Its length.
    pub(crate) fn seal(&mut self, kind: u8, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let nonce = self.nonce();
        let sequence = self.sequence;
        if sequence >= MOST_RECORDS {
            return Err(Error::EncryptError);
        }
        self.sequence += 1;
        let length = self.sealed_length(plain.len());
        let record = &mut out[..length];
        let body = u16::try_from(length - HEADER).map_err(|_| Error::EncryptError)?.to_be_bytes();
        let outer = if self.form == Form::Tls13 { DATA } else { kind };
        record[..HEADER].copy_from_slice(&[outer, 3, 3, body[0], body[1]]);
        let from = if self.form == Form::Tls12Gcm {
            record[HEADER..HEADER + EXPLICIT_NONCE].copy_from_slice(&nonce[4..]);
            HEADER + EXPLICIT_NONCE
        } else {
            HEADER
        };
        let (head, rest) = record.split_at_mut(from);
        let (inner, end) = rest.split_at_mut(plain.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = if self.form == Form::Tls13 {
            let aad = Aad::from(&head[..HEADER]);
            self.key.seal_out_of_place_scatter(nonce, aad, plain, inner, &[kind], end)
        } else {
            let aad = Aad::from(aad12(sequence, kind, plain.len()));
            self.key.seal_out_of_place_scatter(nonce, aad, plain, inner, &[], end)
        };
        sealed.map_err(|_| Error::EncryptError)?;
        Ok(length)
    }

    /// Room that [`Keys::open`] needs for a record of this length.
    pub(crate) fn room(&self, record: usize) -> usize {
        record.saturating_sub(HEADER + self.explicit() + TAG)
    }

    /// Bytes of the nonce that travel in a record.
    fn explicit(&self) -> usize {
        if self.form == Form::Tls12Gcm { EXPLICIT_NONCE } else { 0 }
    }

    /// Opens a whole record into `out`, which has room for it. Its type, and the length of its plaintext.
    pub(crate) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(u8, usize), Error> {
        let mut nonce = self.nonce();
        let sequence = self.sequence;
        // How often a key is used is the sealing side's to say.
        self.sequence = sequence.checked_add(1).ok_or(Error::DecryptError)?;
        let (head, body) = record.split_at(HEADER);
        let outer = head[0];
        let (Some((explicit, sealed)), false) =
            (body.split_at_checked(self.explicit()), self.form == Form::Tls13 && outer != DATA)
        else {
            return Err(Error::DecryptError);
        };
        let length = sealed.len().checked_sub(TAG).ok_or(Error::DecryptError)?;
        let (inner, tag) = sealed.split_at(length);
        if !explicit.is_empty() {
            nonce[..4].copy_from_slice(&self.iv[..4]);
            nonce[4..].copy_from_slice(explicit);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let out = &mut out[..length];
        let opened = if self.form == Form::Tls13 {
            self.key.open_separate_gather(nonce, Aad::from(head), inner, tag, out)
        } else {
            self.key.open_separate_gather(nonce, Aad::from(aad12(sequence, outer, length)), inner, tag, out)
        };
        opened.map_err(|_| Error::DecryptError)?;
        let (kind, length) = if self.form == Form::Tls13 {
            // Padding is zeros behind the type.
            let Some(end) = out.iter().rposition(|byte| *byte != 0) else {
                return Err(Error::PeerMisbehaved(PeerMisbehaved::IllegalTlsInnerPlaintext));
            };
            (out[end], end)
        } else {
            (outer, length)
        };
        if length > MOST_PLAIN { Err(Error::PeerSentOversizedRecord) } else { Ok((kind, length)) }
    }
}

fn aad12(sequence: u64, kind: u8, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&[kind, 3, 3]);
    // No record is longer than its two bytes of length say.
    #[expect(clippy::cast_possible_truncation, reason = "a record's length has two bytes")]
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}

/// The length of the record at the front of `bytes`, once its header is there.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let [kind, 3, _, high, low, ..] = *bytes else {
        let is_begun = bytes.len() < HEADER && bytes.get(1).is_none_or(|major| *major == 3);
        return if is_begun { Ok(None) } else { Err(misplaced()) };
    };
    if ![ALERT, HANDSHAKE, DATA].contains(&kind) {
        return Err(misplaced());
    }
    let body = usize::from(u16::from_be_bytes([high, low]));
    // RFC 8446 allows 256 bytes beside the plaintext, RFC 5246 allows 2048.
    if body > MOST_PLAIN + 256 { Err(Error::PeerSentOversizedRecord) } else { Ok(Some(HEADER + body)) }
}

fn misplaced() -> Error {
    Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)
}

/// What an alert's two bytes say: none for the peer's orderly end.
pub(crate) fn alert(bytes: &[u8]) -> Result<Option<AlertDescription>, Error> {
    match *bytes {
        [_, description] => {
            let description = AlertDescription::from(description);
            Ok(Some(description).filter(|description| *description != AlertDescription::CloseNotify))
        }
        _ => Err(Error::InvalidMessage(rustls::InvalidMessage::MessageTooLarge)),
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("form", &self.form)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn keys(version: ProtocolVersion) -> Keys {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::new([9; 12]));
        Keys::new(version, 3, &ConnectionTrafficSecrets::Aes256Gcm { key, iv }).unwrap()
    }

    #[test]
    fn no_damage_to_a_record_opens_or_panics() {
        for version in [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2] {
            let mut sealed = vec![0; 256];
            let sealed_length = keys(version).seal(DATA, b"attack at dawn", &mut sealed).unwrap();
            sealed.truncate(sealed_length);
            assert_eq!(length(&sealed).unwrap(), Some(sealed_length));
            let mut out = vec![0; 256];
            let (kind, opened) = keys(version).open(&sealed, &mut out).unwrap();
            assert_eq!((kind, &out[..opened]), (DATA, &b"attack at dawn"[..]));
            for position in 0..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[position] ^= 0x40;
                // The version in a header is not sealed in TLS 1.2: it is never looked at.
                if version == ProtocolVersion::TLSv1_3 || position > 4 {
                    keys(version).open(&damaged, &mut out).unwrap_err();
                }
                let _ = length(&damaged);
            }
            for short in HEADER..sealed.len() {
                keys(version).open(&sealed[..short], &mut out).unwrap_err();
            }
            // A record that comes again, or in another's place.
            let mut reader = keys(version);
            reader.open(&sealed, &mut out).unwrap();
            reader.open(&sealed, &mut out).unwrap_err();
        }
    }

    #[test]
    fn padding_is_taken_off_and_a_record_of_padding_alone_is_refused() {
        let (mut sealed, mut out) = (vec![0; 256], vec![0; 256]);
        // A type of zero is what padding looks like.
        let length = keys(ProtocolVersion::TLSv1_3).seal(0, b"hello\x17\0\0", &mut sealed).unwrap();
        let opened = keys(ProtocolVersion::TLSv1_3).open(&sealed[..length], &mut out).unwrap();
        assert_eq!((opened, &out[..5]), ((DATA, 5), &b"hello"[..]));
        let length = keys(ProtocolVersion::TLSv1_3).seal(0, &[0; 30], &mut sealed).unwrap();
        keys(ProtocolVersion::TLSv1_3).open(&sealed[..length], &mut out).unwrap_err();
    }

    #[test]
    fn headers_that_are_none_are_refused_before_their_record_is_there() {
        assert_eq!(length(&[]).unwrap(), None);
        assert_eq!(length(&[DATA, 3]).unwrap(), None);
        for bad in [&b"GET /"[..], &[DATA, 3, 3, 0xff, 0xff], &[20, 3, 3, 0, 1], &[DATA, 2]] {
            length(bad).unwrap_err();
        }
        assert!(alert(&[1, 0]).unwrap().is_none());
        assert_eq!(alert(&[2, 42]).unwrap(), Some(AlertDescription::BadCertificate));
        alert(&[2]).unwrap_err();
    }
}

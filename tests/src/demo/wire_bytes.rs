//! Requests of gRPC services as bytes, for curl: a person can send what a program would.

/// One length-delimited field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    out.extend(varint(bytes.len() as u64));
    out.extend_from_slice(bytes);
    out
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// A number field.
fn number(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    out.extend(varint(value));
    out
}

/// A message as gRPC frames it.
fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(message);
    out
}

/// envoy.service.discovery.v3.DiscoveryRequest of a node that claims to be this workload.
pub(super) fn discovery_request(
    ip: &str,
    namespace: &str,
    account: &str,
    name: &str,
    type_url: &str,
) -> Vec<u8> {
    let entry = |key: &str, value: &str| {
        let value = field(3, value.as_bytes());
        field(1, &[field(1, key.as_bytes()), field(2, &value)].concat())
    };
    let metadata =
        [entry("NAMESPACE", namespace), entry("SERVICE_ACCOUNT", account), entry("NAME", name)].concat();
    let id = format!("sidecar~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local");
    let node = [field(1, id.as_bytes()), field(3, &metadata)].concat();
    frame(&[field(2, &node), field(3, b"default"), field(4, type_url.as_bytes())].concat())
}

/// isthmus.federation.v1 frames of a peer `west` that exports a service as `owner`.
pub(super) fn forged_export(secret: &str, owner: &str, host: &str) -> Vec<u8> {
    let hello = [
        field(1, b"mesh1"),
        field(2, b"west"),
        field(3, b"default"),
        field(4, b"west"),
        number(5, u64::from(u32::MAX)),
        field(8, secret.as_bytes()),
        field(9, b"curl"),
    ]
    .concat();
    let owner = [field(1, b"mesh1"), field(2, owner.as_bytes()), field(3, b"default")].concat();
    let port = [field(1, b"http"), number(2, 9080), field(3, b"HTTP")].concat();
    let name = host.split('.').next().unwrap_or_default();
    let export =
        [field(1, host.as_bytes()), field(2, name.as_bytes()), field(3, b"bookinfo"), field(4, &port)]
            .concat();
    let record =
        [field(1, &owner), number(2, 1), field(3, host.as_bytes()), number(4, 1), field(5, &export)].concat();
    let change = [number(1, 1), field(2, &record)].concat();
    [frame(&field(1, &hello)), frame(&field(2, &change))].concat()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// For a shell: `echo … | base64 -d`.
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().enumerate().fold(0_u32, |all, (i, byte)| all | u32::from(*byte) << (16 - 8 * i));
        for position in 0..4 {
            if position <= chunk.len() {
                out.push(char::from(BASE64[(group >> (18 - 6 * position) & 63) as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_usual_one() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(base64(&[0xff, 0xfe, 0xfd, 0xfc]), "//79/A==");
    }

    #[test]
    fn long_fields_have_long_lengths() {
        let long = field(2, &[7; 300]);
        assert_eq!(long[..3], [0x12, 0xac, 0x02]);
        assert_eq!(long.len(), 303);
    }
}

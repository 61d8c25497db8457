//! PROXY protocol, versions 1 and 2: who the client is when a TCP proxy stands before us.
//!
//! Read only from source addresses that the configuration lists, and there it must be present: a client that may choose
//! whether to send it may choose its own address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Addresses and a few TLVs; HAProxy sends far less.
const V2_REST_MAX: usize = 512;
/// The longest line of version 1, by its specification.
const V1_LINE_MAX: usize = 107;

/// Reads the header off the connection. `None` means that the proxy speaks for itself (a health check of its own).
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut start = [0_u8; 12];
    stream.read_exact(&mut start).await?;
    if &start == V2_SIGNATURE { read_v2(stream).await } else { read_v1(stream, &start).await }
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut fixed = [0_u8; V2_FIXED - 12];
    stream.read_exact(&mut fixed).await?;
    let [version_command, family, length_high, length_low] = fixed;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if version_command >> 4 != 2 || length > V2_REST_MAX {
        return Err(invalid("not version 2, or over 512 bytes"));
    }
    let mut rest = [0_u8; V2_REST_MAX];
    let rest = rest.get_mut(..length).ok_or_else(|| invalid("over 512 bytes"))?;
    stream.read_exact(rest).await?;
    match (version_command & 0x0f, family) {
        (0, _) => Ok(None),
        (1, 0x11) => parse_v2_address::<4>(rest, |octets| Ipv4Addr::from(octets).into()).map(Some),
        (1, 0x21) => parse_v2_address::<16>(rest, |octets| Ipv6Addr::from(octets).into()).map(Some),
        _ => Err(invalid("neither TCP over IPv4 nor over IPv6")),
    }
}

/// Source address, destination address, source port, destination port.
fn parse_v2_address<const N: usize>(rest: &[u8], address: fn([u8; N]) -> IpAddr) -> io::Result<SocketAddr> {
    let short = || invalid("addresses cut short");
    let octets = rest.first_chunk::<N>().ok_or_else(short)?;
    let port = rest.get(2 * N..).and_then(|rest| rest.first_chunk::<2>()).ok_or_else(short)?;
    Ok(SocketAddr::new(address(*octets), u16::from_be_bytes(*port)))
}

async fn read_v1(stream: &mut (impl AsyncRead + Unpin), start: &[u8]) -> io::Result<Option<SocketAddr>> {
    if !start.starts_with(b"PROXY ") {
        return Err(invalid("no PROXY header"));
    }
    let mut line = Vec::with_capacity(V1_LINE_MAX);
    line.extend_from_slice(start);
    // Byte by byte, since whatever follows the line belongs to TLS.
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_LINE_MAX {
            return Err(invalid("line over 107 bytes"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| invalid("line is not text"))?;
    parse_v1(line.trim_end_matches("\r\n"))
}

fn parse_v1(line: &str) -> io::Result<Option<SocketAddr>> {
    let mut parts = line.split(' ').skip(1);
    let family = parts.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let (Some(source), Some(_), Some(port), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid("line is not `PROXY TCP4 source destination port port`"));
    };
    let address: IpAddr = source.parse().map_err(|_| invalid("source is not an address"))?;
    if (family == "TCP4") != address.is_ipv4() || !matches!(family, "TCP4" | "TCP6") {
        return Err(invalid("family and address differ"));
    }
    let port = port.parse().map_err(|_| invalid("source port is not a port"))?;
    Ok(Some(SocketAddr::new(address, port)))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY protocol: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let mut rest = bytes;
        let result = read(&mut rest).await;
        (result, rest.len())
    }

    fn v2(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_the_rest() {
        let v4: SocketAddr = "192.0.2.7:56324".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:56324".parse().unwrap();
        let mut rest = [192, 0, 2, 7, 10, 0, 0, 1].to_vec();
        rest.extend([0xdc, 0x04, 0x01, 0xbb, 0xff, 0xff]);
        for (mut header, client) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n".to_vec(), Some(v4)),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n".to_vec(), Some(v6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2(0x21, 0x11, &rest), Some(v4)),
            (v2(0x20, 0x00, &[]), None),
        ] {
            header.extend(b"\x16\x03\x01");
            let (result, left) = parse(&header).await;
            assert_eq!(result.unwrap(), client);
            assert_eq!(left, 3);
        }
    }

    #[tokio::test]
    async fn other_headers_are_errors() {
        for bytes in [
            b"\x16\x03\x01\x00\x05hello, client hello".to_vec(),
            b"PROXY TCP4 2001:db8::7 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 66000 1\r\n".to_vec(),
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 9]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x21, 0x11, &[0; 513]),
        ] {
            assert!(parse(&bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}

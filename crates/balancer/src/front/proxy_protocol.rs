//! PROXY protocol, version 2: the client's address when a TCP proxy is in front of the balancer.
//!
//! Read only from source addresses that the configuration lists, and there it must be present: a client that may choose
//! whether to send it may choose its own address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Addresses and a few TLVs; HAProxy sends far less.
const REST_MAX: usize = 512;
/// Reads the header off the connection. `None` means that the proxy speaks for itself (a health check of its own).
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut signature = [0_u8; SIGNATURE.len()];
    stream.read_exact(&mut signature).await?;
    if &signature != SIGNATURE {
        return Err(invalid("no header of version 2"));
    }
    let mut fixed = [0_u8; FIXED - SIGNATURE.len()];
    stream.read_exact(&mut fixed).await?;
    let [version_command, family, length_high, length_low] = fixed;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if version_command >> 4 != 2 || length > REST_MAX {
        return Err(invalid("not version 2, or over 512 bytes"));
    }
    let mut rest = [0_u8; REST_MAX];
    let rest = rest.get_mut(..length).ok_or_else(|| invalid("over 512 bytes"))?;
    stream.read_exact(rest).await?;
    match (version_command & 0x0f, family) {
        (0, _) => Ok(None),
        (1, 0x11) => parse_address::<4>(rest, |octets| Ipv4Addr::from(octets).into()).map(Some),
        (1, 0x21) => parse_address::<16>(rest, |octets| Ipv6Addr::from(octets).into()).map(Some),
        _ => Err(invalid("neither TCP over IPv4 nor over IPv6")),
    }
}

/// Source address, destination address, source port, destination port.
fn parse_address<const N: usize>(rest: &[u8], address: fn([u8; N]) -> IpAddr) -> io::Result<SocketAddr> {
    let short = || invalid("addresses cut short");
    let octets = rest.first_chunk::<N>().ok_or_else(short)?;
    let port = rest.get(2 * N..).and_then(|rest| rest.first_chunk::<2>()).ok_or_else(short)?;
    Ok(SocketAddr::new(address(*octets), u16::from_be_bytes(*port)))
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

    fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[tokio::test]
    async fn a_header_names_the_client_and_leaves_the_rest() {
        let v4: SocketAddr = "192.0.2.7:56324".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::7]:56324".parse().unwrap();
        let ports_and_more = [0xdc, 0x04, 0x01, 0xbb, 0xff, 0xff];
        let over_ipv4 = [&[192, 0, 2, 7, 10, 0, 0, 1][..], &ports_and_more].concat();
        let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let over_ipv6 = [&octets("2001:db8::7")[..], &octets("2001:db8::1"), &ports_and_more].concat();
        for (mut bytes, client) in [
            (header(0x21, 0x11, &over_ipv4), Some(v4)),
            (header(0x21, 0x21, &over_ipv6), Some(v6)),
            (header(0x20, 0x00, &[]), None),
        ] {
            bytes.extend(b"\x16\x03\x01");
            let (result, left) = parse(&bytes).await;
            assert_eq!(result.unwrap(), client);
            assert_eq!(left, 3);
        }
    }

    #[tokio::test]
    async fn other_headers_are_errors() {
        for bytes in [
            b"\x16\x03\x01\x00\x05hello, client hello".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            header(0x11, 0x11, &[0; 12]),
            header(0x21, 0x11, &[0; 9]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x11, &[0; 513]),
        ] {
            assert!(parse(&bytes).await.0.is_err(), "{bytes:?}");
        }
    }
}

//! Which sockets listen in a network namespace, out of `/proc/<process>/net`.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, ensure};

use crate::docker::{Container, as_root};

/// Docker's resolver listens there in each container; it is no part of the container.
const DOCKERS_DNS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// proc_net_tcp(5): the state of a socket that listens, and of a UDP socket that takes from every peer.
const LISTENS: &str = "0A";
const UNCONNECTED: &str = "07";

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// `*` for every address, `loopback`, or the address.
    pub address: String,
    /// The port.
    pub port: u16,
}

/// All of a container's network namespace.
///
/// # Errors
/// It is not running.
pub async fn listening(container: &Container) -> anyhow::Result<BTreeSet<Socket>> {
    let process = container.main_process().await?;
    let mut found = BTreeSet::new();
    for (protocol, state) in [("tcp", LISTENS), ("udp", UNCONNECTED)] {
        for table in [protocol.to_owned(), format!("{protocol}6")] {
            let text = as_root("cat", &[&format!("/proc/{process}/net/{table}")]).await?;
            found.extend(parse(protocol, state, &text)?);
        }
    }
    Ok(found)
}

fn parse(protocol: &'static str, state: &str, table: &str) -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let (local, found) = (fields.nth(1), fields.nth(1));
        let (Some(local), Some(found)) = (local, found) else { continue };
        if found != state {
            continue;
        }
        let (address, port) = local.split_once(':').with_context(|| format!("no port in {line}"))?;
        let address = address_of(address)?;
        if address != IpAddr::V4(DOCKERS_DNS) {
            sockets.push(Socket { protocol, address: spell(address), port: u16::from_str_radix(port, 16)? });
        }
    }
    Ok(sockets)
}

/// The kernel writes each 32 bits as a number of its own byte order.
fn address_of(hex: &str) -> anyhow::Result<IpAddr> {
    let mut bytes = Vec::new();
    for index in (0..hex.len()).step_by(8) {
        let word = hex.get(index..index + 8).with_context(|| format!("no address: {hex}"))?;
        bytes.extend(u32::from_str_radix(word, 16)?.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Ok(IpAddr::from(four));
    }
    let sixteen = <[u8; 16]>::try_from(bytes.as_slice());
    ensure!(sixteen.is_ok(), "no address: {hex}");
    Ok(sixteen.map(Ipv6Addr::from)?.to_canonical())
}

fn spell(address: IpAddr) -> String {
    match address {
        address if address.is_unspecified() => "*".to_owned(),
        address if address.is_loopback() => "loopback".to_owned(),
        address => address.to_string(),
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.protocol, self.address, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_parsed_for_every_address_form() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            0: 00000000:1F9F 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:1389 00000000:0000 0A 00000000:00000000\n\
            2: 0B00007F:9C41 00000000:0000 0A 00000000:00000000\n\
            3: 0200601E:1F9F 0100601E:8A2C 01 00000000:00000000\n";
        let wide = "  sl  local_address remote_address st\n\
            0: 00000000000000000000000000000000:20FB 00000000000000000000000000000000:0000 0A 0\n\
            1: 00000000000000000000000001000000:1538 00000000000000000000000000000000:0000 0A 0\n";
        let spelt = |text| parse("tcp", LISTENS, text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(spelt(table), ["tcp * 8095", "tcp loopback 5001"]);
        assert_eq!(spelt(wide), ["tcp * 8443", "tcp loopback 5432"]);
    }
}

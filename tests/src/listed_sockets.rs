//! The committed list of the sockets that listen in the containers, and what each of them speaks.

use std::fs;

use anyhow::{Context as _, ensure};

use crate::{checkout::repository, tls_probe::Preamble};

/// The committed list, from the root of the checkout.
pub const LIST: &str = "tests/data/sockets.txt";

/// A line of the list.
pub struct ListedSocket {
    /// The container.
    pub container: String,
    /// `protocol address port`, as [`crate::sockets::Socket`] spells them.
    pub socket: String,
    /// The port.
    pub port: u16,
    /// None: nothing but its own container reaches it, and the line says why it is there.
    pub speaks: Option<Preamble>,
}

/// Lines of `container protocol address port speaks  what it is`.
///
/// # Errors
/// A line is not of that form.
pub fn listed_sockets() -> anyhow::Result<Vec<ListedSocket>> {
    let text = fs::read_to_string(repository().join(LIST)).context(LIST)?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| parse(line).with_context(|| format!("{LIST}: {line}"))).collect()
}

fn parse(line: &str) -> anyhow::Result<ListedSocket> {
    let mut words = line.split_whitespace();
    let mut next = || words.next().context("a word is missing");
    let (container, protocol, address, port, speaks) = (next()?, next()?, next()?, next()?, next()?);
    let reason = next();
    let speaks = match speaks {
        "tls" => Some(Preamble::None),
        "proxy-tls" => Some(Preamble::Proxy),
        "postgres-tls" => Some(Preamble::Postgres),
        "plain" => None,
        other => anyhow::bail!("what is {other}?"),
    };
    ensure!(speaks.is_some() || address == "loopback", "only its own container may reach what speaks no TLS");
    ensure!(reason.is_ok(), "it says not what it is");
    let socket = format!("{protocol} {address} {port}");
    Ok(ListedSocket { container: container.to_owned(), socket, port: port.parse()?, speaks })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_list_says_of_each_socket_what_it_is() {
        let list = listed_sockets().unwrap();
        assert!(list.len() > 30, "the list is where this test looks");
        let sockets: BTreeSet<_> = list.iter().map(|line| (&line.container, &line.socket)).collect();
        assert_eq!(sockets.len(), list.len(), "a socket is listed once");
    }
}

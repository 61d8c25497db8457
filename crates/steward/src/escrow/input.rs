//! Standard input of `rampart escrow`: a line with a key, and then a sealed file. Arguments and environment can be read by others.

use std::io::{BufRead, Read as _};

use anyhow::{Context as _, ensure};
use secrets::Secret;
use zeroize::Zeroizing;

/// The longest line with a key.
pub(super) const KEY_BYTES_MAX: u64 = 4 << 10;
/// The largest sealed file; a real one has some 100 KiB.
pub(super) const SEALED_BYTES_MAX: u64 = 4 << 20;

/// The first line, without its end.
pub(super) fn read_key(from: &mut impl BufRead) -> anyhow::Result<Secret> {
    let mut line = Zeroizing::new(Vec::new());
    from.take(KEY_BYTES_MAX + 1).read_until(b'\n', &mut line).context("cannot read the key from standard input")?;
    ensure!(
        line.len() as u64 <= KEY_BYTES_MAX,
        "the first line of standard input has more than {KEY_BYTES_MAX} bytes, and is no key"
    );
    let key = line.strip_suffix(b"\n").unwrap_or(&line);
    let key = key.strip_suffix(b"\r").unwrap_or(key);
    ensure!(!key.is_empty(), "the first line of standard input is empty, and should be the passphrase or the identity");
    Ok(Secret::new(key))
}

/// All that comes after it.
pub(super) fn read_sealed(from: &mut impl BufRead) -> anyhow::Result<Vec<u8>> {
    let mut sealed = Vec::new();
    from.take(SEALED_BYTES_MAX + 1).read_to_end(&mut sealed).context("cannot read the escrow from standard input")?;
    ensure!(sealed.len() as u64 <= SEALED_BYTES_MAX, "the escrow has more than {SEALED_BYTES_MAX} bytes, and is none");
    ensure!(!sealed.is_empty(), "there is no escrow on standard input, behind the line with the key");
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader};

    use super::*;

    #[test]
    fn the_key_is_the_first_line_and_the_file_is_the_rest() {
        for (text, key, rest) in [("a b\nfile\n", "a b", "file\n"), ("a\r\n\nx", "a", "\nx")] {
            let mut input = text.as_bytes();
            assert_eq!(read_key(&mut input).unwrap().expose(), key.as_bytes());
            assert_eq!(read_sealed(&mut input).unwrap(), rest.as_bytes());
        }
        assert!(read_key(&mut &b"\nfile"[..]).is_err());
        assert!(read_sealed(&mut &b""[..]).is_err());
    }

    #[test]
    fn one_byte_past_a_limit_is_refused() {
        let endless = || BufReader::new(io::repeat(b'a'));
        let longest = |bytes: u64| BufReader::new(io::repeat(b'a').take(bytes));
        assert_eq!(read_key(&mut longest(KEY_BYTES_MAX)).unwrap().expose().len() as u64, KEY_BYTES_MAX);
        assert!(read_key(&mut endless()).is_err());
        assert_eq!(read_sealed(&mut longest(SEALED_BYTES_MAX)).unwrap().len() as u64, SEALED_BYTES_MAX);
        assert!(read_sealed(&mut endless()).is_err());
    }
}

//! The header fields that the front must know, each checked as it is read.

use std::ops::Range;

use super::HeadError;

/// What the fields of a head say, as far as the front must know it.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) host: Option<Range<usize>>,
    pub(super) content_length: Option<u64>,
    pub(super) is_chunked: bool,
    pub(super) has_credentials: bool,
}

// === impl Fields ===

impl Fields {
    pub(super) fn add(&mut self, offset: usize, line: &[u8]) -> Result<(), HeadError> {
        let colon = memchr::memchr(b':', line).ok_or(HeadError::Field)?;
        let (name, value) = line.split_at_checked(colon).ok_or(HeadError::Field)?;
        let value = value.get(1..).unwrap_or_default();
        if name.is_empty() || !name.iter().all(is_token) || !is_text(value) {
            return Err(HeadError::Field);
        }
        let start = offset + colon + 1 + value.len() - value.trim_ascii_start().len();
        let value = value.trim_ascii();
        // By length first: most fields are none of these, and a head is parsed for every request.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.add_host(start, value),
            13 if name.eq_ignore_ascii_case(b"authorization") => {
                let is_second = std::mem::replace(&mut self.has_credentials, true);
                if is_second { Err(HeadError::Credentials) } else { Ok(()) }
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.add_content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let is_second = std::mem::replace(&mut self.is_chunked, true);
                let is_chunked = value.eq_ignore_ascii_case(b"chunked");
                if is_second || !is_chunked { Err(HeadError::Framing) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn add_host(&mut self, start: usize, value: &[u8]) -> Result<(), HeadError> {
        // `user@host` and lists are how one host is shown to one parser and another to the next.
        let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte);
        if self.host.is_some() || value.is_empty() || !value.iter().all(is_host) {
            return Err(HeadError::Host);
        }
        self.host = Some(start..start + value.len());
        Ok(())
    }

    fn add_content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let digits = std::str::from_utf8(value).map_err(|_| HeadError::Framing)?;
        if self.content_length.is_some() || !value.iter().all(u8::is_ascii_digit) {
            return Err(HeadError::Framing);
        }
        self.content_length = Some(digits.parse().map_err(|_| HeadError::Framing)?);
        Ok(())
    }
}

/// Looks at every byte, also after a wrong one: without a branch the compiler looks at many at once, and a value can be a token
/// of a thousand bytes.
fn is_text(value: &[u8]) -> bool {
    value.iter().fold(true, |is_text, byte| is_text & (((*byte >= b' ') & (*byte != 0x7f)) | (*byte == b'\t')))
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

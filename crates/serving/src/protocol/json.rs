//! A pull reader for JSON that knows where it is: every fault carries the path of the field and the byte.
//!
//! Requests are mostly numbers, and a tree of values would cost more than the prediction. The reader goes over the
//! bytes once and hands each number to its tensor as text. It accepts exactly RFC 8259 (property-tested against
//! `serde_json`), but no name twice in one object: two readers must never see two different requests. It holds no more than [`DEPTH_MAX`] levels, and allocates only for strings with escapes.

mod data;
mod fault;

use std::{borrow::Cow, collections::HashSet};

pub(super) use data::{NotJson, read_data, write_data};
pub(crate) use fault::Fault;

/// How deep arrays and objects may nest.
pub(crate) const DEPTH_MAX: u32 = 64;

/// Members of one object of a request. The columns of a record are not among them: they are as many as the model has.
const MEMBERS_MAX: usize = 1000;

/// A position in a JSON text.
pub(crate) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    depth: u32,
}

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
pub(crate) enum ValueKind {
    #[strum(to_string = "an object")]
    Object,
    #[strum(to_string = "an array")]
    Array,
    #[strum(to_string = "a string")]
    String,
    #[strum(to_string = "a number")]
    Number,
    #[strum(to_string = "true or false")]
    Bool,
    #[strum(to_string = "null")]
    Null,
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, depth: 0 }
    }

    /// A reader for a value seen before, by the offset that [`Reader::skip`] returned.
    pub(crate) fn at(&self, offset: usize) -> Self {
        Self { input: self.input, at: offset, depth: self.depth }
    }

    /// How many bytes are left: the bound for any reservation that a sender's numbers ask for.
    pub(crate) fn remaining(&self) -> usize {
        self.input.len().saturating_sub(self.at)
    }

    /// What comes next, after white space.
    pub(crate) fn peek(&mut self) -> Result<ValueKind, Fault> {
        match self.peek_byte() {
            Some(b'{') => Ok(ValueKind::Object),
            Some(b'[') => Ok(ValueKind::Array),
            Some(b'"') => Ok(ValueKind::String),
            Some(b'-' | b'0'..=b'9') => Ok(ValueKind::Number),
            Some(b't' | b'f') => Ok(ValueKind::Bool),
            Some(b'n') => Ok(ValueKind::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Reads an object, calling `visit` with the reader at each value. The visitor must consume the value. A name that comes twice
    /// is refused.
    pub(crate) fn object(
        &mut self,
        mut visit: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut seen = HashSet::new();
        self.members(|reader, name| {
            if !seen.insert(name.clone()) {
                return Err(Fault::value("is given twice").key(name.into_owned()));
            }
            if seen.len() > MEMBERS_MAX {
                return Err(Fault::value(format!("is one of more than {MEMBERS_MAX} members")).key(name.into_owned()));
            }
            visit(reader, name)
        })
    }

    /// The same for a visitor that refuses names itself that come twice.
    pub(crate) fn members(
        &mut self,
        mut visit: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.open(ValueKind::Object)?;
        if self.eat(b'}') {
            return self.close();
        }
        loop {
            if self.peek_byte() != Some(b'"') {
                return Err(self.unexpected("a field name in double quotes"));
            }
            let key = self.string()?;
            if !self.eat(b':') {
                return Err(self.unexpected("':' after a field name"));
            }
            visit(self, key)?;
            if self.eat(b',') {
                continue;
            }
            if self.eat(b'}') {
                return self.close();
            }
            return Err(self.unexpected("',' or '}'"));
        }
    }

    /// Reads an array, calling `visit` with the reader at each element. The visitor must consume the element.
    pub(crate) fn array(&mut self, mut visit: impl FnMut(&mut Self, usize) -> Result<(), Fault>) -> Result<(), Fault> {
        self.open(ValueKind::Array)?;
        if self.eat(b']') {
            return self.close();
        }
        for index in 0.. {
            visit(self, index)?;
            if self.eat(b',') {
                continue;
            }
            if self.eat(b']') {
                break;
            }
            return Err(self.unexpected("',' or ']'"));
        }
        self.close()
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        self.expect(ValueKind::String)?;
        let start = self.at;
        let (token, escaped) = self.string_token()?;
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        let text = if escaped {
            serde_json::from_slice(token).map(Cow::Owned).ok()
        } else {
            std::str::from_utf8(inner).map(Cow::Borrowed).ok()
        };
        text.ok_or_else(|| Fault::syntax(start, "a string that is not valid UTF-8 or has a wrong escape"))
    }

    /// Reads a number and returns it as written, checked against JSON's grammar.
    pub(crate) fn number(&mut self) -> Result<&'a str, Fault> {
        self.expect(ValueKind::Number)?;
        let start = self.at;
        self.eat_here(b'-');
        match self.here() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.not_json(start)),
        }
        if self.eat_here(b'.') {
            self.digits_required()?;
        }
        if self.eat_here(b'e') || self.eat_here(b'E') {
            let _signed = self.eat_here(b'+') || self.eat_here(b'-');
            self.digits_required()?;
        }
        let token = self.input.get(start..self.at).unwrap_or_default();
        std::str::from_utf8(token).map_err(|_| Fault::syntax(start, "a number"))
    }

    /// Reads `true` or `false`.
    pub(crate) fn bool(&mut self) -> Result<bool, Fault> {
        self.expect(ValueKind::Bool)?;
        let value = self.here() == Some(b't');
        self.literal(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads `null`, if that comes next. Returns whether it did.
    pub(crate) fn null(&mut self) -> Result<bool, Fault> {
        let is_null = self.peek()? == ValueKind::Null;
        if is_null {
            self.literal("null")?;
        }
        Ok(is_null)
    }

    /// Reads past any value and returns where it began.
    pub(crate) fn skip(&mut self) -> Result<usize, Fault> {
        let next = self.peek()?;
        let start = self.at;
        match next {
            ValueKind::Object => self.object(|reader, _| reader.skip().map(drop))?,
            ValueKind::Array => self.array(|reader, _| reader.skip().map(drop))?,
            ValueKind::String => drop(self.string()?),
            ValueKind::Number => drop(self.number()?),
            ValueKind::Bool => drop(self.bool()?),
            ValueKind::Null => drop(self.null()?),
        }
        Ok(start)
    }

    /// Demands that nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match self.peek_byte() {
            None => Ok(()),
            Some(_) => Err(self.unexpected("the end of the body")),
        }
    }

    /// Demands a kind of value; a different well-formed kind is a fault of the field, not of the syntax.
    pub(crate) fn expect(&mut self, wanted: ValueKind) -> Result<(), Fault> {
        let next = self.peek()?;
        if next == wanted { Ok(()) } else { Err(Fault::value(format!("must be {wanted}, not {next}"))) }
    }

    fn open(&mut self, kind: ValueKind) -> Result<(), Fault> {
        self.expect(kind)?;
        if self.depth >= DEPTH_MAX {
            return Err(Fault::syntax(self.at, "nested too deeply"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        self.depth -= 1;
        Ok(())
    }

    /// The bytes of a string with its quotes, and whether it has escapes.
    fn string_token(&mut self) -> Result<(&'a [u8], bool), Fault> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            match self.here() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return Err(Fault::syntax(self.at, "a control character inside a string")),
                Some(_) => self.at += 1,
                None => return Err(Fault::syntax(self.input.len(), "the body ends inside a string")),
            }
        }
        self.at += 1;
        Ok((self.input.get(start..self.at).unwrap_or_default(), escaped))
    }

    fn literal(&mut self, word: &'static str) -> Result<(), Fault> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(self.not_json(self.at));
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) {
        while matches!(self.here(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn digits_required(&mut self) -> Result<(), Fault> {
        if !matches!(self.here(), Some(b'0'..=b'9')) {
            return Err(self.unexpected("a digit"));
        }
        self.digits();
        Ok(())
    }

    fn here(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn eat_here(&mut self, byte: u8) -> bool {
        let found = self.here() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn peek_byte(&mut self) -> Option<u8> {
        while matches!(self.here(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.here()
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.peek_byte() == Some(byte) && self.eat_here(byte)
    }

    fn unexpected(&self, wanted: &'static str) -> Fault {
        match self.here() {
            None => Fault::syntax(self.at, format!("the body ends where {wanted} should be")),
            Some(_) if self.is_non_finite(self.at) => self.not_json(self.at),
            Some(_) => Fault::syntax(self.at, format!("expected {wanted}")),
        }
    }

    fn not_json(&self, start: usize) -> Fault {
        if self.is_non_finite(start) {
            Fault::syntax(
                start,
                "NaN and infinity are not JSON: send them as a binary tensor, or to /api/models/…/predict a missing value as null",
            )
        } else {
            Fault::syntax(start, "not a JSON value")
        }
    }

    /// What Python's `json` writes for the numbers that JSON has not.
    fn is_non_finite(&self, start: usize) -> bool {
        let rest = self.input.get(start..).unwrap_or_default();
        [b"NaN".as_slice(), b"nan", b"Infinity", b"-Infinity", b"inf", b"-inf", b"-NaN", b"-nan"]
            .iter()
            .any(|word| rest.starts_with(word))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(text: &[u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(text);
        reader.skip()?;
        reader.end()
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Every JSON text is accepted, plain or indented.
        #[test]
        fn all_json_is_accepted(value in any_json()) {
            prop_assert!(accepts(value.to_string().as_bytes()).is_ok());
            prop_assert!(accepts(serde_json::to_string_pretty(&value).unwrap().as_bytes()).is_ok());
        }

        /// With one byte changed, the reader and serde_json still agree on what is JSON.
        #[test]
        fn mutations_are_accepted_as_serde_json_accepts_them(value in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = value.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            let judged = serde_json::from_slice::<serde_json::Value>(&text);
            // A number beyond all doubles is JSON; what it may be is the datatype's business.
            prop_assume!(!judged.as_ref().is_err_and(|error| error.to_string().contains("out of range")));
            let accepted = accepts(&text);
            // So is an object with a name twice, of which serde_json takes the second.
            prop_assume!(!accepted.as_ref().is_err_and(|fault| fault.message == "is given twice"));
            prop_assert_eq!(accepted.is_ok(), judged.is_ok(), "{:?}", String::from_utf8_lossy(&text));
        }

        #[test]
        fn strings_read_as_serde_json_reads_them(string in ".{0,32}") {
            let text = serde_json::to_string(&string).unwrap();
            prop_assert_eq!(Reader::new(text.as_bytes()).string().unwrap(), string);
        }
    }

    #[test]
    fn faults_point_at_the_byte() {
        let offset = |text: &str| accepts(text.as_bytes()).unwrap_err().offset;
        assert_eq!(offset("{\"a\": 1,}"), Some(8));
        assert_eq!(offset("[1, 2"), Some(5));
        assert_eq!(offset("[1] x"), Some(4));
        assert_eq!(offset("[01]"), Some(2));
        assert_eq!(offset("\"ab"), Some(3));
        assert_eq!(offset(""), Some(0));
    }

    #[test]
    fn nan_is_named() {
        for text in ["[NaN]", "[1, Infinity]", "[-Infinity]", "[nan]"] {
            let fault = accepts(text.as_bytes()).unwrap_err();
            assert!(fault.message.contains("binary"), "{text}: {fault}");
            assert!(fault.offset.is_some());
        }
    }

    #[test]
    fn a_name_that_comes_twice_is_named() {
        for (text, field) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":null,"\u0061":1}"#, "a"),
            (r#"{"a":[{"b":1,"c":2,"b":3}]}"#, "b"),
            (r#"{"":{},"":{}}"#, ""),
        ] {
            let fault = accepts(text.as_bytes()).unwrap_err();
            assert_eq!(fault.to_string(), format!("{field}: is given twice"), "{text}");
        }
        assert!(accepts(br#"[{"a":1},{"a":1,"b":{"a":1}}]"#).is_ok());
    }

    #[test]
    fn an_object_has_a_bound() {
        let object = |members: usize| {
            let members: Vec<String> = (0..members).map(|name| format!("\"{name}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(accepts(object(MEMBERS_MAX).as_bytes()).is_ok());
        assert!(accepts(object(MEMBERS_MAX + 1).as_bytes()).is_err());
    }

    #[test]
    fn one_level_too_deep_is_refused() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(nested(64).as_bytes()).is_ok());
        assert!(accepts(nested(65).as_bytes()).is_err());
    }
}

//! Escapes text of other users, so that it cannot control a terminal.

use std::fmt::{self, Write as _};
use std::io;

/// Returns whether printing `c` unescaped could move the cursor, change earlier output, or reorder
/// or hide text.
pub(crate) fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{00AD}' | '\u{E0000}'..='\u{E0FFF}'
            // A name of Hangul fillers is invisible.
            | '\u{115F}' | '\u{1160}' | '\u{3164}' | '\u{FFA0}' | '\u{180B}'..='\u{180F}')
}

/// Displays text with every dangerous character as `\u{…}`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_dangerous) {
            f.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            match after.next() {
                Some('\n') => f.write_str("\\n")?,
                Some('\t') => f.write_str("\\t")?,
                Some(c) => write!(f, "{}", c.escape_unicode())?,
                None => {}
            }
            rest = after.as_str();
        }
        f.write_str(rest)
    }
}

/// A line of output: its display stays on one line and cannot control a terminal. All output goes
/// through it, so that names chosen by others are escaped everywhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        fmt::Display::fmt(&Escaped(text), self.0)
    }
}

/// A writer for logs that keeps line breaks and escapes everything else that could control a
/// terminal.
pub(crate) struct EscapingLog<W> {
    writer: W,
    bytes: EscapingBytes,
}

impl<W> EscapingLog<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, bytes: EscapingBytes::default() }
    }
}

impl<W: io::Write> io::Write for EscapingLog<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = self.bytes.feed(bytes);
        self.writer.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Returns the text with dangerous characters escaped; see [`Escaped`].
pub(crate) fn escaped(text: &str) -> String {
    Escaped(text).to_string()
}

/// A JSON formatter that writes every dangerous character as `\uXXXX`: the same value to a program,
/// harmless on a terminal.
pub(crate) struct EscapingJson<F>(pub(crate) F);

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        fn $name<W: ?Sized + io::Write>(&mut self, writer: &mut W $(, $arg: $type)*) -> io::Result<()> {
            self.0.$name(writer $(, $arg)*)
        }
    )*};
}

impl<F: serde_json::ser::Formatter> serde_json::ser::Formatter for EscapingJson<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_dangerous) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut after = rest[at..].chars();
            if let Some(c) = after.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = after.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    pass_on! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }
}

/// A writer for JSON that is text already: its dangerous characters, which only strings have, become
/// `\uXXXX`; line breaks between values stay.
pub(crate) struct EscapingJsonText<W> {
    writer: W,
    /// The beginning of a character whose rest was not written yet.
    begun: Vec<u8>,
}

impl<W: io::Write> EscapingJsonText<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, begun: Vec::new() }
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        let mut escaped = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_ascii() || !is_dangerous(c) {
                // Control characters of ASCII are escaped in any JSON, or stand between values.
                escaped.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
            }
        }
        self.writer.write_all(escaped.as_bytes())
    }
}

impl<W: io::Write> io::Write for EscapingJsonText<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        match std::str::from_utf8(&all) {
            Ok(text) => self.put(text)?,
            Err(error) if error.error_len().is_none() => {
                let (valid, begun) = all.split_at(error.valid_up_to());
                self.begun = begun.to_vec();
                self.put(std::str::from_utf8(valid).map_err(io::Error::other)?)?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Prepares the bytes of a content for a terminal: text stays, other bytes become `\xNN`. An
/// incomplete character waits for the next chunk.
#[derive(Debug, Default)]
pub(crate) struct EscapingBytes {
    begun: Vec<u8>,
}

impl EscapingBytes {
    /// Escapes the next chunk of bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.begun);
        let mut text = String::with_capacity(all.len());
        let mut rest = &all[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    push_printable(&mut text, valid);
                    return text;
                }
                Err(error) => {
                    let (valid, bad) = rest.split_at(error.valid_up_to());
                    push_printable(&mut text, std::str::from_utf8(valid).unwrap_or_default());
                    let Some(length) = error.error_len() else {
                        self.begun = bad.to_vec();
                        return text;
                    };
                    push_hex(&mut text, &bad[..length]);
                    rest = &bad[length..];
                }
            }
        }
    }

    /// Returns the escaped remainder after the last chunk.
    pub(crate) fn finish(self) -> String {
        let mut text = String::new();
        push_hex(&mut text, &self.begun);
        text
    }
}

fn push_printable(text: &mut String, part: &str) {
    for c in part.chars() {
        match c {
            '\n' | '\t' => text.push(c),
            c if is_dangerous(c) => text.extend(c.escape_unicode()),
            c => text.push(c),
        }
    }
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    #[test]
    fn json_text_is_escaped_wherever_it_is_cut() {
        let names = ["a\u{1b}[31m", "\u{202e}gpj", "\u{9b}31m", "é😀", "\u{e0041}", "\u{feff}b"];
        let json = serde_json::to_string(&names).unwrap() + "\n";
        for at in 0..=json.len() {
            let mut writer = EscapingJsonText::new(Vec::new());
            writer.write_all(&json.as_bytes()[..at]).unwrap();
            writer.write_all(&json.as_bytes()[at..]).unwrap();
            writer.flush().unwrap();
            let written = String::from_utf8(writer.writer).unwrap();
            assert!(!written.trim_end().contains(is_dangerous), "{at}: {written:?}");
            let read: Vec<String> = serde_json::from_str(&written).unwrap();
            assert_eq!(read, names);
        }
    }

    #[test]
    fn escape_sequences_bidi_overrides_and_line_breaks_are_shown_not_sent() {
        assert_eq!(escaped("a\u{1b}[31mred\u{9b}0m"), "a\\u{1b}[31mred\\u{9b}0m");
        assert_eq!(escaped("invoice\u{202e}fdp.exe"), "invoice\\u{202e}fdp.exe");
        assert_eq!(escaped("two\nlines\r"), "two\\nlines\\u{d}");
        assert_eq!(escaped("naïve 日本 🦀"), "naïve 日本 🦀");
    }

    #[test]
    fn content_on_a_terminal_keeps_its_lines_and_loses_its_power() {
        let mut bytes = EscapingBytes::default();
        let whole = "é\n\u{1b}]0;title\u{7}".as_bytes();
        let mut text = String::new();
        for byte in whole {
            text.push_str(&bytes.feed(&[*byte]));
        }
        text.push_str(&bytes.feed(b"\xff\xc3"));
        text.push_str(&bytes.finish());
        assert_eq!(text, "é\n\\u{1b}]0;title\\u{7}\\xff\\xc3");
    }

    #[test]
    fn a_log_keeps_its_lines_and_no_sequences() {
        let mut log = EscapingLog::new(Vec::new());
        io::Write::write_all(&mut log, "warn: \u{1b}]0;x\u{7}\n\u{202e}\n".as_bytes()).unwrap();
        assert_eq!(log.writer, b"warn: \\u{1b}]0;x\\u{7}\n\\u{202e}\n");
    }

    proptest! {
        #[test]
        fn a_line_is_one_line_and_harmless(before in any::<String>(), after in any::<String>()) {
            let line = Line(format_args!("{before}: {after}")).to_string();
            prop_assert!(!line.contains(is_dangerous), "{line:?}");
            prop_assert_eq!(Line(&line).to_string(), line, "what is escaped stays as it is");
        }

        #[test]
        fn json_says_the_same_and_is_harmless(text in any::<String>()) {
            let mut out = Vec::new();
            let mut serializer = serde_json::Serializer::with_formatter(
                &mut out,
                EscapingJson(serde_json::ser::CompactFormatter),
            );
            serde::Serialize::serialize(&text, &mut serializer).unwrap();
            let json = String::from_utf8(out).unwrap();
            prop_assert!(!json.contains(is_dangerous));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}

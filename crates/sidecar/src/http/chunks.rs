//! Where a chunked body ends: as much of the chunked coding as that takes.
//!
//! hyper decodes, bounds and judges what is between; the states here are its own, so that both see the same end. It takes
//! LF alone for the end of a trailer's line, and this does not (RFC 9112, section 2.2).

/// A place within a chunked body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chunks {
    at: At,
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The first digit of a size.
    #[default]
    Start,
    Size,
    /// Whitespace behind a size.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a line behind the last chunk.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// All of the bytes belong to the body, and it goes on.
    Within,
    /// The body ended within them.
    End,
    /// The last of the bytes taken cannot be there.
    Broken,
}

impl Chunks {
    /// Goes through `bytes`; how many of them belong to the body.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> (usize, Reached) {
        let mut taken = 0;
        while taken < bytes.len() {
            if self.at == At::Data {
                let left = (bytes.len() - taken) as u64;
                let data = left.min(self.size);
                self.size -= data;
                taken += data as usize;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let byte = bytes[taken];
            taken += 1;
            match self.next(byte) {
                Some(next) => self.at = next,
                None if self.at == At::EndLf && byte == b'\n' => return (taken, Reached::End),
                None => return (taken, Reached::Broken),
            }
        }
        (taken, Reached::Within)
    }

    /// `None`: the end, or no way on.
    fn next(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Start | At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                self.size = self.size.checked_mul(16)?.checked_add(u64::from(digit))?;
                Some(At::Size)
            }
            (At::Size | At::Space, b' ' | b'\t') => Some(At::Space),
            (At::Size | At::Space, b';') => Some(At::Extension),
            (At::Size | At::Space | At::Extension, b'\r') => Some(At::SizeLf),
            (At::Extension, b'\n') => None,
            (At::Extension, _) => Some(At::Extension),
            (At::SizeLf, b'\n') if self.size == 0 => Some(At::TrailerStart),
            (At::SizeLf, b'\n') => Some(At::Data),
            (At::DataCr, b'\r') => Some(At::DataLf),
            (At::DataLf, b'\n') => Some(At::Start),
            (At::TrailerStart | At::Trailer, b'\n') => None,
            (At::TrailerStart, b'\r') => Some(At::EndLf),
            (At::Trailer, b'\r') => Some(At::TrailerLf),
            (At::TrailerStart | At::Trailer, _) => Some(At::Trailer),
            (At::TrailerLf, b'\n') => Some(At::TrailerStart),
            _ => None,
        }
    }
}

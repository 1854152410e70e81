//! Frames and headers: what stands before every message on a connection.

use std::borrow::Cow;

use crate::api::ApiKey;
use crate::wire::{DecodeError, Reader, Splice, Writer};

/// Bytes of the length before each frame.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of the shortest request: key, version, correlation id.
const REQUEST_BYTES_MIN: usize = 8;

/// Why a length can't be a frame's: whatever is at the other end, it does not speak this protocol, or
/// asks for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than any request, or negative.
    #[error("a frame of {0} bytes is shorter than any request")]
    TooShort(i32),
    /// The first bytes of a TLS handshake.
    #[error(
        "this looks like TLS, and the listener is plain text: use a plain-text client or \
         security.protocol=PLAINTEXT"
    )]
    Tls,
    /// The first bytes of an HTTP request.
    #[error(
        "this looks like HTTP, and the listener speaks the Kafka protocol: metrics and health are at \
         admin.address"
    )]
    Http,
    /// Longer than allowed.
    #[error("a frame of {length} bytes is above the limit of {limit}")]
    TooLong {
        /// What it says.
        length: i32,
        /// What is allowed.
        limit: usize,
    },
}

/// The length of the frame that `bytes` start with, without the length itself; `None` if that is not
/// there yet.
///
/// # Errors
/// [`FrameError`]; close the connection, for nothing behind it can be found.
pub fn frame_length(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    match usize::try_from(length) {
        Ok(fits) if fits > limit => Err(too_long(*prefix, limit)),
        Ok(fits) if fits >= REQUEST_BYTES_MIN => Ok(Some(fits)),
        _ => Err(FrameError::TooShort(length)),
    }
}

/// Names the other protocol if the bytes of a length that is too large begin one.
fn too_long(prefix: [u8; LENGTH_BYTES], limit: usize) -> FrameError {
    /// The first bytes of each method's request line, and of HTTP/2.
    const HTTP: [&[u8; LENGTH_BYTES]; 10] = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC", b"PRI ",
    ];
    /// A record of type handshake, of any version from SSL 3.0 to TLS 1.3.
    const HANDSHAKE: (u8, u8) = (22, 3);
    if HTTP.contains(&&prefix) {
        return FrameError::Http;
    }
    if (prefix[0], prefix[1]) == HANDSHAKE && prefix[2] <= 4 {
        return FrameError::Tls;
    }
    let length = i32::from_be_bytes(prefix);
    FrameError::TooLong { length, limit }
}

/// What stands before every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// The API's key, which may be one that is not known.
    pub api_key: i16,
    /// The version of the request.
    pub api_version: i16,
    /// What the response must repeat.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<Cow<'a, str>>,
}

impl<'a> RequestHeader<'a> {
    /// Reads a header, and leaves the reader at the message. Of an API that is not known only the
    /// fixed part is read.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn read(reader: &mut Reader<'a>) -> Result<RequestHeader<'a>, DecodeError> {
        let mut header = RequestHeader {
            api_key: reader.i16()?,
            api_version: reader.i16()?,
            correlation_id: reader.i32()?,
            client_id: None,
        };
        let Some(api) = ApiKey::from_i16(header.api_key) else {
            return Ok(header);
        };
        // The client id keeps its old form in flexible headers, so that a broker can read it from a
        // version it does not know (KIP-482).
        reader.set_flexible(false);
        header.client_id = reader.nullable_string()?;
        if api.request_is_flexible(header.api_version) {
            reader.set_flexible(true);
            reader.tagged(|_, _| Ok(false))?;
        }
        Ok(header)
    }

    /// Writes a header, with room for the frame's length before it; see [`finish`].
    ///
    /// # Errors
    /// [`EncodeError`](crate::wire::EncodeError) if the client id is too long.
    pub fn write(&self, api: ApiKey, writer: &mut Writer) -> Result<(), crate::wire::EncodeError> {
        writer.i32(0);
        writer.i16(self.api_key);
        writer.i16(self.api_version);
        writer.i32(self.correlation_id);
        writer.set_flexible(false);
        writer.string(self.client_id.as_deref())?;
        if api.request_is_flexible(self.api_version) {
            writer.uvarint(0);
        }
        Ok(())
    }
}

/// Writes the header of a response, with room for the frame's length before it; see [`finish`].
pub fn response_header(writer: &mut Writer, api: ApiKey, version: i16, correlation_id: i32) {
    writer.i32(0);
    writer.i32(correlation_id);
    if api.response_is_flexible(version) {
        writer.uvarint(0);
    }
}

/// Puts the frame's length in front and returns the bytes, with what goes in between.
///
/// `None` if the frame would be longer than its length can say.
pub fn finish(mut writer: Writer) -> Option<(Vec<u8>, Vec<Splice>)> {
    let length = i32::try_from(writer.total_len() - LENGTH_BYTES).ok()?;
    writer.patch_i32(0, length);
    Some(writer.into_parts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        // Proves fault row 27: zero, negative, too short, too long, and what HTTP or TLS looks like.
        let length = |value: i32| frame_length(&value.to_be_bytes(), 1_000);
        assert_eq!(length(8), Ok(Some(8)));
        assert_eq!(length(1_000), Ok(Some(1_000)));
        for short in [0, -1, 7, i32::MIN] {
            assert_eq!(length(short), Err(FrameError::TooShort(short)));
        }
        assert!(matches!(length(1_001), Err(FrameError::TooLong { .. })));
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1"[..], FrameError::Http),
            (b"PRI * HTTP/2.0", FrameError::Http),
            (b"\x16\x03\x01\x02\x00", FrameError::Tls),
            (b"\x16\x03\x03\x00\x7a", FrameError::Tls),
        ] {
            assert_eq!(frame_length(bytes, 100 << 20), Err(expected), "{bytes:?}");
        }
        assert!(matches!(
            frame_length(b"\x16\x04\x01\x02", 100 << 20),
            Err(FrameError::TooLong { .. })
        ));
        assert_eq!(frame_length(&[0, 0, 1], 1_000), Ok(None));
    }

    #[test]
    fn headers_come_back_as_written() {
        // Proves both forms of the request header, and that an unknown API gives up only its name.
        for version in [8, 9] {
            let header = RequestHeader {
                api_key: ApiKey::Produce as i16,
                api_version: version,
                correlation_id: 77,
                client_id: Some("me".into()),
            };
            let mut writer = Writer::new();
            header.write(ApiKey::Produce, &mut writer).unwrap();
            writer.raw(b"body");
            let (bytes, _) = finish(writer).unwrap();
            assert_eq!(frame_length(&bytes, 1_000), Ok(Some(bytes.len() - 4)));
            let mut reader = Reader::new(&bytes[4..]);
            assert_eq!(RequestHeader::read(&mut reader), Ok(header));
            assert_eq!(reader.rest(), b"body");
        }
        let mut reader = Reader::new(&[0x7f, 0xff, 0, 1, 0, 0, 0, 9, 1, 2]);
        let unknown = RequestHeader::read(&mut reader).unwrap();
        assert_eq!((unknown.api_key, unknown.correlation_id), (0x7fff, 9));
    }
}

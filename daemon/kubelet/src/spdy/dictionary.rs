//! The dictionary that SPDY/3 compresses headers with: words with their lengths before them, then plain text.

use flate2::{Compress, Compression, FlushCompress};

use super::SpdyError;

const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Au\
    thoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidd\
    en404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr Ma\
    y Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,imag\
    e/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicpri\
    vatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary's bytes.
fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_423);
    for word in WORDS {
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

/// Compresses the header blocks of one connection; they share their history.
#[derive(Debug)]
pub(super) struct Headers(Compress);

impl Headers {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).map_err(|error| SpdyError::Compress(error.to_string()))?;
        Ok(Self(compress))
    }

    /// A block of names and values.
    pub(super) fn block(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        let length = |length: usize| u32::try_from(length).unwrap_or(0).to_be_bytes();
        plain.extend_from_slice(&length(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&length(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(plain.len() * 2 + 64);
        self.0
            .compress_vec(&plain, &mut packed, FlushCompress::Sync)
            .map_err(|error| SpdyError::Compress(error.to_string()))?;
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress};

    use super::*;

    #[test]
    fn blocks_can_be_read_with_the_dictionary() {
        assert_eq!(dictionary().len(), 1_423);
        let mut headers = Headers::new().expect("a compressor");
        let mut decompress = Decompress::new(true);
        for (number, kind) in ["error", "stdin"].into_iter().enumerate() {
            let packed = headers.block(&[("streamtype", kind)]).expect("a block");
            let mut plain = Vec::with_capacity(1_024);
            if number == 0 {
                // The stream names its dictionary by checksum, and stops until it has it.
                let asked = decompress.decompress_vec(&packed, &mut plain, FlushDecompress::Sync);
                assert_eq!(asked.expect_err("it needs the dictionary").needs_dictionary(), Some(0xe3c6_a7c2));
                decompress.set_dictionary(&dictionary()).expect("the right dictionary");
                let read = usize::try_from(decompress.total_in()).expect("small");
                decompress.decompress_vec(&packed[read..], &mut plain, FlushDecompress::Sync).expect("plain");
            } else {
                decompress.decompress_vec(&packed, &mut plain, FlushDecompress::Sync).expect("plain");
            }
            let want = format!("\0\0\0\u{1}\0\0\0\nstreamtype\0\0\0\u{5}{kind}");
            assert_eq!(String::from_utf8(plain).expect("text"), want);
        }
    }
}

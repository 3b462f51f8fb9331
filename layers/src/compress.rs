//! Compression of layers, recognised by the first bytes and not by a name.

use std::io::{self, BufRead, Read};

/// The largest zstd window, as a power of two (32 MiB): the decoder keeps that much, and a layer may take
/// 64 MiB altogether. `zstd` asks for more from level 21 on.
const WINDOW_LOG: u32 = 25;

/// How a layer is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn detect(start: &[u8]) -> Compression {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// The plain bytes.
    pub(crate) fn reader<'a, R: BufRead + Send + 'a>(
        self,
        input: R,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(gzip(input)),
            Compression::Zstd => Box::new(zstd(input)?),
        })
    }

    /// The same where one thread does everything.
    pub(crate) fn local_reader<'a, R: BufRead + 'a>(self, input: R) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(gzip(input)),
            Compression::Zstd => Box::new(zstd(input)?),
        })
    }
}

fn gzip<R: BufRead>(input: R) -> flate2::bufread::MultiGzDecoder<R> {
    flate2::bufread::MultiGzDecoder::new(input)
}

fn zstd<'a, R: BufRead>(input: R) -> io::Result<zstd::stream::read::Decoder<'a, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(decoder)
}

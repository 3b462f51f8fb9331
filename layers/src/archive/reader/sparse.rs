//! Files with holes: the form of GNU tar's own headers, and the one of its PAX headers (version 1.0), which
//! `tar -S` writes. The others, 0.0 and 0.1, were written for some months of 2006 and are refused.

use std::collections::BTreeMap;
use std::io::Read;

use super::fields::{number, plain_number};
use super::{BLOCK, read_error};

/// Where a file has data, as places and lengths in order; the rest are holes.
pub(crate) type Map = Vec<(u64, u64)>;

/// Pieces that a file may have: a map is kept in memory.
const MAX_PIECES: usize = 65_536;
const MALFORMED: &str = "a malformed map of a sparse file";

/// What a header of type `S` says, and the headers behind it: the size of the file, and where its data are.
pub(super) fn of_gnu(header: &[u8; BLOCK], input: &mut impl Read) -> Result<(u64, Map), Fault> {
    let size = number(&header[483..495]).ok_or(Fault::Bad(MALFORMED))?;
    let mut map = Map::new();
    let mut open = slots(&header[386..482], &mut map)?;
    let mut more = header[482];
    while more != 0 {
        if more != 1 || !open {
            return Err(Fault::Bad(MALFORMED));
        }
        let mut block = [0; BLOCK];
        fill(input, &mut block)?;
        open = slots(&block[..504], &mut map)?;
        more = block[504];
    }
    Ok((size, map))
}

/// Reads places and lengths; false after the one that ends them.
fn slots(area: &[u8], map: &mut Map) -> Result<bool, Fault> {
    let mut open = true;
    for slot in area.chunks_exact(24) {
        if slot.iter().all(|b| *b == 0) {
            open = false;
            continue;
        }
        let pair = number(&slot[..12]).zip(number(&slot[12..]));
        match pair.filter(|_| open && slot[0] != 0 && slot[12] != 0) {
            Some(piece) if map.len() < MAX_PIECES => map.push(piece),
            _ => return Err(Fault::Bad(MALFORMED)),
        }
    }
    Ok(open)
}

/// Name and size of a file whose PAX header has `GNU.sparse` records; `None` for one that has none.
pub(super) fn of_pax(pax: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Option<(Vec<u8>, u64)>, &'static str> {
    let all: Vec<_> = pax.iter().filter(|(k, _)| k.starts_with(b"GNU.sparse.")).collect();
    if all.is_empty() {
        return Ok(None);
    }
    let [(major, one), (minor, zero), (name, path), (size, bytes)] = all[..] else {
        return Err("a sparse file that is not of version 1.0");
    };
    let keys: [&[u8]; 4] =
        [b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"];
    if [major, minor, name, size] != keys || one != b"1" || zero != b"0" {
        return Err("a sparse file that is not of version 1.0");
    }
    if pax.contains_key(&b"path"[..]) || pax.contains_key(&b"size"[..]) {
        return Err("a sparse file with two names or sizes");
    }
    plain_number(bytes).map(|n| Some((path.clone(), n))).ok_or("a malformed size of a sparse file")
}

/// Reads the map that stands before the data, in lines, filled up to whole blocks; and how long it is.
pub(super) fn map_of_pax(input: &mut impl Read, stored: u64) -> Result<(u64, Map), Fault> {
    let (mut taken, mut line, mut numbers) = (0, Vec::new(), Vec::new());
    let mut left = 1;
    while left > 0 {
        let mut block = [0; BLOCK];
        taken += BLOCK as u64;
        if taken > stored {
            return Err(Fault::Bad(MALFORMED));
        }
        fill(input, &mut block)?;
        for byte in block {
            match byte {
                0 if left == 0 => {}
                b'\n' if left > 0 => {
                    let n = plain_number(&line).ok_or(Fault::Bad(MALFORMED))?;
                    line.clear();
                    left -= 1;
                    if numbers.is_empty() {
                        let count = usize::try_from(n).ok().filter(|n| *n <= MAX_PIECES);
                        left = count.ok_or(Fault::Bad(MALFORMED))? * 2;
                    }
                    numbers.push(n);
                }
                b'0'..=b'9' if left > 0 && line.len() < 20 => line.push(byte),
                _ => return Err(Fault::Bad(MALFORMED)),
            }
        }
    }
    Ok((taken, numbers[1..].chunks_exact(2).map(|p| (p[0], p[1])).collect()))
}

/// In order, without overlap, within the file, and as much as is stored.
pub(super) fn fits(map: &Map, size: u64, stored: u64) -> bool {
    let mut end = 0;
    let mut sum = 0u64;
    for (place, length) in map {
        match place.checked_add(*length) {
            Some(next) if *place >= end && next <= size => end = next,
            _ => return false,
        }
        sum += length;
    }
    sum == stored
}

/// What is wrong with a map.
pub(super) enum Fault {
    Bad(&'static str),
    Io(crate::error::Error),
}

fn fill(input: &mut impl Read, block: &mut [u8; BLOCK]) -> Result<(), Fault> {
    input.read_exact(block).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Fault::Bad("the archive ends inside a block"),
        _ => Fault::Io(read_error(e)),
    })
}

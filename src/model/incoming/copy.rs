//! Copying with the digest computed beside it.

use std::io::{self, Read};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

/// Bytes that go from hand to hand: enough for a disk, within a second-level cache.
const BLOCK: usize = 1 << 20;

/// Blocks on their way: all the memory a copy takes is theirs.
const BLOCKS: usize = 8;

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError<E> {
    /// The source.
    Read(io::Error),
    /// What the bytes were written to.
    Write(E),
}

/// Reads `source` to its end and gives every block to `write`, in order, while
/// another thread gives it to `hash`. Returns how many bytes there were.
///
/// Hashing takes about as long as reading and writing together, so that two cores
/// do both in the time of one. After an error `hash` has seen every byte that
/// `write` accepted, and maybe the block it did not.
///
/// # Errors
/// The first failure of either side.
pub fn copy_hashed<E>(
    source: &mut dyn Read,
    hash: &mut (dyn FnMut(&[u8]) + Send),
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<u64, CopyError<E>> {
    let (give, take) = sync_channel::<(Vec<u8>, usize)>(BLOCKS);
    let (give_back, take_back) = channel::<Vec<u8>>();
    // What is moved in here is dropped before the other thread is waited for.
    thread::scope(move |scope| {
        scope.spawn(move || {
            for (block, length) in take {
                hash(&block[..length]);
                // Nobody takes it back after an error.
                let _ = give_back.send(block);
            }
        });
        let (mut made, mut copied) = (0, 0);
        loop {
            let mut block = match take_back.try_recv() {
                Ok(block) => block,
                Err(_) if made < BLOCKS => {
                    made += 1;
                    vec![0; BLOCK]
                }
                // The other thread ends only after this one has given its last.
                Err(_) => take_back.recv().unwrap_or_else(|_| vec![0; BLOCK]),
            };
            let length = read_block(source, &mut block).map_err(CopyError::Read)?;
            if length == 0 {
                return Ok(copied);
            }
            let written = write(&block[..length]);
            // The scope's end would tell of a panic over there.
            let _ = give.send((block, length));
            written.map_err(CopyError::Write)?;
            copied += length as u64;
        }
    })
}

/// One read, tried again when a signal came between.
fn read_block(source: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(block) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives odd pieces, and an error at a given place.
    struct Pieces<'a> {
        bytes: &'a [u8],
        at: usize,
        fails_at: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
            if self.at >= self.fails_at {
                return Err(io::Error::other("the medium"));
            }
            let left = self.bytes.len().min(self.fails_at) - self.at;
            let n = left.min(block.len()).min(70_001);
            block[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
            self.at += n;
            Ok(n)
        }
    }

    #[test]
    fn both_sides_see_every_byte_in_order() {
        let bytes: Vec<u8> = (0..20_000_003u32).map(|i| ((i * 31) >> 7) as u8).collect();
        let (mut hashed, mut written) = (Vec::new(), Vec::new());
        let mut source = Pieces {
            bytes: &bytes,
            at: 0,
            fails_at: usize::MAX,
        };
        let copied = copy_hashed::<()>(
            &mut source,
            &mut |block| hashed.extend_from_slice(block),
            &mut |block| {
                written.extend_from_slice(block);
                Ok(())
            },
        );
        assert!(matches!(copied, Ok(n) if n == bytes.len() as u64));
        assert!(hashed == bytes && written == bytes);
    }

    #[test]
    fn after_an_error_the_digest_covers_what_was_written() {
        let bytes = vec![7; 3_000_000];
        let (mut hashed, mut written) = (0, 0);
        let mut source = Pieces {
            bytes: &bytes,
            at: 0,
            fails_at: 2_500_000,
        };
        let result = copy_hashed::<()>(
            &mut source,
            &mut |block| hashed += block.len(),
            &mut |block| {
                written += block.len();
                Ok(())
            },
        );
        assert!(matches!(result, Err(CopyError::Read(_))));
        assert_eq!((hashed, written), (2_500_000, 2_500_000));

        let mut accepted = 0;
        let result = copy_hashed(&mut &bytes[..], &mut |_| (), &mut |block| {
            accepted += block.len();
            if accepted > 1_500_000 {
                return Err("full");
            }
            Ok(())
        });
        assert!(matches!(result, Err(CopyError::Write("full"))));
    }
}

//! Container logs as the runtime writes them: `TIME STREAM TAG TEXT`, one entry per line, `P` for an entry whose line
//! goes on in the next.
//!
//! Reading survives what happens to a file under a reader: it grows, is renamed away and made anew, or is cut short.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// Between two looks at a file that is followed.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes read at once.
const BLOCK: usize = 64 << 10;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    /// The last so many lines.
    pub(crate) tail: Option<u64>,
    /// Entries from here on.
    pub(crate) since: Option<Timestamp>,
    /// At most so many bytes.
    pub(crate) limit: Option<u64>,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    time: &'a str,
    /// The line goes on in the next entry.
    partial: bool,
    text: &'a [u8],
}

/// Reads a line without its end; `None` if it is no entry.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    let known = matches!(stream, b"stdout" | b"stderr");
    known.then(|| Entry { time, partial: tag.split(|byte| *byte == b':').next() == Some(b"P"), text })
}

/// Turns entries into what a client sees.
#[derive(Debug)]
pub(crate) struct Formatter {
    options: Options,
    left: u64,
    /// The entry before was partial: no time stands in the middle of a line.
    middle: bool,
}

impl Formatter {
    pub(crate) fn new(options: &Options) -> Self {
        Self { left: options.limit.unwrap_or(u64::MAX), options: options.clone(), middle: false }
    }

    /// Appends an entry. False once the limit is reached.
    pub(crate) fn push(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(entry) = parse(line) else { return true };
        if let Some(since) = self.options.since
            && entry.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return true;
        }
        let begun = out.len();
        if self.options.timestamps && !self.middle {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        self.middle = entry.partial;
        let added = (out.len() - begun) as u64;
        if added >= self.left {
            out.truncate(begun + usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len() - begun));
            self.left = 0;
            return false;
        }
        self.left -= added;
        true
    }
}

/// Where the last `lines` lines of a file begin.
fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(size);
    }
    let mut end = size;
    let mut seen = 0;
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let begin = end.saturating_sub(BLOCK as u64);
        let length = usize::try_from(end - begin).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut block[..length])?;
        for at in (0..length).rev() {
            let position = begin + at as u64;
            if block[at] == b'\n' && position + 1 != size {
                seen += 1;
                if seen == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

/// The end of a log as plain text, for a container that left no message.
pub(crate) fn tail_text(path: &Path, lines: usize, most: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let options = Options { tail: Some(lines as u64), ..Default::default() };
    if let Ok(mut reader) = Reader::open(path, &options) {
        while let Ok(true) = reader.read(&mut text) {}
    }
    let cut = text.len().saturating_sub(most);
    text.split_off(cut)
}

/// A log file being read.
#[derive(Debug)]
struct Reader {
    path: PathBuf,
    file: File,
    formatter: Formatter,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    done: bool,
}

impl Reader {
    fn open(path: &Path, options: &Options) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let start = options.tail.map_or(Ok(0), |lines| tail_offset(&mut file, lines))?;
        file.seek(SeekFrom::Start(start))?;
        Ok(Self { path: path.to_path_buf(), file, formatter: Formatter::new(options), rest: Vec::new(), done: false })
    }

    /// Appends what the next block holds. False if there was nothing.
    fn read(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.done {
            return Ok(false);
        }
        let mut block = vec![0; BLOCK];
        let length = self.file.read(&mut block)?;
        self.rest.extend_from_slice(&block[..length]);
        let mut begin = 0;
        while let Some(end) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            if !self.formatter.push(&self.rest[begin..begin + end], out) {
                self.done = true;
                break;
            }
            begin += end + 1;
        }
        self.rest.drain(..begin);
        Ok(length > 0 && !self.done)
    }

    /// At the end of the file: goes on with the file that has taken its place, or from the beginning of one cut short.
    fn turn(&mut self) -> io::Result<()> {
        let mine = self.file.metadata()?;
        if self.file.stream_position()? > mine.len() {
            self.file.seek(SeekFrom::Start(0))?;
            self.rest.clear();
        }
        if let Ok(there) = std::fs::metadata(&self.path)
            && there.ino() != mine.ino()
        {
            self.file = File::open(&self.path)?;
            self.rest.clear();
        }
        Ok(())
    }
}

/// Sends a log until its end, its limit, or, when it is followed, until `running` says that nothing more will come.
pub(crate) async fn send<F>(
    path: PathBuf,
    options: Options,
    running: impl Fn() -> F + Send,
    out: mpsc::Sender<Bytes>,
) -> io::Result<()>
where
    F: Future<Output = bool> + Send,
{
    let mut reader = Reader::open(&path, &options)?;
    let mut last = false;
    let mut asked = std::time::Instant::now();
    loop {
        let mut text = Vec::new();
        let more = reader.read(&mut text)?;
        if !text.is_empty() && out.send(Bytes::from(text)).await.is_err() {
            return Ok(());
        }
        if more {
            continue;
        }
        if reader.done || !options.follow || last {
            return Ok(());
        }
        if asked.elapsed() >= Duration::from_millis(500) {
            // One more round after the end: what was written before it must not be lost.
            last = !running().await;
            asked = std::time::Instant::now();
        }
        if last {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => reader.turn()?,
            () = out.closed() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

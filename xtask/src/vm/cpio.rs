//! The archive a kernel unpacks as its first file system: cpio in its `newc` form, which is headers of hexadecimal fields
//! and padding to four bytes.

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

impl Cpio {
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | mode, (0, 0), content);
    }

    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, (0, 0), &[]);
    }

    pub(crate) fn symlink(&mut self, path: &str, to: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), to.as_bytes());
    }

    /// A character device; init has no output without `/dev/console`.
    pub(crate) fn device(&mut self, path: &str, number: (u32, u32)) {
        self.entry(path, CHARACTER | 0o600, number, &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let path = path.trim_start_matches('/');
        // inode, mode, owner, group, links, time, size, device, its own device number, name length, unused check sum.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn headers_have_their_length_and_content_is_aligned() {
        let mut cpio = Cpio::default();
        cpio.file("/a", 0o644, b"12345");
        let bytes = cpio.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..117], b"12345");
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_ordinary_tool_reads_it() {
        let mut cpio = Cpio::default();
        cpio.folder("/dir");
        cpio.file("/dir/file", 0o755, b"x");
        cpio.symlink("/link", "dir/file");
        cpio.device("/dir/console", (5, 1));
        let Ok(mut tool) =
            Command::new("cpio").args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            println!("\nSKIPPED: cpio is not installed");
            return;
        };
        tool.stdin.take().expect("piped").write_all(&cpio.finish()).expect("it reads");
        let listed = tool.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "dir\ndir/file\nlink\ndir/console\n");
    }
}

//! The echo image's `wget`: enough of the familiar program to ask a Service from inside a pod.
//!
//! busybox has one, too, but the one that Debian builds crashes as soon as it is given a timeout, and a crash in a pod is
//! easily taken for a fault of the network that was to be tried.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str =
    "usage: wget [-q] [-S] [-O FILE] [-T SECONDS] [--header LINE] [--post-data TEXT] http://HOST[:PORT]/PATH";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    quiet: bool,
    show_headers: bool,
    /// `-` is standard output; without one the file is named after the path.
    output: Option<String>,
    timeout: Duration,
    headers: Vec<String>,
    post: Option<String>,
    url: String,
}

/// Runs as `wget` with these arguments.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let outcome = Wish::parse(args).and_then(|wish| fetch(&wish).map_err(|error| error.to_string()));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wget: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Wish {
    /// Short flags may be joined (`-qO-`), long ones may have their value after `=` or as the next word.
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut wish = Self {
            quiet: false,
            show_headers: false,
            output: None,
            timeout: Duration::from_secs(900),
            headers: Vec::new(),
            post: None,
            url: String::new(),
        };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            if let Some(long) = word.strip_prefix("--") {
                let (name, joined) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                let mut value = || joined.or_else(|| words.next().map(String::as_str)).ok_or(USAGE).map(str::to_owned);
                match name {
                    "header" => wish.headers.push(value()?),
                    "post-data" => wish.post = Some(value()?),
                    "timeout" => wish.timeout = seconds(&value()?)?,
                    "output-document" => wish.output = Some(value()?),
                    "quiet" => wish.quiet = true,
                    _ => return Err(format!("unknown option --{name}; {USAGE}")),
                }
            } else if let Some(mut flags) = word.strip_prefix('-').filter(|flags| !flags.is_empty()) {
                while let Some(flag) = flags.chars().next() {
                    flags = &flags[flag.len_utf8()..];
                    match flag {
                        'q' => wish.quiet = true,
                        'S' => wish.show_headers = true,
                        'O' | 'T' | 't' => {
                            let next = || words.next().map(String::as_str);
                            let value = Some(flags).filter(|rest| !rest.is_empty()).or_else(next).ok_or(USAGE)?;
                            match flag {
                                'O' => wish.output = Some(value.to_owned()),
                                'T' => wish.timeout = seconds(value)?,
                                // The number of tries: this one tries once.
                                _ => {}
                            }
                            break;
                        }
                        _ => return Err(format!("unknown option -{flag}; {USAGE}")),
                    }
                }
            } else {
                wish.url.clone_from(word);
            }
        }
        if wish.url.is_empty() { Err(USAGE.to_owned()) } else { Ok(wish) }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().ok().filter(|&whole: &u64| whole > 0).map(Duration::from_secs).ok_or(format!("`{text}` is no time"))
}

/// Host with port, and path.
fn split(url: &str) -> (String, &str) {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    (if has_port { host.to_owned() } else { format!("{host}:80") }, path)
}

fn fetch(wish: &Wish) -> io::Result<()> {
    let (host, path) = split(&wish.url);
    let stream = connect(&host, wish.timeout)?;
    let method = if wish.post.is_some() { "POST" } else { "GET" };
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", host.trim_end_matches(":80"));
    request.push_str("User-Agent: Wget\r\nConnection: close\r\n");
    for header in &wish.headers {
        request.push_str(&format!("{header}\r\n"));
    }
    if let Some(post) = &wish.post {
        request.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
        request.push_str(&format!("Content-Length: {}\r\n", post.len()));
    }
    request.push_str("\r\n");
    request.push_str(wish.post.as_deref().unwrap_or_default());
    (&stream).write_all(request.as_bytes())?;

    let mut reader = BufReader::new(&stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let mut length = None;
    for line in reader.by_ref().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if wish.show_headers {
            eprintln!("  {line}");
        }
        if let Some((_, value)) = line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case("content-length")) {
            length = value.trim().parse::<u64>().ok();
        }
    }
    if !status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
        return Err(io::Error::other(format!("server returned error: {}", status.trim())));
    }
    let name = wish.output.clone().unwrap_or_else(|| path.rsplit('/').next().unwrap_or_default().to_owned());
    let mut sink: Box<dyn Write> = match name.as_str() {
        "-" => Box::new(io::stdout()),
        "" => Box::new(File::create("index.html")?),
        file => Box::new(File::create(file)?),
    };
    let copied = io::copy(&mut reader.take(length.unwrap_or(u64::MAX)), &mut sink)?;
    sink.flush()?;
    if length.is_some_and(|length| copied < length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !wish.quiet {
        eprintln!("{copied} bytes from {host}");
    }
    Ok(())
}

/// The first address that answers.
fn connect(host: &str, timeout: Duration) -> io::Result<TcpStream> {
    let unknown = |_| io::Error::other(format!("bad address '{host}'"));
    let mut last = io::Error::other(format!("bad address '{host}'"));
    for address in host.to_socket_addrs().map_err(unknown)? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = io::Error::other(format!("can't connect to remote host ({}): {error}", address.ip())),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Wish, String> {
        Wish::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_usual_spellings_are_understood() {
        let joined = parse("-qO- -T3 http://10.96.0.1/").expect("it is usual");
        let apart = parse("-q -O - -T 3 http://10.96.0.1/").expect("it is usual");
        assert_eq!(joined, apart);
        assert_eq!((joined.output.as_deref(), joined.timeout), (Some("-"), Duration::from_secs(3)));
        assert_eq!(parse("--post-data=x --timeout 2 u").expect("it is usual").post.as_deref(), Some("x"));
        assert!(parse("-T x http://a/").is_err());
        assert!(parse("-z http://a/").is_err());
        assert!(parse("-q").is_err());
    }

    #[test]
    fn a_port_is_added_where_none_is_given() {
        assert_eq!(split("http://10.96.0.1"), ("10.96.0.1:80".to_owned(), "/"));
        assert_eq!(split("http://echo:8080/a/b?c=d"), ("echo:8080".to_owned(), "/a/b?c=d"));
        assert_eq!(split("echo/a"), ("echo:80".to_owned(), "/a"));
    }
}

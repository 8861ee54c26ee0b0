//! As much of HTTP/1.1 as a collector speaks: one request on a connection, one answer, its end.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Instant;

use super::limits::{MAX_HEAD, REQUEST_TIME};
use super::text::CONTENT_TYPE;
use crate::nbd::Stream;

/// Answers the one request of a connection.
pub fn serve(stream: &Stream, page: &dyn Fn() -> String) -> io::Result<()> {
    let deadline = Instant::now() + REQUEST_TIME;
    let head = head(stream, deadline)?;
    let answer = answer(&head, page);
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        arm(stream, deadline)?;
        match stream.write_vectored(&[IoSlice::new(rest)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(Shutdown::Write);
    Ok(())
}

/// Bounds the next wait by the deadline of the whole.
fn arm(stream: &Stream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { stream.set_timeout(Some(left)) }
}

/// Reads to the empty line that ends a head. What comes behind it is nothing to us.
fn head(stream: &Stream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buf = [0; 1024];
    loop {
        arm(stream, deadline)?;
        let n = match stream.read(&mut buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        head.extend_from_slice(&buf[..n]);
        if n == 0 || head.len() > MAX_HEAD || ends(&head) {
            return Ok(head);
        }
    }
}

fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n")
}

/// The answer to a request with this head.
fn answer(head: &[u8], page: &dyn Fn() -> String) -> String {
    if head.len() > MAX_HEAD || !ends(head) {
        return refusal("400 Bad Request", "");
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return refusal("400 Bad Request", "") };
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return refusal("400 Bad Request", "");
    };
    if !version.starts_with("HTTP/1.") {
        return refusal("505 HTTP Version Not Supported", "");
    }
    if !matches!(method, "GET" | "HEAD") {
        return refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
    }
    // A collector may append parameters, which mean nothing here.
    if target.split('?').next() != Some("/metrics") {
        return refusal("404 Not Found", "");
    }
    let body = page();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    if method == "HEAD" { head } else { head + &body }
}

fn refusal(status: &str, header: &str) -> String {
    let body = format!("{status}; figures are at /metrics\n");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n{header}Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn asked(head: &str) -> String {
        answer(head.as_bytes(), &|| "a 1\n".into())
    }

    #[test]
    fn a_collector_gets_the_page_and_others_an_error() {
        let page = asked("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n")
                && page.ends_with(
                    "\r\nContent-Length: 4\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\na 1\n"
                )
        );
        assert!(asked("GET /metrics?x=1 HTTP/1.0\n\n").starts_with("HTTP/1.1 200"));
        assert!(asked("HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
        for (head, status) in [
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/../etc HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics HTTP/2\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1 x\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1\r\n", "400"),
            ("\r\n\r\n", "400"),
        ] {
            assert!(asked(head).starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {}", asked(head));
        }
    }

    #[test]
    fn a_head_without_an_end_is_read_to_its_limit_and_no_further() {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(&[b'a'; 2 * MAX_HEAD]).unwrap();
        serve(&Stream::Unix(server), &|| unreachable!()).unwrap();
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, b"HTTP/1.1 400");
    }

    proptest! {
        #[test]
        fn any_head_is_answered(head: Vec<u8>) {
            prop_assert!(answer(&head, &|| String::new()).starts_with("HTTP/1.1 "));
        }
    }
}

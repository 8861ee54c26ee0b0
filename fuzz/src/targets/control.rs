//! The control protocol between processes of a store, from both sides.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use archipelago_core::store::control::{Answer, Handler, RemoteError, Request};
use archipelago_core::{Error, fuzzing};
use parking_lot::Mutex;

use super::{mode, refused, with_mode};
use crate::Target;

/// What a client sends on one connection. Mode bit 0: the rest is frames as they are; otherwise each line of it is put into a frame.
pub const FRAMES: Target =
    Target { name: "control_frames", check: frames, seeds: frame_seeds, max_len: 4096, memory: 512 << 10, cost: 1 };

/// Takes requests down and answers in turn.
struct Recorder(Mutex<Vec<Request>>);

impl Handler for Recorder {
    fn handle(&self, request: Request) -> Answer {
        let mut requests = self.0.lock();
        requests.push(request);
        match requests.len() % 7 {
            0 => Answer::Done,
            1 => Answer::Status {
                volumes: vec!["volume-1".into()],
                work: vec!["hashing snap-1, 7%".into()],
                trouble: Some("a disk".into()),
            },
            2 => Answer::Acknowledged { unsettled: Vec::new() },
            3 => Answer::Pins { pins: Vec::new(), next: Some(7) },
            4 => Answer::Header { header: "00".into() },
            5 => Answer::Answered { answer: serde_json::json!({ "age": 1 }) },
            _ => Err(Error::NotOpen("volume-1".into())).into(),
        }
    }
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

fn frames(input: &[u8]) {
    let (mode, bytes) = mode(input);
    let sent = if mode & 1 != 0 { bytes.to_vec() } else { bytes.split(|b| *b == b'\n').flat_map(frame).collect() };
    let handler = Arc::new(Recorder(Mutex::default()));
    let weak: Weak<dyn Handler> = Arc::downgrade(&(handler.clone() as Arc<dyn Handler>));
    let (client, server) = UnixStream::pair().expect("two sockets");
    let answers = std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            // The server may have hung up.
            let _ = (&client).write_all(&sent).and_then(|()| client.shutdown(Shutdown::Write));
            let mut answers = Vec::new();
            let _ = (&client).read_to_end(&mut answers);
            answers
        });
        let _ended = fuzzing::control_session(weak, &server);
        let _ = server.shutdown(Shutdown::Both);
        client.join().expect("the client")
    });
    // A greeting, then an answer for each request, then perhaps why there is an end.
    let mut rest = &answers[..];
    let mut count = 0;
    while let Some((len, after)) = rest.split_first_chunk() {
        let Some((body, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
        rest = after;
        if count == 0 {
            let hello: serde_json::Value = serde_json::from_slice(body).expect("a greeting");
            assert_eq!(hello["archipelago"], 1);
        } else {
            serde_json::from_slice::<Answer>(body).expect("an answer");
        }
        count += 1;
    }
    let handled = handler.0.lock();
    assert!((handled.len() + 1..=handled.len() + 2).contains(&count), "{count} frames for {} requests", handled.len());
    for request in handled.iter() {
        let text = serde_json::to_vec(request).expect("JSON");
        let again = serde_json::from_slice::<Request>(&text).expect("what was written");
        // Numbers with a fraction may lose their last digit.
        if !matches!(request, Request::Question { .. }) {
            assert_eq!(again, *request);
        }
    }
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let hello = r#"{"archipelago":1}"#;
    let lines = [
        r#""status""#,
        r#"{"snapshot":{"volume":"volume-1","id":"00000000000000a1","snapshot":"snap-1"}}"#,
        r#"{"resize":{"volume":"volume-1","id":"00000000000000a1","size":1073741824,"shrink":true}}"#,
        r#"{"flush":{"volume":"volume-1","id":"00000000000000a1"}}"#,
        r#"{"rename":{"volume":"volume-1","id":"00000000000000a1","new":"volume-2"}}"#,
        r#"{"release":{"volume":"volume-1","id":"00000000000000a1"}}"#,
        r#"{"info":{"volume":"volume-1","id":"00000000000000a1"}}"#,
        r#"{"group":{"group":"0000000000000009","volume":"volume-1","id":"00000000000000a1","step":{"begin":{"name":"snap-1","snapshot":"00000000000000b2"}}}}"#,
        r#"{"group":{"group":"0000000000000009","volume":"volume-1","id":"00000000000000a1","step":"freeze"}}"#,
        r#"{"group":{"group":"0000000000000009","volume":"volume-1","id":"00000000000000a1","step":"giveup"}}"#,
        r#"{"acknowledge":{"packs":true}}"#,
        r#"{"pins":{"after":18446744073709551615}}"#,
        r#""collected""#,
        r#"{"question":{"question":{"limits":{"id":"00000000000000a1","name":[1,null,-2.5e9]}}}}"#,
    ];
    let mut seeds: Vec<_> = lines.iter().map(|l| with_mode(0, format!("{hello}\n{l}").as_bytes())).collect();
    seeds.push(with_mode(0, format!("{hello}\n{}", lines.join("\n")).as_bytes()));
    seeds.push(with_mode(1, &[frame(hello.as_bytes()), frame(lines[0].as_bytes())].concat()));
    seeds.push(with_mode(0, br#"{"archipelago":2}"#));
    seeds.push(with_mode(1, &[0xff; 12]));
    seeds
}

/// What a server answers: its greeting, a line feed, its answer.
pub const ANSWER: Target =
    Target { name: "control_answer", check: answer, seeds: answer_seeds, max_len: 4096, memory: 256 << 10, cost: 1 };

fn answer(input: &[u8]) {
    let mut lines = input.splitn(2, |b| *b == b'\n');
    let (greeting, answer) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    match fuzzing::control_answer(greeting, answer) {
        None => {}
        Some(Ok(Answer::Failed(_))) => panic!("a failure is an error"),
        Some(Ok(answer)) => {
            if let Answer::Pins { pins, .. } = &answer {
                for pin in pins {
                    match pin.decode() {
                        Ok(header) => assert_eq!(hex(&header.encode()), pin.header, "another form of the header"),
                        Err(error) => refused(&error),
                    }
                }
            }
            let text = serde_json::to_string(&answer).expect("JSON");
            let again: Answer = serde_json::from_str(&text).expect("what was written");
            // Numbers with a fraction may lose their last digit, and only programs that send none are asked.
            if !matches!(answer, Answer::Answered { .. }) {
                assert_eq!(serde_json::to_string(&again).expect("JSON"), text);
            }
        }
        Some(Err(error)) => {
            assert!(error.errno() > 0, "{error:?}");
            // Handed on once more it stays the same kind of failure.
            let again = Error::from(RemoteError::from(&error));
            assert_eq!(again.errno(), error.errno(), "{error:?}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer_seeds() -> Vec<Vec<u8>> {
    let hello = r#"{"archipelago":1}"#;
    let info = concat!(
        r#"{"info":{"name":"volume-1","id":"00000000000000a1","kind":"volume","size":1,"block_size":65536,"#,
        r#""epoch":1,"mapped":0,"read_only":false,"parent":null,"created":5,"open_by":null}}"#
    );
    let errors = [
        Error::NotFound("x".into()),
        Error::InvalidName { name: "x".into(), reason: "it has fewer than 6 bytes" },
        Error::OutOfRange { name: "x".into(), offset: 1, len: 2, size: 3 },
        Error::damaged("x", "y"),
        Error::io("write", "x", std::io::Error::from_raw_os_error(28)),
        Error::io("write", "x", std::io::Error::from_raw_os_error(30)),
    ];
    let mut seeds = vec![
        format!("{hello}\n\"done\"").into_bytes(),
        format!("{hello}\n{info}").into_bytes(),
        format!("{hello}\n{{\"status\":{{\"volumes\":[\"a\",\"b\"]}}}}").into_bytes(),
        format!("{hello}\n{{\"acknowledged\":{{\"unsettled\":[{{\"id\":\"00000000000000a1\",\"epoch\":7}}]}}}}")
            .into_bytes(),
    ];
    let header = hex(&super::header::plain().encode());
    let pins = format!("[{{\"id\":\"00000000000000a1\",\"header\":\"{header}\"}}]");
    seeds.push(format!("{hello}\n{{\"pins\":{{\"pins\":{pins},\"next\":1}}}}").into_bytes());
    seeds.push(format!("{hello}\n{{\"answered\":{{\"answer\":{{\"age\":[1]}}}}}}").into_bytes());
    seeds.push(format!("{hello}\n{{\"header\":{{\"header\":\"{header}\"}}}}").into_bytes());
    for error in &errors {
        let error = serde_json::to_string(&RemoteError::from(error)).expect("JSON");
        seeds.push(format!("{hello}\n{{\"failed\":{error}}}").into_bytes());
        seeds.push(format!("{{\"archipelago\":1,\"refused\":{error}}}").into_bytes());
    }
    seeds
}

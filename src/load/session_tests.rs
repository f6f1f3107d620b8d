use super::*;
use crate::load::{
    frame::{setting, write_header, write_settings},
    request::RequestTemplate,
};

const OK_MESSAGE: &[u8] = b"\0\0\0\0\x02\x08\x01";
const OVER_MESSAGE: &[u8] = b"\0\0\0\0\x02\x08\x02";
const GOOD_TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";
const BAD_TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x0214";
const STATUS_200: &[u8] = b"\x88";

fn template() -> Arc<Template> {
    let descriptors = ["k={key}".parse().unwrap()];
    let template = RequestTemplate::new("d", &descriptors, 0, 1_000);
    Arc::new(template.frames("h").unwrap())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    write_header(&mut bytes, payload.len(), kind, flags, stream);
    bytes.extend_from_slice(payload);
    bytes
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![];
    write_settings(&mut bytes, pairs);
    bytes
}

/// A whole answer: headers, data, trailers.
fn answer(stream: u32, message: &[u8], trailers: &[u8]) -> Vec<u8> {
    const END: u8 = flag::END_HEADERS | flag::END_STREAM;
    [
        frame(kind::HEADERS, flag::END_HEADERS, stream, STATUS_200),
        frame(kind::DATA, 0, stream, message),
        frame(kind::HEADERS, END, stream, trailers),
    ]
    .concat()
}

/// A session that has seen the server's settings and has sent `calls` calls,
/// keys from 0 on; its output is empty.
fn session(calls: u64, pairs: &[(u16, u32)]) -> Session {
    let mut session = Session::new(template(), 8);
    session.receive(&settings(pairs), &mut vec![]).unwrap();
    for key in 0..calls {
        assert!(session.can_send());
        session.send(Call { key, intended: key });
    }
    session.output().clear();
    session
}

/// What becomes of calls when `bytes` come, whole or byte by byte.
fn outcomes(calls: u64, bytes: &[u8]) -> Result<Vec<(u64, Outcome)>, ProtocolError> {
    let mut done = vec![];
    let used = session(calls, &[]).receive(bytes, &mut done)?;
    assert_eq!(used, bytes.len());

    let (mut slow, mut slowly_done, mut buffer) = (session(calls, &[]), vec![], vec![]);
    for byte in bytes {
        buffer.push(*byte);
        let used = slow.receive(&buffer, &mut slowly_done)?;
        buffer.drain(..used);
    }
    assert_eq!(done, slowly_done);
    Ok(done
        .into_iter()
        .map(|(call, outcome)| (call.key, outcome))
        .collect())
}

#[test]
fn answers_end_calls() {
    const OK: Outcome = Outcome::Answered(Answer::Ok);
    const OVER: Outcome = Outcome::Answered(Answer::OverLimit);
    const FAILED: fn(Failure) -> Outcome = Outcome::Failed;
    const END: u8 = flag::END_HEADERS | flag::END_STREAM;
    let goaway = |last: u8| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    let trailers_only = frame(kind::HEADERS, END, 1, &[STATUS_200, BAD_TRAILERS].concat());
    let in_pieces = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, STATUS_200),
        frame(kind::DATA, 0, 1, &OK_MESSAGE[..3]),
        frame(kind::DATA, 0, 1, b""),
        frame(kind::DATA, flag::PADDED, 1, b"\x02\0\x02\x08\0\0"),
        frame(kind::DATA, 0, 1, b"\x01"),
        frame(kind::HEADERS, flag::END_STREAM, 1, &GOOD_TRAILERS[..5]),
        frame(kind::CONTINUATION, 0, 1, &GOOD_TRAILERS[5..7]),
        frame(
            kind::CONTINUATION,
            flag::END_HEADERS,
            1,
            &GOOD_TRAILERS[7..],
        ),
    ];
    for (name, bytes, expected) in [
        ("ok", answer(1, OK_MESSAGE, GOOD_TRAILERS), vec![(0, OK)]),
        (
            "over",
            answer(3, OVER_MESSAGE, GOOD_TRAILERS),
            vec![(1, OVER)],
        ),
        (
            "out of order",
            [
                answer(5, OK_MESSAGE, GOOD_TRAILERS),
                answer(1, OVER_MESSAGE, GOOD_TRAILERS),
            ]
            .concat(),
            vec![(2, OK), (0, OVER)],
        ),
        ("in pieces", in_pieces.concat(), vec![(0, OK)]),
        (
            "only trailers",
            trailers_only,
            vec![(0, FAILED(Failure::Status))],
        ),
        (
            "status after a message",
            answer(1, OK_MESSAGE, BAD_TRAILERS),
            vec![(0, FAILED(Failure::Status))],
        ),
        (
            "good trailers are remembered, bad ones are not",
            [
                answer(1, OK_MESSAGE, GOOD_TRAILERS),
                answer(3, OK_MESSAGE, BAD_TRAILERS),
                answer(5, OK_MESSAGE, GOOD_TRAILERS),
            ]
            .concat(),
            vec![(0, OK), (1, FAILED(Failure::Status)), (2, OK)],
        ),
        (
            "no message",
            answer(1, b"", GOOD_TRAILERS),
            vec![(0, FAILED(Failure::Malformed))],
        ),
        (
            "half a message",
            answer(1, &OK_MESSAGE[..6], GOOD_TRAILERS),
            vec![(0, FAILED(Failure::Malformed))],
        ),
        (
            "two messages",
            answer(1, &[OK_MESSAGE, OK_MESSAGE].concat(), GOOD_TRAILERS),
            vec![(0, FAILED(Failure::Malformed))],
        ),
        (
            "no trailers",
            frame(kind::DATA, flag::END_STREAM, 1, OK_MESSAGE),
            vec![(0, FAILED(Failure::Malformed))],
        ),
        (
            "reset",
            frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 7]),
            vec![(1, FAILED(Failure::Reset))],
        ),
        (
            "answers to nobody",
            [
                answer(99, OK_MESSAGE, GOOD_TRAILERS),
                answer(2, OK_MESSAGE, GOOD_TRAILERS),
            ]
            .concat(),
            vec![],
        ),
        (
            "twice",
            [
                answer(1, OK_MESSAGE, GOOD_TRAILERS),
                answer(1, OVER_MESSAGE, GOOD_TRAILERS),
            ]
            .concat(),
            vec![(0, OK)],
        ),
        ("going away", goaway(3), vec![(2, Outcome::Unprocessed)]),
        (
            "going away gently",
            frame(kind::GOAWAY, 0, 0, &[127, 255, 255, 255, 0, 0, 0, 0]),
            vec![],
        ),
        ("an unknown frame", frame(0x42, 0xff, 1, b"?"), vec![]),
    ] {
        assert_eq!(outcomes(3, &bytes), Ok(expected), "{name}");
    }
}

#[test]
fn malformed_frames_end_the_connection() {
    for (name, bytes) in [
        (
            "push",
            frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2]),
        ),
        (
            "continuation of nothing",
            frame(kind::CONTINUATION, 0, 1, b""),
        ),
        (
            "data within a header block",
            [
                frame(kind::HEADERS, 0, 1, b""),
                frame(kind::DATA, 0, 1, b""),
            ]
            .concat(),
        ),
        (
            "another stream's continuation",
            [
                frame(kind::HEADERS, 0, 1, b""),
                frame(kind::CONTINUATION, 0, 3, b""),
            ]
            .concat(),
        ),
        ("short goaway", frame(kind::GOAWAY, 0, 0, &[0; 7])),
        ("short reset", frame(kind::RST_STREAM, 0, 1, &[0; 3])),
        ("long ping", frame(kind::PING, 0, 0, &[0; 9])),
        ("odd settings", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        ("settings of a stream", frame(kind::SETTINGS, 0, 1, &[])),
        (
            "huge stream window",
            settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]),
        ),
        (
            "huge window",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        ("bad padding", frame(kind::DATA, flag::PADDED, 1, &[9])),
        ("bad trailers", answer(1, OK_MESSAGE, b"\xbe")),
    ] {
        assert!(outcomes(3, &bytes).is_err(), "{name}");
    }
    let endless = [
        frame(kind::HEADERS, 0, 1, b""),
        frame(kind::CONTINUATION, 0, 1, &[0; 16_384]).repeat(5),
    ];
    assert!(
        session(1, &[])
            .receive(&endless.concat(), &mut vec![])
            .is_err()
    );
}

#[test]
fn nothing_is_sent_before_the_servers_settings() {
    let mut session = Session::new(template(), 8);
    assert!(!session.can_send());
    assert!(session.output().starts_with(frame::PREFACE));
    assert!(
        session
            .receive(&frame(kind::PING, 0, 0, &[0; 8]), &mut vec![])
            .is_err()
    );
}

#[test]
fn settings_and_pings_are_acknowledged() {
    let mut session = session(0, &[]);
    let ping = frame(kind::PING, 0, 0, b"12345678");
    let acks = [
        &settings(&[])[..],
        &ping,
        &frame(kind::PING, flag::ACK, 0, b"abcdefgh"),
    ]
    .concat();
    session.receive(&acks, &mut vec![]).unwrap();
    let expected = [
        frame(kind::SETTINGS, flag::ACK, 0, b""),
        frame(kind::PING, flag::ACK, 0, b"12345678"),
    ];
    assert_eq!(*session.output(), expected.concat());
}

#[test]
fn a_server_that_never_reads_is_left() {
    let pings = frame(kind::PING, 0, 0, &[0; 8]).repeat(10_000);
    let mut session = session(0, &[]);
    let floods = (0..200).find(|_| session.receive(&pings, &mut vec![]).is_err());
    assert!(floods.is_some());
}

#[test]
fn the_servers_limits_are_kept() {
    let data_len = u32::try_from(template().data_len).unwrap();
    for (name, pairs, sent) in [
        ("its streams", vec![(setting::MAX_CONCURRENT_STREAMS, 2)], 2),
        ("no streams", vec![(setting::MAX_CONCURRENT_STREAMS, 0)], 0),
        ("own slots", vec![], 8),
        (
            "small windows",
            vec![(setting::INITIAL_WINDOW_SIZE, data_len - 1)],
            0,
        ),
        (
            "windows of just a call",
            vec![(setting::INITIAL_WINDOW_SIZE, data_len)],
            8,
        ),
    ] {
        let mut session = session(0, &pairs);
        let mut calls = 0;
        while session.can_send() {
            session.send(Call::default());
            calls += 1;
        }
        assert_eq!(calls, sent, "{name}");
    }
}

#[test]
fn the_connections_window_is_kept() {
    let mut session = session(0, &[]);
    let data_len = u32::try_from(template().data_len).unwrap();
    let mut sent = 0;
    while session.can_send() {
        session.send(Call::default());
        session.abandon(Failure::Lost, &mut vec![]);
        sent += 1;
    }
    assert_eq!(sent, DEFAULT_WINDOW / data_len);
    let more = frame(kind::WINDOW_UPDATE, 0, 0, &data_len.to_be_bytes());
    session.receive(&more, &mut vec![]).unwrap();
    assert!(session.can_send());
}

#[test]
fn windows_are_topped_up() {
    let data = frame(kind::DATA, 0, 99, &[0; 16_384]).repeat(1_024);
    let mut session = session(0, &[]);
    for _ in 0..64 {
        session.receive(&data, &mut vec![]).unwrap();
    }
    let returned = (64_u32 * 1_024 * 16_384).to_be_bytes();
    assert_eq!(
        *session.output(),
        frame(kind::WINDOW_UPDATE, 0, 0, &returned)
    );
}

#[test]
fn headers_are_put_into_the_servers_table_if_it_is_large_enough() {
    let template = template();
    let needed = u32::try_from(template.table_size).unwrap();
    for (table, lengths_differ) in [(needed, true), (needed - 1, false), (0, false)] {
        let mut session = session(0, &[(setting::HEADER_TABLE_SIZE, table)]);
        let lengths: Vec<usize> = (0..3)
            .map(|key| {
                session.output().clear();
                session.send(Call { key, intended: 0 });
                session.output().len()
            })
            .collect();
        assert_eq!(lengths[0] != lengths[1], lengths_differ, "{table}");
        assert_eq!(lengths[1], lengths[2]);
    }
    let mut session = session(1, &[]);
    let smaller = settings(&[(setting::HEADER_TABLE_SIZE, 100)]);
    session.receive(&smaller, &mut vec![]).unwrap();
    assert!(session.is_draining(), "a new table needs a new connection");
}

#[test]
fn a_slow_call_is_in_nobodys_way() {
    let mut session = session(1, &[]);
    let mut streams = vec![];
    for key in 1..1_000 {
        let stream = session.next_stream;
        session.send(Call { key, intended: 0 });
        let stream = if session.next_stream == stream + 2 {
            stream
        } else {
            session.next_stream - 2
        };
        streams.push(stream);
        let mut done = vec![];
        session
            .receive(&answer(stream, OK_MESSAGE, GOOD_TRAILERS), &mut done)
            .unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].0.key, key);
    }
    assert!(streams.is_sorted());
    assert_eq!(session.in_flight(), 1);
}

#[test]
fn streams_run_out() {
    let mut session = session(0, &[]);
    session.next_stream = LAST_STREAM - 200;
    let mut last = 0;
    while session.can_send() {
        last = session.next_stream;
        session.send(Call::default());
        session.abandon(Failure::Lost, &mut vec![]);
    }
    assert!(session.is_draining());
    assert!(last > LAST_STREAM - 200 && last < LAST_STREAM);
}

proptest::proptest! {
    /// Whatever comes, nothing panics, and no call ends twice.
    #[test]
    fn any_bytes_are_survived(
        frames in proptest::collection::vec(
            (0_u8..11, proptest::num::u8::ANY, 0_u32..10, proptest::collection::vec(proptest::num::u8::ANY, 0..20)),
            0..40,
        ),
    ) {
        let mut session = session(4, &[]);
        let mut done = vec![];
        for (kind, flags, stream, payload) in frames {
            if session.receive(&frame(kind, flags, stream, &payload), &mut done).is_err() {
                break;
            }
        }
        session.abandon(Failure::Lost, &mut done);
        proptest::prop_assert_eq!(done.len(), 4);
        proptest::prop_assert_eq!(session.in_flight(), 0);
    }
}

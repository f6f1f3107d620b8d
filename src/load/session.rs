//! One HTTP/2 connection as a state machine: bytes in, finished calls and
//! bytes out. It neither waits nor reads a clock, so tests feed it by hand.

use std::sync::Arc;

use super::{
    frame::{self, Frame, ProtocolError, flag, kind, setting},
    hpack,
    request::Template,
    response::{self, Answer, Message},
};

/// The largest window that the standard allows.
const MAX_WINDOW: u32 = 0x7fff_ffff;
/// Every connection begins with this window, whatever the settings say.
const DEFAULT_WINDOW: u32 = 65_535;
/// When to give the server back what it has used of the connection's window.
const TOP_UP: u32 = 1 << 30;
/// The last stream that a client can open.
const LAST_STREAM: u32 = 0x7fff_ffff;
/// Header blocks that are longer than this are refused.
const MAX_BLOCK: usize = 64 << 10;
/// What may wait to be written: beyond it the server makes us answer
/// without ever reading.
const MAX_UNWRITTEN: usize = 16 << 20;

/// What was asked, and when it was due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) key: u64,
    /// When it should have been sent, in nanoseconds since the start.
    pub(crate) intended: u64,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With an answer.
    Answered(Answer),
    /// Without.
    Failed(Failure),
    /// The server has not looked at it: it may be sent again.
    Unprocessed,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A gRPC status other than OK, or an HTTP status other than 200.
    Status,
    /// The server reset the stream.
    Reset,
    /// The answer could not be understood.
    Malformed,
    /// The connection was lost.
    Lost,
    /// Nothing came in time.
    TimedOut,
}

/// A stream, in the slot that its number points to.
#[derive(Debug, Default)]
struct Slot {
    /// 0 when free.
    stream: u32,
    call: Call,
    answer: Option<Answer>,
    malformed: bool,
    /// Data of a message that came in pieces.
    partial: Vec<u8>,
}

/// A header block that is not complete yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Session {
    template: Arc<Template>,
    out: Vec<u8>,
    slots: Vec<Slot>,
    in_flight: usize,
    next_stream: u32,
    /// `None` until the server's settings have come.
    peer: Option<Peer>,
    /// How much data the server takes, over all streams.
    window: i64,
    /// Received and not given back to the server's window.
    unreturned: u32,
    block: Option<Block>,
    /// The last trailers that said that all is well.
    good_trailers: Vec<u8>,
    /// No new streams: the server is going away or the numbers are used up.
    draining: bool,
    answered: bool,
}

/// What the server's settings say.
#[derive(Clone, Copy, Debug)]
struct Peer {
    table_size: u32,
    max_streams: u32,
    stream_window: u32,
}

// === impl Session ===

impl Session {
    /// A connection for up to `concurrency` calls at a time, with what has
    /// to be said first already in its output.
    pub(crate) fn new(template: Arc<Template>, concurrency: usize) -> Self {
        let mut out = frame::PREFACE.to_vec();
        let settings = [
            (setting::HEADER_TABLE_SIZE, 0),
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, MAX_WINDOW),
        ];
        frame::write_settings(&mut out, &settings);
        frame::write_window_update(&mut out, MAX_WINDOW - DEFAULT_WINDOW);
        // More slots than calls: a slow call is in nobody's way for long.
        let slots = (concurrency.max(1) * 2).next_power_of_two();
        Self {
            template,
            out,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            in_flight: 0,
            next_stream: 1,
            peer: None,
            window: DEFAULT_WINDOW.into(),
            unreturned: 0,
            block: None,
            good_trailers: vec![],
            draining: false,
            answered: false,
        }
    }

    /// What is to be written; the writer removes it.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Calls without an outcome yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether no new call will ever go out on this connection.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether any call was ever answered.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether the server takes a call now.
    pub(crate) fn can_send(&self) -> bool {
        let data = self.template.data_len;
        !self.draining
            && self.in_flight * 2 < self.slots.len()
            && self.window >= data as i64
            && self.peer.is_some_and(|peer| {
                self.in_flight < peer.max_streams as usize && data <= peer.stream_window as usize
            })
    }

    /// Writes a call to the output; [`Self::can_send`] has been asked.
    pub(crate) fn send(&mut self, call: Call) {
        let first = self.next_stream == 1;
        let stream = self.open_stream(call);
        let table = self.peer.map_or(0, |peer| peer.table_size as usize);
        let frames = match (self.template.table_size <= table, first) {
            (false, _) => &self.template.plain,
            (true, true) => &self.template.first,
            (true, false) => &self.template.later,
        };
        frames.write(&mut self.out, stream, call.key);
        self.window -= self.template.data_len as i64;
    }

    /// Takes the next stream whose slot is free; numbers may be left out.
    fn open_stream(&mut self, call: Call) -> u32 {
        let mut stream = self.next_stream;
        while self.slots[self.slot_of(stream)].stream != 0 {
            stream += 2;
        }
        let at = self.slot_of(stream);
        let slot = &mut self.slots[at];
        slot.stream = stream;
        slot.call = call;
        slot.answer = None;
        slot.malformed = false;
        slot.partial.clear();
        self.in_flight += 1;
        self.next_stream = stream + 2;
        // Far enough from the end that no search runs into it.
        if (LAST_STREAM - self.next_stream) as usize <= 4 * self.slots.len() {
            self.draining = true;
        }
        stream
    }

    fn slot_of(&self, stream: u32) -> usize {
        (stream >> 1) as usize & (self.slots.len() - 1)
    }

    /// Takes what the server has sent and says how much of it was used: all
    /// but a frame that is not complete. Finished calls go to `done`.
    ///
    /// # Errors
    /// The server broke the protocol; the connection is of no more use.
    pub(crate) fn receive(
        &mut self,
        bytes: &[u8],
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<usize, ProtocolError> {
        if self.peer.is_none() && bytes.starts_with(b"HTTP/1") {
            return Err(ProtocolError("it speaks HTTP/1 on this port"));
        }
        let mut used = 0;
        while let Some((frame, length)) = Frame::parse(&bytes[used..])? {
            self.take(&frame, done)?;
            used += length;
        }
        self.top_up();
        if self.out.len() > MAX_UNWRITTEN {
            return Err(ProtocolError("it asks without reading the answers"));
        }
        Ok(used)
    }

    /// Ends every call that is in flight.
    pub(crate) fn abandon(&mut self, failure: Failure, done: &mut Vec<(Call, Outcome)>) {
        self.finish_all(|_| true, Outcome::Failed(failure), done);
    }

    fn take(
        &mut self,
        frame: &Frame<'_>,
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<(), ProtocolError> {
        if self.peer.is_none() && frame.kind != kind::SETTINGS {
            return Err(ProtocolError("its first frame is not SETTINGS"));
        }
        if self.block.is_some() && frame.kind != kind::CONTINUATION {
            return Err(ProtocolError("a header block is interrupted"));
        }
        match frame.kind {
            kind::DATA => self.take_data(frame, done),
            kind::HEADERS => self.take_headers(frame, done),
            kind::CONTINUATION => self.take_continuation(frame, done),
            kind::RST_STREAM => {
                frame.word()?;
                self.finish(frame.stream, Outcome::Failed(Failure::Reset), done);
                Ok(())
            }
            kind::SETTINGS => self.take_settings(frame),
            kind::PING => self.take_ping(frame),
            kind::GOAWAY => self.take_goaway(frame, done),
            kind::WINDOW_UPDATE => self.take_window_update(frame),
            kind::PUSH_PROMISE => Err(ProtocolError("it pushes although that is switched off")),
            // Unknown types are to be ignored.
            _ => Ok(()),
        }
    }

    fn take_data(
        &mut self,
        frame: &Frame<'_>,
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<(), ProtocolError> {
        self.unreturned = self.unreturned.saturating_add(payload_len(frame));
        let data = frame.data()?;
        if let Some(slot) = self.slot(frame.stream) {
            slot.take_data(data);
        }
        if frame.has(flag::END_STREAM) {
            // No trailers, no status.
            self.finish(frame.stream, Outcome::Failed(Failure::Malformed), done);
        }
        Ok(())
    }

    fn take_headers(
        &mut self,
        frame: &Frame<'_>,
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<(), ProtocolError> {
        let fragment = frame.header_fragment()?;
        let ends_stream = frame.has(flag::END_STREAM);
        if frame.has(flag::END_HEADERS) {
            return self.take_block(frame.stream, ends_stream, fragment, done);
        }
        self.block = Some(Block {
            stream: frame.stream,
            ends_stream,
            bytes: fragment.to_vec(),
        });
        Ok(())
    }

    fn take_continuation(
        &mut self,
        frame: &Frame<'_>,
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<(), ProtocolError> {
        let Some(mut block) = self.block.take() else {
            return Err(ProtocolError("CONTINUATION without HEADERS"));
        };
        if block.stream != frame.stream {
            return Err(ProtocolError("a header block is interrupted"));
        }
        if block.bytes.len() + frame.payload.len() > MAX_BLOCK {
            return Err(ProtocolError("a header block is too long"));
        }
        block.bytes.extend_from_slice(frame.payload);
        if frame.has(flag::END_HEADERS) {
            return self.take_block(block.stream, block.ends_stream, &block.bytes, done);
        }
        self.block = Some(block);
        Ok(())
    }

    /// Headers that do not end the stream say nothing that matters: without
    /// status 200 there is no message, or no good status at the end.
    fn take_block(
        &mut self,
        stream: u32,
        ends_stream: bool,
        block: &[u8],
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<(), ProtocolError> {
        if !ends_stream {
            return Ok(());
        }
        // Without a table equal bytes mean equal headers.
        let is_ok = self.good_trailers == block || {
            let is_ok = hpack::grpc_status_is_ok(block)? == Some(true);
            if is_ok {
                self.good_trailers = block.to_vec();
            }
            is_ok
        };
        let Some(slot) = self.slot(stream) else {
            return Ok(());
        };
        let outcome = match (is_ok, slot.answer) {
            (false, _) => Outcome::Failed(Failure::Status),
            (true, Some(answer)) if !slot.malformed => Outcome::Answered(answer),
            (true, _) => Outcome::Failed(Failure::Malformed),
        };
        self.answered |= matches!(outcome, Outcome::Answered(_));
        self.finish(stream, outcome, done);
        Ok(())
    }

    fn take_settings(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let settings = frame.settings()?;
        if frame.has(flag::ACK) {
            return Ok(());
        }
        let mut peer = self.peer.unwrap_or_default();
        for (name, value) in settings {
            match name {
                setting::HEADER_TABLE_SIZE => {
                    // Our entries are in the table: a connection with a new
                    // table begins anew.
                    self.draining |= self.peer.is_some() && value != peer.table_size;
                    peer.table_size = value;
                }
                setting::MAX_CONCURRENT_STREAMS => peer.max_streams = value,
                setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(ProtocolError("its window is too large"));
                }
                setting::INITIAL_WINDOW_SIZE => peer.stream_window = value,
                _ => {}
            }
        }
        self.peer = Some(peer);
        frame::write_settings_ack(&mut self.out);
        Ok(())
    }

    fn take_ping(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        if frame.payload.len() != 8 {
            return Err(ProtocolError("a PING frame has the wrong length"));
        }
        if !frame.has(flag::ACK) {
            frame::write_ping_ack(&mut self.out, frame.payload);
        }
        Ok(())
    }

    fn take_goaway(
        &mut self,
        frame: &Frame<'_>,
        done: &mut Vec<(Call, Outcome)>,
    ) -> Result<(), ProtocolError> {
        let (last, _) = frame.goaway()?;
        self.draining = true;
        self.finish_all(|stream| stream > last, Outcome::Unprocessed, done);
        Ok(())
    }

    fn take_window_update(&mut self, frame: &Frame<'_>) -> Result<(), ProtocolError> {
        let increment = frame.word()? & 0x7fff_ffff;
        if frame.stream != 0 {
            // Our streams fit into their first window.
            return Ok(());
        }
        self.window += i64::from(increment);
        if self.window > MAX_WINDOW.into() {
            return Err(ProtocolError("its window is too large"));
        }
        Ok(())
    }

    fn top_up(&mut self) {
        if self.unreturned >= TOP_UP {
            frame::write_window_update(&mut self.out, self.unreturned);
            self.unreturned = 0;
        }
    }

    /// The open stream of that number; streams that are over are ignored.
    fn slot(&mut self, stream: u32) -> Option<&mut Slot> {
        let at = self.slot_of(stream);
        let slot = &mut self.slots[at];
        (stream != 0 && slot.stream == stream).then_some(slot)
    }

    fn finish(&mut self, stream: u32, outcome: Outcome, done: &mut Vec<(Call, Outcome)>) {
        if let Some(slot) = self.slot(stream) {
            slot.stream = 0;
            done.push((slot.call, outcome));
            self.in_flight -= 1;
        }
    }

    fn finish_all(
        &mut self,
        which: impl Fn(u32) -> bool,
        outcome: Outcome,
        done: &mut Vec<(Call, Outcome)>,
    ) {
        for slot in &mut self.slots {
            if slot.stream != 0 && which(slot.stream) {
                slot.stream = 0;
                done.push((slot.call, outcome));
                self.in_flight -= 1;
            }
        }
    }
}

/// The length of a parsed frame, which is at most 16 KiB.
fn payload_len(frame: &Frame<'_>) -> u32 {
    u32::try_from(frame.payload.len()).unwrap_or(u32::MAX)
}

// === impl Slot ===

impl Slot {
    fn take_data(&mut self, data: &[u8]) {
        if data.is_empty() || self.malformed {
            return;
        }
        if self.answer.is_some() {
            self.malformed = true;
        } else if self.partial.is_empty() {
            match response::message(data) {
                Message::Partial => self.partial.extend_from_slice(data),
                message => self.take_message(message),
            }
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(data);
            match response::message(&whole) {
                Message::Partial => self.partial = whole,
                message => self.take_message(message),
            }
        }
    }

    fn take_message(&mut self, message: Message<'_>) {
        match message {
            Message::Whole(message) => match response::answer(message) {
                Ok(answer) => self.answer = Some(answer),
                Err(response::NoAnswer) => self.malformed = true,
            },
            Message::Partial | Message::Bad => self.malformed = true,
        }
    }
}

// === impl Peer ===

impl Default for Peer {
    /// What holds before, or without, any setting.
    fn default() -> Self {
        Self {
            table_size: 4_096,
            max_streams: u32::MAX,
            stream_window: DEFAULT_WINDOW,
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

//! The links of the ring, and the messages on them: a kind, the exchange's number, a length, numbers
//! in little-endian. A receiver knows what must come and takes nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::AddAssign;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Messages that wait in a link, at most.
pub(super) const WINDOW: usize = 8;

/// Bytes of numbers in a message, at most.
const BYTES: usize = 1 << 16;

/// Kind, number of the exchange, length.
const HEAD: usize = 1 + 8 + 4;

/// What goes around the ring.
pub trait Number: Copy + Default + Send {
    /// Bytes of one.
    const BYTES: usize;
    /// Numbers of a message, at most.
    const CHUNK: usize = BYTES / Self::BYTES;
    /// Into so many bytes.
    fn put(self, to: &mut [u8]);
    /// From so many bytes.
    fn get(from: &[u8]) -> Self;
}

macro_rules! number {
    ($($number:ty),*) => {$(
        impl Number for $number {
            const BYTES: usize = size_of::<Self>();
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_le_bytes());
            }
            fn get(from: &[u8]) -> Self {
                Self::from_le_bytes(from.try_into().expect("cut to its size"))
            }
        }
    )*};
}
number!(f32, f64, u64);

/// What an exchange does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Collect = 1,
    Broadcast = 2,
    Gather = 3,
}

/// Numbers with their head.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new<T: Number>(kind: Kind, call: u64, values: &[T]) -> Self {
        let length = values.len() * T::BYTES;
        let mut bytes = Vec::with_capacity(HEAD + length);
        bytes.extend(head(kind, call, length));
        bytes.resize(HEAD + length, 0);
        for (bytes, value) in bytes[HEAD..].chunks_exact_mut(T::BYTES).zip(values) {
            value.put(bytes);
        }
        Self(bytes)
    }

    pub(super) fn read<T: Number>(&self, values: &mut [T]) {
        for (bytes, value) in self.0[HEAD..].chunks_exact(T::BYTES).zip(values) {
            *value = T::get(bytes);
        }
    }

    /// The numbers that came, plus these.
    pub(super) fn add<T: Number + AddAssign>(&mut self, values: &[T]) {
        for (bytes, value) in self.0[HEAD..].chunks_exact_mut(T::BYTES).zip(values) {
            let mut sum = T::get(bytes);
            sum += *value;
            sum.put(bytes);
        }
    }
}

fn head(kind: Kind, call: u64, length: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[0] = kind as u8;
    head[1..9].copy_from_slice(&call.to_le_bytes());
    head[9..].copy_from_slice(&u32::try_from(length).expect("at most BYTES").to_le_bytes());
    head
}

/// A rank's two links.
#[derive(Debug)]
pub(super) struct Ring {
    next: SyncSender<Message>,
    before: Before,
    /// Writes to the next process.
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Before {
    Thread(Receiver<Message>),
    Process(TcpStream),
}

impl Ring {
    /// The links of a world of threads.
    pub(super) fn threads(world: u32) -> Vec<Self> {
        let (nexts, mut befores): (Vec<_>, Vec<_>) =
            (0..world).map(|_| sync_channel(WINDOW)).unzip();
        befores.rotate_right(1);
        let links = nexts.into_iter().zip(befores);
        let ring = |(next, before)| Self { next, before: Before::Thread(before), writer: None };
        links.map(ring).collect()
    }

    /// Links to processes. A thread writes, so that sending and receiving do not wait for each other.
    pub(super) fn processes(mut next: TcpStream, before: TcpStream) -> std::io::Result<Self> {
        next.set_nodelay(true)?;
        let (sender, messages) = sync_channel::<Message>(WINDOW);
        // When writing fails, the receiver is dropped and the sender learns of it.
        let write = move || {
            while let Ok(message) = messages.recv() {
                if next.write_all(&message.0).is_err() {
                    break;
                }
            }
        };
        let writer = std::thread::Builder::new().name("ranks-send".to_owned()).spawn(write)?;
        Ok(Self { next: sender, before: Before::Process(before), writer: Some(writer) })
    }

    /// Waits until all that was sent is on its way.
    pub(super) fn close(self) {
        drop(self.next);
        if let Some(writer) = self.writer {
            writer.join().ok();
        }
    }

    pub(super) fn send(&self, message: Message) -> Result<(), String> {
        self.next.send(message).map_err(|_closed| "it takes nothing more: it has ended".to_owned())
    }

    /// The next message, which must be of this kind, exchange and length.
    pub(super) fn receive(
        &mut self,
        kind: Kind,
        call: u64,
        length: usize,
    ) -> Result<Message, String> {
        let due = head(kind, call, length);
        let check = |came: &[u8]| {
            if came == due {
                return Ok(());
            }
            Err(format!(
                "it takes part in another exchange: {} came, {} was due; were all ranks started alike?",
                describe(came),
                describe(&due)
            ))
        };
        match &mut self.before {
            Before::Thread(messages) => {
                let message = messages.recv().map_err(|_closed| "it has ended".to_owned())?;
                check(&message.0[..HEAD])?;
                Ok(message)
            }
            Before::Process(stream) => {
                let lost = |error| format!("the connection from it broke ({error})");
                let mut bytes = vec![0; HEAD + length];
                stream.read_exact(&mut bytes[..HEAD]).map_err(lost)?;
                check(&bytes[..HEAD])?;
                stream.read_exact(&mut bytes[HEAD..]).map_err(lost)?;
                Ok(Message(bytes))
            }
        }
    }
}

fn describe(head: &[u8]) -> String {
    let kind = match head[0] {
        1 => "a sum",
        2 => "a broadcast",
        3 => "a gathering",
        _ => "something unknown",
    };
    let call = u64::from_le_bytes(head[1..9].try_into().expect("8 bytes"));
    let length = u32::from_le_bytes(head[9..].try_into().expect("4 bytes"));
    format!("{kind} of {length} bytes, number {call},")
}

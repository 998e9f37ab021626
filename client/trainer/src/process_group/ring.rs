//! The links of the ring and the messages on them.
//!
//! A message is a header (the collective operation, its number and the length of the values) and the
//! values in little-endian. A receiver knows the header that must come next and accepts nothing else, so
//! ranks that were started differently fail instead of mixing up their values.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::AddAssign;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Maximum number of messages that wait in a link.
pub(super) const WINDOW: usize = 8;

/// Maximum size of the values of a message.
pub(super) const CHUNK_BYTES: usize = 1 << 16;

/// Length of a header: the collective, the number of the operation, and the length of the values.
const HEADER: usize = 1 + 8 + 4;

/// A type of value that ranks exchange.
pub trait Element: Copy + Default + Send {
    /// Size of one value.
    const BYTES: usize;
    /// Maximum number of values in a message.
    const CHUNK: usize = CHUNK_BYTES / Self::BYTES;
    /// Writes the value to a slice of [`Self::BYTES`].
    fn put(self, to: &mut [u8]);
    /// Reads the value from a slice of [`Self::BYTES`].
    fn get(from: &[u8]) -> Self;
}

macro_rules! element {
    ($($element:ty),*) => {$(
        impl Element for $element {
            const BYTES: usize = size_of::<Self>();
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_le_bytes());
            }
            fn get(from: &[u8]) -> Self {
                Self::from_le_bytes(from.try_into().expect("a slice of BYTES"))
            }
        }
    )*};
}
element!(f32, f64, u64);

/// A collective operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collective {
    Reduce = 1,
    Broadcast = 2,
    AllGather = 3,
}

/// Values with their header.
#[derive(Debug)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new<T: Element>(collective: Collective, operation: u64, values: &[T]) -> Self {
        let length = values.len() * T::BYTES;
        let mut bytes = Vec::with_capacity(HEADER + length);
        bytes.extend(header(collective, operation, length));
        bytes.resize(HEADER + length, 0);
        for (bytes, value) in bytes[HEADER..].chunks_exact_mut(T::BYTES).zip(values) {
            value.put(bytes);
        }
        Self(bytes)
    }

    pub(super) fn read<T: Element>(&self, values: &mut [T]) {
        for (bytes, value) in self.0[HEADER..].chunks_exact(T::BYTES).zip(values) {
            *value = T::get(bytes);
        }
    }

    /// Adds values to those of the message: `message + values`, in this order.
    pub(super) fn add<T: Element + AddAssign>(&mut self, values: &[T]) {
        for (bytes, value) in self.0[HEADER..].chunks_exact_mut(T::BYTES).zip(values) {
            let mut sum = T::get(bytes);
            sum += *value;
            sum.put(bytes);
        }
    }
}

fn header(collective: Collective, operation: u64, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = collective as u8;
    header[1..9].copy_from_slice(&operation.to_le_bytes());
    header[9..].copy_from_slice(&u32::try_from(length).expect("at most CHUNK_BYTES").to_le_bytes());
    header
}

/// The two links of a rank.
#[derive(Debug)]
pub(super) struct Ring {
    next: SyncSender<Message>,
    previous: Incoming,
    /// The thread that writes to the next process; `None` between threads.
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Incoming {
    Thread(Receiver<Message>),
    Process(TcpStream),
}

impl Ring {
    /// The rings of a world of threads, by rank.
    pub(super) fn between_threads(world: u32) -> Vec<Self> {
        let (senders, mut receivers): (Vec<_>, Vec<_>) =
            (0..world).map(|_| sync_channel(WINDOW)).unzip();
        receivers.rotate_right(1);
        let links = senders.into_iter().zip(receivers);
        let ring =
            |(next, previous)| Self { next, previous: Incoming::Thread(previous), writer: None };
        links.map(ring).collect()
    }

    /// The ring of a process. A thread writes to the next process, so that a rank can send and receive at
    /// the same time.
    pub(super) fn between_processes(
        mut next: TcpStream,
        previous: TcpStream,
    ) -> std::io::Result<Self> {
        next.set_nodelay(true)?;
        let (sender, messages) = sync_channel::<Message>(WINDOW);
        // When writing fails, the receiver of the channel is dropped, so the next send fails.
        let write = move || {
            while let Ok(message) = messages.recv() {
                if next.write_all(&message.0).is_err() {
                    break;
                }
            }
        };
        let writer = std::thread::Builder::new().name("ring-send".to_owned()).spawn(write)?;
        Ok(Self { next: sender, previous: Incoming::Process(previous), writer: Some(writer) })
    }

    /// Waits until everything that was sent is written to the socket.
    pub(super) fn close(self) {
        drop(self.next);
        if let Some(writer) = self.writer {
            writer.join().ok();
        }
    }

    pub(super) fn send(&self, message: Message) -> Result<(), String> {
        self.next
            .send(message)
            .map_err(|_closed| "it does not accept messages: it has ended".to_owned())
    }

    /// Receives the next message, which must be of this collective, operation and length.
    pub(super) fn receive(
        &mut self,
        collective: Collective,
        operation: u64,
        length: usize,
    ) -> Result<Message, String> {
        let expected = header(collective, operation, length);
        let check = |received: &[u8]| {
            if received == expected {
                return Ok(());
            }
            Err(format!(
                "it is in another exchange: received {}, expected {}; start all ranks with the same settings",
                describe(received),
                describe(&expected)
            ))
        };
        match &mut self.previous {
            Incoming::Thread(messages) => {
                let message = messages.recv().map_err(|_closed| "it has ended".to_owned())?;
                check(&message.0[..HEADER])?;
                Ok(message)
            }
            Incoming::Process(stream) => {
                let lost = |error| format!("the connection from it failed ({error})");
                let mut bytes = vec![0; HEADER + length];
                stream.read_exact(&mut bytes[..HEADER]).map_err(lost)?;
                check(&bytes[..HEADER])?;
                stream.read_exact(&mut bytes[HEADER..]).map_err(lost)?;
                Ok(Message(bytes))
            }
        }
    }
}

fn describe(header: &[u8]) -> String {
    let collective = match header[0] {
        1 => "a reduction",
        2 => "a broadcast",
        3 => "an all-gather",
        _ => "an unknown operation",
    };
    let operation = u64::from_le_bytes(header[1..9].try_into().expect("8 bytes"));
    let length = u32::from_le_bytes(header[9..].try_into().expect("4 bytes"));
    format!("{collective} of {length} bytes, number {operation}")
}

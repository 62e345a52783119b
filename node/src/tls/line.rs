//! A connection, encrypted or not.

use moso_proto::grant::Named;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

/// Who is at the other end of a connection, as far as the connection shows.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Address; `None`: it was gone at once.
    pub address: Option<SocketAddr>,
    /// Whom the certificate names that was shown and checked; `Err`: it names nobody of moso.
    pub certificate: Option<Result<Arc<Named>, Arc<str>>>,
}

/// A connection.
pub struct Line {
    stream: Stream,
    caller: Caller,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The reading half of a connection.
pub enum ReadSide {
    /// Not encrypted.
    Plain(OwnedReadHalf),
    /// Encrypted.
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

/// The writing half of a connection.
pub enum WriteSide {
    /// Not encrypted.
    Plain(OwnedWriteHalf),
    /// Encrypted.
    Tls(WriteHalf<TlsStream<TcpStream>>),
}

impl Line {
    /// A connection that is not encrypted.
    pub fn plain(stream: TcpStream) -> Self {
        let caller = Caller { address: stream.peer_addr().ok(), certificate: None };
        Line { stream: Stream::Plain(stream), caller }
    }

    /// An encrypted one.
    pub fn tls(stream: TlsStream<TcpStream>) -> Self {
        let (tcp, session) = stream.get_ref();
        let certificate = session.peer_certificates().map(|chain| {
            crate::identity::certificate::named(chain).map(Arc::new).map_err(|reason| Arc::from(reason.as_str()))
        });
        let caller = Caller { address: tcp.peer_addr().ok(), certificate };
        Line { stream: Stream::Tls(Box::new(stream)), caller }
    }

    /// Who is at the other end.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Its two halves, which may be used by two tasks.
    pub fn into_split(self) -> (ReadSide, WriteSide) {
        match self.stream {
            Stream::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (ReadSide::Plain(reader), WriteSide::Plain(writer))
            }
            Stream::Tls(stream) => {
                let (reader, writer) = tokio::io::split(*stream);
                (ReadSide::Tls(reader), WriteSide::Tls(writer))
            }
        }
    }
}

impl Connected for Line {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

/// Passes reads on to the variant's stream.
macro_rules! reads {
    ($type:ty, $field:ident => $stream:expr, $plain:path, $tls:path) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let $field = self.get_mut();
                match $stream {
                    $plain(stream) => Pin::new(stream).poll_read(context, buffer),
                    $tls(stream) => Pin::new(stream).poll_read(context, buffer),
                }
            }
        }
    };
}

/// Passes writes on to the variant's stream.
macro_rules! writes {
    ($type:ty, $field:ident => $stream:expr, $plain:path, $tls:path) => {
        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                let $field = self.get_mut();
                match $stream {
                    $plain(stream) => Pin::new(stream).poll_write(context, bytes),
                    $tls(stream) => Pin::new(stream).poll_write(context, bytes),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $field = self.get_mut();
                match $stream {
                    $plain(stream) => Pin::new(stream).poll_flush(context),
                    $tls(stream) => Pin::new(stream).poll_flush(context),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                let $field = self.get_mut();
                match $stream {
                    $plain(stream) => Pin::new(stream).poll_shutdown(context),
                    $tls(stream) => Pin::new(stream).poll_shutdown(context),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let $field = self.get_mut();
                match $stream {
                    $plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
                    $tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }
        }
    };
}

reads!(Line, line => &mut line.stream, Stream::Plain, Stream::Tls);
writes!(Line, line => &mut line.stream, Stream::Plain, Stream::Tls);
reads!(ReadSide, side => side, ReadSide::Plain, ReadSide::Tls);
writes!(WriteSide, side => side, WriteSide::Plain, WriteSide::Tls);
